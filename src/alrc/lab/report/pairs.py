"""Runs of one seed in two arms, sorted by what became of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from alrc.lab.report.paired import ROUNDING, PairedDifferences

__all__ = ["Pairs", "SortedPairs"]

LARGEST = 700.0  # logarithm of a ratio that float64 holds


@dataclass(frozen=True)
class Pairs:
    """One arm and the baseline in one setting: a metric of both, by seed.

    Attributes:
        before: Value of the baseline; a seed may be missing on either side.
        after: Value of the arm. One that is not finite counts as diverged, here as in ``before``.
        diverged_before: Seeds whose run of the baseline diverged, whatever its value is.
        diverged_after: The same of the arm.
        identical: Seeds whose two runs are bit-identical.
        better: Which values are.
        ratios: Whether ratios of values mean something. They do not where zero is arbitrary (dB,
            log-likelihood): then changes are differences in the metric's own unit.
        exploratory: Without verdicts, and so without a share in the correction: for all metrics
            but the primary one.
    """

    before: Mapping[int, float]
    after: Mapping[int, float]
    diverged_before: frozenset[int] = frozenset()
    diverged_after: frozenset[int] = frozenset()
    identical: frozenset[int] = frozenset()
    better: Literal["lower", "higher"] = "lower"
    ratios: bool = True
    exploratory: bool = False


@dataclass(frozen=True)
class SortedPairs:
    """Pairs by which of their runs diverged, and the differences of those in which none did.

    Attributes:
        pairs: Where they come from.
        seeds: Those in which neither run diverged.
        both: Number of pairs whose runs both diverged.
        only_before: Number of those whose run of the baseline did.
        only_after: Number of those whose run of the arm did.
        unpaired: Seeds that are there on one side only.
        differences: Of ``seeds``: logarithms of ratios if ``logarithms``.
        scale: What a difference is told in parts of, where it is no logarithm.
        absolute: Whether it is told as it is.
    """

    pairs: Pairs
    seeds: tuple[int, ...]
    both: int
    only_before: int
    only_after: int
    unpaired: int
    differences: PairedDifferences
    logarithms: bool
    scale: float
    absolute: bool

    @classmethod
    def of(cls, pairs: Pairs) -> Self:
        lost_before = pairs.diverged_before | _not_finite(pairs.before)
        lost_after = pairs.diverged_after | _not_finite(pairs.after)
        before, after = pairs.before.keys() | lost_before, pairs.after.keys() | lost_after
        paired = before & after
        seeds = tuple(sorted(paired - lost_before - lost_after))
        old, new = (
            np.array([values[seed] for seed in seeds], np.float64)
            for values in (pairs.before, pairs.after)
        )
        lowest = min(old.min(initial=math.inf), new.min(initial=math.inf))
        logarithms = pairs.ratios and lowest > 0
        absolute = not logarithms and (not pairs.ratios or lowest < 0 or not old.any())
        if logarithms:
            differences, rounding = np.log(new) - np.log(old), ROUNDING
        else:
            largest = max(np.abs(old).max(initial=0), np.abs(new).max(initial=0))
            differences, rounding = new - old, ROUNDING * float(largest)
        return cls(
            pairs=pairs,
            seeds=seeds,
            both=len(paired & lost_before & lost_after),
            only_before=len(paired & lost_before - lost_after),
            only_after=len(paired & lost_after - lost_before),
            unpaired=len(before ^ after),
            differences=PairedDifferences(tuple(map(float, differences)), rounding),
            logarithms=logarithms,
            scale=1.0 if logarithms or absolute else float(old.mean()),
            absolute=absolute,
        )

    @property
    def discordant(self) -> int:
        """Number of pairs of which one run diverged."""
        return self.only_before + self.only_after

    @property
    def count(self) -> int:
        return len(self.seeds) + self.both + self.discordant

    @property
    def identical(self) -> int:
        """Pairs of ``seeds`` that are identical, in this metric too.

        An arm that first acts in the last step leaves all losses as they were, but not the network.
        """
        same = (s for s in self.seeds if self.pairs.before[s] == self.pairs.after[s])
        return len(self.pairs.identical.intersection(same))

    def change(self, difference: float) -> float:
        """How a difference is told: as a relative change, unless it is absolute."""
        if not self.logarithms:
            return difference / self.scale
        return math.inf if difference > LARGEST else math.expm1(difference)


def _not_finite(values: Mapping[int, float]) -> frozenset[int]:
    return frozenset(seed for seed, value in values.items() if not math.isfinite(value))
