"""The rule by which the benchmark chooses defaults: docs/benchmark/benchmark-rule.md in code."""

import math
from dataclasses import dataclass

from alrc.lab.report.benchmark.choosing import (
    CANDIDATES,
    EVERY,
    GROUPS,
    PAPER,
    Choice,
    apart,
    choose,
    gain_of,
)
from alrc.lab.report.benchmark.compact import PLAIN, Bench
from alrc.lab.report.benchmark.effects import Effects, Estimate
from alrc.lab.report.multiplicity import Decision as Level
from alrc.lab.report.multiplicity import Hypothesis, gatekeeping

__all__ = ["Decision", "decide"]


@dataclass(frozen=True)
class Decision:
    """All that the benchmark decides.

    Attributes:
        default: Of the library: the choice over all families.
        by_group: The choice of each group of families, where it has broken workloads.
        recommended: The setting for each group; those that differ are two lines to choose from.
        halves: The choices of even and of odd seeds, and the gain of each on the other half.
        quoted: Mean of these two gains, which no choice flatters; None if seeds are too few.
        primary: Whether the quoted gain is shown to be none by chance, at 5 %.
        secondary: The default against plain on each broken workload, Holm's steps; by workload.
        without: The choice without each part, by part.
        best_linear: Admissible, by gain.
        best_log: Admissible, by gain.
        log_over_linear: Difference of their gains.
        log_in_core: Whether the log scale goes into the library.
        over_paper: Gain of the default over the paper's rule; None if it is that.
        beaten_by_paper: Workloads where the paper's rule is resolvedly better than the default.
    """

    default: Choice
    by_group: dict[str, Choice]
    recommended: dict[str, str]
    halves: dict[str, tuple[str, Estimate | None]]
    quoted: Estimate | None
    primary: Level
    secondary: dict[str, Level]
    without: dict[str, str]
    best_linear: str | None
    best_log: str | None
    log_over_linear: Estimate | None
    log_in_core: bool
    over_paper: Estimate | None
    beaten_by_paper: tuple[str, ...]


def decide(effects: Effects) -> Decision:
    """Clauses (i) to (vi)."""
    bench = effects.bench
    default = choose(effects)
    by_group = {
        name: choose(effects, families)
        for name, families in GROUPS.items()
        if bench.of("broken", families=families)
    }
    halves, quoted = _crossfit(bench)
    primary, secondary = _tests(effects, default.label, quoted)
    linear, log = (_best(default, log=log) for log in (False, True))
    difference = _log_over_linear(effects, linear, log)
    over, beaten = _over_paper(effects, default.label)
    return Decision(
        default=default,
        by_group=by_group,
        recommended={name: _recommended(effects, name, c, default) for name, c in by_group.items()},
        halves=halves,
        quoted=quoted,
        primary=primary,
        secondary=secondary,
        without=_without(effects),
        best_linear=linear,
        best_log=log,
        log_over_linear=difference,
        log_in_core=difference is not None and difference.interval[1] < 0,
        over_paper=over,
        beaten_by_paper=beaten,
    )


def _best(choice: Choice, log: bool) -> str | None:
    return next((a for a in choice.admissible if CANDIDATES[a].log == log), None)


def _log_over_linear(effects: Effects, linear: str | None, log: str | None) -> Estimate | None:
    """Clause (vi): without an admissible linear setting, log has to beat doing nothing."""
    if log is None:
        return None
    return apart(effects, log, linear or PLAIN, EVERY)


def _recommended(effects: Effects, group: str, choice: Choice, default: Choice) -> str:
    """Clause (iv): the group's own choice, if the default is not for it or it gains more."""
    families = GROUPS[group]
    if choice.fallback or choice.label == default.label:
        return default.label
    if default.label not in choice.admissible:
        return choice.label
    gained = apart(effects, choice.label, default.label, families)
    return choice.label if gained.interval[1] < 0 else default.label


def _crossfit(bench: Bench) -> tuple[dict[str, tuple[str, Estimate | None]], Estimate | None]:
    """Clause (v): each half of the seeds chooses, and the other half says what that gains."""
    if any(sum(s % 2 == half for s in w.seeds) < 2 for w in bench.workloads for half in (0, 1)):
        return {}, None
    even, odd = (Effects(bench, lambda s, half=half: s % 2 == half) for half in (0, 1))  # type: ignore[misc]
    found = {}
    for name, chooses, tells in (("even", even, odd), ("odd", odd, even)):
        label = choose(chooses).label
        found[name] = label, gain_of(tells, label, EVERY) if label in bench.arms else None
    gains = [gain for _, gain in found.values() if gain is not None]
    return found, _mean_of_two(*gains) if len(gains) == 2 else None


def _mean_of_two(a: Estimate, b: Estimate) -> Estimate:
    error = math.hypot(a.error, b.error) / 2
    freedom = min(a.freedom, b.freedom)
    if error and math.isfinite(error):
        fourth = sum((e.error / 2) ** 4 / e.freedom for e in (a, b))
        freedom = error**4 / fourth
    return Estimate((a.value + b.value) / 2, error, freedom)


def _tests(
    effects: Effects, default: str, quoted: Estimate | None
) -> tuple[Level, dict[str, Level]]:
    """The one declared test has all of 5 %, and hands it on to the default's workloads if shown."""
    p = math.nan if quoted is None or quoted.value >= 0 else quoted.p
    others = {
        w.name: Hypothesis(effects.effect(w, default).estimate.p, 0.0)
        for w in effects.bench.of("broken")
        if default in w.runs
    }
    found = gatekeeping({"primary": Hypothesis(p, 0.0)}, others, 0.05)
    return found.pop("primary"), found


def _without(effects: Effects) -> dict[str, str]:
    parts = effects.bench.parts if len(effects.bench.parts) > 1 else ()
    return {part: choose(effects.without(part)).label for part in parts}


def _over_paper(effects: Effects, default: str) -> tuple[Estimate | None, tuple[str, ...]]:
    """Where the default's rule is another than the paper's: is it better, and nowhere worse?"""
    bench = effects.bench
    if default == PAPER or PAPER not in bench.arms:
        return None, ()
    both = [w for w in bench.workloads if PAPER in w.runs and default in w.runs]
    worse = []
    for w in both:
        difference = effects.pooled(default, [w], against=PAPER)
        if difference is not None and difference.interval[0] > 0:
            worse.append(w.name)
    return effects.pooled(default, bench.of("broken"), against=PAPER), tuple(worse)
