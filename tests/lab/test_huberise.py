"""The root of large losses, after ALRC as in the partial-STEM networks, against plain loops."""

import math
from collections.abc import Callable

import loss_oracles as oracles
import numpy as np
import pytest
import torch
from loss_rivals import assert_follows, begun, changed
from torch import Tensor

from alrc.lab.api import Arm
from alrc.lab.arms.alrc import Alrc
from alrc.lab.arms.huber import Huber
from alrc.lab.arms.huberise import Huberise
from alrc.lab.engine.chain import Chain

ORIGINAL = {"mu1_start": 25.0, "mu2_start": 900.0, "per": "batch"}


class Recursion:
    """C(L) = H(ALRC(L)) of one number after another: its value, its slope, and the limit."""

    def __init__(self) -> None:
        self.mu1, self.mu2 = 25.0, 900.0

    def __call__(self, loss: float) -> tuple[float, float, float]:
        limit = self.mu1 + 3 * math.sqrt(self.mu2 - self.mu1**2 + 1e-8)
        limited = loss if loss < limit else limit
        slope = limited / loss
        self.mu1 = 0.999 * self.mu1 + 0.001 * limited
        self.mu2 = 0.999 * self.mu2 + 0.001 * limited**2
        if limited <= 1:
            return limited, slope, limit
        return math.sqrt(limited + 1e-8), slope * 0.5 / math.sqrt(limited + 1e-8), limit


def original(second: str = "batch", members: int | None = None) -> Arm:
    """The chain alone, or its stacked form."""
    arm: Arm | None = Chain([Alrc(**ORIGINAL), Huberise(per=second)])
    if members is not None:
        assert arm is not None
        arm = arm.stacked(members)
    assert arm is not None
    return begun(arm)


def batches(steps: int, shape: tuple[int, ...]) -> list[Tensor]:
    rng = np.random.default_rng(3)
    sizes = rng.lognormal(1.5, 1.5, (steps, *shape[:-1], 1)) * rng.uniform(
        0.5, 1.5, (steps, *shape)
    )
    return [torch.tensor(x, dtype=torch.float32) for x in sizes]


def test_the_first_limit_and_a_loss_far_above_it_are_the_originals() -> None:
    arm = original()
    assert arm.threshold("loss").item() == pytest.approx(74.7494, abs=1e-3)
    value, slope = changed(arm, torch.tensor([1e4]))
    assert value.item() == pytest.approx(8.646, abs=5e-4)
    assert slope.item() == pytest.approx(74.7494 / 1e4 / 2 / 8.646, rel=1e-4)


@pytest.mark.parametrize("second", ["batch", "loss"])
def test_after_a_limited_batch_the_root_is_that_of_its_one_loss(second: str) -> None:
    arm, recursion, limited = original(second), Recursion(), 0
    for losses in batches(300, (4,)):
        limit = arm.threshold("loss").item()
        value, slopes = changed(arm, losses)
        expected, slope, expected_limit = recursion(losses.double().mean().item())
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-4)
        assert limit == pytest.approx(expected_limit, rel=1e-4)
        assert slopes.tolist() == pytest.approx([slope / 4] * 4, rel=1e-4)
        limited += losses.mean().item() > limit
    assert limited > 5


def test_each_member_of_an_ensemble_has_its_own() -> None:
    arm, recursions = original(members=3), [Recursion() for _ in range(3)]
    for losses in batches(200, (3, 4)):
        values, slopes = changed(arm, losses)
        for value, slope, own, recursion in zip(values, slopes, losses, recursions, strict=True):
            expected, expected_slope, _ = recursion(own.double().mean().item())
            assert value.item() == pytest.approx(expected, rel=1e-4)
            assert slope.tolist() == pytest.approx([expected_slope / 4] * 4, rel=1e-4)


def test_losses_of_several_names_have_limits_of_their_own() -> None:
    arm, recursions = original(), {"inner": Recursion(), "outer": Recursion()}
    for step, losses in enumerate(batches(300, (2,))):
        for name, factor in (("inner", 1.0), ("outer", 0.01 if step % 3 else 30.0)):
            own = factor * losses
            expected, _, limit = recursions[name](own.double().mean().item())
            assert arm.threshold(name).item() == pytest.approx(limit, rel=1e-4)
            assert arm.limit(name, own).item() == pytest.approx(expected, rel=1e-4)
    assert recursions["inner"].mu1 != pytest.approx(recursions["outer"].mu1, rel=0.1)


def test_the_mean_of_a_batch_is_taken_before_its_root() -> None:
    losses = torch.tensor([[1.0, 7.0], [0.2, 0.4]])
    value, slopes = changed(begun(Huberise(per="batch")), losses)
    assert value.item() == pytest.approx(math.sqrt(2.15))
    np.testing.assert_allclose(slopes, np.full((2, 2), 0.125 / math.sqrt(2.15)), rtol=1e-6)
    values, _ = changed(begun(Huberise(per="batch").rows(2)), losses)
    assert values.tolist() == pytest.approx([2.0, 0.3])


def test_it_is_continuous_where_it_begins_and_shows_no_limit() -> None:
    for above in (0.2, 1.0, 30.0):
        arm = begun(Huberise(above))
        values = arm.limit("loss", above * torch.tensor([1 - 1e-4, 1 + 1e-4], dtype=torch.float64))
        assert values.tolist() == pytest.approx([above, above], rel=2e-4)
        assert arm.threshold("loss") is None  # so that ALRC's stays the one of a chain


class OfSmallLossesToo(Huberise):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return self.above * (losses / self.above + 1e-8).sqrt()


class OfValueAlone(Huberise):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return losses + (super().change(name, losses) - losses).detach()


class Discontinuous(Huberise):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return torch.where(losses > self.above, (losses + 1e-8).sqrt(), losses)


@pytest.mark.parametrize(
    "faulty",
    [
        lambda: OfSmallLossesToo(0.2),
        lambda: OfValueAlone(0.2),
        lambda: Discontinuous(0.2),
        lambda: Huberise(1.0),
        lambda: Huber(0.2),
    ],
)
def test_a_planted_fault_is_seen(faulty: Callable[[], Arm]) -> None:
    with pytest.raises(AssertionError):
        assert_follows(faulty(), oracles.huberise(0.2))
