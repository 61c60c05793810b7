"""Many tests in one report, with a false alarm in at most a share alpha of reports."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

__all__ = ["Decision", "Hypothesis", "gatekeeping", "holm", "tarone"]

K = TypeVar("K", bound=Hashable)


class Hypothesis(NamedTuple):
    """A hypothesis: its p, and the least that p could have been, whatever the effect."""

    p: float
    least: float


class Decision(NamedTuple):
    """What came of a test: whether p was at or below the level, that level, and whether it counts.

    Without ``counts`` the test was not part of the family, and its level is one it never had.
    """

    shown: bool
    level: float
    counts: bool = True


def tarone(least: Sequence[float], alpha: float) -> float:
    """The highest level, up to alpha, that costs no more than alpha over all tests.

    A test that can never reach the level can raise no false alarm, and does not count (Tarone,
    1990): the highest c at which c * (number of ``least`` <= c) <= alpha. More alpha or fewer
    tests never lower it, on which the steps of `holm` and `gatekeeping` rest. For tests that can
    reach anything it is Bonferroni's alpha / number.

    Example:
        >>> tarone([0, 0, 0.5, 1], 0.05)
        0.025
    """
    steps = sorted(least)
    best = 0.0
    for count in range(len(steps) + 1):
        level = alpha / max(count, 1)
        if count < len(steps):  # at its least p the next test would begin to count
            level = min(level, math.nextafter(steps[count], 0))
        if not count or level >= steps[count - 1]:
            best = max(best, level)
    return best


def holm(tests: Mapping[K, Hypothesis], alpha: float) -> dict[K, Decision]:
    """Holm's steps: what is shown stops counting, and the level for the others rises."""
    left = dict(tests)
    decisions: dict[K, Decision] = {}
    while True:
        level = tarone([test.least for test in left.values()], alpha)
        shown = [key for key, test in left.items() if test.p <= level]
        if not shown:
            return decisions | dict.fromkeys(left, Decision(False, level))
        decisions |= dict.fromkeys(shown, Decision(True, level))
        for key in shown:
            del left[key]


def gatekeeping(
    first: Mapping[K, Hypothesis], others: Mapping[K, Hypothesis], alpha: float
) -> dict[K, Decision]:
    """The first tests have all of alpha; what was well spent goes on to the others.

    The first are tested at one level (no steps); each that is shown hands on its own share of
    alpha (parallel gatekeeping: Dmitrienko, Offen and Westfall, 2003). One alone hands on all;
    where none is shown, the others do not count.
    """
    level = tarone([test.least for test in first.values()], alpha)
    decisions = {key: Decision(test.p <= level, level) for key, test in first.items()}
    silent = sum(test.least <= level and not decisions[key].shown for key, test in first.items())
    if any(decision.shown for decision in decisions.values()):
        return decisions | holm(others, alpha - level * silent)
    closed = holm(others, alpha)
    return decisions | {key: Decision(False, closed[key].level, counts=False) for key in others}
