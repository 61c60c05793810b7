"""What a rule would have done to a curve of losses, given all of them at once.

:mod:`alrc.rule` takes one call after another, as training does. Of a curve all calls are known
beforehand, and but for what is limited the moments are a linear filter, which NumPy runs over
thousands of calls at once. So what is limited is guessed, the filter run, the guess compared with
the limits that come out, and these are the next guess. A limit depends on earlier losses alone:
all before the first wrong guess is right, and nothing here is approximate.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alrc import rule
from alrc.settings import SMALLEST_MEAN, Settings

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Sums are taken of numbers divided by how much they weigh at the end of a block; below this share
# they would lose digits.
LEAST_WEIGHT = 1e-3
OPENING, LARGEST_BLOCK, PASSES = 16, 4096, 24
# Guesses this close to what comes out are right, in standard deviations.
ROUNDING = 1e-8
REACH = math.log(SMALLEST_MEAN), math.log(rule.LARGEST_RATIO)


class Limits(NamedTuple):
    """The limits that each loss of a curve met, from the losses before it.

    Attributes:
        lower, upper: (N,) float64; infinite where there was none.
    """

    lower: Numbers
    upper: Numbers


def for_rows(settings: Settings, steps_per_row: float) -> Settings:
    """The settings that remember as many steps where a row is the mean of several.

    The warm-up stays one of rows: a limit needs some to be computed from.

    Example:
        >>> from alrc import Settings
        >>> round(for_rows(Settings(decay=0.999), 10).decay, 5)
        0.99004
    """
    return replace(settings, decay=settings.decay**steps_per_row)


def limits(losses: Numbers, settings: Settings, logarithms: Numbers | None = None) -> Limits:
    """The limits that :func:`alrc.rule.step` sets to losses, one a call, to rounding in float64.

    Args:
        losses: (N,) float64; those that are not finite come back as they came, as in training.
        settings: Those of the rule, without groups.
        logarithms: Those of the losses, if they are known, for scale "log".
    """
    counted = countable(losses, settings)
    values = losses if logarithms is None or settings.scale != "log" else logarithms
    if not counted.all():
        values = values[counted]
    if settings.scale == "log" and logarithms is None:
        values = np.log(values)
    lower, upper = _Run(values, settings).run()
    if values.size < losses.size:  # the others meet the limit that the next one meets
        next_one: NDArray[np.int64] = np.cumsum(counted) - counted
        upper = upper[next_one]
        lower = lower[next_one] if lower.size > 1 else lower
    else:
        upper = upper[:-1]
        lower = lower[:-1] if lower.size > 1 else lower
    if settings.scale == "log":
        unlimited = np.isneginf(lower)
        with np.errstate(over="ignore"):
            lower, upper = np.exp(lower), np.exp(upper, out=upper)
        lower[unlimited] = -math.inf
    return Limits(*(np.broadcast_to(bound, losses.shape) for bound in (lower, upper)))


def is_limited(losses: Numbers, bounds: Limits, settings: Settings) -> Mask:
    """Which losses the limits change."""
    beyond = np.isfinite(losses) & (losses > bounds.upper)
    if settings.num_stddev_below is not None:
        below = np.isfinite(losses) & (losses < bounds.lower)
        beyond |= below & (losses > 0) if settings.center == "zero" else below
    if settings.scale == "log":
        return beyond & (losses > 0)
    return beyond & (losses != 0) if settings.center == "zero" else beyond


def countable(losses: Numbers, settings: Settings) -> Mask:
    """Which losses move the moments."""
    counted = np.isfinite(losses)
    if settings.scale == "log":
        return counted & (losses > 0)
    if settings.center == "zero":
        counted &= losses != 0
    huge = counted & (np.abs(losses) >= rule.LARGEST_LOSS)
    if huge.any():  # they count where they are limited
        counted &= ~huge
        waiting = settings.warmup if settings.automatic else 0
        limited = (losses > 0) & (np.cumsum(counted) >= waiting)
        if settings.num_stddev < math.inf:
            counted |= huge & limited
    return counted


class _Weights(NamedTuple):
    """How the losses of a block enter the moments, call by call.

    Attributes:
        kept: Share of the moments before the block that is left.
        first, second: What deviations and their squares are multiplied by before they are summed,
            for the sums times ``kept`` to be what the moments have moved.
    """

    kept: Numbers
    first: Numbers
    second: Numbers

    @classmethod
    def of(cls, shares: Numbers) -> "_Weights":
        kept = np.asarray(np.cumprod(1.0 - shares), dtype=np.float64)
        first = shares / kept
        return cls(kept, first, first * (1.0 - shares))

    def head(self, length: int) -> "_Weights":
        return _Weights(*(weights[:length] for weights in self))


class _Run:
    """A pass over the losses that count, or over their logarithms.

    Within a block all numbers are relative to the mean before it, so that nothing cancels.
    """

    def __init__(self, values: Numbers, settings: Settings) -> None:
        self.values, self.settings = values, settings
        self.is_log = settings.scale == "log"
        start, self.variance = settings.start
        self.mean = math.log(start) if self.is_log else start
        self.at = 0
        self.upper = np.full(values.size + 1, math.inf)
        # One number where there is no limit below, rather than one for each loss.
        self.lower = np.full(values.size + 1 if settings.num_stddev_below else 1, -math.inf)
        longest = math.log(LEAST_WEIGHT) / math.log(settings.decay) if settings.decay > 0 else 0
        self.longest = int(min(LARGEST_BLOCK, longest))
        self.weights = _Weights.of(np.full(self.longest, 1.0 - settings.decay))
        # The rule cuts the deviations of logarithms, which few losses spread far enough to show.
        self.is_cut = self.is_log and values.size > 0 and np.ptp(values) > REACH[1]

    def run(self) -> tuple[Numbers, Numbers]:
        size, total = self.longest, self.values.size
        while self.at < total:
            length = min(size, self._longest(), total - self.at)
            if length < OPENING:
                self._one()
                continue
            done = self._block(length)
            size = min(self.longest, 2 * size) if done == length else max(OPENING, length // 2)
        self._write(0, *self._limits(np.zeros(1), np.array([self.variance])))
        return self.lower, self.upper

    def _longest(self) -> int:
        """How many of the next calls can be taken at once."""
        if not self.settings.automatic:
            return self.longest
        if self.at < OPENING:
            return 1
        fading = LEAST_WEIGHT ** (-1 / self.settings.recency) - 1
        waiting = self.settings.warmup - self.at
        return min(int(self.at * fading), self.longest, waiting if waiting > 0 else LARGEST_BLOCK)

    def _shares(self, length: int) -> Numbers:
        """Share of each of the next calls in the moments."""
        share = np.full(length, 1.0 - self.settings.decay)
        if self.settings.automatic:
            calls = np.arange(self.at, self.at + length)
            share = np.maximum(share, 1.0 / (calls / self.settings.recency + 1.0))
        return share

    def _one(self) -> None:
        """The next call alone, whose share may be all."""
        mean, variance = np.zeros(1), np.array([self.variance])
        bounds = self._limits(mean, variance)
        deviation = self._limit(self.values[self.at : self.at + 1] - self.mean, mean, *bounds)[0]
        self._write(0, *bounds)
        share = float(self._shares(1)[0])
        self.mean += share * float(deviation)
        self.variance = (1.0 - share) * (self.variance + share * float(deviation) ** 2)
        self.at += 1

    def _block(self, length: int) -> int:
        """The next calls, as far as the guess comes out right; returns how many, at least 1."""
        weights = self._weights(length)
        ahead = self.values[self.at : self.at + length] - self.mean
        mean, variance = np.zeros(length + 1), np.full(length + 1, self.variance)
        guess = self._limit(ahead, mean[:1], *self._limits(mean[:1], variance[:1]))
        done = 0
        for _ in range(PASSES):
            rest, after = slice(done, None), slice(done + 1, None)
            kept = weights.kept[rest]
            before = float(weights.kept[done - 1]) if done else 1.0
            sums = guess[rest] * weights.first[rest]
            sums[0] += mean[done] / before
            np.multiply(np.add.accumulate(sums, out=sums), kept, out=mean[after])
            sums = guess[rest] - mean[done:-1]
            sums *= sums
            sums *= weights.second[rest]
            sums[0] += variance[done] / before
            np.multiply(np.add.accumulate(sums, out=sums), kept, out=variance[after])
            bounds = self._limits(mean[done:-1], variance[done:-1])
            better = self._limit(ahead[rest], mean[done:-1], *bounds)
            off = better - guess[rest]
            off *= off
            wrong = off > ROUNDING**2 * variance[done:-1]
            # The first limits are those before the block; one whose losses are right is right.
            first = int(wrong.argmax())
            right = max(first, 1) if wrong[first] else length - done
            guess[rest] = better
            self._write(done, *(bound[:right] for bound in bounds))
            done += right
            if done == length:
                break
        self.mean += float(mean[done])
        self.variance = float(variance[done])
        self.at += done
        return done

    def _weights(self, length: int) -> _Weights:
        start = self.settings.recency / (1.0 - self.settings.decay)
        if self.settings.automatic and self.at < start:
            return _Weights.of(self._shares(length))
        return self.weights.head(length)

    def _limits(self, mean: Numbers, variance: Numbers) -> tuple[Numbers, Numbers]:
        """As :func:`alrc.rule.limits`, of logarithms where the scale is."""
        settings = self.settings
        unit = 1.0 if self.is_log else np.abs(mean + self.mean)
        stddev = np.maximum(np.sqrt(variance), rule.RELATIVE_FLOOR * unit)
        waiting = settings.automatic and self.at < settings.warmup
        if waiting or not self.is_log:  # logarithms are never that close
            stddev[(stddev < rule.SMALLEST_STDDEV) | waiting] = math.inf
        lower = self.lower[:1]
        if settings.num_stddev_below is not None:
            lower = mean - settings.num_stddev_below * stddev
        return lower, mean + settings.num_stddev * stddev

    def _limit(self, ahead: Numbers, mean: Numbers, lower: Numbers, upper: Numbers) -> Numbers:
        """What enters the moments of losses within these limits."""
        value = np.minimum(ahead, upper)
        if self.settings.num_stddev_below is not None:
            raised = np.maximum(value, lower)
            if self.settings.center == "zero" and not self.is_log:
                raised = np.where(ahead > -self.mean, raised, value)
            value = raised
        return np.clip(value, mean + REACH[0], mean + REACH[1]) if self.is_cut else value

    def _write(self, place: int, lower: Numbers, upper: Numbers) -> None:
        there = slice(self.at + place, self.at + place + upper.size)
        np.add(upper, self.mean, out=self.upper[there])
        if self.settings.num_stddev_below is not None:
            np.add(lower, self.mean, out=self.lower[there])
