"""Where in training each row is: steps that count anew, runs that write between one another."""

import numpy as np

from alrc.replay.curve import Floats, Integers

__all__ = ["counts_within_epochs", "falls", "put_behind", "stride", "tracks"]

MOST_TRACKS = 64
MOST_ROWS = 2_000_000  # beyond, rows are taken in the order of the log


def counts_within_epochs(steps: Integers, epochs: Floats) -> bool:
    """Whether steps begin anew in each epoch: the epochs then overlap in their steps."""
    whole = np.floor(epochs).astype(np.int64)
    kinds, which = np.unique(whole, return_inverse=True)
    if len(kinds) < 2:
        return False
    low = np.full(len(kinds), np.iinfo(np.int64).max)
    high = np.full(len(kinds), np.iinfo(np.int64).min)
    np.minimum.at(low, which, steps)
    np.maximum.at(high, which, steps)
    return bool(np.mean(low[1:] < high[:-1]) > 0.5)


def put_behind(steps: Integers, epochs: Floats) -> Integers:
    """Steps of the whole training from those within epochs."""
    length = int(steps.max()) + (1 if steps.min() == 0 else 0)
    whole = np.floor(epochs).astype(np.int64)
    unrolled: Integers = (whole - whole.min()) * length + steps
    return unrolled


def falls(steps: Integers) -> Integers:
    """Rows whose step lies before that of the row above."""
    return np.flatnonzero(np.diff(steps) < 0) + 1


def stride(steps: Integers, starts: tuple[int, ...] = (0,)) -> int:
    """Steps from one row to the next, most often; 1 if there is nothing to see."""
    gaps = np.diff(steps)
    gaps = np.delete(gaps, [start - 1 for start in starts if 0 < start <= len(gaps)])
    gaps = gaps[gaps > 0]
    return int(np.median(gaps)) if len(gaps) else 1


def tracks(steps: Integers) -> list[Integers] | None:
    """The rows of each run, if several wrote into one log at the same time; else None.

    A row goes on with the run whose next step it is nearest to; steps of runs that follow one
    another fall only once for each.
    """
    jumps = len(falls(steps))
    if jumps < 8 or len(steps) > MOST_ROWS:
        return None
    usual = _own_stride(steps)
    last: list[int] = []  # of each track, the step of its last row
    rows: list[list[int]] = []
    recent = 0
    switches = 0
    for row, step in enumerate(steps.tolist()):
        near = [
            (abs(step - end - usual), -rows[track][-1], track)
            for track, end in enumerate(last)
            if 0 < step - end <= 3 * usual
        ]
        # Of two that fit as well, that which wrote last: the other has ended.
        track = min(near)[2] if near else len(last)
        if track == len(last):
            if track == MOST_TRACKS:
                return None
            last.append(step)
            rows.append([])
        switches += track != recent
        last[track] = step
        rows[track].append(row)
        recent = track
    # Runs that follow one another switch once each.
    if switches < 3 * len(rows):
        return None
    return [np.array(track, np.int64) for track in rows]


def _own_stride(steps: Integers) -> int:
    """The commonest distance between a row and one of the few below it."""
    near = np.concatenate([steps[lag:] - steps[:-lag] for lag in (1, 2, 3)])
    near = near[near > 0]
    values, counts = np.unique(near, return_counts=True)
    return int(values[np.argmax(counts)]) if len(values) else 1
