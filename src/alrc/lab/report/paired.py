"""What a few paired differences say of their mean."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special  # type: ignore[import-untyped]

__all__ = ["POWER", "ROUNDING", "PairedDifferences", "mcnemar", "mcnemar_least"]

POWER = 0.8
ROUNDING = 1e-7  # of float32, in which most metrics were computed
MOST_PAIRS = 10_000  # nobody would train more of them


@dataclass(frozen=True)
class PairedDifferences:
    """Differences of pairs, one each, and the t test of their mean.

    A t test at every number of pairs, because exact sign flips show nothing in five: the least p
    is 0.06. What t assumes is mild here. Two runs of one seed that an arm does not tell apart
    differ by X - Y with X and Y alike, which is symmetric with its peak at zero; there heavy tails
    make t more careful (2 to 4 % false alarms instead of 5), and counts leave it near its level.
    Only differences that are all alike have no spread to go by, and a few counts are that by
    chance: there sign flips have the word.

    Attributes:
        values: The differences.
        rounding: Differences that are no larger are none, and a spread no larger is none.
    """

    values: tuple[float, ...]
    rounding: float = ROUNDING

    @cached_property
    def rounded(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """The differences, 0 where they are none."""
        given = np.array(self.values, np.float64)
        return np.where(np.abs(given) <= self.rounding, 0.0, given)

    @property
    def count(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        return float(self.rounded.mean()) if self.count else math.nan

    @cached_property
    def spread(self) -> float:
        """Standard deviation, 0 if it is not above rounding; NaN for fewer than two pairs."""
        if self.count < 2:
            return math.nan
        spread = float(self.rounded.std(ddof=1))
        return spread if spread > self.rounding else 0.0

    @property
    def alike(self) -> bool:
        """Whether all differences are equal, so that there is no t."""
        return self.spread == 0

    @cached_property
    def least(self) -> float:
        """The smallest p that such pairs could reach, whatever the effect; inf if there is none."""
        if self.count < 2:
            return math.inf
        if not self.alike:
            return 0.0
        return 2.0 ** (1 - self.count) if self.mean else 1.0

    @cached_property
    def p(self) -> float:
        """Two-sided; NaN for fewer than two pairs."""
        if self.count < 2:
            return math.nan
        if self.alike:
            return self.least  # of all sign flips, two go as far: none and all
        t = self.mean / self._error
        return 2 * float(special.stdtr(self.count - 1, -abs(t)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Of the mean: all that the test would not refuse; None if it can refuse nothing."""
        outside = 1 - confidence
        if self.count < 2 or (self.alike and 2.0 ** (1 - self.count) > outside):
            return None
        reach = -float(special.stdtrit(self.count - 1, outside / 2)) * self._error
        return self.mean - reach, self.mean + reach

    def detectable(self, level: float) -> float:
        """The smallest mean that so many pairs of this spread show at a level, with `POWER`.

        NaN where there is no spread to go by.
        """
        if self.count < 2 or self.alike:
            return math.nan
        limit = -special.stdtrit(self.count - 1, level / 2)
        shift = special.nctdtrinc(self.count - 1, 1 - POWER, limit)
        return float(shift) * self._error

    def needed(self, level: float) -> int | None:
        """Pairs that would show this mean and spread at a level, with `POWER`.

        None where there is nothing to show, or no affordable number would.
        """
        if self.count < 2 or not self.mean:
            return None
        if self.alike:
            return math.ceil(1 - math.log2(level))  # the first whose `least` reaches it
        effect = abs(self.mean) / self.spread

        def power(pairs: int) -> float:
            limit = -special.stdtrit(pairs - 1, level / 2)
            shift = math.sqrt(pairs) * effect
            # Beyond, the noncentral t only loses digits: it is surely shown.
            return 1.0 if shift > 10 * limit else 1 - special.nctdtr(pairs - 1, shift, limit)

        found = bisect_left(range(MOST_PAIRS + 1), POWER, lo=2, key=power)
        return found if found <= MOST_PAIRS else None

    @property
    def _error(self) -> float:
        """Standard deviation of the mean."""
        return self.spread / math.sqrt(self.count)


def mcnemar(only_before: int, only_after: int) -> float:
    """Exact p, two-sided, that pairs of which one run diverged are as likely either way round."""
    pairs = only_before + only_after
    return min(1.0, 2 * float(special.bdtr(min(only_before, only_after), pairs, 0.5)))


def mcnemar_least(discordant: int) -> float:
    """The smallest p that so many pairs of which one run diverged could reach."""
    return min(1.0, 2.0 ** (1 - discordant))
