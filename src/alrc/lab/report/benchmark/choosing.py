"""Clauses (i) to (iii) of the benchmark's rule: which setting is chosen for some workloads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alrc.lab.report.benchmark.effects import Effects, Estimate, Which

__all__ = [
    "CANDIDATES",
    "EVERY",
    "GROUPS",
    "PAPER",
    "TOLERANCE",
    "Candidate",
    "Choice",
    "apart",
    "choose",
    "gain_of",
    "reasons",
]

TOLERANCE = math.log(1.01)  # what a calm workload may cost at most: 1 %
# What differs so much from seed to seed that no affordable number of them shows 1 %.
NOISY = {("control", "first"), ("classification", "second")}
PAPER = "alrc"  # the paper's rule with today's start, the default if nothing is admissible
GROUPS = {
    "regression-like": ("regression", "images", "control"),
    "cross-entropy-like": ("classification", "language"),
}
EVERY = tuple(family for families in GROUPS.values() for family in families)


@dataclass(frozen=True)
class Candidate:
    """A setting that may become the default, by the label of its arm."""

    label: str
    log: bool
    num_stddev: float
    recency: float

    @property
    def simplicity(self) -> tuple[bool, float, float]:
        """The nearer to the paper, the smaller: linear, then three deviations, then recency."""
        return self.log, abs(math.log(self.num_stddev / 3)), self.recency


def _candidates() -> dict[str, Candidate]:
    found = {}
    for name, stddevs, recencies in (
        ("alrc", (1, 2, 3, 4, 6), (1, 2, 4, 10)),
        ("alrc-log", (1, 1.5, 2, 3), (1,)),
    ):
        for n in stddevs:
            for c in recencies:
                words = [name, *[f"num_stddev={n}"] * (n != 3), *[f"recency={c}"] * (c != 1)]
                label = " ".join(words)
                found[label] = Candidate(label, name == "alrc-log", n, c)
    return found


CANDIDATES = _candidates()


@dataclass(frozen=True)
class Choice:
    """What the rule says of some workloads.

    Attributes:
        label: The setting; `PAPER` if none is admissible.
        admissible: Labels, with the largest gain first.
        refused: Why others are not, in words, by label.
        best: The admissible one with the largest gain; None without any.
        gain: Of the setting chosen, over broken workloads.
    """

    label: str
    admissible: tuple[str, ...]
    refused: dict[str, str]
    best: str | None
    gain: Estimate | None

    @property
    def fallback(self) -> bool:
        return self.best is None


def choose(effects: Effects, families: tuple[str, ...] = EVERY) -> Choice:
    """Clauses (i) to (iii) for the workloads of some families."""
    bench = effects.bench
    present = [c for c in CANDIDATES.values() if c.label in bench.arms]
    refused = {}
    for c in present:
        if why := _refusal(effects, c.label, families):
            refused[c.label] = why
    gains = {
        c.label: gain
        for c in present
        if c.label not in refused and (gain := gain_of(effects, c.label, families)) is not None
    }
    order = sorted(gains, key=lambda label: (gains[label].value, CANDIDATES[label].simplicity))
    if not order:
        gain = gain_of(effects, PAPER, families) if PAPER in bench.arms else None
        return Choice(PAPER, (), refused, None, gain)
    best = order[0]
    near = [a for a in order if a == best or not apart(effects, a, best, families).resolved]
    label = min(near, key=lambda a: CANDIDATES[a].simplicity)
    return Choice(label, tuple(order), refused, best, gains[label])


def gain_of(effects: Effects, arm: str, families: tuple[str, ...]) -> Estimate | None:
    return effects.pooled(arm, effects.bench.of("broken", families=families))


def apart(effects: Effects, arm: str, other: str, families: tuple[str, ...]) -> Estimate:
    """Of two gains, paired by seed."""
    broken = effects.bench.of("broken", families=families)
    found = effects.pooled(arm, broken, against=other)
    assert found is not None  # both are admissible, and so ran on all broken workloads
    return found


def _refusal(effects: Effects, arm: str, families: tuple[str, ...]) -> str:
    """Clause (i): why a candidate is not admissible; empty if it is."""
    bench = effects.bench
    if missing := [
        w.name for w in bench.of("broken", "calm", "trap", families=families) if arm not in w.runs
    ]:
        return f"it was not run on {', '.join(missing)}"
    if not bench.of("broken", families=families):
        return "there is no broken workload"
    if not bench.of("calm", families=families):
        return "there is no calm workload to judge it by"
    for family in families:
        calm = bench.of("calm", families=(family,))
        if bench.of("broken", families=(family,)) and not calm:
            return f"there is no calm workload of {family} to judge it by"
        for which in _judged(family):
            pooled = effects.pooled(arm, calm, which)
            if pooled is None:
                continue
            low, high = pooled.interval
            if (family, which) in NOISY:
                if low > 0:
                    return (
                        f"calm {family} costs {math.expm1(low):+.2%} of its {which} metric or more"
                    )
            elif high > TOLERANCE:
                return f"calm {family} may cost {math.expm1(high):+.2%} of its {which} metric"
        for w in calm:
            for which in _judged(family)[: len(w.metrics)]:
                effect = effects.effect(w, arm, which)
                if effect.ratios and effect.estimate.interval[0] > TOLERANCE:
                    return f"{w.name} costs more than 1 % of its {which} metric for certain"
            if effects.effect(w, arm).diverges_more:
                return f"it diverges more often than plain training on {w.name}"
    gain, trap = (
        gain_of(effects, arm, families),
        effects.pooled(arm, bench.of("trap", families=families)),
    )
    if gain is not None and trap is not None and trap.interval[0] > max(-gain.value, 0) + TOLERANCE:
        return "it loses more on the traps, for certain, than it gains where something breaks"
    return ""


def _judged(family: str) -> tuple[Which, ...]:
    return ("first", "second") if family == "classification" else ("first",)


def reasons(choice: Choice) -> Sequence[tuple[str, str]]:
    """Of each candidate that was run: admissible, or why not."""
    fine = [(label, "admissible") for label in choice.admissible]
    return [*fine, *choice.refused.items()]
