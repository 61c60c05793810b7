"""Tests and intervals of paired differences, against SciPy's and against lists of all outcomes."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import integrate, stats

from alrc.lab.report.paired import (
    MOST_PAIRS,
    POWER,
    PairedDifferences,
    mcnemar,
    mcnemar_least,
)


def power_of_t(shift: float, pairs: int, level: float) -> float:
    """Chance that t is above its limit: a normal over the root of a chi-squared, integrated."""
    df = pairs - 1
    limit = stats.t.isf(level / 2, df)
    chance, _ = integrate.quad(
        lambda v: stats.norm.sf(limit * math.sqrt(v / df) - shift) * stats.chi2.pdf(v, df),
        *stats.chi2.ppf([1e-12, 1 - 1e-12], df),
        limit=200,
    )
    return chance


@pytest.mark.parametrize("count", [2, 3, 5, 20, 60])
def test_p_and_interval_are_those_of_the_t_test(count: int) -> None:
    values = np.random.default_rng(count).normal(0.3, 1, count)
    d = PairedDifferences(tuple(values))
    oracle = stats.ttest_1samp(values, 0)
    assert d.least == 0
    assert d.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert d.interval() == pytest.approx(tuple(oracle.confidence_interval(0.95)), rel=1e-9)


def test_t_by_hand() -> None:
    # Mean 2, deviations -1, 0, 1: s = 1, t = 2 * sqrt(3), and t(0.975, 2) = 4.302653.
    d = PairedDifferences((1.0, 2.0, 3.0))
    reach = 4.302653 / math.sqrt(3)
    assert d.interval() == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    # With two degrees of freedom: p = 1 - t / sqrt(2 + t^2).
    assert d.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_differences_that_are_all_alike_are_tested_by_sign_flips(count: int) -> None:
    flipped = [abs(sum(signs)) for signs in product((0.5, -0.5), repeat=count)]
    d = PairedDifferences((0.5,) * count)
    assert d.p == d.least == sum(f >= 0.5 * count for f in flipped) / len(flipped)


def test_five_pairs_of_equal_differences_show_nothing_and_six_do() -> None:
    five, six = PairedDifferences((-0.25,) * 5), PairedDifferences((-0.25,) * 6)
    assert (five.p, five.interval()) == (2 / 32, None)
    assert (six.p, six.interval()) == (2 / 64, (-0.25, -0.25))
    assert math.isnan(five.detectable(0.05))
    assert (five.needed(0.05), five.needed(0.005)) == (6, 9)


@pytest.mark.parametrize("count", [17, 30])
def test_equal_differences_of_many_pairs_do_not_divide_by_zero(count: int) -> None:
    d = PairedDifferences((0.1,) * count)
    assert d.p == 2.0 ** (1 - count)
    assert d.interval() == (d.mean, d.mean)


def test_differences_that_are_equal_up_to_rounding_are_equal() -> None:
    wobbling = [math.log(np.float32(1.2) * x) - math.log(np.float32(x)) for x in (1.0, 2.0, 3.0)]
    assert PairedDifferences(tuple(wobbling)).p == 0.25


def test_differences_below_rounding_are_none() -> None:
    d = PairedDifferences((1e-9, -1e-9, 2e-9))
    assert (d.mean, d.spread, d.p, d.least) == (0, 0, 1, 1)
    assert math.isnan(d.detectable(0.05))
    assert d.needed(0.05) is None


@pytest.mark.parametrize("pairs", [2, 3, 4, 5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_outcomes_that_are_counted_raise_no_more_false_alarms_than_the_level(
    pairs: int, level: float
) -> None:
    # All outcomes of runs that fail by the toss of a coin, each as likely. Without sign
    # flips, three pairs have 3.1 % at the second level.
    outcomes = list(product((0, 1), repeat=2 * pairs))
    alarms = sum(
        PairedDifferences(tuple(float(a - b) for a, b in zip(o[::2], o[1::2], strict=True))).p
        <= level
        for o in outcomes
    )
    assert alarms / len(outcomes) <= level


@pytest.mark.parametrize("count", [0, 1])
def test_one_pair_has_a_mean_at_most(count: int) -> None:
    d = PairedDifferences((0.5,) * count)
    assert (d.interval(), d.needed(0.05), d.least) == (None, None, math.inf)
    assert math.isnan(d.p)
    assert math.isnan(d.detectable(0.05))
    assert d.mean == 0.5 if count else math.isnan(d.mean)


@pytest.mark.parametrize("count", [3, 5, 12])
@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_the_detectable_difference_is_shown_in_80_percent(count: int, level: float) -> None:
    values = np.random.default_rng(count).normal(0, 1, count)
    shift = PairedDifferences(tuple(values)).detectable(level) / (values.std(ddof=1) / count**0.5)
    assert power_of_t(shift, count, level) == pytest.approx(POWER, abs=1e-4)


@pytest.mark.parametrize("mean", [0.2, 0.5, 1.3, 8.0])
@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_needed_pairs_are_the_first_number_with_enough_power(mean: float, level: float) -> None:
    d = PairedDifferences((mean - 1, mean, mean + 1))  # spread 1
    needed = d.needed(level)
    assert power_of_t(mean * math.sqrt(needed), needed, level) >= POWER
    if needed > 2:
        assert power_of_t(mean * math.sqrt(needed - 1), needed - 1, level) < POWER


def test_more_pairs_than_anybody_would_train_are_not_asked_for() -> None:
    assert PairedDifferences((1.0, 2.0, -3.0 + 1e-3)).needed(0.05) is None
    # (1.96 + 0.84)^2 pairs for a mean of one spread.
    least = 2.802 / math.sqrt(MOST_PAIRS)
    assert PairedDifferences((least * 1.01 - 1, least * 1.01, least * 1.01 + 1)).needed(0.05)


@pytest.mark.parametrize("effect", [1e3, 1e5, 1e7])
def test_a_huge_effect_needs_two_pairs(effect: float) -> None:
    assert PairedDifferences((effect - 1, effect, effect + 1)).needed(0.05) == 2


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(before: int, after: int) -> None:
    if before + after:
        p = stats.binomtest(before, before + after).pvalue
        assert mcnemar(before, after) == pytest.approx(p, rel=1e-12)
        lowest = stats.binomtest(0, before + after).pvalue
        assert mcnemar_least(before + after) == pytest.approx(lowest, rel=1e-12)
    else:
        assert (mcnemar(0, 0), mcnemar_least(0)) == (1, 1)
