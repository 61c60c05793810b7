"""What every trainer needs: the gradient of a loss limited, its value left, the state shown."""

import math

import pytest
import torch
from reference import Reference

from alrc.integrations.root import limit_gradient, scalars
from alrc.torch import ALRC

SETTINGS = {"num_stddev": 1.5, "decay": 0.9, "warmup": 3}


@pytest.mark.parametrize("center", ["zero", "mean"])
@pytest.mark.parametrize("scale", [1.0, 4.0, torch.tensor(0.25)])
def test_the_gradient_is_that_of_the_oracle_and_the_value_stays(center, scale) -> None:
    alrc, oracle = (make(**SETTINGS, center=center) for make in (ALRC, Reference))
    for step in range(60):
        seen = 1.0 + 0.1 * math.sin(step) + 5.0 * (step % 10 == 9)
        weight = torch.tensor(seen, requires_grad=True)
        loss = weight / scale
        factor = limit_gradient(alrc, loss, scale)
        assert loss.item() == pytest.approx(seen / float(scale))
        (loss * scale).backward()
        (expected,) = oracle([weight.item()])
        assert weight.grad.item() == pytest.approx(expected.factor, rel=1e-4)
        assert factor.item() == pytest.approx(expected.factor, rel=1e-4)
        assert alrc.mean.item() == pytest.approx(oracle.mean, rel=1e-5)
    assert alrc.num_clipped == oracle.num_clipped > 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_loss_of_any_dtype_is_seen_in_float32_at_least(dtype) -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)  # limit 4
    loss = torch.tensor(16.0, dtype=dtype, requires_grad=True)
    factor = limit_gradient(alrc, loss)
    loss.backward()
    assert (factor, loss.grad) == (0.25, 0.25)
    assert (factor.dtype, loss.grad.dtype) == (
        torch.promote_types(dtype, torch.float32),
        dtype,
    )


def test_a_loss_without_gradient_moves_the_moments_alone() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    with torch.no_grad():
        assert limit_gradient(alrc, torch.tensor(8.0)) == 0.5
    assert alrc.num_clipped == 1


def test_evaluation_and_a_nan_change_nothing() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    before = alrc.to_dict()
    assert limit_gradient(alrc.eval(), torch.tensor(8.0, requires_grad=True)) == 1.0
    assert alrc.to_dict() == before
    assert limit_gradient(alrc.train(), torch.tensor(math.nan, requires_grad=True)) == 1.0
    assert alrc.to_dict() == before | {"num_nonfinite": 1}


def test_scalars_are_the_state_by_name() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    assert [x.item() for x in scalars(ALRC()).values()] == [math.inf, 0.0, 0.0, 0.0, 0.0]
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
