"""The guarantees, each a named test. README.md and the docs point here."""

import functools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from agreement import stream
from hypothesis import strategies as st
from table import ROWS, given_for_every_row

from alrc import Settings, rule
from alrc.torch import Moments, init


def f32(x: float) -> float:
    return float(np.float32(x))


POSITIVE = st.floats(f32(1e-6), f32(1e30), width=32)
ANY_FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
BATCH = st.lists(POSITIVE, min_size=1, max_size=8)
BAD = {
    "nan": ([math.nan], None),
    "inf": ([math.inf], None),
    "-inf": ([-math.inf], None),
    "nan and inf": ([math.nan, math.inf], None),
    "empty": ([], None),
    "fully masked": ([5.0, 6.0], [0.0, 0.0]),
    "negative weights": ([5.0, 6.0], [-1.0, -2.0]),
    "nan weights": ([5.0, 6.0], [math.nan, math.nan]),
    "masked nan": ([math.nan, 6.0], [1.0, 0.0]),
}
FINITE_STATES = st.tuples(st.floats(-1e6, 1e6), st.floats(0.0, 1e6))


def started(row: str, **settings):
    """A front end with mean 1, standard deviation 1 and so, by default, a limit of 4."""
    return ROWS[row](**{"mu1_start": 1.0, "mu2_start": 2.0, **settings})


def bits(values) -> bytes:
    return np.asarray(values, np.float32).tobytes()


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


# The moments


def test_float32_state_agrees_with_float64_over_100_000_steps() -> None:
    """Fifteen runs side by side, against the raw moments of the paper in long double."""

    class Columns:
        """torch, but each entry of an array is the only loss of its own run."""

        where, clip, divide, sqrt = torch.where, torch.clip, torch.divide, torch.sqrt
        ones_like = torch.ones_like

        @staticmethod
        def sum(x: torch.Tensor) -> torch.Tensor:
            return x * 1

    configurations = [(m, r) for m in (1e-6, 1.0, 1e6) for r in (1e-4, 1e-3, 1e-2, 1.0, 10.0)]
    mean, ratio = np.array(configurations).T
    rng, settings = np.random.default_rng(0), Settings()
    sigma = np.sqrt(np.log1p(ratio**2))
    moments = Moments(*(x.expand(len(mean)).clone() for x in init(settings)))
    mu1 = mu2 = np.zeros(len(mean), np.longdouble)
    for t in range(100_000):
        losses = mean * np.exp(sigma * rng.standard_normal(len(mean)) - sigma**2 / 2)
        losses = losses.astype(np.float32)
        variance = mu2 - mu1**2
        stddev = np.maximum(np.sqrt(np.maximum(variance, 0)), 1e-4 * mu1)
        limit = mu1 + 3 * stddev if t >= 10 else np.inf
        if t % 1000 == 999:
            ours = [x.double().numpy() for x in moments]
            ours_limit = ours[0] + 3 * np.maximum(np.sqrt(ours[1]), 1e-4 * ours[0])
            np.testing.assert_allclose(ours[0], mu1.astype(float), rtol=2e-5)
            np.testing.assert_allclose(ours_limit, limit.astype(float), rtol=2e-5)
            wide = ratio >= 1e-2
            expected = variance.astype(float)
            np.testing.assert_allclose(ours[1][wide], expected[wide], rtol=1e-4)
            np.testing.assert_allclose(ours[1], expected, rtol=2e-3)
        clipped = np.minimum(losses.astype(np.longdouble), limit)
        b = np.longdouble(min(0.999, t / (t + 1)))
        mu1, mu2 = b * mu1 + (1 - b) * clipped, b * mu2 + (1 - b) * clipped**2
        _, moments = rule.step(Columns, torch.from_numpy(losses), None, moments, settings)
    assert all(moment.dtype == torch.float32 for moment in moments[:2])


@functools.cache
def in_long_double(mean: float, ratio: float, calls: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Losses of that mean and relative spread, in blocks of 1,000.

    With each block: what its losses become, and then the mean, the variance and the limit, by the
    paper's raw moments.
    """
    rng, sigma = np.random.default_rng(0), math.sqrt(math.log1p(ratio**2))
    losses = mean * np.exp(sigma * rng.standard_normal(calls) - sigma**2 / 2)
    losses = losses.astype(np.float32)
    mu1 = mu2 = np.longdouble(0)
    limit, clipped, blocks = np.longdouble(math.inf), [], []
    for t, loss in enumerate(losses.astype(np.longdouble)):
        clipped.append(min(loss, limit))
        b = np.longdouble(min(0.999, t / (t + 1)))
        mu1, mu2 = b * mu1 + (1 - b) * clipped[-1], b * mu2 + (1 - b) * clipped[-1] ** 2
        variance = max(mu2 - mu1**2, np.longdouble(0))
        if t >= 9:
            limit = mu1 + 3 * max(np.sqrt(variance), np.longdouble(1e-4) * mu1)
        if t % 1000 == 999:
            expected = np.array([*clipped, mu1, variance, limit], float)
            blocks.append((losses[t - 999 : t + 1], expected))
            clipped = []
    return blocks


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("mean", "ratio"), [(1e6, 1e-4), (1e-6, 10.0), (1.0, 1.0)])
def test_the_state_of_each_row_agrees_with_long_double_over_a_long_run(row, mean, ratio) -> None:
    front_end = ROWS[row]()
    for losses, expected in in_long_double(mean, ratio, front_end.long_run):
        values = front_end.feed(losses.tolist())
        ours, variance, _ = front_end.moments
        limit = ours + 3 * max(math.sqrt(variance), 1e-4 * ours)
        np.testing.assert_allclose(values, expected[:-3], rtol=2e-5)
        np.testing.assert_allclose([ours, limit], expected[[-3, -1]], rtol=2e-5)
        assert variance == pytest.approx(expected[-2], rel=1e-4 if ratio >= 1e-2 else 2e-3)


@given_for_every_row(
    losses=st.lists(st.lists(ANY_FINITE, min_size=1, max_size=4), min_size=1, max_size=20)
)
def test_the_variance_is_never_negative_and_the_state_never_nan(row, losses) -> None:
    front_end = ROWS[row](warmup=1, decay=0.5)
    for batch in losses:
        front_end(batch)
        mean, variance, _ = front_end.moments
        assert math.isfinite(mean)
        assert 0.0 <= variance < math.inf


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_batch_leaves_the_moments_as_they_were_and_protection_goes_on(row, bad) -> None:
    front_end = started(row)
    before = front_end.moments
    losses, mask = BAD[bad]
    values, factors = front_end(losses, mask)
    assert bits(values) == bits(losses)
    assert factors == [1.0] * len(losses)
    assert front_end.moments == before
    assert front_end([8.0]) == ([4.0], [0.5])


@pytest.mark.parametrize("row", ROWS)
def test_a_nan_among_good_losses_leaves_the_others_protected(row) -> None:
    front_end, clean = started(row), started(row)
    values, factors = front_end([8.0, math.nan, 2.0])
    assert values[::2] == [4.0, 2.0]
    assert math.isnan(values[1])
    assert factors == [0.5, 1.0, 1.0]
    clean([8.0, 2.0])
    assert front_end.moments == pytest.approx(clean.moments, rel=1e-6)
    assert front_end.counts in (None, (2, 1, 1))


@pytest.mark.parametrize("row", ROWS)
def test_losses_whose_square_overflows_float32_do_not_break_the_state(row) -> None:
    front_end = ROWS[row]()
    front_end([1e30, 3e38])  # no variance in float32: not taken over
    assert front_end.moments == (0.0, 0.0, 0)
    for _ in range(10):
        front_end([1.0, 2.0])
    assert front_end.moments == (1.5, 0.25, 10)
    assert front_end([1e30]) == ([3.0], [pytest.approx(3e-30)])

    scalars = ROWS[row]()
    for loss in (3e38, 1.0, 1e30, 1.0):
        scalars([loss])
    assert scalars.moments == (1.0, 0.0, 2)


def is_let_through(front_end, loss: float, at_most: int) -> bool:
    """Whether this loss, given again and again, comes back as it is within so many calls."""
    return any(np.float32(loss) in front_end.feed([loss] * 500) for _ in range(at_most // 500))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("constant", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("calls", [10, 3000])
def test_never_sticks_after_a_constant_run(row, constant, calls) -> None:
    front_end = ROWS[row]()
    front_end.feed([constant] * calls)
    assert is_let_through(front_end, 10 * constant or 1.0, 5000)


@pytest.mark.parametrize("row", ROWS)
def test_a_start_ten_times_too_low_recovers(row) -> None:
    front_end = ROWS[row](mu1_start=0.1, mu2_start=0.02)
    front_end.feed(np.random.default_rng(0).normal(1.0, 0.3, 5000).tolist())
    mean, variance, _ = front_end.moments
    assert mean == pytest.approx(1.0, rel=0.05)
    assert math.sqrt(variance) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("row", ROWS)
def test_a_start_ten_times_too_high_decays(row) -> None:
    front_end = ROWS[row](mu1_start=10.0, mu2_start=200.0)
    front_end.feed(np.random.default_rng(0).normal(1.0, 0.3, 10_000).tolist())
    mean, variance, _ = front_end.moments
    assert mean == pytest.approx(1.0, rel=0.05)
    assert math.sqrt(variance) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("row", ROWS)
def test_the_automatic_start_is_the_plain_average_of_all_losses_so_far(row) -> None:
    rng, front_end, seen = np.random.default_rng(0), ROWS[row](decay=0.99), []
    for _ in range(99):
        batch = np.float32(rng.uniform(1.0, 1.2, 5))  # too narrow for any limit to act
        front_end(batch.tolist())
        seen.extend(batch.tolist())
        mean, variance, _ = front_end.moments
        assert mean == pytest.approx(np.mean(seen), rel=1e-5)
        assert variance == pytest.approx(np.var(seen), rel=1e-4)


@pytest.mark.parametrize("row", ROWS)
def test_the_example_of_the_original_readme_runs_and_explains_what_is_wrong(row) -> None:
    mu1_start_estimate, mu2_start_estimate = 1 * 3, 1.5 * 3
    with pytest.warns(UserWarning, match="mu2_start") as record:
        front_end = ROWS[row](mu1_start=mu1_start_estimate, mu2_start=mu2_start_estimate)
    assert {str(warning.message) for warning in record} == {
        "ALRC: mu2_start is the mean squared loss, so it must be at least mu1_start**2 = 9; got "
        "mu1_start=3, mu2_start=4.5. Going on with a variance of 0, which limits most losses until "
        "the moments have caught up. If 4.5 is a standard deviation s, pass "
        "mu2_start=mu1_start**2 + s**2 = 29.25, or leave both out to start automatically."
    }
    for loss in np.random.default_rng(0).uniform(1.0, 2.0, 100).tolist():
        (value,), (factor,) = front_end([loss])
        assert math.isfinite(value)
        assert 0 < factor <= 1


# Precision, modes, checkpoints


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_moments_stay_float32_and_move_under_half_precision_losses(row, dtype) -> None:
    front_end = started(row)
    values, factors = front_end([1.5, 9.0], dtype=dtype)
    assert values == [1.5, 4.0]
    assert factors == [1.0, pytest.approx(4 / 9, rel=4e-3)]
    mean, variance, num_updates = front_end.moments
    # The losses lie 0.5 and 3 from the old mean, and 1.25 from their own. Neither step would show
    # in half precision.
    assert mean == pytest.approx(1 + 0.001 * 1.75, rel=1e-6)
    assert variance == pytest.approx(1 + 0.001 * (1.25**2 - 1) + 0.001 * 0.999 * 1.75**2, rel=1e-6)
    assert num_updates == 1


@pytest.mark.parametrize("row", ROWS)
def test_evaluation_is_the_identity_and_moves_nothing(row) -> None:
    front_end, losses = started(row), [0.5, 1e9, math.nan]
    front_end([3.0, 9.0])
    before = front_end.save()
    values, factors = front_end.evaluate(losses)
    assert bits(values) == bits(losses)
    assert factors == [1.0] * 3
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("saved_after", [5, 60], ids=["while it warms up", "later"])
def test_resumed_training_is_bit_for_bit_the_uninterrupted_run(row, saved_after) -> None:
    settings, batches = {"num_stddev": 1.0, "decay": 0.9}, stream(calls=120)
    whole = ROWS[row](**settings)
    for batch in batches[:saved_after]:
        whole(*batch)
    resumed = ROWS[row](**settings)
    resumed.load(json.loads(json.dumps(whole.save())))
    num_clipped = 0
    for batch in batches[saved_after:]:
        expected, got = whole(*batch), resumed(*batch)
        assert [bits(x) for x in got] == [bits(x) for x in expected]
        assert resumed.save() == whole.save()
        num_clipped += sum(factor < 1 for factor in expected[1])
    assert num_clipped > 0


DAMAGED = {
    "nan mean": ({"mean": math.nan}, "mean must be finite in float32; got nan"),
    "infinite mean": ({"mean": -math.inf}, "mean must be finite in float32; got -inf"),
    "overflowing mean": ({"mean": 1e60}, "mean must be finite in float32; got 1e+60"),
    "negative variance": ({"variance": -0.5}, "variance must be at least 0; got -0.5"),
    "nan variance": ({"variance": math.nan}, "variance must be finite in float32; got nan"),
    "no number": ({"mean": [1.0, 1.0]}, "mean must be a number; got [1.0, 1.0]"),
    "text": ({"variance": "1.0"}, "variance must be a number; got '1.0'"),
    "negative count": (
        {"num_losses": -1},
        "num_losses must be a count, 0 or more, in int64; got -1",
    ),
    "count beyond int64": (
        {"num_updates": 2.0**63},
        "num_updates must be a count, 0 or more, in int64; got 9.223372036854776e+18",
    ),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_state_is_refused_in_words_and_nothing_is_taken_over(row, case) -> None:
    damage, problem = DAMAGED[case]
    front_end, other = started(row), started(row)
    other([9.0])
    before = front_end.save()
    with pytest.raises(ValueError, match="must be") as error:
        front_end.load({**other.save(), **damage})
    assert str(error.value) == (
        f"{front_end.who}: the saved {problem}. The state is damaged or not one of ALRC's: load "
        "another, or start afresh."
    )
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
def test_half_a_state_is_refused_in_words_and_nothing_is_taken_over(row) -> None:
    front_end = started(row)
    before = front_end.save()
    with pytest.raises(ValueError, match="must have") as error:
        front_end.load({"mean": 5.0, "num_updates": 3})
    assert str(error.value) == (
        f"{front_end.who}: the saved state must have mean, variance, num_updates; variance is "
        "missing from mean, num_updates. Pass what to_dict() returned."
    )
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
def test_state_keeps_structure_shapes_and_dtypes_from_the_first_call_to_the_last(row) -> None:
    front_end = ROWS[row]()
    first = front_end.structure
    shape = front_end.shape
    assert first[:2] == [("mean", shape, "float32"), ("variance", shape, "float32")]
    assert first[2] in [("num_updates", shape, "int32"), ("num_updates", shape, "int64")]
    for dtype in ("float32", "bfloat16", "float16"):
        for losses in ([1.0], [], [1.0, math.nan, 0.0]):
            front_end(losses, dtype=dtype)
            assert front_end.structure == first
    front_end([1.0, 2.0], [0.5, 0.0])
    assert front_end.structure == first
    front_end.load(front_end.save())
    assert front_end.structure == first


@pytest.mark.parametrize("row", ROWS)
def test_a_second_call_compiles_nothing(row) -> None:
    front_end = ROWS[row]()
    front_end([1.0, 2.0, 3.0])
    first = front_end.compilations
    assert first > 0 or not front_end.compiles
    for batch in ([4.0, 5.0, 1e9], [math.nan, 0.0, 1.0], [math.inf] * 3, [1.0, 2.0, 3.0]) * 5:
        front_end(batch)
    assert front_end.compilations == first


@pytest.mark.parametrize("row", ROWS)
def test_nothing_is_written_printed_or_warned_in_ordinary_use(row, capfd) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        front_end = ROWS[row]()
        front_end([1.0, 2.0])
        front_end.evaluate([1.0, 2.0])
        front_end.load(front_end.save())
    assert capfd.readouterr() == ("", "")
