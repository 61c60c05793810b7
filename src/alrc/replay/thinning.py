"""The rows of a long curve that are drawn, so that nothing which stands out is lost."""

import numpy as np
from numpy.typing import NDArray

from alrc.replay.curve import Integers
from alrc.replay.replay import Replay
from alrc.replay.rules import Mask, Numbers

__all__ = ["thinned"]

# Rows around the beginning of what was found that are all kept, for that many findings.
AROUND, CLOSELY = 32, 64


def thinned(found: Replay, blocks: int) -> Integers:
    """Rows to draw, in order: all of a short curve, and of each block of a longer one its extremes.

    These are the smallest and the largest loss, the largest of those that are limited from above
    and the smallest of those that are from below, and the smallest and the largest limit. Of rows
    whose loss is not finite, the first and the last are kept wherever some follow one another; of
    more such places than blocks, the first and the last row of each block. Of what was
    found, the first and the last row, and all near the beginnings of the first 64 places.

    Args:
        found: What is drawn.
        blocks: Of as many rows each; a curve of fewer than four rows a block is kept whole.
    """
    losses = found.losses
    size = losses.size
    if size <= 4 * blocks:
        return np.arange(size)
    width = -(-size // blocks)
    finite = np.isfinite(losses)
    lower, upper = found.limits
    from_above = found.limited & (losses > upper)
    kept = [np.array([0, size - 1]), *_nonfinite(~finite, blocks, width)]
    for values, mask in ((losses, finite), (upper, np.isfinite(upper))):
        kept += [_largest(values, mask, width, sign) for sign in (1, -1)]
    kept.append(_largest(losses, from_above, width, 1))
    if np.isfinite(lower).any():
        kept += [_largest(lower, np.isfinite(lower), width, sign) for sign in (1, -1)]
        kept.append(_largest(losses, found.limited & ~from_above, width, -1))
    spans = [span for finding in found.verdict.findings for span in finding.spans]
    firsts = np.array([span.first for span in spans], dtype=np.int64)
    ends = np.array([span.end for span in spans], dtype=np.int64)
    near = (firsts[:CLOSELY, None] + np.arange(-AROUND, AROUND)).ravel()
    kept += [firsts, ends - 1, near[(near >= 0) & (near < size)]]
    return np.unique(np.concatenate(kept))


def _largest(values: Numbers, mask: Mask, width: int, sign: int) -> Integers:
    """The row of the largest of ``sign * values`` in each block that has some under the mask."""
    size = values.size
    whole = size - size % width
    rows = []
    for first, end in ((0, whole), (whole, size)):
        if first == end:
            continue
        there = mask[first:end].reshape(-1, min(width, end - first))
        shown = sign * values[first:end].reshape(there.shape)
        shown[~there] = -np.inf
        at = shown.argmax(axis=1) + first + width * np.arange(len(there))
        rows.append(at[there.any(axis=1)])
    return np.concatenate(rows)


def _nonfinite(bad: Mask, blocks: int, width: int) -> list[NDArray[np.int64]]:
    """The ends of runs of bad rows; or where there are many runs, the ends in each block."""
    edges = np.diff(np.concatenate(([False], bad, [False])).astype(np.int8))
    firsts, lasts = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    if firsts.size <= blocks:
        return [firsts, lasts]
    places = np.arange(bad.size, dtype=np.float64)
    return [_largest(places, bad, width, sign) for sign in (1, -1)]
