"""Means and comparisons of few runs, against SciPy's and against numbers by hand."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from alrc.lab.report.statistics import Comparison, Pairs, Verdict, compare, mean

OFF = {0: 2.0, 1: 4.0, 2: 3.0, 3: 5.0, 4: 2.5}
LOWER = (-0.21, -0.17, -0.2, -0.24, -0.18)  # relative changes
NOISE = (-0.2, 0.3, 0.1, -0.15, -0.02)


def changed(*changes: float, **more: object) -> Pairs:
    """A baseline, and an arm with these relative changes."""
    before = {seed: 2.0 + 0.7 * seed for seed in range(len(changes))}
    return Pairs(before, {s: before[s] * (1 + c) for s, c in enumerate(changes)}, **more)


def one(pairs: Pairs) -> Comparison:
    (comparison,) = compare([pairs])
    return comparison


def verdicts(*families: Pairs, primary: int | None = None) -> list[str]:
    return [c.verdict.name for c in compare(families, primary)]


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


def test_positive_values_are_compared_by_the_logarithms_of_their_ratios() -> None:
    c = one(changed(*NOISE))
    logs = np.log1p(NOISE)
    oracle = stats.ttest_1samp(logs, 0)
    assert (c.absolute, c.seeds) == (False, (0, 1, 2, 3, 4))
    assert c.relative == pytest.approx(NOISE, rel=1e-9)
    assert c.change == pytest.approx(stats.gmean(1 + np.array(NOISE)) - 1, rel=1e-9)
    assert c.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert c.interval == pytest.approx(np.expm1(oracle.confidence_interval(0.95)), rel=1e-9)


def test_a_ratio_and_its_inverse_are_the_same_finding() -> None:
    there = changed(*NOISE)
    back = Pairs(there.after, there.before)
    assert one(there).p == pytest.approx(one(back).p, rel=1e-9)
    assert 1 + one(there).change == pytest.approx(1 / (1 + one(back).change), rel=1e-9)


def test_zeros_make_differences_relative_to_the_mean_of_the_baseline() -> None:
    before, after = (0.0, 2.0, 4.0, 6.5), (1.0, 1.0, 1.0, 1.0)
    c = one(Pairs(dict(enumerate(before)), dict(enumerate(after))))
    scale = 12.5 / 4
    oracle = stats.ttest_rel(after, before)
    assert not c.absolute
    assert c.relative == pytest.approx((1 / scale, -1 / scale, -3 / scale, -5.5 / scale))
    assert c.change == pytest.approx(-8.5 / 12.5)
    assert c.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert c.interval == pytest.approx(np.array(oracle.confidence_interval(0.95)) / scale, rel=1e-9)


@pytest.mark.parametrize(
    ("before", "ratios"),
    [((-3.0, 2.0, 1.0), True), ((20.0, 25.0, 30.0), False), ((0.0,) * 3, True)],
)
def test_changes_are_absolute_where_ratios_mean_nothing(
    before: tuple[float, ...], ratios: bool
) -> None:
    after = [b + d for b, d in zip(before, (0.5, 1.0, 1.75), strict=True)]
    c = one(Pairs(dict(enumerate(before)), dict(enumerate(after)), better="higher", ratios=ratios))
    assert c.absolute
    assert c.relative == pytest.approx((0.5, 1.0, 1.75))
    assert c.change == pytest.approx(3.25 / 3)
    assert c.interval == pytest.approx(
        tuple(stats.ttest_1samp([0.5, 1.0, 1.75], 0).confidence_interval(0.95))
    )
    assert (c.wins, c.losses) == (3, 0)


def test_what_is_rounding_goes_by_the_size_of_the_values() -> None:
    small = dict(enumerate(1e-9 * np.array((3.0, 4.0, 5.0))))
    less = {s: v - 1e-9 * (1 + 0.01 * s) for s, v in small.items()}
    assert verdicts(Pairs(small, less, ratios=False)) == ["better"]


def test_a_small_spread_shows_20_percent_in_five_pairs() -> None:
    assert verdicts(changed(*LOWER)) == ["better"]
    assert verdicts(changed(*LOWER, better="higher")) == ["worse"]
    assert verdicts(changed(*[-c for c in LOWER])) == ["worse"]
    assert verdicts(changed(*[-c for c in LOWER], better="higher")) == ["better"]
    assert verdicts(changed(*NOISE)) == ["unclear"]
    # Among eight comparisons too.
    assert verdicts(changed(*LOWER), *[changed(*NOISE)] * 7) == ["better"] + ["unclear"] * 7


def test_twenty_percent_with_a_spread_of_five_are_found_in_most_reports() -> None:
    rng = np.random.default_rng(0)
    reports = 200
    found = 0
    for _ in range(reports):
        real = changed(*np.expm1(rng.normal(math.log(0.8), 0.05, 5)))
        nothing = [changed(*np.expm1(rng.normal(0, 0.05, 5))) for _ in range(7)]
        found += verdicts(real, *nothing)[0] == "better"
    # Noncentral t: 98.5 % at Bonferroni's level, which Holm is not below.
    assert found >= 0.95 * reports


def test_wins_ties_and_losses_are_in_the_direction_of_the_metric() -> None:
    c = one(changed(-0.1, -0.2, 0.0, 0.3, -0.15))
    assert (c.wins, c.ties, c.losses) == (3, 1, 1)
    c = one(changed(-0.1, -0.2, 0.0, 0.3, -0.15, better="higher"))
    assert (c.wins, c.ties, c.losses) == (1, 1, 3)


def test_a_pair_in_which_a_run_diverged_is_counted_by_which_did() -> None:
    before = {0: 1.0, 1: math.nan, 2: 3.0, 3: math.inf, 4: math.nan, 5: 1.0, 6: 1e9, 8: 1.0}
    after = {0: 2.0, 1: 2.0, 2: math.nan, 3: 1.0, 4: math.nan, 5: 1.5, 6: 1.0, 9: 1.0}
    lost_before, lost_after = frozenset({1, 6, 10}), frozenset({7})
    c = one(Pairs(before, after, lost_before, lost_after))
    assert c.seeds == (0, 5)
    assert c.diverged == (1, 3, 1, 2)  # both: 4; only before: 1, 3, 6; only after: 2
    assert c.unpaired == 4  # 8, 9, and 7 and 10, which diverged without a value
    assert c.p_diverged == pytest.approx(stats.binomtest(1, 4).pvalue)


def diverging(only_before: int, only_after: int, both: int = 0, neither: int = 0) -> Pairs:
    """Pairs with as many divergences; the arm is 20 % lower where neither run diverged."""
    kinds = [(1, 0)] * only_before + [(0, 1)] * only_after + [(1, 1)] * both + [(0, 0)] * neither
    pairs = changed(*(-0.2 + 0.01 * (-1) ** k + 1e-4 * k for k in range(len(kinds))))
    before, after = (frozenset(s for s, k in enumerate(kinds) if k[side]) for side in (0, 1))
    return replace(pairs, diverged_before=before, diverged_after=after)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (diverging(6, 0), "better"),
        (diverging(0, 6), "worse"),
        (diverging(5, 0, both=3), "too_few"),
        (diverging(5, 1), "unclear"),
        (diverging(0, 0, both=4), "identical"),
        (diverging(0, 0, neither=4), "identical"),
        (Pairs({}, {}), "too_few"),
    ],
)
def test_divergence_has_a_verdict_of_its_own(pairs: Pairs, expected: str) -> None:
    assert one(pairs).divergence.name == expected


def test_runs_that_survive_do_not_make_an_arm_better_that_diverges_more_often() -> None:
    assert verdicts(diverging(0, 1, neither=8)) == ["mixed"]
    assert verdicts(diverging(1, 2, neither=8)) == ["mixed"]
    # The baseline is the one that is flattered, or neither is.
    assert verdicts(diverging(1, 0, neither=8)) == ["better"]
    assert verdicts(diverging(2, 2, both=3, neither=8)) == ["better"]


def test_nor_do_they_make_it_worse_if_it_diverges_less_often() -> None:
    def worse(*numbers: int) -> Pairs:
        return replace(diverging(*numbers, neither=8), better="higher")

    assert verdicts(worse(1, 0)) == ["mixed"]
    assert verdicts(worse(0, 1)) == ["worse"]
    assert verdicts(worse(1, 1)) == ["worse"]


def test_identical_pairs_are_identical_and_cost_the_others_nothing() -> None:
    same = changed(*(0.0,) * 5, identical=frozenset(range(5)))
    c, other = compare([same, changed(*LOWER)])
    assert (c.verdict, c.identical, c.ties, c.change) == (Verdict.identical, 5, 5, 0)
    assert (other.verdict, other.level) == (Verdict.better, 0.05)


def test_identical_losses_with_another_metric_are_not_identical() -> None:
    c = one(changed(*LOWER, identical=frozenset(range(5))))
    assert (c.verdict, c.identical) == (Verdict.better, 0)


def test_where_one_pair_is_not_identical_the_others_are_ties() -> None:
    c = one(changed(0.0, 0.0, 0.0, -0.1, identical=frozenset(range(3))))
    assert (c.verdict, c.identical, c.ties, c.wins) == (Verdict.unclear, 3, 3, 1)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pairs_are_called_so(count: int) -> None:
    c = one(changed(*LOWER[:count]))
    assert (c.verdict, c.interval, c.seeds_needed) == (Verdict.too_few, None, None)
    assert math.isnan(c.p)
    assert math.isnan(c.detectable)
    assert c.change == pytest.approx(LOWER[0]) if count else math.isnan(c.change)


def test_equal_changes_in_all_pairs_are_shown_from_six_pairs_on() -> None:
    assert verdicts(changed(*(-0.2,) * 5)) == ["too_few"]
    assert one(changed(*(-0.2,) * 5)).seeds_needed == 6
    assert verdicts(changed(*(-0.2,) * 6)) == ["better"]


def test_a_declared_primary_comparison_is_not_corrected_and_opens_the_others() -> None:
    weak = changed(-0.3, -0.1, -0.2, -0.25, 0.0)  # p = 0.02
    assert verdicts(*[weak] * 4) == ["unclear"] * 4
    assert verdicts(*[weak] * 4, primary=2) == ["unclear", "unclear", "better", "unclear"]
    assert verdicts(weak, changed(*LOWER), primary=0) == ["better", "better"]
    assert verdicts(changed(*NOISE), changed(*LOWER), primary=0) == ["unclear", "exploratory"]


def test_what_is_exploratory_has_numbers_but_no_verdict_and_no_cost() -> None:
    secondary = changed(*LOWER, exploratory=True)
    c, other = compare([secondary, changed(*LOWER)])
    assert (c.verdict, other.verdict, other.level) == (Verdict.exploratory, Verdict.better, 0.05)
    assert (c.p, c.interval) == (other.p, other.interval)
    assert one(replace(diverging(9, 0), exploratory=True)).divergence is Verdict.exploratory


def test_detectable_is_a_change_for_the_better_at_the_corrected_level() -> None:
    pairs = changed(*NOISE)
    lower, higher = one(pairs), one(replace(pairs, better="higher"))
    assert 1 - lower.detectable == pytest.approx(1 / (1 + higher.detectable), rel=1e-9)
    assert lower.detectable > 0
    assert compare([pairs] * 8)[0].detectable > lower.detectable
    assert compare([pairs] * 8)[0].level == 0.05 / 8
    assert math.isnan(one(changed(*(-0.2,) * 4)).detectable)


def test_a_ratio_beyond_all_numbers_is_infinite() -> None:
    c = one(Pairs({0: 1e-9, 1: 1.0, 2: 1.0}, {0: 1e30, 1: 1.1, 2: 1.2}))
    low, high = c.interval
    assert -1 <= low < 0 < c.change < high
    c = one(Pairs({0: 1e-300, 1: 1.0}, {0: 1e300, 1: 1.1}))
    assert c.interval == (-1, math.inf)
    assert c.relative[0] == math.inf


def test_order_of_runs_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    before, after = ({s: float(x) for s, x in enumerate(rng.normal(5, 1, 12))} for _ in range(2))
    for _ in range(5):
        first, other = ({int(s): d[s] for s in rng.permutation(12)} for d in (before, after))
        assert one(Pairs(first, other)) == one(Pairs(before, after))
        assert mean(first.values()) == mean(before.values())


@pytest.mark.parametrize("primary", [2, -1])
def test_a_primary_comparison_that_is_not_there_is_refused(primary: int) -> None:
    words = (
        f"compare: primary must be the index of a comparison, 0 to 1; got {primary}. Leave it out "
        "if none was declared."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        compare([changed(*LOWER)] * 2, primary)


def test_an_exploratory_primary_comparison_is_refused() -> None:
    words = (
        "compare: the primary comparison must not be exploratory, because all of alpha is its own; "
        "got primary=0, which is. Declare one of the primary metric."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        compare([changed(*LOWER, exploratory=True)], 0)
