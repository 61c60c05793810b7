"""Statistics of few runs, against numbers computed in other ways."""

import math
from itertools import product

import numpy as np
import pytest

from alrc.lab.report.statistics import MIN_PAIRS, Effect, mean, paired_difference


def pairs(*differences: float) -> tuple[dict[int, float], dict[int, float]]:
    """Values around 10 that differ by these numbers."""
    before = {seed: 10.0 + seed for seed in range(len(differences))}
    return before, {seed: before[seed] + d for seed, d in enumerate(differences)}


def test_mean_and_its_standard_deviation_by_hand() -> None:
    # Squared deviations 4, 0, 4: s = 2, so s / sqrt(3).
    m = mean([2.0, 4.0, 6.0])
    assert (m.value, m.count, m.diverged) == (4.0, 3, 0)
    assert m.error == pytest.approx(2 / math.sqrt(3), rel=1e-14)


def test_nonfinite_values_are_counted_and_kept_out_of_the_mean() -> None:
    m = mean([1.0, math.nan, 3.0, math.inf])
    assert (m.value, m.count, m.diverged) == (2.0, 2, 2)


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    assert math.isnan(mean([5.0]).error)
    nothing = mean([math.nan])
    assert math.isnan(nothing.value)
    assert (nothing.count, nothing.diverged) == (0, 1)


def test_pairs_are_of_one_seed_and_a_missing_seed_makes_none() -> None:
    before = {3: 1.0, 1: 10.0, 2: 100.0, 7: 1e6}
    after = {1: 9.0, 2: 98.0, 3: 4.0, 8: -1e6}
    d = paired_difference(before, after)
    assert (d.value, d.pairs, d.unpaired) == (0.0, 3, 2)
    assert d.relative == 0
    assert paired_difference(before, {1: 9.0}).relative == pytest.approx(-0.1)


def test_a_pair_is_left_out_if_either_run_diverged_and_each_side_is_counted() -> None:
    before = {0: 1.0, 1: math.nan, 2: 3.0, 3: math.inf, 4: math.nan}
    after = {0: 2.0, 1: 2.0, 2: math.nan, 3: 1.0, 4: math.nan}
    d = paired_difference(before, after)
    assert (d.value, d.pairs, d.diverged_before, d.diverged_after) == (1.0, 1, 3, 2)


def test_no_pairs_at_all() -> None:
    d = paired_difference({0: 1.0}, {1: 1.0})
    assert math.isnan(d.value)
    assert math.isnan(d.relative)
    assert (d.pairs, d.unpaired, d.effect) == (0, 2, Effect.too_few)


@pytest.mark.parametrize("count", [1, MIN_PAIRS - 1])
def test_too_few_pairs_have_no_interval_however_clear_they_look(count: int) -> None:
    d = paired_difference(*pairs(*[-5.0 - 0.1 * i for i in range(count)]))
    assert (d.interval, d.effect) == (None, Effect.too_few)


def test_interval_is_near_that_of_all_resamples() -> None:
    # Symmetric, so BCa corrects nothing, and all 5**5 resamples can be listed.
    differences = [-2.0, -1.0, 0.0, 1.0, 2.0]
    means = np.array([np.mean(sample) for sample in product(differences, repeat=5)])
    interval = paired_difference(*pairs(*differences)).interval
    np.testing.assert_allclose(interval, np.quantile(means, [0.025, 0.975]), atol=0.2001)


def test_interval_of_skewed_differences_leans_to_their_long_side() -> None:
    # Percentiles alone would be (0.2, 4.0) here; BCa moves both ends up.
    differences = [0.0] * 8 + [2.0, 10.0]
    rng = np.random.default_rng(1)
    means = rng.choice(differences, (20_000, 10)).mean(axis=1)
    low, high = paired_difference(*pairs(*differences)).interval
    assert low >= np.quantile(means, 0.025)
    assert high > np.quantile(means, 0.975) + 0.2


@pytest.mark.parametrize(
    ("differences", "effect"),
    [
        ([-1.0, -1.2, -0.8, -1.1, -0.9], Effect.lower),
        ([1.0, 1.2, 0.8, 1.1, 0.9], Effect.higher),
        ([-1.0, 1.2, -0.8, 1.1, -0.5], Effect.none),
        ([0.0] * 5, Effect.none),
        ([-0.5] * 5, Effect.lower),
    ],
)
def test_effect_is_said_only_where_the_whole_interval_is_on_one_side(
    differences: list[float], effect: Effect
) -> None:
    assert paired_difference(*pairs(*differences)).effect is effect


def test_order_of_runs_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    before, after = ({s: float(x) for s, x in enumerate(rng.normal(5, 1, 12))} for _ in range(2))
    for _ in range(5):
        one, other = ({int(s): d[s] for s in rng.permutation(12)} for d in (before, after))
        assert paired_difference(one, other) == paired_difference(before, after)
        assert mean(one.values()) == mean(before.values())
