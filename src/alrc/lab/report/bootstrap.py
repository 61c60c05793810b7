"""Bootstrap differences of the old report; goes when the report compares with `statistics`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import scipy.stats  # type: ignore[import-untyped]

__all__ = ["MIN_PAIRS", "RESAMPLES", "Difference", "Effect", "paired_difference"]

MIN_PAIRS = 5  # with fewer, an interval would claim more than it can hold
RESAMPLES = 9999


class Effect(Enum):
    """What can be said of a difference."""

    lower = "lower"
    higher = "higher"
    none = "no effect that this many runs can show"
    too_few = "too few runs to tell"


@dataclass(frozen=True)
class Difference:
    """What changes from ``before`` to ``after`` within pairs.

    Attributes:
        value: Mean difference; NaN without a pair.
        relative: The same as a share of the mean before, in these pairs.
        interval: 95 % interval of the mean difference; None for fewer than ``MIN_PAIRS`` pairs.
        pairs: Pairs of finite values, on which all this rests.
        diverged_before: Pairs left out because the value before is not finite.
        diverged_after: Those left out because the value after is not.
        unpaired: Seeds that are there only before or only after.
    """

    value: float
    relative: float
    interval: tuple[float, float] | None
    pairs: int
    diverged_before: int
    diverged_after: int
    unpaired: int

    @property
    def effect(self) -> Effect:
        """Lower or higher only if the whole interval is."""
        if self.interval is None:
            return Effect.too_few
        low, high = self.interval
        if high < 0:
            return Effect.lower
        return Effect.higher if low > 0 else Effect.none


def paired_difference(before: Mapping[int, float], after: Mapping[int, float]) -> Difference:
    """Compares values that share a seed.

    Args:
        before: Value for each seed.
        after: The same for what it is compared with; a seed may be missing on either side.

    Example:
        >>> change = paired_difference({0: 2.0, 1: 4.0}, {1: 3.0, 0: 1.5, 2: 9.0})
        >>> change.value, change.relative, change.pairs, change.unpaired
        (-0.75, -0.25, 2, 1)
        >>> print(change.effect.value)
        too few runs to tell
    """
    seeds = sorted(before.keys() & after.keys())
    both = np.array([(before[s], after[s]) for s in seeds], np.float64).reshape(-1, 2)
    finite = np.isfinite(both)
    old, new = both[finite.all(axis=1)].T
    change = float((new - old).mean()) if old.size else math.nan
    return Difference(
        change,
        change / float(old.mean()) if old.size and old.mean() else math.nan,
        _interval(new - old) if old.size >= MIN_PAIRS else None,
        old.size,
        int((~finite[:, 0]).sum()),
        int((~finite[:, 1]).sum()),
        len(before.keys() ^ after.keys()),
    )


def _interval(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; resampling differences resamples whole pairs.

    BCa, because differences of errors are skewed by the rare bad run, and it allows for that
    where the plain percentiles do not. The same differences always give the same interval.
    """
    if np.ptp(differences) == 0:  # nothing to resample, and BCa would divide by zero
        return float(differences[0]), float(differences[0])
    result = scipy.stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="BCa",
        random_state=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)
