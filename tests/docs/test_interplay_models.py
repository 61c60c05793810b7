"""ALRC beside gradient penalties, checkpointing and copies of models: docs/interplay.md."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint
from training_steps import CALM, F32, PROSE, START, after, gradient, scripted, toy

from alrc.torch import ALRC

# Gradient penalties


def critic_loss_and_penalty(w: torch.Tensor):
    """D(x) = w x**2 / 2 at fake 3, real 1 and between 2: loss 8 and penalty 9 at w = 2."""

    def critic(x):
        return w * x**2 / 2

    between = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(between), between, create_graph=True)
    return critic(torch.tensor(3.0)) - critic(torch.tensor(1.0)), (slope.abs() - 1) ** 2


# At w = 2: d loss / dw = 9/2 - 1/2, and d penalty / dw = 2 (w x - 1) x.
LOSS, LOSS_SLOPE, PENALTY, PENALTY_SLOPE = 8.0, 4.0, 9.0, 12.0


@pytest.mark.parametrize("which", ["total", "critic only", "none"])
def test_a_gradient_penalty_has_the_derivative_found_by_hand(which) -> None:
    w = torch.tensor(2.0, requires_grad=True)
    alrc, (loss, penalty) = ALRC(**START), critic_loss_and_penalty(w)
    assert (loss.item(), penalty.item()) == (LOSS, PENALTY)
    total, expected = {
        "total": lambda: (
            alrc(loss + 10 * penalty),
            4 / (LOSS + 10 * PENALTY) * (LOSS_SLOPE + 10 * PENALTY_SLOPE),
        ),
        "critic only": lambda: (
            alrc(loss) + 10 * penalty,
            4 / LOSS * LOSS_SLOPE + 10 * PENALTY_SLOPE,
        ),
        "none": lambda: (loss + 10 * penalty, LOSS_SLOPE + 10 * PENALTY_SLOPE),
    }[which]()
    assert gradient(total, w).item() == pytest.approx(expected, rel=F32)
    assert alrc.num_updates == (which != "none")


@pytest.mark.parametrize("form", ["one loss", "several", "masked"])
def test_double_backward_through_alrc_takes_the_factor_for_a_constant(form) -> None:
    alrc, x = ALRC(**START), torch.tensor(2.0, requires_grad=True)
    loss = x**3  # 8: factor 1 / 2
    if form == "one loss":
        limited = alrc(loss)
    else:
        losses = torch.stack([loss, x.detach()])
        limited = alrc(losses, mask=None if form == "several" else torch.ones(2)).sum()
    (slope,) = torch.autograd.grad(limited, x, create_graph=True)
    assert slope.item() == 0.5 * 3 * 2**2
    (slope**2).backward()  # d/dx (f 3 x**2)**2 = 2 (f 3 x**2) (f 6 x)
    assert x.grad.item() == 2 * (0.5 * 12) * (0.5 * 12)
    assert alrc.num_updates == 1


def test_limiting_the_sum_keeps_the_weight_of_the_penalty_and_limiting_the_parts_does_not() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    loss, penalty = critic_loss_and_penalty(w)
    scales = [torch.ones((), requires_grad=True) for _ in range(2)]  # of the two parts
    loss, penalty = loss.detach() * scales[0], penalty.detach() * scales[1]
    total = ALRC(**START)(loss + 10 * penalty)
    in_sum = torch.autograd.grad(total, scales, retain_graph=True)
    parts = torch.autograd.grad(ALRC(**START)(loss) + 10 * ALRC(**START)(penalty), scales)
    assert (in_sum[1] / in_sum[0]).item() == pytest.approx(10 * PENALTY / LOSS, rel=F32)
    expected = 10 * (4 / PENALTY) / (4 / LOSS)  # the weight that acts instead of 10
    assert (parts[1] / parts[0] * LOSS / PENALTY).item() == pytest.approx(expected, rel=F32)
    assert f"{expected:.1f} instead of 10" in PROSE


# Activation checkpointing


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_outside_a_checkpointed_region_alrc_is_exact(use_reentrant) -> None:
    runs = []
    for checkpointed in (False, True):
        net, batches = toy(steps=16, dtype=torch.float32)
        alrc, states = ALRC(1.0, 0.9, warmup=2, scale="linear"), []
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for x, y in batches:
            x = x.clone().requires_grad_()  # what use_reentrant=True needs to have gradients
            out = checkpoint(net, x, use_reentrant=use_reentrant) if checkpointed else net(x)
            optimizer.zero_grad()
            alrc(F.mse_loss(out, y)).backward()
            optimizer.step()
            states.append([t.clone() for t in (*net.parameters(), *alrc.buffers())])
        runs.append(states)
    assert alrc.num_updates == 16
    assert alrc.num_clipped > 0
    for plain, with_checkpoint in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, with_checkpoint, strict=True))


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("loss", [2.0, 8.0], ids=["within the limit", "limited"])
def test_inside_a_checkpointed_region_alrc_is_refused_in_words(use_reentrant, loss) -> None:
    alrc, weight = ALRC(**START), torch.zeros((), requires_grad=True)

    def region(weight):
        return alrc(scripted(loss, weight)).square()

    result = checkpoint(region, weight, use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError) as error:
        result.backward()
    assert str(error.value) == (
        "ALRC: a loss must meet ALRC once, in the forward pass; got a call during the backward "
        "pass, where activation checkpointing, or a compiler short of memory, computes again what "
        "is inside of it. Call alrc(loss) outside of torch.utils.checkpoint.checkpoint(), and "
        "outside of what is compiled with an activation_memory_budget below 1."
    )
    assert weight.grad is None


@pytest.mark.parametrize(("loss", "slope"), [(2.0, 2.0), (8.0, 4.0)])
def test_at_the_very_end_of_a_region_alrc_may_be_met_once_and_is_exact_then(loss, slope) -> None:
    alrc, weight = ALRC(**START), torch.zeros((), requires_grad=True)

    def region(weight):  # computed again up to the last tensor that the backward pass needs
        return alrc(scripted(loss, weight))

    checkpoint(region, weight, use_reentrant=False).backward()
    assert weight.grad.item() == slope
    assert alrc.num_updates == 1


# Averaged weights and copies


class Model(nn.Module):
    """A model that holds its ALRC and returns its loss."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.alrc = ALRC(**settings)

    def forward(self, x):
        return self.alrc(self.net(x).square().mean())


def averaged(use_buffers: bool):
    """ALRC of a model, and of its average, after each of 41 updates."""
    model = Model()
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=use_buffers
    )
    for loss in [*CALM * 20, 50.0]:
        after([loss], model.alrc)
        average.update_parameters(model)
        yield model.alrc, average.module.alrc


def test_an_averaged_model_holds_a_copy_of_the_state() -> None:
    for calls, (ours, copied) in enumerate(averaged(use_buffers=False), 1):
        assert copied is not ours
        assert copied.num_updates == calls
        assert copied.to_dict() == ours.to_dict()
    assert copied.num_clipped == 1


def test_use_buffers_averages_the_state_into_one_that_never_was() -> None:
    *_, (ours, averaged_state) = averaged(use_buffers=True)
    assert ours.num_updates == 41
    assert averaged_state.num_updates == 1  # 0.999 * 1 + 0.001 * 41, cut to an integer
    assert ours.threshold < 2
    assert averaged_state.threshold == math.inf  # as if in its warm-up


def test_a_deepcopy_takes_the_state_along_and_goes_on_by_itself() -> None:
    model = Model(**START)
    after([3.0, 9.0], model.alrc)
    twin = copy.deepcopy(model)
    before = model.alrc.to_dict()
    assert twin.alrc.to_dict() == before
    assert before["num_clipped"] == 1
    after([9.0], twin.alrc)
    assert twin.alrc.num_clipped == 2
    assert model.alrc.to_dict() == before


def test_update_bn_moves_no_moments() -> None:
    torch.manual_seed(0)
    model = Model(**START)
    before, statistics = model.alrc.to_dict(), model.net[1].running_mean.clone()
    update_bn([torch.randn(8, 2) + 5 for _ in range(3)], model)
    assert model.alrc.to_dict() == before
    assert not torch.equal(model.net[1].running_mean, statistics)
