"""ALRC beside optimizers, schedules and several losses: each claim of docs/interplay.md."""

import copy
import math

import pytest
import torch
from reference import Reference
from torch import nn
from training_steps import (
    CALM,
    F32,
    LIMIT,
    PAGE,
    PROSE,
    START,
    after,
    assert_state_is_that_of,
    gradient,
    row,
    scripted,
)

from alrc.torch import ALRC

# Adam and AdaGrad


def adam_by_hand(gradients):
    """Lengths of the steps in units of the learning rate."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        yield m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)


def adagrad_by_hand(gradients):
    total = 0.0
    for g in gradients:
        total += g * g
        yield g / (math.sqrt(total) + 1e-10)


BEFORE, OUTLIER, AFTERWARDS = 3000, 100.0, 1000
STREAM = CALM * (BEFORE // 2) + [OUTLIER] + CALM * (AFTERWARDS // 2)


def steps_of(optimizer, alrc, losses, lr=1e-3) -> list[float]:
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer, lengths = optimizer([weight], lr), []
    for value in losses:
        optimizer.zero_grad()
        alrc(scripted(value, weight)).backward()
        before = weight.item()
        optimizer.step()
        lengths.append((before - weight.item()) / lr)
    return lengths


def gradients_by_hand(limited: bool, losses) -> list[float]:
    reference = Reference()
    return [loss * (reference([loss])[0].factor if limited else 1.0) for loss in losses]


@pytest.mark.parametrize("limited", [False, True], ids=["without ALRC", "with ALRC"])
def test_one_outlier_shortens_adams_next_thousand_steps_and_alrc_prevents_it(limited) -> None:
    gradients = gradients_by_hand(limited, STREAM)
    expected = list(adam_by_hand(gradients))
    got = steps_of(
        torch.optim.Adam, ALRC(num_stddev=3, scale="linear") if limited else nn.Identity(), STREAM
    )
    assert got == pytest.approx(expected, rel=LIMIT)

    def mean(steps):
        return sum(steps) / len(steps)

    usual = mean(expected[BEFORE - 100 : BEFORE])
    v = sum(g * g * 0.001 * 0.999 ** (BEFORE - t) for t, g in enumerate(gradients[: BEFORE + 1]))
    relative = [f"{expected[BEFORE] / usual:.2f}"]
    for first, last in ((50, 100), (901, 1001)):  # the momentum of the outlier is gone by then
        relative.append(f"{mean(expected[BEFORE + first : BEFORE + last]) / usual:.2f}")
    assert row("with ALRC" if limited else "without", f"{v:.2f}", *relative) in PAGE


def test_adam_is_blind_to_a_constant_scale() -> None:
    small = steps_of(torch.optim.Adam, nn.Identity(), CALM * 10)
    large = steps_of(torch.optim.Adam, nn.Identity(), [100 * x for x in CALM * 10])
    assert small == pytest.approx(large, rel=1e-6)  # but for its eps of 1e-8


@pytest.mark.parametrize(("limited", "share"), [(False, "0.49"), (True, "1.00")])
def test_adagrad_never_forgets_an_outlier(limited, share) -> None:
    losses = STREAM[: BEFORE + 3]
    gradients = gradients_by_hand(limited, losses)
    got = steps_of(
        torch.optim.Adagrad,
        ALRC(num_stddev=3, scale="linear") if limited else nn.Identity(),
        losses,
    )
    expected = list(adagrad_by_hand(gradients))
    assert got == pytest.approx(expected, rel=LIMIT)
    assert f"{expected[BEFORE + 2] / expected[BEFORE - 1]:.2f}" == share
    assert f"{share} of their length" in PROSE


# Schedules, and the next task


def test_while_losses_fall_a_schedule_trains_as_without_alrc() -> None:
    weights = []
    for alrc in (ALRC(num_stddev=3, scale="linear"), nn.Identity()):
        weight = torch.full((2,), 3.0, requires_grad=True)
        optimizer = torch.optim.SGD([weight], 0.1)
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=20)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [20])
        losses = []
        for _ in range(80):
            loss = weight.square().sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            alrc(loss).backward()
            optimizer.step()
            schedule.step()
        assert losses == sorted(losses, reverse=True)
        weights.append(weight.detach().clone())
        if isinstance(alrc, ALRC):
            assert alrc.num_clipped == 0
            assert alrc.threshold < math.inf
    assert torch.equal(*weights)
    assert weights[0].norm() < 1e-2


def test_alrcs_warmup_is_counted_in_its_own_calls() -> None:
    alrc = ALRC(num_stddev=3, scale="linear")
    thresholds = [after([loss], alrc).threshold.item() for loss in CALM * 6]
    assert [math.isinf(threshold) for threshold in thresholds] == [True] * 9 + [False] * 3


@pytest.mark.parametrize(("scale", "factor_of_old_state"), [(10.0, None), (0.01, 1.0)])
def test_another_loss_needs_a_fresh_state(scale, factor_of_old_state) -> None:
    alrc, reference = after(CALM * 500, ALRC(num_stddev=3, scale="linear")), Reference()
    stale, task = copy.deepcopy(alrc), [scale * x for x in CALM * 50]
    alrc.reset_parameters()
    after(task, stale)
    for loss in task:
        after([loss], alrc)
        reference([loss])
        assert_state_is_that_of(alrc, reference)
    assert alrc.num_clipped == 0
    leaf = torch.tensor(50.0 * scale, requires_grad=True)
    assert gradient(alrc(leaf), leaf).item() == pytest.approx(0.035, rel=1e-3)
    if factor_of_old_state is None:  # tenfold losses: the old limit turns good ones down
        assert f"{stale.num_clipped.item()} of the first 100" in PROSE
    else:  # losses of a hundredth: it lets the outlier pass
        assert gradient(stale(leaf), leaf).item() == factor_of_old_state


# GANs


def test_one_alrc_for_two_losses_mixes_their_moments() -> None:
    generator, discriminator = CALM * 100, [10 * x for x in CALM * 100]
    own, shared = ALRC(num_stddev=3, scale="linear"), ALRC(num_stddev=3, scale="linear")
    own_reference, shared_reference = Reference(), Reference()
    for g, d in zip(generator, discriminator, strict=True):
        after([g], own)
        after([g, d], shared)
        own_reference([g])
        for loss in (g, d):
            shared_reference([loss])
        assert_state_is_that_of(own, own_reference)
        assert_state_is_that_of(shared, shared_reference)
    assert own.threshold.item() == pytest.approx(own_reference.upper, rel=1e-5)
    assert shared.threshold.item() == pytest.approx(shared_reference.upper, rel=1e-5)
    assert f"{own_reference.upper:.2f} becomes {shared_reference.upper:.1f}" in PROSE
    outlier = torch.tensor(8.0)  # ten times the generator's losses
    assert own(outlier) < 2
    assert shared(outlier) == 8.0


def test_groups_keep_the_moments_of_each_loss_apart() -> None:
    alrc = ALRC(num_groups=2, num_stddev=3, scale="linear")
    references = Reference(), Reference()
    for small in CALM * 50:
        for group, loss in enumerate((small, 10 * small)):
            alrc(torch.tensor(loss), group=group)
            references[group]([loss])
        expected = [reference.mean for reference in references]
        assert alrc.mean.tolist() == pytest.approx(expected, rel=1e-5)
    limits = [reference.upper for reference in references]
    assert alrc.threshold.tolist() == pytest.approx(limits, rel=1e-5)


BELOW_0 = {"mu1_start": -10.0, "mu2_start": 101.0}  # mean -10, standard deviation 1, limit -7


def values_and_factors(losses, **settings):
    leaf = torch.tensor(losses, requires_grad=True)
    limited = ALRC(3, scale="linear", **settings)(leaf)
    return limited.tolist(), gradient(limited.sum(), leaf).tolist()


def test_where_losses_can_be_negative_center_mean_scales_and_center_zero_does_not() -> None:
    values, factors = values_and_factors([-8.0, -1.0, 3.0], **BELOW_0)
    assert values == [-8.0, -7.0, -7.0]
    assert factors == [1.0, 1.0, 2.0**-126]  # all of the gradient, or next to nothing
    values, factors = values_and_factors([-8.0, -1.0, 3.0], center="mean", **BELOW_0)
    assert values == [-8.0, -7.0, -7.0]
    assert factors == pytest.approx([1.0, 3 / 9, 3 / 13], rel=F32)


# What to look at


def test_alrc_leaves_the_loss_it_was_given_as_it_was() -> None:
    loss = torch.tensor(8.0, requires_grad=True) * 1
    losses = torch.tensor([8.0, 1.0], requires_grad=True) * 1
    alrc = ALRC(**START)
    assert alrc(loss).item() == 4.0
    assert alrc(losses).max().item() < 8.0
    assert loss.item() == 8.0
    assert losses.tolist() == [8.0, 1.0]


def test_reduce_lr_on_plateau_needs_the_loss_before_limiting() -> None:
    raw = [50.0, 45.0, 40.0, 35.0, 30.0]  # it gets better at every step
    reference = Reference(decay=0.9, **START)
    by_hand = [reference([loss])[0].value for loss in raw]
    assert by_hand == sorted(by_hand)  # as the limit follows, limited losses get worse
    cuts = []
    for log_limited in (False, True):
        alrc = ALRC(decay=0.9, **START)
        optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        for value, expected in zip(raw, by_hand, strict=True):
            limited = alrc(torch.tensor(value)).item()
            assert limited == pytest.approx(expected, rel=1e-5)
            schedule.step(limited if log_limited else value)
        cuts.append(optimizer.param_groups[0]["lr"])
    assert cuts == pytest.approx([1.0, 1e-4])
