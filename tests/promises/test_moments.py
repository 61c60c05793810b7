"""The moments: they agree with longer numbers, take no harm from bad losses, and never stick."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from table import ANY_FINITE, ROWS, bits, given_for_every_row, started

from alrc import Settings, rule
from alrc.torch import Moments, init

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


# The moments


@pytest.mark.parametrize("recency", [1.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_float32_state_agrees_with_float64_over_100_000_steps(recency) -> None:
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
    rng, settings = (
        np.random.default_rng(0),
        Settings(recency=recency, num_stddev=3, scale="linear"),
    )
    sigma = np.sqrt(np.log1p(ratio**2))
    moments = Moments(*(x.expand(len(mean)).clone() for x in init(settings)))
    mu1 = mu2 = np.zeros(len(mean), np.longdouble)
    # After 4,000 calls, the start of recency 4 is over.
    for t in range(100_000 if recency == 1 else 10_000):
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
        b = min(np.longdouble(0.999), t / np.longdouble(t + recency))
        mu1, mu2 = b * mu1 + (1 - b) * clipped, b * mu2 + (1 - b) * clipped**2
        _, moments = rule.step(Columns, torch.from_numpy(losses), None, moments, settings)
    assert all(moment.dtype == torch.float32 for moment in moments[:2])


@functools.cache
def in_long_double(
    mean: float, ratio: float, recency: float, calls: int
) -> list[tuple[np.ndarray, np.ndarray]]:
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
        b = min(np.longdouble(0.999), t / np.longdouble(t + recency))
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
@pytest.mark.parametrize(
    ("mean", "ratio", "recency"),
    [
        (1e6, 1e-4, 1.0),
        (1e-6, 10.0, 1.0),
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 4.0),
        pytest.param(1e6, 1e-4, 10.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.thin("recency", 1.0)
def test_the_state_of_each_row_agrees_with_long_double_over_a_long_run(
    row, mean, ratio, recency
) -> None:
    front_end = ROWS[row](recency=recency)
    # With the default decay, rounding errors are forgotten after some thousand calls, and the start
    # of the largest recency is over.
    is_long = recency == 1 and row in ("torch", "jax-jitted")
    calls = 100_000 if is_long else 12_000
    for losses, expected in in_long_double(mean, ratio, recency, calls):
        values = front_end.feed(losses.tolist())
        ours, variance, _ = front_end.moments
        limit = ours + 3 * max(math.sqrt(variance), 1e-4 * ours)
        np.testing.assert_allclose(values, expected[:-3], rtol=2e-5)
        np.testing.assert_allclose([ours, limit], expected[[-3, -1]], rtol=2e-5)
        assert variance == pytest.approx(expected[-2], rel=1e-4 if ratio >= 1e-2 else 2e-3)


@given_for_every_row(
    losses=st.lists(st.lists(ANY_FINITE, min_size=1, max_size=4), min_size=1, max_size=20),
    settings=st.sampled_from(
        [{"decay": 0.5}, {"decay": 0.5, "recency": 1.7}, {"recency": 4.0}, {"recency": 1e30}]
    ),
)
def test_the_variance_is_never_negative_and_the_state_never_nan(row, losses, settings) -> None:
    front_end = ROWS[row](warmup=1, **settings)
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
@pytest.mark.parametrize(
    ("calls", "constant", "recency"),
    [(10, 0.0, 1.0), (10, 1e-6, 1.0), (10, 1.0, 1.0), (10, 1e6, 1.0), (3000, 1.0, 1.0)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (3000, 0.0, 1.0),
            (3000, 1e-6, 1.0),
            (3000, 1e6, 1.0),
            (10, 1.0, 4.0),
            (3000, 1.0, 4.0),  # while it still starts
            (3000, 0.0, 10.0),
        )
    ],
)
def test_never_sticks_after_a_constant_run(row, calls, constant, recency) -> None:
    front_end = ROWS[row](recency=recency)
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
@pytest.mark.parametrize("recency", [2.0, 4.0, 10.0])
@pytest.mark.thin("recency", 4.0)
def test_with_recency_a_call_of_the_start_weighs_like_a_power_of_its_number(row, recency) -> None:
    rng, front_end = np.random.default_rng(0), ROWS[row](decay=0.9999, recency=recency)
    weights, means, squares = [], [], []
    for number in range(1, 61):
        batch = np.float32(rng.uniform(1.0, 1.2, 5))  # too narrow for any limit to act
        front_end(batch.tolist())
        # number * (number + 1) * ... * (number + recency - 2), for whole numbers
        weights.append(math.prod(range(number, number + int(recency) - 1)))
        means.append(np.mean(batch, dtype=float))
        squares.append(np.mean(batch.astype(float) ** 2))
        mean, variance, _ = front_end.moments
        expected = np.average(means, weights=weights)
        assert mean == pytest.approx(expected, rel=1e-5)
        assert variance == pytest.approx(
            np.average(squares, weights=weights) - expected**2, rel=1e-4
        )


CLEAN = 1.97  # where the limit comes to lie in calm training


def limit_of(front_end) -> float:
    mean, variance, _ = front_end.moments
    return mean + 3 * math.sqrt(variance)


@pytest.mark.parametrize("row", ROWS)
def test_with_recency_the_descent_of_a_training_is_forgotten_in_hundreds_of_calls(row) -> None:
    """A fall from 1000 to 1 within 200 calls: docs/start.md has the numbers."""
    descent = np.geomspace(1000.0, 1.0, 200).tolist()
    plain, recent = ROWS[row](), ROWS[row](recency=4.0)
    calm = np.random.default_rng(0).lognormal(0.0, 0.3, 400).tolist()
    for front_end in (plain, recent):
        front_end.feed(descent + calm)
    assert limit_of(recent) < 10 * CLEAN < limit_of(plain) / 10


@pytest.mark.parametrize("row", ROWS)
def test_with_recency_a_lasting_step_is_let_through_again(row) -> None:
    front_end = ROWS[row](recency=4.0)
    front_end.feed([1.0] * 20)
    front_end.feed([1e6] * 5)  # outliers, limited
    assert is_let_through(front_end, 10.0, 1000)


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
