"""What a few paired differences say of their mean."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special  # type: ignore[import-untyped]

__all__ = ["EXACT_UP_TO", "POWER", "ROUNDING", "PairedDifferences", "mcnemar", "mcnemar_least"]

EXACT_UP_TO = (
    16  # pairs whose 2^n sign flips are listed; a t test needs less of its assumptions then
)
POWER = 0.8
ROUNDING = 1e-7  # of float32, in which most metrics were computed
MOST_PAIRS = 10_000  # nobody would train more of them


@dataclass(frozen=True)
class PairedDifferences:
    """Differences of pairs, one each.

    A t test, at every number of pairs: five exact sign flips have no p below 0.06, whatever the
    effect. What it assumes is mild here: two runs of one seed that an arm does not tell apart
    differ by X - Y with X and Y alike, which is symmetric with its peak at zero, and heavy tails
    make t only more careful (2 to 4 % instead of 5). One kind of metric breaks it: counts, whose
    differences are equal in size now and then, and so have no spread by chance (three pairs of
    Bernoulli outcomes at a level of 0.6 %: 3.1 % false alarms). Where two sizes are equal, all
    sign flips are listed instead, which assumes nothing but symmetry.

    Attributes:
        values: The differences.
        rounding: Differences that are no larger are none, and sizes as near as that are equal.
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
    def nonzero(self) -> int:
        return int(np.count_nonzero(self.rounded))

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

    @cached_property
    def exact(self) -> bool:
        """Whether sign flips are counted; otherwise it is a t test."""
        sizes = np.sort(np.abs(self.rounded))
        equal = bool((np.diff(sizes) <= self.rounding).any())
        return self.spread == 0 or (equal and self.count <= EXACT_UP_TO)

    @cached_property
    def least(self) -> float:
        """The smallest p that any effect could reach in so many pairs; inf if there is none."""
        if self.count < 2:
            return math.inf
        return min(1.0, 2.0 ** (1 - self.nonzero)) if self.exact else 0.0

    @cached_property
    def p(self) -> float:
        """Two-sided; NaN for fewer than two pairs."""
        if self.count < 2:
            return math.nan
        if self.spread == 0:
            return self.least  # all alike: no flip goes further than none
        if not self.exact:
            t = self.mean / self._error
            return 2 * float(special.stdtr(self.count - 1, -abs(t)))
        total = self.rounded.sum()
        flipped = np.abs(total - 2 * self._subset_sums()[0])
        return float((flipped >= abs(total) - self.rounding).mean())

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Of the mean: all that the test would not refuse; None if it can refuse nothing.

        With sign flips these are order statistics of the means of all subsets (Hartigan, 1969).
        """
        if self.count < 2:
            return None
        outside = (1 - confidence) / 2
        if not self.exact:
            reach = -float(special.stdtrit(self.count - 1, outside)) * self._error
            return self.mean - reach, self.mean + reach
        skipped = math.floor(outside * 2.0**self.count)
        if not skipped:
            return None
        if self.spread == 0:
            return self.mean, self.mean
        sums, sizes = self._subset_sums()
        means = np.sort(sums[1:] / sizes[1:])
        return float(means[skipped - 1]), float(means[-skipped])

    def detectable(self, level: float) -> float:
        """The smallest mean that so many pairs of this spread show at a level, with `POWER`.

        Inf where nothing would; NaN where there is no spread to go by.
        """
        if self.count < 2 or not self.nonzero:
            return math.nan
        if self.least > level:
            return math.inf
        limit = -special.stdtrit(self.count - 1, level / 2)
        shift = special.nctdtrinc(self.count - 1, 1 - POWER, limit)
        return float(shift) * self._error

    def needed(self, level: float) -> int | None:
        """Pairs that would show this mean and spread at a level, with `POWER`.

        None where there is nothing to show, or no affordable number would.
        """
        if self.count < 2 or not self.mean:
            return None
        # Sign flips need so many pairs however large the effect is.
        least = max(2, math.ceil(1 - math.log2(level))) if self.exact else 2
        if self.spread == 0:
            return least
        effect = abs(self.mean) / self.spread

        def power(pairs: int) -> float:
            limit = -special.stdtrit(pairs - 1, level / 2)
            shift = math.sqrt(pairs) * effect
            # Beyond, the noncentral t only loses digits: it is surely shown.
            return 1.0 if shift > 10 * limit else 1 - special.nctdtr(pairs - 1, shift, limit)

        found = bisect_left(range(MOST_PAIRS + 1), POWER, lo=least, key=power)
        return found if found <= MOST_PAIRS else None

    @property
    def _error(self) -> float:
        """Standard deviation of the mean."""
        return self.spread / math.sqrt(self.count)

    def _subset_sums(self) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
        """Sum and size of all 2^n subsets, the empty one first."""
        chosen = np.arange(2**self.count)[:, None] >> np.arange(self.count) & 1
        return chosen @ self.rounded, chosen.sum(axis=1)


def mcnemar(only_before: int, only_after: int) -> float:
    """Exact p, two-sided, that pairs of which one run diverged are as likely either way round."""
    pairs = only_before + only_after
    return min(1.0, 2 * float(special.bdtr(min(only_before, only_after), pairs, 0.5)))


def mcnemar_least(discordant: int) -> float:
    """The smallest p that so many pairs of which one run diverged could reach."""
    return min(1.0, 2.0 ** (1 - discordant))
