"""An arm over all workloads: what it gains, what it costs, and how far it is from the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alrc.lab.report.benchmark.compact import PLAIN, Bench, Workload
from alrc.lab.report.benchmark.effects import Effects, Estimate

__all__ = ["Summary", "summaries", "widely_run"]


@dataclass(frozen=True)
class Summary:
    """Logarithms of ratios, of which negative ones are better.

    Attributes:
        arm: Its label.
        broken: Of the broken workloads, those on which it ran.
        workloads: On how many workloads of any kind it ran.
        gain: Over the broken ones; None without any.
        calm: Over the calm ones.
        harm: The same by family.
        trap: Over the traps.
        worst: The largest upper end of an interval of any workload.
        worst_at: The workload it is of.
        regret: Mean distance from the best arm of each workload, each part alike.
        regret_worst: The largest.
        regret_at: The workload it is of.
        diverged_more: Workloads in which it diverged more often than plain training.
    """

    arm: str
    broken: int
    workloads: int
    gain: Estimate | None
    calm: Estimate | None
    harm: Mapping[str, Estimate]
    trap: Estimate | None
    worst: float
    worst_at: Workload
    regret: float
    regret_worst: float
    regret_at: Workload
    diverged_more: tuple[str, ...]


def summaries(effects: Effects) -> dict[str, Summary]:
    """Of each arm, plain training too, by label."""
    bench = effects.bench
    best = {
        w: min(0.0, *(effects.effect(w, arm).estimate.value for arm in w.runs if arm != PLAIN))
        if len(w.runs) > 1
        else 0.0
        for w in bench.workloads
    }
    return {arm: _summary(effects, arm, best) for arm in (PLAIN, *bench.arms)}


def _summary(effects: Effects, arm: str, best: Mapping[Workload, float]) -> Summary:
    bench = effects.bench
    ran = [w for w in bench.workloads if arm in w.runs]
    upper = {w: effects.effect(w, arm).estimate.interval[1] for w in ran}
    regret = {w: effects.effect(w, arm).estimate.value - best[w] for w in ran}
    worst_at = max(ran, key=lambda w: upper[w])
    regret_at = max(ran, key=lambda w: regret[w])
    families = dict.fromkeys(w.family for w in bench.of("calm"))
    harm = {f: effects.pooled(arm, bench.of("calm", families=(f,))) for f in families}
    return Summary(
        arm=arm,
        broken=sum(w.kind == "broken" for w in ran),
        workloads=len(ran),
        gain=effects.pooled(arm, bench.of("broken")),
        calm=effects.pooled(arm, bench.of("calm")),
        harm={f: e for f, e in harm.items() if e is not None},
        trap=effects.pooled(arm, bench.of("trap")),
        worst=upper[worst_at],
        worst_at=worst_at,
        regret=_by_part(ran, regret),
        regret_worst=regret[regret_at],
        regret_at=regret_at,
        diverged_more=tuple(w.name for w in ran if effects.effect(w, arm).diverges_more),
    )


def _by_part(workloads: Sequence[Workload], values: Mapping[Workload, float]) -> float:
    parts: dict[str, list[float]] = {}
    for w in workloads:
        parts.setdefault(w.part, []).append(values[w])
    return math.fsum(sum(each) / len(each) for each in parts.values()) / len(parts)


def widely_run(bench: Bench, least: float = 0.5) -> list[str]:
    """Arms that ran on at least such a share of the broken workloads."""
    broken = bench.of("broken")
    return [a for a in bench.arms if sum(a in w.runs for w in broken) >= least * len(broken)]
