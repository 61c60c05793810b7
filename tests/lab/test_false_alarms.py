"""How often a whole report says something false, simulated where nothing is to be found."""

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from alrc.lab.report.statistics import Pairs, Verdict, compare

SETTINGS, ARMS = 2, 4  # the arms of a setting share the runs of the baseline
ALARMS = {Verdict.better, Verdict.worse, Verdict.mixed}


def reports(
    number: int, pairs: int, tails: str, diverging: float, seed: int
) -> Iterator[list[Pairs]]:
    """Eight comparisons each, in which the arms do nothing."""
    rng = np.random.default_rng([pairs, seed])
    shape = (number, SETTINGS, 1 + ARMS, pairs)
    logs = rng.normal(0, 0.2, shape)
    ratios = logs[:, :, 1:] - logs[:, :, :1]
    if tails == "t2":  # a normal over the root of a mean of two squares
        ratios /= np.sqrt(rng.chisquare(2, ratios.shape) / 2)
    lost = rng.random(shape) < diverging
    levels = np.exp(rng.normal(0, 1, pairs))  # what the seed does to both
    for report in range(number):
        yield [
            Pairs(
                dict(enumerate(levels)),
                dict(enumerate(levels * np.exp(ratios[report, setting, arm]))),
                frozenset(np.flatnonzero(lost[report, setting, 0])),
                frozenset(np.flatnonzero(lost[report, setting, 1 + arm])),
            )
            for setting in range(SETTINGS)
            for arm in range(ARMS)
        ]


@pytest.mark.parametrize("pairs", [3, 5, 10, 20])
@pytest.mark.parametrize("tails", ["normal", "t2"])
@pytest.mark.parametrize(
    ("primary", "diverging"),
    [(None, 0.0), (None, 0.2), (0, 0.2), pytest.param(0, 0.0, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("number", [400, pytest.param(4_000, marks=pytest.mark.slow)])
def test_a_report_says_something_false_in_at_most_5_percent(
    pairs: int, tails: str, primary: int | None, diverging: float, number: int
) -> None:
    seed = round(10 * diverging) + 10 * (tails == "t2") + 100 * (primary is None)
    alarms = sum(
        any({c.verdict, c.divergence} & ALARMS for c in compare(report, primary))
        for report in reports(number, pairs, tails, diverging, seed)
    )
    # At a rate of 5 % this many are exceeded by chance in one of 1,000 simulations: 8.75 % of 400
    # reports, 6.1 % of 4,000.
    assert alarms <= stats.binom.ppf(0.999, number, 0.05)


@pytest.mark.parametrize("pairs", [5, 20])
def test_an_arm_that_diverges_where_its_error_would_be_high_is_not_called_better(
    pairs: int,
) -> None:
    number, better = 500, 0
    rng = np.random.default_rng(pairs)
    for _ in range(number):
        before, after = np.exp(rng.normal(0, 0.3, (2, pairs)))
        lost = frozenset(np.flatnonzero(after > np.exp(0.1)))  # more than a third
        [c] = compare([Pairs(dict(enumerate(before)), dict(enumerate(after)), frozenset(), lost)])
        better += c.verdict is Verdict.better
    assert better <= stats.binom.ppf(0.999, number, 0.05)
