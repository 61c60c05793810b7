"""What an arm changes, paired by seed with doing nothing; means over workloads, and intervals."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal, Self

import numpy as np
from scipy import special  # type: ignore[import-untyped]

from alrc.lab.engine.files import Damaged
from alrc.lab.report.benchmark.compact import PLAIN, Bench, Run, Workload
from alrc.lab.report.paired import PairedDifferences, mcnemar

__all__ = ["DIVERGED", "LARGEST", "Effect", "Effects", "Estimate", "Which", "pooled"]

Which = Literal["first", "second"]
DIVERGED = 10.0  # times worse than its partner is a run that diverged where that one did not
LARGEST = 100.0  # the largest factor that a pair counts as
ROUNDING = 1.1e-5  # of a logarithm of a ratio of two numbers of 6 digits


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; of logarithms of ratios, of which negative ones are better.

    Example:
        >>> low, high = Estimate(-0.5, 0.1, 19.0).interval
        >>> f"{low:.3f} {high:.3f}"
        '-0.709 -0.291'
    """

    value: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        if not self.error:
            return self.value, self.value
        if not math.isfinite(self.error):
            return -math.inf, math.inf
        reach = -float(special.stdtrit(self.freedom, 0.025)) * self.error
        return self.value - reach, self.value + reach

    @property
    def p(self) -> float:
        """Two-sided, that the mean is 0."""
        if not self.error:
            return 0.0 if self.value else 1.0
        return 2 * float(special.stdtr(self.freedom, -abs(self.value) / self.error))

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.interval
        return low > 0 or high < 0

    @classmethod
    def of(cls, differences: Sequence[float], rounding: float = ROUNDING) -> Self:
        """A paired t estimate; pairs that are all alike have an error of 0.

        Unless they are too few for that to be no chance: then nothing is known of the error.
        """
        d = PairedDifferences(tuple(differences), rounding)
        if d.count < 2 or (d.mean and d.interval() is None):
            return cls(d.mean, math.inf, 1.0)
        return cls(d.mean, d.spread / math.sqrt(d.count), d.count - 1.0)


@dataclass(frozen=True)
class Effect:
    """What an arm changed in a workload.

    Attributes:
        differences: By seed, as they count: see `DIVERGED` and `LARGEST`; where they are no
            logarithms, of those pairs in which neither run diverged.
        estimate: Their mean.
        ratios: Whether they are logarithms of ratios; else differences in the metric's own unit.
        identical: All runs are the same to all digits that are stored.
        before: Plain runs that diverged where those of the arm did not.
        after: The reverse.
        both: Pairs in which both did.
        p_diverged: Exact McNemar.
    """

    differences: dict[int, float]
    estimate: Estimate
    ratios: bool
    identical: bool
    before: int
    after: int
    both: int
    p_diverged: float

    @property
    def diverges_more(self) -> bool:
        return self.after > self.before


class Effects:
    """All effects of a benchmark, or of some of its seeds.

    Args:
        bench: The results.
        keep: Which seeds; all without it.
    """

    def __init__(self, bench: Bench, keep: Callable[[int], bool] | None = None) -> None:
        self.bench, self._keep = bench, keep
        self.effect = cache(self._effect)

    def without(self, part: str) -> "Effects":
        """Those of the other parts, which stay what they are."""
        rest = tuple(w for w in self.bench.workloads if w.part != part)
        effects = Effects(replace(self.bench, workloads=rest), self._keep)
        effects.effect = self.effect
        return effects

    def _effect(self, workload: Workload, arm: str, which: Which = "first") -> Effect:
        before, after = workload.runs[PLAIN], workload.runs[arm]
        seeds = [s for s in workload.seeds if self._keep is None or self._keep(s)]
        scale = _scale(workload, which)
        each = ((s, _difference(before[s], after[s], which, scale)) for s in seeds)
        d = {s: x for s, x in each if x is not None}
        lost = Counter((before[s].diverged, after[s].diverged) for s in seeds)
        only_before, only_after = lost[True, False], lost[False, True]
        return Effect(
            d,
            Estimate.of(list(d.values()), 0.0 if scale.floor is None else ROUNDING),
            scale.floor is not None,
            all(repr(before[s]) == repr(after[s]) for s in seeds),  # NaN is like NaN
            only_before,
            only_after,
            lost[True, True],
            mcnemar(only_before, only_after),
        )

    def pooled(
        self,
        arm: str,
        workloads: Sequence[Workload],
        which: Which = "first",
        against: str = PLAIN,
    ) -> Estimate | None:
        """Mean of an arm, or of its difference from another, over workloads that have both.

        Each part weighs the same, and within a part each workload. None without workloads.
        """
        found: dict[str, list[dict[int, float]]] = {}
        for w in workloads:
            if arm in w.runs and against in w.runs and (which == "first" or len(w.metrics) > 1):
                mine = self.effect(w, arm, which)
                d = mine.differences
                if against != PLAIN:
                    theirs = self.effect(w, against, which).differences
                    d = {s: x - theirs[s] for s, x in d.items()}
                if mine.ratios:
                    found.setdefault(w.part, []).append(d)
        return pooled(list(found.values()))


def pooled(parts: Sequence[Sequence[dict[int, float]]]) -> Estimate | None:
    """Mean over parts of the mean over their workloads, with an error.

    The error is clustered by seed: what a seed does to several workloads, of one part or of several
    that have the same data, is in it. With weights w = 1 / (parts * workloads of the part), error^2
    is the sum over seeds of (sum over workloads of w * (d - mean) / sqrt(n * (n - 1)))^2, which for
    a single workload is that of its mean. Degrees of freedom are those of the workload with the
    fewest seeds.
    """
    if not parts:
        return None
    value, freedom, broken = 0.0, math.inf, False
    moved: dict[int, float] = {}  # by each seed
    for workloads in parts:
        weight = 1 / (len(parts) * len(workloads))
        for d in workloads:
            e, count = Estimate.of(list(d.values())), len(d)
            value, freedom = value + weight * e.value, min(freedom, e.freedom)
            broken |= not math.isfinite(e.error)
            for seed, x in d.items() if e.error and not broken else ():
                share = weight * (x - e.value) / math.sqrt(count * (count - 1))
                moved[seed] = moved.get(seed, 0.0) + share
    error = math.inf if broken else math.sqrt(sum(x * x for x in moved.values()))
    return Estimate(value, error, freedom)


@dataclass(frozen=True)
class _Scale:
    """How values become differences.

    Attributes:
        sign: 1 where a larger logarithm, or a larger value, is worse.
        floor: For logarithms, what the magnitude of a value is at least: half the smallest there
            is, as which 0 counts. None: only differences mean something.
    """

    sign: int
    floor: float | None


@lru_cache(maxsize=1024)
def _scale(workload: Workload, which: Which) -> _Scale:
    metric = workload.metrics[0 if which == "first" else 1]
    runs = (run for of_arm in workload.runs.values() for run in of_arm.values())
    values = np.array([getattr(run, which) for run in runs], np.float64)
    values = values[np.isfinite(values)]
    sizes = np.abs(values[values != 0])
    floor = float(sizes.min()) / 2 if sizes.size else 1.0
    worse = 1 if metric["better"] == "lower" else -1
    if metric["unit"] != "dB":
        if (values >= 0).all():
            return _Scale(worse, floor)
        if (values <= 0).all():
            return _Scale(-worse, floor)
    if which == "first":
        raise Damaged(
            f"{workload.part}.csv: first of {workload.name} ({metric['name']}) must have one sign, "
            "because changes are ratios; there are values of both. Put a metric that has ratios "
            "first in its task."
        )
    return _Scale(worse, None)


def _difference(before: Run, after: Run, which: Which, scale: _Scale) -> float | None:
    """Below 0 where the arm is better; None where a run diverged and there is no ratio."""
    old, new = (getattr(run, which) for run in (before, after))
    lost = [run.diverged or not math.isfinite(x) for run, x in ((before, old), (after, new))]
    if scale.floor is None:
        return None if any(lost) else scale.sign * (new - old)
    if any(lost):
        return (lost[1] - lost[0]) * math.log(DIVERGED)
    ratio = math.log(max(abs(new), scale.floor)) - math.log(max(abs(old), scale.floor))
    return scale.sign * max(-math.log(LARGEST), min(ratio, math.log(LARGEST)))
