"""What stands out of a curve: how far each row lies above the level around it, in its noise.

All is in logarithms where the losses are positive, so that a descent over decades and noise that
grows with the loss are even; else in shares of the median size of the losses.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

NORMAL = 1.4826  # standard deviations in the median absolute deviation of normal numbers
SMALLEST_BLOCK, BLOCKS = 16, 128
SMALLEST_NOISE = 0.004  # below, no one sees it
RISE = 0.06  # and a level that rises by less is not looked at


@dataclass(frozen=True)
class Span:
    """Rows from ``first`` up to, without it, ``end``."""

    first: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Blocks:
    """A curve in pieces of a few rows, small ones at first, where it falls fastest.

    Attributes:
        edges: (B + 1,) first row of each, and the number of rows.
        level: (B,) median height of each.
        noise: (B,) standard deviation within, robust to outliers.
    """

    edges: NDArray[np.int64]
    level: Numbers
    noise: Numbers

    @property
    def middle(self) -> Numbers:
        return np.asarray((self.edges[1:] + self.edges[:-1] - 1) / 2)


@dataclass(frozen=True)
class Signals:
    """What stands out of a curve.

    Attributes:
        height: (N,) logarithms of the losses, or shares of their median size; NaN for those that
            have none.
        is_log: Which of the two.
        level: (N,) height around each row, which outliers do not move.
        noise: (N,) standard deviation around the level.
        threshold: Deviations in standard deviations that noise with such tails does not reach.
        blocks: The blocks of each run.
        unit: Loss of height 1, where heights are no logarithms.
    """

    height: Numbers
    is_log: bool
    level: Numbers
    noise: Numbers
    threshold: float
    blocks: tuple[Blocks, ...]
    unit: float

    @property
    def score(self) -> Numbers:
        """(N,) standard deviations above the level; NaN where there is no height."""
        return np.asarray((self.height - self.level) / self.noise)

    @property
    def above(self) -> Numbers:
        """(N,) standard deviations above the level before, here and after; NaN without height."""
        return self._beyond(np.maximum, 1)

    @property
    def below(self) -> Numbers:
        """(N,) the same below."""
        return self._beyond(np.minimum, -1)

    def _beyond(self, farther: np.ufunc, sign: int) -> Numbers:
        beyond = np.empty_like(self.height)
        for part in self.blocks:
            level = median_of(part.level, 3)
            farthest = level.copy()  # where the level leaps, half a block is on its other side
            farthest[1:] = farther(farthest[1:], level[:-1])
            farthest[:-1] = farther(farthest[:-1], level[1:])
            rows = slice(part.edges[0], part.edges[-1])
            beyond[rows] = sign * (self.height[rows] - np.repeat(farthest, np.diff(part.edges)))
        beyond /= self.noise
        return beyond

    def loss(self, height: Numbers | float) -> Numbers:
        """Losses of these heights."""
        return np.exp(height) if self.is_log else np.multiply(height, self.unit)


def signals(losses: Numbers, starts: tuple[int, ...] = (0,)) -> Signals:
    """Finds level, noise and what noise may reach.

    Args:
        losses: (N,) float64, of which some are finite.
        starts: First rows of runs, beginning with 0: no level reaches across.
    """
    height, is_log, unit = _heights(losses)
    level, noise = np.empty((2, losses.size))
    blocks = []
    for first, end in pairwise((*starts, losses.size)):
        part = _blocks(height[first:end], first)
        blocks.append(part)
        rows = np.arange(first, end)
        level[first:end] = np.interp(rows, part.middle, median_of(part.level, 3))
        noise[first:end] = np.interp(rows, part.middle, part.noise)
    limit = threshold((height - level) / noise)
    return Signals(height, is_log, level, noise, limit, tuple(blocks), unit)


def _heights(losses: Numbers) -> tuple[Numbers, bool, float]:
    finite = np.isfinite(losses)
    positive = finite & (losses > 0)
    if positive.sum() >= 0.99 * finite.sum():
        return np.log(losses, out=np.full(losses.size, np.nan), where=positive), True, 1.0
    unit = float(np.median(np.abs(losses[finite]))) or 1.0
    return np.where(finite, losses / unit, np.nan), False, unit


def _edges(size: int) -> NDArray[np.int64]:
    """Blocks of an eighth of what lies before them, within bounds."""
    largest = max(SMALLEST_BLOCK, size // BLOCKS)
    edges = [0]
    while size - edges[-1] >= 2 * SMALLEST_BLOCK:
        step = min(max(SMALLEST_BLOCK, edges[-1] // 8), largest)
        if size - edges[-1] - step < SMALLEST_BLOCK:
            break
        edges.append(edges[-1] + step)
    return np.array([*edges, size], dtype=np.int64)


def _blocks(height: Numbers, first: int) -> Blocks:
    edges = _edges(height.size)
    middle = (edges[1:] + edges[:-1] - 1) / 2
    level = _fill(np.array([_median(height[a:b]) for a, b in pairwise(edges)]))
    smooth = np.interp(np.arange(height.size), middle, median_of(level, 3))
    off = np.abs(height - smooth)
    noise = _fill(np.array([NORMAL * _median(off[a:b]) for a, b in pairwise(edges)]))
    noise = np.maximum(median_of(noise, 9), SMALLEST_NOISE)
    return Blocks(edges + first, level, noise)


def _median(numbers: Numbers) -> float:
    numbers = numbers[~np.isnan(numbers)]
    return float(np.median(numbers)) if numbers.size else math.nan


def _fill(numbers: Numbers) -> Numbers:
    """Puts what lies between its neighbours where a block has no number."""
    known = np.flatnonzero(~np.isnan(numbers))
    if known.size == 0:
        return np.zeros_like(numbers)
    return np.interp(np.arange(numbers.size), known, numbers[known])


def median_of(numbers: Numbers, width: int) -> Numbers:
    """Running median, over fewer at the ends."""
    size, reach = numbers.size, width // 2
    found = np.empty(size)
    inner = range(reach, size - reach)
    if inner:
        found[reach : size - reach] = np.median(sliding_window_view(numbers, width), axis=1)
    for i in set(range(size)) - set(inner):
        found[i] = np.median(numbers[max(0, i - reach) : i + reach + 1])
    return found


def threshold(score: Numbers) -> float:
    """How far noise with tails like these goes once in forty such curves.

    The tail is taken as exp(-(x / b)**k), with the quarter and the tenth farthest above.
    """
    sample = score[:: max(1, score.size // 200_000)]
    sample = sample[~np.isnan(sample)]
    quarter, tenth = np.quantile(sample, [0.75, 0.9])
    if not 0 < quarter < tenth:
        return 6.0
    k = np.clip(math.log(math.log(5) / math.log(2)) / math.log(tenth / quarter), 0.85, 1.4)
    return float(max(5.0, 1.1 * quarter * (math.log(20 * score.size) / math.log(2)) ** (1 / k)))
