"""Values and gradients: what comes back of each loss, and what its gradient is multiplied by."""

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from table import ANY_FINITE, ROWS, bits, given_for_every_row, started


def f32(x: float) -> float:
    return float(np.float32(x))


POSITIVE = st.floats(f32(1e-6), f32(1e30), width=32)
BATCH = st.lists(POSITIVE, min_size=1, max_size=8)
FINITE_STATES = st.tuples(st.floats(-1e6, 1e6), st.floats(0.0, 1e6))


# Values and gradients


@given_for_every_row(losses=st.lists(st.floats(-1e6, 3.875, width=32), min_size=1, max_size=8))
def test_unclipped_losses_come_back_bit_for_bit(row, losses) -> None:
    values, factors = started(row)(losses)
    assert bits(values) == bits(losses)
    assert factors == [1.0] * len(losses)


@pytest.mark.parametrize("row", ROWS)
def test_unclipped_losses_beside_a_clipped_one_come_back_bit_for_bit(row) -> None:
    losses = [0.0, -0.0, 1e-45, 0.1, 100.0, -3e38, 3.9999998, math.nan, math.inf, -math.inf]
    values, factors = started(row)(losses)
    assert bits(values[:4] + values[5:]) == bits(losses[:4] + losses[5:])
    assert values[4] == 4.0
    assert factors == [1.0] * 4 + [pytest.approx(0.04)] + [1.0] * 5
    values, factors = started(row)(losses[:7])  # all finite: another branch on the host
    assert bits(values[:4] + values[5:]) == bits(losses[:4] + losses[5:7])


@pytest.mark.parametrize("row", ROWS)
def test_clipped_losses_have_the_value_of_the_limit_and_its_share_as_factor(row) -> None:
    values, factors = started(row)([5.0, 8.0, 4e30])
    assert values == [4.0] * 3
    assert factors == pytest.approx([0.8, 0.5, 1e-30], rel=1e-6)


@given_for_every_row(moments=FINITE_STATES, losses=st.lists(ANY_FINITE, min_size=1, max_size=6))
def test_factors_lie_in_0_1_and_are_never_0_for_a_positive_limit(row, moments, losses) -> None:
    mean, variance = moments
    mu2 = mean**2 + variance
    limit = mean + 3 * max(math.sqrt(mu2 - mean**2), 1e-4 * abs(mean))
    for center in ("zero", "mean"):
        front_end = ROWS[row](mu1_start=mean, mu2_start=mu2, center=center)
        _, factors = front_end(losses)
        assert all(0.0 <= factor <= 1.0 for factor in factors)
        if limit > 0:
            assert all(factor > 0.0 for factor in factors)


@pytest.mark.parametrize("row", ROWS)
def test_a_gradient_is_never_flipped_when_the_limit_is_negative(row) -> None:
    # limit: -10 + 3 * 1 = -7. The original multiplies -1 by 7 and 3 by -7 / 3.
    values, factors = ROWS[row](mu1_start=-10.0, mu2_start=101.0)([-1.0, 3.0, 0.0, -8.0])
    assert values == [-7.0, -7.0, 0.0, -8.0]  # a 0 has nothing to limit
    assert factors == pytest.approx([1.0, 0.0, 1.0, 1.0], abs=1e-30)


@pytest.mark.parametrize("row", ROWS)
def test_center_mean_scales_distances_to_the_mean(row) -> None:
    # mean -10, limits -10 +- 2
    settings = {"num_stddev": 2.0, "num_stddev_below": 2.0, "center": "mean"}
    front_end = ROWS[row](mu1_start=-10.0, mu2_start=101.0, **settings)
    values, factors = front_end([-6.0, 10.0, -30.0, -9.0])
    assert values == [-8.0, -8.0, -12.0, -9.0]
    assert factors == pytest.approx([0.5, 0.1, 0.1, 1.0])


@pytest.mark.parametrize("row", ROWS)
def test_the_lower_side_raises_low_positive_losses_only(row) -> None:
    # limits: 1 - 0.5 and 1 + 3
    values, factors = started(row, num_stddev_below=0.5)([0.25, 0.0, -1.0, 1.0, 8.0])
    assert values == [0.5, 0.0, -1.0, 1.0, 4.0]
    assert factors == pytest.approx([2.0, 1.0, 1.0, 1.0, 0.5])


@pytest.mark.parametrize("row", ROWS)
def test_a_single_loss_of_0_or_less_is_not_raised_by_the_lower_side(row) -> None:
    front_end = started(row, num_stddev_below=0.5)
    for loss in (0.0, -1.0):
        assert front_end([loss]) == ([loss], [1.0])
    assert front_end.counts in (None, (1, 0, 0))  # a 0 does not count


@pytest.mark.parametrize("row", ROWS)
def test_the_factor_of_a_tiny_loss_that_is_raised_is_finite(row) -> None:
    # The smallest normal number: to JAX's compiler all below it are 0.
    front_end = ROWS[row](mu1_start=1000.0, mu2_start=2e6, num_stddev_below=0.5)
    values, factors = front_end([2.0**-126, 1000.0])
    assert values == [500.0, 1000.0]
    assert factors == [2.0**126, 1.0]


@pytest.mark.parametrize("row", ROWS)
def test_the_gradient_of_a_tiny_loss_that_is_raised_is_finite_in_float16(row) -> None:
    front_end = ROWS[row](mu1_start=1.0, mu2_start=1.01, num_stddev_below=2.0)
    values, factors = front_end([1e-4, 1.0], dtype="float16")
    assert values == [pytest.approx(0.8, rel=1e-3), 1.0]
    assert factors == [pytest.approx(0.8 / 1e-4, rel=1e-2), 1.0]
    _, factors = front_end([2.0**-14, 1.0], dtype="float16")
    assert factors[0] < math.inf
    _, factors = ROWS[row](mu1_start=1e4, mu2_start=2e8, num_stddev_below=0.5)(
        [2.0**-14], dtype="float16"
    )
    assert factors == [2.0**14]


@pytest.mark.parametrize("row", ROWS)
def test_losses_that_do_not_count_are_not_limited_on_either_side(row) -> None:
    front_end = started(row, num_stddev_below=0.5)
    assert front_end([0.25, 8.0, 1.0], [0.0, 0.0, 1.0]) == ([0.25, 8.0, 1.0], [1.0] * 3)
    assert front_end.counts in (None, (1, 0, 0))


@pytest.mark.parametrize("row", ROWS)
def test_a_loss_at_the_limit_is_not_beyond_it(row) -> None:
    front_end = started(row, num_stddev_below=0.5)
    assert front_end([4.0, 0.5]) == ([4.0, 0.5], [1.0, 1.0])
    assert front_end.counts in (None, (2, 0, 0))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("mean", [1.0, -1.0])
def test_the_standard_deviation_counts_as_a_ten_thousandth_of_the_mean_at_least(row, mean) -> None:
    front_end = ROWS[row](mu1_start=mean, mu2_start=1.0, center="mean")  # variance 0
    assert front_end([5.0])[0] == [pytest.approx(mean + 3e-4, abs=2e-7)]


@given_for_every_row(losses=BATCH, exponent=st.integers(-10, 10))
def test_scale_law(row, losses, exponent) -> None:
    c = 2.0**exponent  # exact in floating point, so that equality can be exact
    plain, scaled = started(row), ROWS[row](mu1_start=c, mu2_start=2 * c * c)
    for _ in range(3):
        values, factors = plain(losses)
        scaled_values, scaled_factors = scaled([c * x for x in losses])
        assert scaled_values == [c * x for x in values]
        assert scaled_factors == factors


@given_for_every_row(
    losses=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=8)
)
def test_order_is_kept(row, losses) -> None:
    values, _ = started(row, num_stddev_below=0.5)(sorted(losses))
    assert values == sorted(values)


@given_for_every_row(losses=st.lists(BATCH, min_size=1, max_size=6))
def test_no_loss_exceeds_its_limit_or_its_own_value(row, losses) -> None:
    front_end = started(row, decay=0.5)
    for batch in losses:
        mean, variance, _ = front_end.moments
        limit = mean + 3 * max(math.sqrt(variance), 1e-4 * mean)
        values, _ = front_end(batch)
        assert all(y <= x for x, y in zip(np.float32(batch).tolist(), values, strict=True))
        assert all(y <= limit * (1 + 1e-6) for y in values)
