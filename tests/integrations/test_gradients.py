"""What every trainer needs: the gradient of a loss limited, its value left, the state shown."""

import math

import pytest
import torch
from reference import Reference

from alrc.integrations import root
from alrc.integrations.gradients import hang_gradient, limit_gradient
from alrc.integrations.scalars import Kept, scalars
from alrc.torch import ALRC

SETTINGS = {"scale": "linear", "num_stddev": 1.5, "decay": 0.9, "warmup": 3}


def limited(alrc, loss, scale=1.0):
    return limit_gradient(alrc, loss, scale)


def hung(alrc, loss, scale=1.0):
    return loss, hang_gradient(alrc, loss, scale)[0]


WAYS = pytest.mark.parametrize("limit", [limited, hung])


@WAYS
@pytest.mark.parametrize("center", ["zero", "mean"])
@pytest.mark.parametrize("scale", [1.0, 4.0, torch.tensor(0.25)])
def test_the_gradient_is_that_of_the_oracle_and_the_value_stays(limit, center, scale) -> None:
    alrc, oracle = (make(**SETTINGS, center=center) for make in (ALRC, Reference))
    for step in range(60):
        raw = 1.0 + 0.1 * math.sin(step) + 5.0 * (step % 10 == 9)
        weight = torch.tensor(raw, requires_grad=True)
        loss, seen = limit(alrc, weight / scale, scale)
        assert loss.item() == (weight / scale).item()
        (loss * scale).backward()
        (expected,) = oracle([weight.item()])
        assert weight.grad.item() == pytest.approx(expected.factor, rel=1e-4)
        assert seen.factor.item() == pytest.approx(expected.factor, rel=1e-4)
        assert seen.limited.item() == pytest.approx(expected.value, rel=1e-5)
        assert seen.loss.item() == pytest.approx(raw)
        assert alrc.mean.item() == pytest.approx(oracle.mean, rel=1e-5)
    assert alrc.num_clipped == oracle.num_clipped > 3


@WAYS
def test_a_loss_whose_own_hook_runs_the_real_backward_pass_is_limited(limit) -> None:
    """As losses with cached gradients do: a factor behind that hook would come too late."""
    weight = torch.tensor(2.0, requires_grad=True)
    loss = torch.tensor(8.0, requires_grad=True)

    @torch.enable_grad()
    def backward(gradient):
        (weight * 4 * gradient).backward()

    loss.register_hook(backward)
    loss, seen = limit(
        ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear"), loss
    )  # limit 4
    loss.backward()
    assert (seen.factor, weight.grad) == (0.5, 2.0)


@WAYS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_loss_of_any_dtype_is_seen_in_float32_at_least(limit, dtype) -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")  # limit 4
    leaf = torch.tensor(16.0, dtype=dtype, requires_grad=True)
    loss, seen = limit(alrc, leaf)
    loss.backward()
    assert (loss.dtype, leaf.grad.dtype) == (dtype, dtype)
    assert (seen.factor, leaf.grad) == (0.25, 0.25)
    assert seen.factor.dtype == torch.promote_types(dtype, torch.float32)


@WAYS
def test_a_loss_without_gradient_moves_the_moments_alone(limit) -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    with torch.no_grad():
        _, seen = limit(alrc, torch.tensor(8.0))
    assert (seen.factor, alrc.num_clipped) == (0.5, 1)


@WAYS
def test_evaluation_and_a_nan_change_nothing(limit) -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    before = alrc.to_dict()
    assert limit(alrc.eval(), torch.tensor(8.0, requires_grad=True))[1].factor == 1.0
    assert alrc.to_dict() == before
    assert limit(alrc.train(), torch.tensor(math.nan, requires_grad=True))[1].factor == 1.0
    assert alrc.to_dict() == before | {"num_nonfinite": 1}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, -0.0])
def test_the_reported_value_is_the_losses_own_whatever_it_is(loss) -> None:
    raw = torch.tensor(loss, requires_grad=True)
    out, _ = limit_gradient(ALRC(num_stddev=3, scale="linear"), raw)
    assert out.view(torch.int32) == raw.view(torch.int32)


def test_kept_is_the_limited_over_the_raw_sum_since_the_last_look() -> None:
    kept = Kept(shape=(2,))
    kept.add(torch.tensor([8.0, 0.0]), torch.tensor([4.0, 0.0]))
    kept.add(torch.tensor([2.0, math.nan]), torch.tensor([2.0, math.nan]))
    assert kept.take().tolist() == [pytest.approx(0.6), 1.0]
    assert kept.take().tolist() == [1.0, 1.0]


def test_scalars_are_the_state_by_name() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    assert [x.item() for x in scalars(ALRC(num_stddev=3, scale="linear")).values()] == [
        math.inf,
        0.0,
        0.0,
        0.0,
        0.0,
    ]
    for loss in (1.0, 8.0, math.nan, 2.0):
        alrc(torch.tensor(loss, requires_grad=True))
    shown = {name: x.item() for name, x in scalars(alrc).items()}
    assert shown == {
        "limit": alrc.threshold.item(),
        "mean": alrc.mean.item(),
        "stddev": pytest.approx(math.sqrt(alrc.variance.item())),
        "clipped_fraction": pytest.approx(1 / 3),
        "nonfinite": 1.0,
    }


def test_the_names_of_the_former_module_go_on() -> None:
    loss = torch.tensor(8.0, requires_grad=True)
    assert (
        root.limit_gradient(ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear"), loss)
        == 0.5
    )
    loss.backward()
    assert loss.grad == 0.5
    assert root.scalars is scalars
