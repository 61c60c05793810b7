"""What happened on a curve: rows that stand out, levels that rise, runs that begin again."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from alrc.replay.signals import (
    NORMAL,
    RISE,
    Blocks,
    Mask,
    Numbers,
    Signals,
    Span,
    median_of,
    threshold,
)

# Rows of a spike that is over at once; longer ones are excursions.
LONGEST_SPIKE = 5
# Rows within a span that may be low.
GAP = 2
# Several rows together stand out where none does alone.
TOGETHER = 4
# A level is high that is so many standard errors above all before; or that of four blocks.
HIGH, HIGH_TOGETHER = 6.0, 4.5


@dataclass(frozen=True)
class Rise:
    """A level that rose above all before it.

    Attributes:
        rows: Rows in which it is high.
        before, top, after: Heights: the level before, the highest one, and the one at the end.
        start: The level at which the run began.
        lasts: Whether the run ends before the level is back.
        begins_again: Whether the curve runs from there as it did from an earlier row.
    """

    rows: Span
    before: float
    top: float
    after: float
    start: float
    lasts: bool
    begins_again: bool


def spans(high: Mask, low: Mask) -> list[Span]:
    """Rows that are ``high``, with those around them that are not ``low``."""
    found: list[Span] = []
    for row in np.flatnonzero(high).tolist():
        if found and row < found[-1].end:
            continue
        first, end = row, row + 1
        while first > 0 and not low[first - 1]:
            first -= 1
        while end < low.size and not low[end : end + 1 + GAP].all():
            end += 1
        if found and first <= found[-1].end + GAP:
            first = found.pop().first
        found.append(Span(first, end))
    return found


def spikes(seen: Signals) -> list[Span]:
    """Rows that stand clear above the noise, but for the first ones of a run, which fall fast."""
    above = seen.above
    for part in seen.blocks:
        above[part.edges[0] : part.edges[1]] = -math.inf
    np.nan_to_num(above, copy=False, nan=-math.inf, neginf=-math.inf)
    high = above > seen.threshold
    sample = slice(0, 1 << 18)  # as much of the noise as tells its tails
    least = threshold(_together(np.nan_to_num(seen.score[sample])))
    mean = _together(np.clip(above, -9.0, seen.threshold))
    for row in np.flatnonzero(mean > max(least, 5.0 / math.sqrt(TOGETHER))).tolist():
        window = slice(row, row + TOGETHER)
        high[window] |= above[window] > seen.threshold / 2
    found = spans(high, above < max(2.0, seen.threshold / 3))
    # One that is high by chance before a spike would make it begin too early.
    firsts = [span.first + int(high[span.first : span.end].argmax()) for span in found]
    return [Span(first, span.end) for first, span in zip(firsts, found, strict=True)]


def _together(numbers: Numbers) -> Numbers:
    """Means of a few rows, from each row on that has as many after it."""
    last = numbers.size - TOGETHER + 1
    total = numbers[:last].copy()
    for shift in range(1, TOGETHER):
        total += numbers[shift : last + shift]
    total /= TOGETHER
    return total


def rises(seen: Signals) -> list[Rise]:
    """Levels that rose."""
    height = np.where(np.isnan(seen.height), seen.level, seen.height)
    return [rise for part in seen.blocks for rise in _rises_of(height, part)]


def _rises_of(height: Numbers, part: Blocks) -> list[Rise]:
    level, size = part.level, part.level.size
    if size < 4:
        return []
    smooth = median_of(level, 3)
    lowest = np.minimum.accumulate(smooth)
    before = np.append(lowest[0], lowest[:-1])
    error = 1.25 * part.noise / np.sqrt(np.diff(part.edges))
    bends = np.abs(level[1:-1] - (level[2:] + level[:-2]) / 2) / error[1:-1]
    # Larger than 1 where noise is no noise of its own in each row.
    wobble = max(1.0, NORMAL * float(np.median(bends)) / math.sqrt(1.5))
    # The lowest of blocks is as unsure as they were, which are small ones at first.
    newest = np.maximum.accumulate(np.where(smooth == lowest, np.arange(size), 0))
    off = level - before
    unsure = wobble * np.maximum(error, np.append(error[0], error[newest[:-1]]))
    high = off > np.maximum(HIGH * unsure, RISE)
    for i in range(size - 3):
        together = slice(i, i + 4)
        if off[together].min() > 2 * unsure[i] and off[together].mean() > max(
            HIGH_TOGETHER * unsure[i], RISE
        ):
            high[together] = True
    high[0] = False  # nothing is before it
    found = []
    for span in spans(high, off < np.maximum(HIGH / 2 * unsure, RISE / 2)):
        blocks = slice(span.first, span.end)
        first = _leap(height, part, span.first)
        lasts = span.end == size
        rows = Span(first, int(part.edges[span.end]))
        base = float(before[span.first])
        found.append(
            Rise(
                rows=rows,
                before=base,
                top=float(level[blocks].max()),
                after=float(level[span.end - 1]),
                start=float(level[0]),
                lasts=lasts,
                begins_again=_begins_again(height, part, rows, base, lasts),
            )
        )
    return found


def _leap(height: Numbers, part: Blocks, block: int) -> int:
    """The row near the beginning of a block from which heights are farthest above those before."""
    first, end = int(part.edges[max(0, block - 1)]), int(part.edges[block + 1])
    window = height[first:end]
    total = np.append(0.0, np.cumsum(window))
    split = np.arange(3, window.size - 2)
    before = total[split] / split
    after = (total[-1] - total[split]) / (window.size - split)
    weight = np.sqrt(split * (window.size - split))
    return first + int(split[np.argmax((after - before) * weight)])


def _begins_again(height: Numbers, part: Blocks, rows: Span, before: float, lasts: bool) -> bool:
    """Whether the curve runs from ``rows.first`` as it did from an earlier row."""
    origin, first, end = int(part.edges[0]), rows.first, int(part.edges[-1])
    near = max(3, (first - origin) // 100)
    top = float(np.median(height[first : first + near]))
    drop = top - before
    earlier = np.flatnonzero((part.level <= top) & (part.middle < first))
    opening = float(np.median(height[origin : origin + near]))
    from_start = earlier.size == 0 or top > opening - 0.3 * drop
    start = origin if from_start else int(part.middle[earlier[0]])
    back = np.flatnonzero((part.level <= before + 0.1 * drop) & (part.middle > start))
    fall = int(part.middle[back[0]]) - start
    length = min(fall, first - start, end - first)
    if length < 16 or (not lasts and not 0.4 < rows.length / fall < 2.5):
        return False
    edges = np.unique(np.geomspace(4, length, 12).astype(np.int64))
    again, once = (
        np.array([np.median(height[at + a : at + b]) for a, b in pairwise(edges)])
        for at in (first, start)
    )
    if again[0] - again[-1] < 0.4 * drop:  # it does not fall
        return False
    off = np.abs(again - once)
    return bool(np.median(off) < 0.12 * drop and off.max() < 0.5 * drop)
