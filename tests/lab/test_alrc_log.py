"""ALRC on the logarithms of losses: what its scale is for, and what it does not count."""

import math
import re

import pytest
import torch
from loss_rivals import begun, changed, stream

from alrc.lab.arms.alrc_log import AlrcLog

ARMS = [AlrcLog(1.5), AlrcLog(2.0, num_stddev_below=1.5, decay=0.97), AlrcLog(1.0, per="batch")]


def positive(steps: int = 200) -> list[torch.Tensor]:
    return [x.nan_to_num(1.0, 1.0).clamp(min=1e-3).double() for x in stream(steps)]


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """As closely as moments in float32 allow."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e5])
def test_scaled_losses_are_limited_alike(arm: AlrcLog, scale: float) -> None:
    begun(arm)
    once = [(*changed(arm, x), arm.threshold("loss")) for x in positive()]
    begun(arm)
    for (value, factor, limit), x in zip(once, positive(), strict=True):
        own = changed(arm, scale * x)
        assert_close(own[0], scale * value)
        assert_close(own[1], factor)
        assert_close(arm.threshold("loss"), scale * limit)
    assert any((factor < 1).any() for _, factor, _ in once)


@pytest.mark.parametrize("arm", ARMS[:2])
@pytest.mark.parametrize("power", [0.5, 2.0, 4.0])
def test_the_same_losses_are_limited_whatever_their_power(arm: AlrcLog, power: float) -> None:
    begun(arm)
    once = [changed(arm, x)[0] for x in positive()]
    begun(arm)
    for value, x in zip(once, positive(), strict=True):
        assert_close(changed(arm, x**power)[0], value**power)


def test_order_is_kept_and_no_limited_loss_is_above_its_limit_or_itself() -> None:
    arm, limited = AlrcLog(1.0), 0
    begun(arm)
    for losses in stream():
        limit = arm.threshold("loss")
        value, factor = changed(arm, losses)
        assert limit is not None
        order = losses.nan_to_num(-1.0).argsort()
        where = (value != losses) & losses.isfinite()
        assert_close(value[where], limit.expand(int(where.sum())))
        assert (value[where] < losses[where]).all()
        assert_close(factor[where], limit / losses[where])
        assert ((factor > 0) & (factor <= 1)).all()
        in_order = value[order][losses[order].isfinite()]
        assert (in_order.diff() >= 0).all()
        limited += int(where.sum())
    assert limited > 100


def test_losses_without_a_logarithm_come_back_as_they_came_and_do_not_count() -> None:
    arm = AlrcLog(1.0)
    begun(arm)
    for losses in positive(20):
        arm.limit("loss", losses)
    before = {name: x.clone() for name, x in list(arm.limiter("loss").state_dict().items())[:3]}
    odd = torch.tensor([0.0, -0.0, -1e9, math.nan, math.inf, -math.inf])
    with pytest.warns(UserWarning, match="loss has numbers below 0, which have no logarithm"):
        value, factor = changed(arm, odd)
    assert value.numpy().tobytes() == odd.numpy().tobytes()
    assert factor.tolist() == [1.0] * 6
    after = arm.limiter("loss").state_dict()
    assert all(torch.equal(after[name], x) for name, x in before.items())


@pytest.mark.parametrize("level", [1e-6, 1.0, 3.0, 1e6])
def test_losses_that_hardly_spread_have_the_same_relative_limit_on_every_scale(
    level: float,
) -> None:
    arm = AlrcLog(3.0)
    begun(arm)
    assert arm.threshold("loss").item() == math.inf
    for _ in range(10):
        assert arm.threshold("loss").item() == math.inf  # it is warming up
        arm.limit("loss", torch.full((4,), level))
    assert arm.threshold("loss").item() == pytest.approx(level * math.exp(3e-4), rel=2e-6)


def test_a_tenfold_step_up_after_a_constant_run_is_let_through() -> None:
    arm = AlrcLog(3.0)
    begun(arm)
    for _ in range(1000):
        arm.limit("loss", torch.tensor(0.5))
    assert arm.limit("loss", torch.tensor(5.0)).item() < 0.51
    calls = 1
    while arm.limit("loss", torch.tensor(5.0)).item() < 5:
        calls += 1
        assert calls < 5000


def test_starts_are_raw_moments_of_a_log_normal() -> None:
    m, v = 0.7, 0.4
    mu1, mu2 = math.exp(m + v / 2), math.exp(2 * m + 2 * v)
    arm = AlrcLog(2.0, mu1_start=mu1, mu2_start=mu2)
    begun(arm)
    assert arm.threshold("loss").item() == pytest.approx(math.exp(m + 2 * math.sqrt(v)), rel=1e-6)


def test_a_start_without_a_logarithm_is_refused() -> None:
    words = (
        "ALRC: mu1_start must be greater than 0 with scale='log', because only losses > 0 have a "
        "logarithm; got 0.0. Pass an estimate of the mean loss, or leave mu1_start and mu2_start "
        "out to start automatically."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        AlrcLog(mu1_start=0.0, mu2_start=1.0)
