"""The guarantees, each a named test. README.md and the docs point here."""

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from frontends import gradient_factors
from hypothesis import given
from hypothesis import strategies as st
from table import QUICK, ROWS
from torch import nn

from alrc import Settings, rule
from alrc.torch import ALRC, Moments, clip, init


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


@pytest.mark.parametrize("row", QUICK)
@given(losses=st.lists(st.floats(-1e6, 3.875, width=32), min_size=1, max_size=8))
def test_unclipped_losses_come_back_bit_for_bit(row, losses) -> None:
    values, factors = started(row)(losses)
    assert bits(values) == bits(losses)
    assert factors == [1.0] * len(losses)


@pytest.mark.parametrize("row", QUICK)
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


@given(moments=FINITE_STATES, losses=st.lists(ANY_FINITE, min_size=1, max_size=6))
@pytest.mark.parametrize("row", QUICK)
@pytest.mark.parametrize("center", ["zero", "mean"])
def test_factors_lie_in_0_1_and_are_never_0_for_a_positive_limit(
    row, center, moments, losses
) -> None:
    mean, variance = moments
    mu2 = mean**2 + variance
    front_end = ROWS[row](mu1_start=mean, mu2_start=mu2, center=center)
    _, factors = front_end(losses)
    limit = mean + 3 * max(math.sqrt(mu2 - mean**2), 1e-4 * abs(mean))
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    if limit > 0:
        assert all(factor > 0.0 for factor in factors)


@pytest.mark.parametrize("row", QUICK)
def test_a_gradient_is_never_flipped_when_the_limit_is_negative(row) -> None:
    # limit: -10 + 3 * 1 = -7. The original multiplies -1 by 7 and 3 by -7 / 3.
    values, factors = ROWS[row](mu1_start=-10.0, mu2_start=101.0)([-1.0, 3.0, 0.0, -8.0])
    assert values == [-7.0, -7.0, -7.0, -8.0]
    assert factors == pytest.approx([1.0, 0.0, 0.0, 1.0], abs=1e-30)


@pytest.mark.parametrize("row", QUICK)
def test_center_mean_scales_distances_to_the_mean(row) -> None:
    # mean -10, limits -10 +- 2
    settings = {"num_stddev": 2.0, "num_stddev_below": 2.0, "center": "mean"}
    front_end = ROWS[row](mu1_start=-10.0, mu2_start=101.0, **settings)
    values, factors = front_end([-6.0, 10.0, -30.0, -9.0])
    assert values == [-8.0, -8.0, -12.0, -9.0]
    assert factors == pytest.approx([0.5, 0.1, 0.1, 1.0])


@pytest.mark.parametrize("row", QUICK)
def test_the_lower_side_raises_low_positive_losses_only(row) -> None:
    # limits: 1 - 0.5 and 1 + 3
    values, factors = started(row, num_stddev_below=0.5)([0.25, 0.0, -1.0, 1.0, 8.0])
    assert values == [0.5, 0.0, -1.0, 1.0, 4.0]
    assert factors == pytest.approx([2.0, 1.0, 1.0, 1.0, 0.5])


@pytest.mark.parametrize("row", QUICK)
def test_a_single_loss_of_0_or_less_is_not_raised_by_the_lower_side(row) -> None:
    front_end = started(row, num_stddev_below=0.5)
    for loss in (0.0, -1.0):
        assert front_end([loss]) == ([loss], [1.0])
    assert front_end.counts in (None, (2, 0, 0))


@pytest.mark.parametrize("row", QUICK)
def test_the_factor_of_a_tiny_loss_that_is_raised_is_finite(row) -> None:
    # The smallest normal number: to JAX's compiler all below it are 0.
    front_end = ROWS[row](mu1_start=1000.0, mu2_start=2e6, num_stddev_below=0.5)
    values, factors = front_end([2.0**-126, 1000.0])
    assert values == [500.0, 1000.0]
    assert factors == [2.0**126, 1.0]


@pytest.mark.parametrize("row", QUICK)
def test_losses_that_do_not_count_are_not_limited_on_either_side(row) -> None:
    front_end = started(row, num_stddev_below=0.5)
    assert front_end([0.25, 8.0, 1.0], [0.0, 0.0, 1.0]) == ([0.25, 8.0, 1.0], [1.0] * 3)
    assert front_end.counts in (None, (1, 0, 0))


@pytest.mark.parametrize("row", QUICK)
def test_a_loss_at_the_limit_is_not_beyond_it(row) -> None:
    front_end = started(row, num_stddev_below=0.5)
    assert front_end([4.0, 0.5]) == ([4.0, 0.5], [1.0, 1.0])
    assert front_end.counts in (None, (2, 0, 0))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("mean", [1.0, -1.0])
def test_the_standard_deviation_counts_as_a_ten_thousandth_of_the_mean_at_least(row, mean) -> None:
    front_end = ROWS[row](mu1_start=mean, mu2_start=1.0, center="mean")  # variance 0
    assert front_end([5.0])[0] == [pytest.approx(mean + 3e-4, abs=2e-7)]


@pytest.mark.parametrize("row", QUICK)
@given(losses=BATCH, exponent=st.integers(-10, 10))
def test_scale_law(row, losses, exponent) -> None:
    c = 2.0**exponent  # exact in floating point, so that equality can be exact
    plain, scaled = started(row), ROWS[row](mu1_start=c, mu2_start=2 * c * c)
    for _ in range(3):
        values, factors = plain(losses)
        scaled_values, scaled_factors = scaled([c * x for x in losses])
        assert scaled_values == [c * x for x in values]
        assert scaled_factors == factors


@pytest.mark.parametrize("row", QUICK)
@given(losses=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=8))
def test_order_is_kept(row, losses) -> None:
    values, _ = started(row, num_stddev_below=0.5)(sorted(losses))
    assert values == sorted(values)


@pytest.mark.parametrize("row", QUICK)
@given(losses=st.lists(BATCH, min_size=1, max_size=6))
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
        moments = rule.step(Columns, torch.from_numpy(losses), None, moments, settings).moments
    assert all(moment.dtype == torch.float32 for moment in moments[:2])


def test_the_module_on_the_host_agrees_with_the_tensor_path_over_20_000_steps() -> None:
    rng = np.random.default_rng(1)
    alrc, settings = ALRC(), Settings()
    moments = init(settings)
    for loss in torch.from_numpy(rng.lognormal(size=20_000).astype(np.float32)):
        alrc(loss)
        _, moments = clip(loss, moments, settings)
    assert alrc.num_updates == moments.num_updates == 20_000
    torch.testing.assert_close(alrc.mean, moments.mean, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(alrc.variance, moments.variance, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("row", QUICK)
@given(losses=st.lists(st.lists(ANY_FINITE, min_size=1, max_size=4), min_size=1, max_size=20))
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


@pytest.mark.parametrize("row", QUICK)
def test_losses_whose_square_overflows_float32_do_not_break_the_state(row) -> None:
    front_end = ROWS[row]()
    front_end([1e30, 3e38])  # no variance in float32: not taken over
    assert front_end.moments == (0.0, 0.0, 0)
    for _ in range(10):
        front_end([1.0, 2.0])
    assert front_end.moments == (1.5, 0.25, 10)
    assert front_end([1e30]) == ([3.0], [pytest.approx(3e-30)])

    scalars = ROWS[row]()
    scalars([3e38])  # no such mean either: beyond 2**127
    assert scalars.moments == (0.0, 0.0, 0)
    for loss in (1.0, 1e30, 1.0):
        scalars([loss])
    assert scalars.moments == (1.0, 0.0, 2)


def calls_until_let_through(front_end, loss: float, at_most: int) -> int:
    for call in range(at_most):
        if front_end([loss])[0] == [np.float32(loss)]:
            return call
    return at_most


@pytest.mark.parametrize("constant", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("calls", [10, 3000])
def test_never_sticks_after_a_constant_run(constant, calls) -> None:
    front_end = ROWS["torch-scalars"]()
    for _ in range(calls):
        front_end([constant])
    assert calls_until_let_through(front_end, 10 * constant or 1.0, 5000) < 5000


def test_never_sticks_after_losses_have_been_0_for_20_000_calls() -> None:
    front_end = started("torch-scalars")
    for _ in range(20_000):
        front_end([0.0])
    assert calls_until_let_through(front_end, 10.0, 5000) < 5000


def test_a_start_ten_times_too_low_recovers() -> None:
    front_end = ROWS["torch-scalars"](mu1_start=0.1, mu2_start=0.02)
    rng = np.random.default_rng(0)
    for loss in rng.normal(1.0, 0.3, 5000):
        front_end([loss])
    mean, variance, _ = front_end.moments
    assert mean == pytest.approx(1.0, rel=0.05)
    assert math.sqrt(variance) == pytest.approx(0.3, rel=0.1)


def test_a_start_ten_times_too_high_decays() -> None:
    front_end = ROWS["torch-scalars"](mu1_start=10.0, mu2_start=200.0)
    rng = np.random.default_rng(0)
    for loss in rng.normal(1.0, 0.3, 10_000):
        front_end([loss])
    mean, variance, _ = front_end.moments
    assert mean == pytest.approx(1.0, rel=0.05)
    assert math.sqrt(variance) == pytest.approx(0.3, rel=0.1)


def test_the_automatic_start_is_the_plain_average_of_all_losses_so_far() -> None:
    rng, front_end, seen = np.random.default_rng(0), ROWS["torch"](decay=0.99), []
    for _ in range(99):
        batch = np.float32(rng.uniform(1.0, 1.2, 5))  # too narrow for any limit to act
        front_end(batch.tolist())
        seen.extend(batch.tolist())
        mean, variance, _ = front_end.moments
        assert mean == pytest.approx(np.mean(seen), rel=1e-5)
        assert variance == pytest.approx(np.var(seen), rel=1e-4)


def test_the_example_of_the_original_readme_runs_and_explains_what_is_wrong() -> None:
    mu1_start_estimate, mu2_start_estimate = 1 * 3, 1.5 * 3
    with pytest.warns(UserWarning, match="mu2_start") as record:
        alrc = ALRC(mu1_start=mu1_start_estimate, mu2_start=mu2_start_estimate)
    assert [str(warning.message) for warning in record] == [
        "ALRC: mu2_start is the mean squared loss, so it must be at least mu1_start**2 = 9; got "
        "mu1_start=3, mu2_start=4.5. Going on with a variance of 0, which limits most losses until "
        "the moments have caught up. If 4.5 is a standard deviation s, pass "
        "mu2_start=mu1_start**2 + s**2 = 29.25, or leave both out to start automatically."
    ]
    assert record[0].filename == __file__
    for value in torch.rand(100) + 1:
        loss = value.clone().requires_grad_()
        clipped = alrc(loss)
        clipped.backward()
        assert math.isfinite(clipped.item())
        assert 0 < loss.grad <= 1


# Precision, modes, checkpoints


CASTS = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "double": lambda m: m.double(),
    "bfloat16 and device": lambda m: m.to("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_moments_stay_float32_whatever_is_done_to_the_model(cast) -> None:
    model = nn.Sequential(nn.Linear(2, 2), ALRC(mu1_start=1 / 3, mu2_start=2 / 3))
    before = {name: x.clone() for name, x in model[1].state_dict().items()}
    alrc = CASTS[cast](model)[1]
    assert model[0].weight.dtype != torch.float32
    for name, value in alrc.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_moments_move_under_bfloat16_losses_and_autocast() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        clipped = alrc(torch.tensor([1.5, 9.0], dtype=torch.bfloat16))
    assert clipped.dtype == torch.bfloat16
    assert clipped.tolist() == [1.5, 4.0]
    assert alrc.mean.dtype == torch.float32
    assert alrc.mean.item() == pytest.approx(1 + 0.001 * 1.75, rel=1e-6)


def test_evaluation_is_the_identity_and_moves_nothing() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    before = copy.deepcopy(alrc.state_dict())
    loss = torch.tensor([0.5, 1e9, math.nan], requires_grad=True)
    alrc.eval()
    assert alrc(loss) is loss
    alrc.train()
    with torch.no_grad():
        assert alrc(loss) is loss
    with torch.inference_mode():
        assert alrc(loss) is loss
    assert alrc.state_dict() == before


def training(seed: int):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    alrc = ALRC(num_stddev=1.0, decay=0.9)
    return net, alrc, torch.optim.Adam(net.parameters(), 0.01)


def train(net, alrc, optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 3, generator=generator)
        loss = alrc((net(x) - x.sum(1, keepdim=True)).pow(4).mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_resumed_training_is_bit_for_bit_the_uninterrupted_run() -> None:
    whole = train(*training(0), range(100))
    first = training(0)
    losses = train(*first, range(50))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = training(1)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert losses + train(*second, range(50, 100)) == whole
    assert second[1].num_clipped > 0


REFUSED = {
    "nan mean": ("mean", torch.tensor(math.nan), "finite in float32; got nan"),
    "infinite mean": ("mean", torch.tensor(-math.inf), "finite in float32; got -inf"),
    "overflowing mean": ("mean", torch.tensor(1e60).double(), None),
    "negative variance": ("variance", torch.tensor(-0.5), "at least 0; got -0.5"),
    "nan variance": ("variance", torch.tensor(math.nan), "finite in float32; got nan"),
    "shape": ("mean", torch.ones(2), "a real tensor of shape (); got shape (2,)"),
    "no tensor": ("mean", 3.0, "a real tensor of shape (); got 3.0"),
    "negative count": ("num_losses", torch.tensor(-1), "a count, 0 or more, in int64; got -1"),
    "count beyond int64": (
        "num_updates",
        torch.tensor(2.0**63),
        "a count, 0 or more, in int64; got 9.223372036854776e+18",
    ),
    "complex": ("mean", torch.tensor(1 + 1j), "a real tensor of shape (); got shape ()"),
    "fraction": ("num_updates", torch.tensor(1.5), "a count, 0 or more, in int64; got 1.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_checkpoint_is_refused_in_words_and_nothing_is_taken_over(case) -> None:
    name, value, problem = REFUSED[case]
    model = nn.ModuleDict({"alrc": ALRC(mu1_start=1.0, mu2_start=2.0)})
    before = copy.deepcopy(model.state_dict())
    damaged = ALRC(mu1_start=5.0, mu2_start=26.0).state_dict(prefix="alrc.") | {
        f"alrc.{name}": value
    }
    problem = problem or f"finite in float32; got {value.item()}"
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(damaged)
    assert str(error.value) == (
        "Error(s) in loading state_dict for ModuleDict:\n\t"
        f"ALRC: alrc.{name} must be {problem}. The checkpoint is damaged or not one of ALRC's: "
        "load another, or leave ALRC's keys out of it (strict=False) to start afresh."
    )
    assert model.state_dict() == before


def test_a_checkpoint_with_only_half_the_state_is_not_taken_over() -> None:
    alrc, other = ALRC(mu1_start=1.0, mu2_start=2.0), ALRC(mu1_start=5.0, mu2_start=26.0)
    half = {"mean": other.mean}
    with pytest.raises(RuntimeError, match=r'Missing key.*"variance", "num_updates"'):
        alrc.load_state_dict(half)
    result = alrc.load_state_dict(half | {"mu1": other.mean}, strict=False)
    assert result.unexpected_keys == ["mu1"]
    missing = result.missing_keys
    assert missing == ["variance", "num_updates", "num_losses", "num_clipped", "num_nonfinite"]
    assert alrc.mean == 1.0


def test_state_keeps_structure_shapes_and_dtypes_from_the_first_call_to_the_last() -> None:
    alrc, settings = ALRC(), Settings()
    moments = init(settings)

    def structure(state) -> list:
        return [(name, x.shape, x.dtype, x.device) for name, x in state.items()]

    first = structure(alrc.state_dict()), structure(moments._asdict())
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((), (1,), (0,), (2, 3)):
            for loss in (torch.ones(shape), torch.full(shape, math.nan), torch.zeros(shape)):
                alrc(loss.to(dtype))
                _, moments = clip(loss.to(dtype), moments, settings)
                assert (structure(alrc.state_dict()), structure(moments._asdict())) == first


def test_pickle_and_deepcopy_continue_with_the_same_numbers() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    alrc(torch.tensor(3.0))
    twins = copy.deepcopy(alrc), pickle.loads(pickle.dumps(alrc))
    expected = [alrc(torch.tensor(loss)) for loss in (2.0, 9.0, 9.0)]
    for twin in twins:
        assert twin.settings == alrc.settings
        assert twin.num_losses == 1
        assert [twin(torch.tensor(loss)) for loss in (2.0, 9.0, 9.0)] == expected
        assert twin.state_dict() == alrc.state_dict()


def test_nothing_is_written_printed_or_warned_in_ordinary_use(capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_factors(ALRC(), [1.0, 2.0])
    assert capsys.readouterr() == ("", "")
