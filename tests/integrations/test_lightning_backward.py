"""The callback for Lightning: backward passes that are hooked, by hand, or two in a batch."""

import pytest
import torch
from lightning_modules import (
    LEARNING_RATE,
    NUM_BATCHES,
    QUIET_PYTREE,
    SETTINGS,
    Batches,
    Recorder,
    Regression,
    TwoLosses,
    assert_same_steps,
    fit,
    mixed_float16,
    train_twins,
)
from reference import Reference
from torch.nn.functional import mse_loss

from alrc.integrations.lightning import ALRCCallback
from alrc.torch import ALRC

pytestmark = pytest.mark.filterwarnings(QUIET_PYTREE)


# Losses that were hooked, or go backward twice


def cached_loss(net, batch) -> torch.Tensor:
    """A leaf whose own hook runs the real backward pass, as of losses with cached gradients."""
    x, y = batch
    with torch.no_grad():
        outputs = net(x)
    outputs.requires_grad_()
    loss = mse_loss(outputs, y)
    (gradient,) = torch.autograd.grad(loss, outputs)

    def backward(weight: torch.Tensor) -> None:
        with torch.enable_grad():
            (net(x) * gradient * weight).sum().backward()

    loss = loss.detach().requires_grad_()
    loss.register_hook(backward)
    return loss


class Cached(Regression):
    def loss(self, batch) -> torch.Tensor:
        return cached_loss(self.net, batch)


class CachedByHand(Cached):
    automatic_optimization = False

    def training_step(self, batch, batch_idx) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.limit(self.loss(batch)))
        optimizer.step()


@pytest.mark.parametrize("module", [Cached, CachedByHand])
@pytest.mark.parametrize("precision", [{}, {"plugins": mixed_float16}])
def test_a_loss_whose_hook_runs_the_real_backward_pass_is_limited(module, precision) -> None:
    _, recorder, _ = train_twins(module, **precision)
    # By hand: the same steps with the gradient of the loss itself, times the oracle's factor.
    net, reference, near = Regression().net, Reference(**SETTINGS), {"rtol": 1e-5, "atol": 1e-5}
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE)
    for step, (x, y) in enumerate([] if precision else [*Batches(), *Batches()]):
        loss = mse_loss(net(x), y)
        (clipped,) = reference([loss.item()])
        optimizer.zero_grad()
        (loss * clipped.factor).backward()
        for ours, p in zip(recorder.gradients[step], net.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, **near)
        optimizer.step()


class Twice(TwoLosses):
    """Each loss goes backward twice, and both gradients add up."""

    def training_step(self, batch, batch_idx) -> None:
        optimizer = self.optimizers()[0]
        loss = mse_loss(self.nets[0](batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(self.limits[0](loss), retain_graph=True)
        self.manual_backward(self.limits[1](loss))
        optimizer.step()


@pytest.mark.parametrize("two", [False, True])
def test_each_pass_of_a_loss_that_goes_backward_twice_has_one_factor(two) -> None:
    callbacks = [ALRCCallback(**SETTINGS)]
    if two:
        callbacks = [ALRCCallback(**SETTINGS, name=str(k), backward=k) for k in range(2)]
    alrcs = [ALRC(**SETTINGS) for _ in callbacks]
    ours, theirs = Recorder(*(callback.alrc for callback in callbacks)), Recorder(*alrcs)
    fit(Twice(), *callbacks, ours)
    fit(Twice(alrcs[0], alrcs[-1]), theirs)
    assert_same_steps(ours.steps, theirs.steps)
    assert alrcs[0].num_clipped > 2


class LooksFirst(Regression):
    """A backward of its own that differentiates the loss before it goes backward."""

    def backward(self, loss, *args, **kwargs) -> None:
        torch.autograd.grad(loss, self.net.parameters(), retain_graph=True)
        loss.backward()


def test_a_gradient_that_is_only_looked_at_does_not_take_the_factor_off() -> None:
    ours, theirs = ALRCCallback(**SETTINGS), ALRCCallback(**SETTINGS)
    looking, plain = Recorder(ours.alrc), Recorder(theirs.alrc)
    fit(LooksFirst(), ours, looking)
    fit(Regression(), theirs, plain)
    assert_same_steps(looking.steps, plain.steps)
    assert ours.alrc.num_clipped > 2


# Manual optimization


def test_mixed_float16_of_manual_optimization_is_undone_too() -> None:
    first, second = ALRCCallback(**SETTINGS, name="a", backward=0), ALRC(**SETTINGS)
    ours, theirs = Recorder(first.alrc), Recorder(second)
    fit(TwoLosses(), first, ours, plugins=mixed_float16())
    fit(TwoLosses(second), theirs, plugins=mixed_float16())
    assert_same_steps(ours.steps, theirs.steps)
    assert first.alrc.num_clipped > 2


def test_two_callbacks_keep_a_limit_for_each_of_two_losses() -> None:
    callbacks = [ALRCCallback(**SETTINGS, name=str(k), backward=k) for k in range(2)]
    alrcs = [ALRC(**SETTINGS) for _ in range(2)]
    ours, theirs = Recorder(*(callback.alrc for callback in callbacks)), Recorder(*alrcs)
    fit(TwoLosses(), *callbacks, ours)
    fit(TwoLosses(*alrcs), theirs)
    assert_same_steps(ours.steps, theirs.steps)
    assert all(alrc.num_clipped > 2 for alrc in alrcs)
    assert alrcs[1].mean > 10 * alrcs[0].mean


def test_one_callback_limits_every_backward_pass_of_a_batch() -> None:
    callback, alrc = ALRCCallback(**SETTINGS), ALRC(**SETTINGS)
    ours, theirs = Recorder(callback.alrc), Recorder(alrc)
    fit(TwoLosses(), callback, ours)
    fit(TwoLosses(alrc, alrc), theirs)
    assert_same_steps(ours.steps, theirs.steps)
    assert alrc.num_losses == 2 * 2 * NUM_BATCHES
    assert alrc.num_clipped > 2
