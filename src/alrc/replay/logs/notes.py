"""Sentences on what was read, what was left out and what the rows hide."""

import numpy as np

from alrc.replay.curve import Floats, Integers
from alrc.replay.logs import columns
from alrc.replay.logs.refusals import shorten
from alrc.replay.logs.table import Table
from alrc.replay.wording import count

__all__ = [
    "left_out",
    "of_bins",
    "of_rows",
    "of_starts",
    "of_values",
    "parted",
    "redrawn",
    "repeated",
    "unplaced",
]


def of_values(table: Table, losses: Floats, chosen: str) -> list[str]:
    said = [f"Read {count(len(losses), 'loss')} from column {chosen!r} of {table.format}."]
    nans, infinite = int(np.isnan(losses).sum()), int(np.isinf(losses).sum())
    if nans or infinite:
        said.append(f"Of these, {nans:,} are NaN and {infinite:,} infinite.")
    if chosen in table.unread:
        missed, first = table.unread[chosen]
        said.append(
            f"{count(missed, 'cell')} of column {chosen!r} could not be read as a number; the "
            f"first is in line {first.line}: {shorten(first.text)}."
        )
    if "" in table.unread:
        missed, first = table.unread[""]
        said.append(
            f"{count(missed, 'line')} could not be read; the first is line {first.line}: "
            f"{shorten(first.text)}."
        )
    return said


def left_out(table: Table, rows: Integers, chosen: str) -> list[str]:
    """Of rows without the loss: those of evaluations, of whole epochs, and others."""
    left = np.ones(table.rows, bool)
    left[table.columns[chosen].rows] = False
    evaluations = [name for name in table.columns if columns.is_evaluation(name)]
    epochs = [n for n in table.columns if "epoch" in columns.words(n) and not columns.is_epoch(n)]
    said = []
    for kind, names in (("of evaluations", evaluations), ("with means of epochs", epochs)):
        own = np.zeros(table.rows, bool)
        for name in names:
            own[table.columns[name].rows] = True
        if (own & left).any():
            said.append(f"{count(int((own & left).sum()), 'row')} {kind}")
        left &= ~own
    if left.any():
        said.append(f"{count(int(left.sum()), 'row')} without {chosen!r}")
    return [f"Left out: {', '.join(said)}."] if said else []


def unplaced(number: int) -> list[str]:
    return [f"Left out: {count(number, 'row')} without a step, as of a summary."] if number else []


def redrawn(number: int) -> list[str]:
    if not number:
        return []
    return [f"Left out: {count(number, 'row')} that repeat step and loss of the row above."]


def repeated(number: int, rows: int) -> list[str]:
    if number < 0.2 * rows:
        return []
    return [
        f"{count(number, 'row')} have the step of the row above and another loss, as when several "
        "ranks or micro-batches write into one log; all were read."
    ]


def parted(lengths: list[int]) -> list[str]:
    return [
        f"{len(lengths)} runs wrote into this log, some at the same time; their rows were put "
        f"behind one another ({', '.join(f'{length:,}' for length in lengths)} losses)."
    ]


def of_starts(steps: Integers | None, starts: tuple[int, ...], said_by_log: int) -> list[str]:
    said = []
    later = [start for start in starts if start]
    if later:
        again = 0
        if steps is not None:
            again = sum(int(steps[start] <= steps[start - 1]) for start in later)
        where = ", ".join(map(str, later[:8])) + (" ..." if len(later) > 8 else "")
        said.append(
            f"{count(len(later), 'restart')}, at row{'s' if len(later) > 1 else ''} {where}"
            + (f"; steps fall back at {again:,} of {len(later):,}." if again else ".")
        )
    if said_by_log > 1:
        said.append(
            f"The log says {said_by_log:,} times that a run begins; losses follow "
            f"{len(starts):,} times."
        )
    return said


def of_rows(averaged: bool | None, per_row: int, by_epoch: bool) -> list[str]:
    """What the rows hide."""
    if averaged and by_epoch:
        return ["Each row is the mean of an epoch: spikes of single steps are hidden in it."]
    if averaged and per_row == 1:
        return ["Rows are means of several steps, and the log does not say of how many."]
    if per_row == 1:
        return []
    if averaged:
        return [
            f"Each row is the mean of {per_row:,} steps: a spike of one step looks {per_row:,} "
            "times smaller, and several look like one."
        ]
    if averaged is False:
        return [f"Each row is one step of {per_row:,}: spikes of the others are not in the log."]
    return [
        f"Rows are {per_row:,} steps apart, and the log does not say whether they are means: "
        "spikes of single steps may be hidden or left out."
    ]


def of_bins(table: Table, chosen: str) -> list[str]:
    """Of a chart whose points stand for several steps, and say the lowest and the highest."""
    low, high = (table.columns.get(f"{chosen}__{bound}") for bound in ("MIN", "MAX"))
    if low is None or high is None or len(low) != len(high):
        return []
    wide = int(np.sum(low.values != high.values))
    if not wide:
        return []
    return [
        f"{count(wide, 'row')} stand for several steps, as the columns __MIN and __MAX say: export "
        "the full history for the others."
    ]
