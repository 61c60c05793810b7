"""ALRC within one step: norm clipping, loss scaling, accumulation; claims of docs/interplay.md."""

import copy
import math

import pytest
import torch
from reference import Reference
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from training_steps import (
    CALM,
    F32,
    PROSE,
    START,
    after,
    assert_state_is_that_of,
    gradient,
    scripted,
    toy,
)

from alrc.torch import ALRC

# The order of one step


def test_the_whole_step_is_that_of_a_plain_loop() -> None:
    net, batches = toy(steps=24)
    plain = copy.deepcopy(net)
    alrc, reference = ALRC(1.0, 0.9, warmup=2, scale="linear"), Reference(1.0, 0.9, warmup=2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    norms = []
    for group in zip(batches[::2], batches[1::2], strict=True):
        optimizer.zero_grad()
        for x, y in group:
            loss = alrc(F.mse_loss(net(x), y))
            scaler.scale(loss / 2).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(net.parameters(), 0.4)
        scaler.step(optimizer)
        scaler.update()

        total = [torch.zeros_like(p) for p in plain.parameters()]
        for x, y in group:
            loss = F.mse_loss(plain(x), y)
            (clipped,) = reference([loss.item()])
            for sum_, g in zip(total, torch.autograd.grad(loss, plain.parameters()), strict=True):
                sum_ += clipped.factor * g / 2
        norms.append(math.sqrt(sum(g.square().sum().item() for g in total)))
        with torch.no_grad():
            for p, g in zip(plain.parameters(), total, strict=True):
                p -= 0.1 * min(1.0, 0.4 / (norms[-1] + 1e-6)) * g
        assert_state_is_that_of(alrc, reference)
        for ours, expected in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert min(norms) < 0.4 < max(norms)
    assert scaler.get_scale() > 256.0
    assert 0 < alrc.num_clipped < alrc.num_losses


# Norm clipping


@pytest.mark.parametrize("loss", [8.0, 10.0])  # factors 1 / 2 and 0.4
def test_beneath_an_active_norm_clip_one_loss_per_batch_gives_the_same_gradient(loss) -> None:
    torch.manual_seed(0)
    direction = torch.randn(20) * 1000
    steps = []
    for alrc in (ALRC(**START), nn.Identity()):
        weight = torch.zeros(20, requires_grad=True)
        alrc(loss + direction @ weight).backward()
        assert clip_grad_norm_([weight], 1.0) > 100
        steps.append(weight.grad)
    torch.testing.assert_close(*steps, rtol=F32, atol=0.0)
    assert steps[0].norm().item() == pytest.approx(1.0, rel=F32)
    assert torch.equal(*steps) == (loss == 8.0)  # bit for bit for a power of two


def test_beneath_an_active_norm_clip_moments_and_limit_go_on_as_ever() -> None:
    net, batches = toy(steps=20)
    twin = copy.deepcopy(net)
    alrc, reference = ALRC(1.0, 0.9, warmup=2, scale="linear"), Reference(1.0, 0.9, warmup=2)
    for x, y in batches:
        loss = F.mse_loss(net(x), y)
        reference([loss.item()])
        for model, value in ((net, alrc(loss)), (twin, F.mse_loss(twin(x), y))):
            model.zero_grad()
            value.backward()
            assert clip_grad_norm_(model.parameters(), 1e-3) > 1e-3
            torch.optim.SGD(model.parameters(), 10.0).step()
        assert_state_is_that_of(alrc, reference)
        for ours, expected in zip(net.parameters(), twin.parameters(), strict=True):
            # clip_grad_norm_ adds 1e-6 to the norm before it divides by it.
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert alrc.num_clipped >= 3


@pytest.mark.parametrize(
    ("max_norm", "length"),
    [(100.0, 5.0), (8.0, 5.0), (4.0, 4.0)],
    ids=["inactive", "inactive after ALRC only", "active"],
)
def test_where_the_norm_clip_is_not_active_alrc_acts_alone(max_norm, length) -> None:
    weight = torch.zeros(2, requires_grad=True)
    loss = 8 + torch.tensor([6.0, 8.0]) @ weight  # a gradient of length 10
    ALRC(**START)(loss).backward()  # and 5 after ALRC
    clip_grad_norm_([weight], max_norm)
    expected = torch.tensor([0.6, 0.8]) * length
    torch.testing.assert_close(weight.grad, expected, rtol=F32, atol=0.0)


def test_beneath_an_active_norm_clip_one_loss_per_example_turns_the_gradient() -> None:
    directions = []
    for alrc in (nn.Identity(), ALRC(**START)):
        weight = torch.zeros(2, requires_grad=True)
        losses = torch.tensor([8.0, 1.0]) + torch.tensor([12.0, 8.0]) * weight
        alrc(losses).sum().backward()
        clip_grad_norm_([weight], 1.0)
        directions.append(weight.grad)
    for got, expected in zip(directions, ([12.0, 8.0], [6.0, 8.0]), strict=True):
        expected = torch.tensor(expected) / math.hypot(*expected)
        torch.testing.assert_close(got, expected, rtol=F32, atol=0.0)


# Loss scaling


def test_limiting_before_scaling_is_training_without_a_scaler() -> None:
    runs = []
    for enabled in (False, True):
        net, batches = toy(steps=12, dtype=torch.float32)
        alrc, states, scales = ALRC(1.0, 0.9, warmup=2, scale="linear"), [], []
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3, enabled=enabled)
        for x, y in batches:
            optimizer.zero_grad()
            scaler.scale(alrc(F.mse_loss(net(x), y))).backward()
            scaler.step(optimizer)
            scaler.update()
            states.append([t.clone() for t in (*net.parameters(), *alrc.buffers())])
            scales.append(scaler.get_scale())
        runs.append(states)
    assert scales[-1] == 256.0 * 2**4
    assert alrc.num_clipped > 0
    for plain, scaled in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


def test_limiting_after_scaling_takes_a_new_scale_for_an_outlier() -> None:
    alrc, reference = ALRC(num_stddev=3, scale="linear"), Reference()
    weight = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=40)
    factors = []
    for value in CALM * 50:
        optimizer.zero_grad()
        alrc(scaler.scale(scripted(value, weight))).backward()  # wrong
        (clipped,) = reference([value * scaler.get_scale()])
        scaler.unscale_(optimizer)
        factors.append(weight.grad.item() / value)
        assert factors[-1] == pytest.approx(clipped.factor, rel=1e-5)
        scaler.step(optimizer)
        scaler.update()
        assert_state_is_that_of(alrc, reference)
    assert factors[:40] == pytest.approx([1.0] * 40, rel=F32)  # no outlier among these losses
    assert f"{factors[41]:.2f}" == "0.72"  # the first 1.25 after the scale has doubled
    assert "0.72 of its gradient" in PROSE
    assert alrc.num_clipped > 10
    assert after(CALM * 50, ALRC(num_stddev=3, scale="linear")).num_clipped == 0  # right


def test_a_constant_scale_is_harmless_with_the_automatic_start_only() -> None:
    losses = [*CALM * 20, 100.0]
    for settings, factors_agree in (({}, True), (START, False)):
        factors = []
        for scale in (1.0, 1024.0):
            alrc = ALRC(**settings)
            for loss in losses:
                leaf = torch.tensor(loss * scale, requires_grad=True)
                factors.append(gradient(alrc(leaf), leaf).item())
        assert factors[40] < 0.05
        assert (factors[:41] == factors[41:]) == factors_agree


def test_a_step_that_the_scaler_skips_has_moved_the_moments() -> None:
    alrc = ALRC(**START)
    weight = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([weight], 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    scaler.scale(alrc(scripted(3.0, weight))).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight == 0.0  # skipped: the scaled gradient was infinite
    assert scaler.get_scale() == 2.0**126
    assert alrc.num_updates == 1
    assert alrc.mean.item() == pytest.approx(1 + 0.001 * 2, rel=F32)


# Accumulation


def test_accumulated_batches_are_limited_one_by_one() -> None:
    alrc, reference = ALRC(decay=0.9, **START), Reference(decay=0.9, **START)
    weight, expected = torch.zeros((), dtype=torch.float64, requires_grad=True), 0.0
    for value in (1.0, 30.0, 2.0, 50.0):
        (alrc(scripted(value, weight)) / 4).backward()
        (clipped,) = reference([value])
        expected += value * clipped.factor / 4
        assert weight.grad.item() == pytest.approx(expected, rel=1e-5)
        assert_state_is_that_of(alrc, reference)
    assert alrc.num_clipped == 2


def test_the_decay_counts_calls_so_its_kth_root_remembers_as_many_steps() -> None:
    by_step, by_batch = ALRC(decay=0.9, **START), ALRC(decay=0.9 ** (1 / 4), **START)
    for value in (1.5, 0.5, 2.0, 1.0, 0.25):
        for _ in range(4):
            by_batch(torch.tensor(value))
        by_step(torch.tensor(value))
        torch.testing.assert_close(by_batch.mean, by_step.mean, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(by_batch.mu2, by_step.mu2, rtol=1e-5, atol=0.0)
    assert (by_step.num_updates, by_batch.num_updates) == (5, 20)


def test_dividing_first_takes_a_shorter_last_group_for_an_outlier() -> None:
    wrong, right = ALRC(num_stddev=3, scale="linear"), ALRC(num_stddev=3, scale="linear")
    groups = [4] * 10 + [1]  # 41 batches
    for size in groups:
        for value, _ in zip(CALM * 2, range(size), strict=False):
            wrong(torch.tensor(value) / size)
            right(torch.tensor(value)) / size
    assert wrong.num_clipped == 1
    assert right.num_clipped == 0
