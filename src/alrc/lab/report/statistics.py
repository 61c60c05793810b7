"""What a number of runs allows to say: means, and each arm against the baseline."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from alrc.lab.report.multiplicity import Decision, Hypothesis, gatekeeping, holm
from alrc.lab.report.paired import mcnemar, mcnemar_least
from alrc.lab.report.pairs import Pairs, SortedPairs

__all__ = ["Comparison", "Mean", "Pairs", "Verdict", "compare", "mean"]


@dataclass(frozen=True)
class Mean:
    """A mean over runs.

    Attributes:
        value: The mean of the finite values; NaN without any.
        error: Standard deviation of the mean, s / sqrt(count); NaN for fewer than two.
        count: Number of finite values.
        diverged: Number of the others.
    """

    value: float
    error: float
    count: int
    diverged: int


def mean(values: Iterable[float]) -> Mean:
    """The mean of the finite values, and how well they fix it.

    Example:
        >>> mean([1.0, 3.0, 5.0, 7.0, float("nan")])
        Mean(value=4.0, error=1.2909944487358056, count=4, diverged=1)
    """
    given = np.sort(np.fromiter(values, np.float64))  # so that their order changes no last digit
    finite = given[np.isfinite(given)]
    n = finite.size
    return Mean(
        float(finite.mean()) if n else math.nan,
        float(finite.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan,
        n,
        given.size - n,
    )


class Verdict(Enum):
    """What may be said of an arm; its values are words for a legend.

    Of divergence, better means less often, and identical that every pair ended alike. ``mixed``:
    better where neither run diverged, but it diverged in more pairs (or worse, and in fewer). The
    runs that survive flatter the arm of which fewer do, so that such a verdict would be empty;
    one against the arm they flatter stands.
    """

    better = "better"
    worse = "worse"
    mixed = "better only in pairs where neither diverged, or worse only there"
    unclear = "no difference that so many pairs could show"
    too_few = "too few pairs that differ to show any"
    identical = "identical"
    exploratory = "exploratory: no verdict"


@dataclass(frozen=True)
class Comparison:
    """What came of a `Pairs`.

    Attributes:
        seeds: Pairs in which neither run diverged; the change rests on these.
        relative: Change of each: after / before - 1, or difference / mean of before where a value
            is 0, or the difference where ``absolute``.
        change: Their average (of logarithms, for ratios); NaN without any.
        interval: Of the change, 95 %, not corrected; None if so few pairs allow none.
        absolute: Changes are differences in the metric's own unit, because its ratios mean nothing
            (some values are negative, or `Pairs.ratios` says so).
        p: Two-sided, not corrected; NaN for fewer than two pairs.
        wins: Pairs in which the arm is better.
        ties: Pairs of equal values, as identical runs have.
        losses: Pairs in which it is worse.
        identical: How many of ``seeds`` have identical runs.
        diverged: Pairs by which run diverged: both, only before, only after, neither.
        p_diverged: Of an exact McNemar test of these, not corrected.
        unpaired: Seeds that are there only before or only after.
        level: What p had to reach, after correction.
        detectable: Smallest change for the better that so many pairs with this spread show at that
            level in 80 % of studies; NaN if the spread is unknown.
        seeds_needed: Pairs with which the change as observed would be shown in 80 % of studies;
            None if there is no change, or if it takes more than 10,000.
        verdict: Of the metric.
        divergence: Of how often runs diverge.
    """

    seeds: tuple[int, ...]
    relative: tuple[float, ...]
    change: float
    interval: tuple[float, float] | None
    absolute: bool
    p: float
    wins: int
    ties: int
    losses: int
    identical: int
    diverged: tuple[int, int, int, int]
    p_diverged: float
    unpaired: int
    level: float
    detectable: float
    seeds_needed: int | None
    verdict: Verdict
    divergence: Verdict


def compare(
    families: Sequence[Pairs], primary: int | None = None, alpha: float = 0.05
) -> list[Comparison]:
    """Compares every arm with the baseline; at most a share alpha of reports has a false verdict.

    That holds for all verdicts of a report together, of metric and of divergence. Each that is
    not exploratory is two tests: of the mean difference of the pairs in which neither run diverged
    (`PairedDifferences`), and of the pairs in which one run did (exact McNemar). Identical pairs
    and tests that could reach no level cost nothing, so that calm studies do not pay for
    divergence. Holm's steps correct for the rest.

    Args:
        families: All that one report compares.
        primary: Which of them was declared, before the runs, to be the one that counts. It has all
            of alpha, and the others only get verdicts, Holm's, if it shows something.
        alpha: Share of reports, > 0 and < 1.

    Raises:
        ValueError: If the primary comparison is none of these, or is exploratory.

    Example:
        >>> off = {0: 2.0, 1: 4.0, 2: 3.0, 3: 5.0}
        >>> [c] = compare([Pairs(off, {0: 1.5, 1: 3.1, 2: 2.2, 3: 3.7})])
        >>> round(c.change, 3), c.wins, c.verdict.value
        (-0.251, 4, 'better')
    """
    if primary is not None and not 0 <= primary < len(families):
        raise ValueError(
            f"compare: primary must be the index of a comparison, 0 to {len(families) - 1}; got "
            f"{primary}. Leave it out if none was declared."
        )
    if primary is not None and families[primary].exploratory:
        raise ValueError(
            "compare: the primary comparison must not be exploratory, because all of alpha is its "
            f"own; got primary={primary}, which is. Declare one of the primary metric."
        )
    outcomes = [SortedPairs.of(pairs) for pairs in families]
    tests = [{} if o.pairs.exploratory else _tests(o) for o in outcomes]
    others = {(i, k): t for i, own in enumerate(tests) if i != primary for k, t in own.items()}
    if primary is None:
        decisions = holm(others, alpha)
    else:
        first = {(primary, k): t for k, t in tests[primary].items()}
        decisions = gatekeeping(first, others, alpha)
    none = Decision(False, alpha, counts=False)
    return [
        _comparison(o, decisions.get((i, "metric"), none), decisions.get((i, "divergence"), none))
        for i, o in enumerate(outcomes)
    ]


def _tests(outcome: SortedPairs) -> dict[str, Hypothesis]:
    return {
        "metric": Hypothesis(outcome.differences.p, outcome.differences.least),
        "divergence": Hypothesis(
            mcnemar(outcome.only_before, outcome.only_after), mcnemar_least(outcome.discordant)
        ),
    }


def _comparison(outcome: SortedPairs, metric: Decision, divergence: Decision) -> Comparison:
    d = outcome.differences
    interval = d.interval()
    sign = 1 if outcome.pairs.better == "higher" else -1
    return Comparison(
        seeds=outcome.seeds,
        relative=tuple(map(outcome.change, d.values)),
        change=outcome.change(d.mean),
        interval=interval and (outcome.change(interval[0]), outcome.change(interval[1])),
        absolute=outcome.absolute,
        p=d.p,
        wins=int((sign * d.rounded > 0).sum()),
        ties=int((d.rounded == 0).sum()),
        losses=int((sign * d.rounded < 0).sum()),
        identical=outcome.identical,
        diverged=(outcome.both, outcome.only_before, outcome.only_after, len(outcome.seeds)),
        p_diverged=mcnemar(outcome.only_before, outcome.only_after),
        unpaired=outcome.unpaired,
        level=metric.level,
        detectable=sign * outcome.change(sign * d.detectable(metric.level)),
        seeds_needed=d.needed(metric.level),
        verdict=_verdict(outcome, metric, sign * d.mean > 0),
        divergence=_divergence(outcome, divergence),
    )


def _verdict(outcome: SortedPairs, decision: Decision, gained: bool) -> Verdict:
    if outcome.seeds and outcome.identical == len(outcome.seeds):
        return Verdict.identical
    if outcome.differences.least > decision.level:
        return Verdict.too_few
    if not decision.counts:
        return Verdict.exploratory
    if not decision.shown:
        return Verdict.unclear
    more_often = outcome.only_after - outcome.only_before
    if more_often > 0 if gained else more_often < 0:
        return Verdict.mixed
    return Verdict.better if gained else Verdict.worse


def _divergence(outcome: SortedPairs, decision: Decision) -> Verdict:
    if outcome.count and not outcome.discordant:
        return Verdict.identical
    if mcnemar_least(outcome.discordant) > decision.level:
        return Verdict.too_few
    if not decision.counts:
        return Verdict.exploratory
    if not decision.shown:
        return Verdict.unclear
    return Verdict.better if outcome.only_after < outcome.only_before else Verdict.worse
