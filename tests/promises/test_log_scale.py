"""scale="log", in every row: the moments are those of logarithms, and the limit is exp(m + n s)."""

import itertools
import json
import math

import numpy as np
import pytest
from agreement import assert_agrees, stream
from hypothesis import strategies as st
from promises.test_agreement import batches
from promises.test_moments import BAD
from table import ONE_PER_FRAMEWORK, ROWS, bits, given_for_every_row

LOG = {"scale": "log"}
# Of a log-normal with m = 0 and v = 1: the limit is e^3, as rows have num_stddev=3.
STARTS = {**LOG, "mu1_start": math.exp(0.5), "mu2_start": math.exp(2.0)}
# Rows in which that is told, on the CPU in eager PyTorch and JAX: core/test_losses_below_0.py.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(ALRC|clip). loss has numbers below 0, which have no logarithm:UserWarning"
)
SETTINGS = {
    "defaults": {"num_stddev": 2.0},
    "three standard deviations": {},
    "recency 4": {"recency": 4.0},
    "starts, two-sided": {"mu1_start": 2.0, "mu2_start": 9.0, "num_stddev_below": 1.5},
    "one standard deviation, short memory": {"num_stddev": 1.0, "decay": 0.9},
    "recency 4, two-sided": {"recency": 4.0, "num_stddev": 1.5, "num_stddev_below": 1.0},
    "no memory": {"decay": 0.0, "warmup": 1},
    "no limit": {"num_stddev": math.inf},
}
losses_of = st.lists(st.floats(2.0**-20, 2.0**60, width=32), min_size=1, max_size=6)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.thin("name", "defaults", "recency 4, two-sided")
def test_logarithms_agree_on_a_training_run_with_spikes_nans_and_masks(row, name) -> None:
    assert_agrees(ROWS[row], stream(), **LOG, **SETTINGS[name])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("recency", [1.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_logarithms_agree_on_losses_of_either_sign_without_masks(row, batch_size, recency) -> None:
    run = stream(seed=1, calls=150, batch_size=batch_size, masked=False, signed=batch_size > 1)
    assert_agrees(ROWS[row], run, num_stddev=1.5, decay=0.95, recency=recency, **LOG)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6])
@pytest.mark.parametrize("spread", [1e-4, 1e-2, 10.0])
@pytest.mark.thin("scale", 1e-6)
@pytest.mark.thin("spread", 1e-4, 10.0)
def test_logarithms_agree_for_any_scale_and_spread(row, scale, spread) -> None:
    run = stream(seed=2, calls=150, scale=scale, spread=spread)
    assert_agrees(ROWS[row], run, decay=0.97, **LOG)


@given_for_every_row(
    batches=batches(),
    num_stddev=st.sampled_from([0.1, 1.0, 3.0]),
    decay=st.sampled_from([0.0, 0.5, 0.999]),
    start=st.sampled_from([None, (1.0, 1.25), (1e-3, 1e-3)]),
    product=st.sampled_from([None, 1.25, 6.0]),  # of both numbers of standard deviations
    warmup=st.integers(1, 4),
    recency=st.sampled_from([1.0, 4.0]),
)
def test_logarithms_agree_on_whatever_hypothesis_finds(
    row, batches, num_stddev, decay, start, product, warmup, recency
) -> None:
    below = product and product / num_stddev
    settings = {"num_stddev": num_stddev, "decay": decay, "num_stddev_below": below}
    if start:
        settings |= {"mu1_start": start[0], "mu2_start": start[1]}
    assert_agrees(ROWS[row], batches, warmup=warmup, recency=recency, **settings, **LOG)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("level", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("spread", [1e-4, 1.0])
@pytest.mark.thin("level", 1e6)
def test_logarithms_agree_with_longer_numbers_over_a_long_run(row, level, spread) -> None:
    """As for losses themselves, whatever their scale: the rounding of m does not add up."""
    front_end, rng = ROWS[row](**LOG), np.random.default_rng(0)
    m = v = np.longdouble(0)
    for block in range(5):
        losses = (level * np.exp(spread * rng.standard_normal(1000))).astype(np.float32)
        front_end.feed(losses.tolist())
        for t, loss in enumerate(np.log(losses.astype(np.longdouble)), start=1000 * block):
            s = max(np.sqrt(v), np.longdouble(1e-4))
            d = (loss if t < 10 else min(loss, m + 3 * s)) - m
            a = max(1 - np.longdouble(0.999), 1 / np.longdouble(t + 1))
            m, v = m + a * d, (1 - a) * (v + a * d * d)
        mean, variance, _ = front_end.moments
        assert math.log(mean) == pytest.approx(float(m), abs=2e-5 * max(1, spread))
        assert variance == pytest.approx(float(v), rel=2e-3 if spread < 1e-2 else 1e-4)


# Values and gradients


@pytest.mark.parametrize("row", ROWS)
def test_limited_losses_are_exp_of_the_limit_of_their_logarithm(row) -> None:
    front_end = ROWS[row](**STARTS, num_stddev_below=2.0)
    values, factors = front_end([1.0, 40.0, 4e30, 0.01, 0.25])
    high, low = math.exp(3.0), math.exp(-2.0)
    assert values == [1.0, *[pytest.approx(x, rel=1e-6) for x in (high, high, low)], 0.25]
    assert factors == pytest.approx([1.0, high / 40, high / 4e30, low / 0.01, 1.0], rel=2e-6)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("settings", [{}, {"num_stddev_below": 3.0}])
def test_what_has_no_logarithm_comes_back_bit_for_bit_beside_limited_losses(row, settings) -> None:
    tiny = [] if settings else [1e-45]
    losses = [100.0, 0.0, -0.0, -5.0, -3e38, *tiny, 20.0, math.nan, math.inf, -math.inf]
    for some in (losses, losses[:-3]):  # all finite: another branch on the host
        values, factors = ROWS[row](**STARTS, **settings)(some)
        assert bits(values[1:]) == bits(some[1:])
        assert values[0] == pytest.approx(math.exp(3.0), rel=1e-6)
        assert factors == [pytest.approx(math.exp(3.0) / 100, rel=2e-6), *[1.0] * (len(some) - 1)]


@given_for_every_row(
    losses=st.lists(losses_of, min_size=1, max_size=4), power=st.sampled_from([0.5, 2])
)
def test_the_same_losses_are_limited_whatever_power_the_error_has(row, losses, power) -> None:
    once, powered = (ROWS[row](num_stddev=1.0, warmup=1, **LOG) for _ in range(2))
    for batch in losses:
        batch = [float(np.float32(x)) ** (1 / 4) for x in batch]
        values, _ = once(batch)
        expected = [value**power for value in values]
        assert powered([x**power for x in batch])[0] == pytest.approx(expected, rel=1e-3)


@given_for_every_row(losses=losses_of, exponent=st.integers(-60, 60))
def test_logarithms_keep_the_scale_law(row, losses, exponent) -> None:
    c = 2.0**exponent
    plain = ROWS[row](**STARTS)
    scaled = ROWS[row](**LOG, mu1_start=c * math.exp(0.5), mu2_start=c * c * math.exp(2.0))
    for _ in range(3):
        values, factors = plain(losses)
        scaled_values, scaled_factors = scaled([c * x for x in losses])
        assert scaled_values == pytest.approx([c * x for x in values], rel=2e-6)
        assert scaled_factors == pytest.approx(factors, rel=2e-6)


@given_for_every_row(losses=st.lists(losses_of, min_size=1, max_size=4))
def test_logarithms_keep_order_and_no_loss_exceeds_its_limit_or_itself(row, losses) -> None:
    front_end = ROWS[row](**STARTS, decay=0.5)
    for batch in losses:
        mean, variance, _ = front_end.moments
        limit = mean * math.exp(3 * max(math.sqrt(variance), 1e-4))
        ordered = sorted(np.float32(batch).tolist())
        values, factors = front_end(ordered)
        assert values == sorted(values)
        assert all(y <= min(x, limit * (1 + 2e-5)) for x, y in zip(ordered, values, strict=True))
        assert all(0.0 < factor <= 1.0 for factor in factors)


# The moments


@pytest.mark.parametrize("row", ROWS)
def test_of_losses_up_to_0_those_below_count_as_not_finite_in_logarithms(row) -> None:
    with_them, without = (ROWS[row](**STARTS, decay=0.9) for _ in range(2))
    below = 0
    for losses in ([0.0, 2.0, -1.0, 90.0], [0.0], [-3.0, -0.0, -(2.0**-120)], [1.0, 0.0], [-7.0]):
        values, factors = with_them(losses)
        assert bits([v for v, x in zip(values, losses, strict=True) if x <= 0]) == bits(
            [x for x in losses if x <= 0]
        )
        expected = without([x for x in losses if x > 0])
        positive = [i for i, x in enumerate(losses) if x > 0]
        assert ([values[i] for i in positive], [factors[i] for i in positive]) == expected
        assert with_them.moments == pytest.approx(without.moments, rel=1e-6)
        below += sum(x < 0 for x in losses)
        if with_them.counts:
            assert with_them.counts == (*without.counts[:2], below)
    assert with_them.moments[2] == 2
    assert with_them.counts in (None, (3, 1, 4))


@pytest.mark.parametrize("row", ROWS)
def test_a_loss_below_0_that_is_masked_counts_nowhere_in_logarithms(row) -> None:
    front_end = ROWS[row](**STARTS)
    losses = [-5.0, 90.0, -3e38, 2.0, -1.0]
    values, factors = front_end(losses, [0.0, 1.0, 0.0, 2.0, 0.25])
    assert bits(values[:1] + values[2:]) == bits(losses[:1] + losses[2:])
    assert factors[:1] + factors[2:] == [1.0] * 4
    assert front_end.counts in (None, (2, 1, 1))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_batch_leaves_the_moments_of_logarithms_and_protection_goes_on(row, bad) -> None:
    front_end = ROWS[row](**STARTS)
    before = front_end.moments
    front_end(*BAD[bad])
    assert front_end.moments == before
    assert front_end([1e4])[0] == [pytest.approx(math.exp(3.0), rel=1e-6)]
    front_end([math.nan, 1.0, math.inf])
    assert front_end.counts is None or front_end.counts[2] >= 2


@pytest.mark.parametrize("row", ROWS)
def test_any_finite_loss_above_0_counts_in_logarithms(row) -> None:
    front_end = ROWS[row](**LOG)
    front_end([3e38, 2.0**-126])
    mean, variance, num_updates = front_end.moments
    logs = [math.log(3e38), math.log(2.0**-126)]
    assert math.log(mean) == pytest.approx(np.mean(logs), rel=1e-4)
    assert (variance, num_updates) == (pytest.approx(np.var(logs), rel=1e-4), 1)
    assert front_end.counts in (None, (2, 0, 0))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("level", [1e-30, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("recency", [1.0, 4.0])
@pytest.mark.thin("level", 1e-30, 1e6)
def test_logarithms_never_stick_and_have_the_same_least_spread_on_every_scale(
    row, level, recency
) -> None:
    front_end = ROWS[row](**LOG, recency=recency)
    assert front_end.feed([level] * 10 + [2 * level])[-1] == pytest.approx(
        level * math.exp(3e-4), rel=1e-5
    )
    front_end.feed([level] * 1000)
    values = front_end.feed([10 * level] * 5000)
    assert values[0] < 1.5 * level
    assert values[-1] == pytest.approx(10 * level, rel=1e-6)


# The state


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("recency", [1.0, 4.0])
def test_resumed_logarithms_are_bit_for_bit_the_uninterrupted_run(row, recency) -> None:
    settings = {"num_stddev": 1.0, "decay": 0.9, "recency": recency, **LOG}
    run = stream(calls=60)
    whole, resumed = ROWS[row](**settings), ROWS[row](**settings)
    for batch in run[:15]:
        whole(*batch)
    saved = json.loads(json.dumps(whole.save()))
    assert list(saved)[:3] == ["geometric_mean", "log_variance", "num_updates"]
    resumed.load(saved)
    for batch in run[15:]:
        expected, got = whole(*batch), resumed(*batch)
        assert [bits(x) for x in got] == [bits(x) for x in expected]
        assert resumed.save() == whole.save()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("own", "other"), [("linear", "log"), ("log", "linear")])
def test_a_state_of_the_other_scale_is_refused_in_words_and_not_taken_over(row, own, other) -> None:
    front_end, saved = ROWS[row](scale=own), ROWS[row](scale=other)
    front_end([2.0])
    saved([3.0])
    before = front_end.save()
    with pytest.raises(ValueError, match="must be") as error:
        front_end.load(saved.save())
    assert str(error.value) == (
        f"{front_end.who}: the saved state must be that of scale='{own}', because the moments of "
        "losses and those of their logarithms are different numbers; got that of "
        f"scale='{other}'. Pass scale='{other}', or start afresh."
    )
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("damage", [0.0, -1.0])
def test_a_geometric_mean_that_none_has_is_refused_in_words(row, damage) -> None:
    front_end = ROWS[row](**STARTS)
    with pytest.raises(ValueError, match="must be") as error:
        front_end.load({**front_end.save(), "geometric_mean": damage})
    assert str(error.value) == (
        f"{front_end.who}: the saved geometric_mean must be greater than 0 in float32; got "
        f"{damage}. The state is damaged or not one of ALRC's: load another, or start afresh."
    )


@pytest.mark.parametrize("row", ROWS)
def test_the_state_of_logarithms_keeps_its_structure_and_a_second_call_compiles_nothing(
    row,
) -> None:
    front_end = ROWS[row](**LOG)
    front_end([1.0, 2.0, 3.0])
    first, compiled = front_end.structure, front_end.compilations
    assert [x[1:] for x in first[:2]] == [(front_end.shape, "float32")] * 2
    for batch in ([4.0, 5.0, 1e9], [math.nan, 0.0, -1.0], [math.inf] * 3, [0.0] * 3) * 4:
        front_end(batch)
        assert front_end.structure == first
    assert front_end.compilations == compiled


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logarithms_of_half_precision_losses_are_taken_in_float32(row, dtype) -> None:
    front_end = ROWS[row](**STARTS)
    values, factors = front_end([1.5, 90.0], dtype=dtype)
    assert values == [1.5, pytest.approx(math.exp(3.0), rel=4e-3)]
    assert factors == [1.0, pytest.approx(math.exp(3.0) / 90, rel=4e-3)]
    logs = np.array([math.log(1.5), 3.0])
    mean, variance, _ = front_end.moments
    assert mean == pytest.approx(math.exp(0.001 * logs.mean()), rel=3e-7)
    expected = 1 + 0.001 * (logs.var() - 1) + 0.001 * 0.999 * logs.mean() ** 2
    assert variance == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(*pair, marks=[] if "numpy" in pair else pytest.mark.slow)
        for pair in itertools.permutations(ONE_PER_FRAMEWORK, 2)
    ],
)
def test_logarithms_saved_in_one_framework_go_on_in_another(first, second) -> None:
    run = stream(calls=40, masked=False)
    stays, moved = (ROWS[name](decay=0.95, **LOG) for name in (first, second))
    for batch in run[:20]:
        stays(*batch)
    moved.load(json.loads(json.dumps(stays.save())))
    for batch in run[20:]:
        expected, got = stays(*batch), moved(*batch)
        np.testing.assert_allclose(got, expected, rtol=2e-6)
        assert moved.moments == pytest.approx(stays.moments, rel=4e-6)
