"""How the benchmark's numbers and arms are told."""

import math
from collections.abc import Sequence

from alrc.lab.report.benchmark.choosing import CANDIDATES, PAPER
from alrc.lab.report.benchmark.compact import PLAIN, Bench
from alrc.lab.report.benchmark.decision import Decision
from alrc.lab.report.benchmark.effects import Effect, Estimate
from alrc.lab.report.benchmark.summaries import Summary

__all__ = ["between", "change", "effect_words", "listed", "main_arms", "shown_arms", "told"]

ROWS = 26  # of the matrix; more would not be read
MAIN = 11  # arms in the forest plot
MARKS = ("alrc recency=4", "alrc num_stddev=1", "alrc num_stddev=1 recency=4")


def change(log: float) -> str:
    """A logarithm of a ratio as a change in percent."""
    if not math.isfinite(log):
        return "not known" if math.isnan(log) else "unbounded"
    number = 100 * math.expm1(log)
    digits = 2 if abs(number) < 0.995 else 1 if abs(number) < 99.95 else 0
    words = f"{number:+,.{digits}f}"
    return f"{words if float(words.replace(',', '')) else '0'}\u00a0%"  # not parted at a line's end


def between(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"[{change(low)}, {change(high)}]"


def told(estimate: Estimate | None) -> str:
    """A change with its interval."""
    return "-" if estimate is None else f"{change(estimate.value)} {between(estimate)}"


def effect_words(effect: Effect) -> str:
    """What an arm changed in one workload: in percent, or in the metric's own unit."""
    lost = f", diverged in {effect.after + effect.both}" if effect.after + effect.both else ""
    if effect.identical:
        return f"identical{lost}"
    if effect.ratios:
        return f"{told(effect.estimate)}{lost}"
    low, high = effect.estimate.interval
    return f"{effect.estimate.value:+.3g} [{low:+.3g}, {high:+.3g}], below 0 is better{lost}"


def listed(names: Sequence[str]) -> str:
    """a, b and c"""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def settings(bench: Bench, decision: Decision) -> list[str]:
    """Settings of ALRC that matter, the default first."""
    d = decision
    wanted = [d.default.label, PAPER, d.default.best, *d.recommended.values()]
    wanted += [choice.label for choice in d.by_group.values()]
    wanted += [d.best_linear, d.best_log, *(label for label, _ in d.halves.values()), *MARKS]
    return [a for a in dict.fromkeys(wanted) if a is not None and a in bench.arms]


def rivals(bench: Bench, summaries: dict[str, Summary]) -> list[str]:
    """Arms that are no candidates: first those that ran on most workloads, then by gain."""

    def order(arm: str) -> tuple[int, float]:
        s = summaries[arm]
        return -s.broken, s.gain.value if s.gain else 0.0

    return sorted((a for a in bench.arms if a not in CANDIDATES), key=order)


def shown_arms(bench: Bench, decision: Decision, summaries: dict[str, Summary]) -> list[str]:
    """Rows of the matrix: the settings that matter, and the rivals.

    Special rivals, which run only where they can, stay; of the others those with the largest gain.
    """
    own, others = settings(bench, decision), rivals(bench, summaries)
    broken = max((summaries[a].broken for a in others), default=0)
    special = [a for a in others if summaries[a].broken < broken]
    everywhere = [a for a in others if a not in special]
    return own + everywhere[: max(ROWS - len(own) - len(special), MAIN)] + special or [PLAIN]


def main_arms(bench: Bench, decision: Decision, summaries: dict[str, Summary]) -> list[str]:
    """The default, the paper's rule, the best of the log scale, and rivals that ran everywhere."""
    d, broken = decision, len(bench.of("broken"))
    wanted = [d.default.label, PAPER, d.best_linear, d.best_log, *d.recommended.values()]
    own = [a for a in dict.fromkeys(wanted) if a is not None and a in bench.arms]
    everywhere = [a for a in rivals(bench, summaries) if summaries[a].broken == broken]
    return (own + everywhere)[:MAIN] or [PLAIN]
