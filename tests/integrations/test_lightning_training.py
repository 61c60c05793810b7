"""The callback for Lightning: what it does to a training.

Two oracles. The one is the very same ALRC written into the user's module: every parameter and every
moment must then be the same bit for bit after every batch. The other shares no code with the
callback, ALRC or Lightning: a plain loop in PyTorch with the factors of ``reference.py``.

Divisions for accumulation are by 2 or 4 where bits are compared: the callback undoes them, and
L / 3 * 3 is not always L in floating point.
"""

import itertools

import lightning_ranks
import pytest
import torch
from lightning.pytorch import Trainer
from lightning_modules import (
    LEARNING_RATE,
    NUM_BATCHES,
    QUIET,
    QUIET_PYTREE,
    SETTINGS,
    Batches,
    Recorder,
    Regression,
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


def test_gradients_and_moments_are_those_of_the_formula_by_hand() -> None:
    callback, net, reference = ALRCCallback(**SETTINGS), Regression().net, Reference(**SETTINGS)
    recorder = Recorder(callback.alrc)
    fit(Regression(), callback, recorder)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE)
    # Moments are kept in float32: half a unit in the last place, 6e-8, at each of the 32 steps.
    near = {"rtol": 32 * 6e-8, "atol": 1e-6}
    for step, (x, y) in enumerate([*Batches(), *Batches()]):
        loss = mse_loss(net(x), y)
        (clipped,) = reference([loss.item()])
        optimizer.zero_grad()
        (loss * clipped.factor).backward()
        for ours, p in zip(recorder.gradients[step], net.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, **near)
        optimizer.step()
        weight, bias, mean, variance, *counts = recorder.steps[step]
        torch.testing.assert_close([weight, bias], [p.detach() for p in net.parameters()], **near)
        torch.testing.assert_close(mean.item(), reference.mean, **near)
        torch.testing.assert_close(variance.item(), reference.variance, **near)
        assert counts == [step + 1, step + 1, reference.num_clipped, 0]
    assert reference.num_clipped > 2


def test_the_reported_loss_stays_as_it_was() -> None:
    callback, raw = ALRCCallback(**SETTINGS), []

    class Noting(Regression):
        def loss(self, batch):
            raw.append(super().loss(batch))
            return raw[-1]

    recorder = Recorder()
    fit(Noting(), callback, recorder)
    assert callback.alrc.num_clipped > 2
    assert torch.equal(torch.stack(recorder.losses), torch.stack(raw).detach())


def test_training_is_bit_for_bit_that_with_alrc_in_the_training_step() -> None:
    train_twins()


@pytest.mark.parametrize("number", [2, 4])
def test_accumulated_batches_are_limited_in_the_unit_of_the_loss(number) -> None:
    callback, recorder, _ = train_twins(accumulate_grad_batches=number)
    assert callback.alrc.num_losses == 2 * NUM_BATCHES
    # By hand too: before the first step of the optimizer the losses are known.
    module, reference = Regression(), Reference(**SETTINGS)
    for batch, values in zip(range(number), recorder.steps, strict=False):
        x, y = Batches().x[batch], Batches().y[batch]
        reference([module.loss((x, y)).item()])
        torch.testing.assert_close(values[2].item(), reference.mean, rtol=1e-6, atol=0)


def test_a_last_group_of_fewer_accumulated_batches_is_in_the_unit_of_the_loss_too() -> None:
    # Lightning divides the last 4 of 16 by 12 as well; L / 12 * 12 is off by a rounding error.
    callback, inside = ALRCCallback(**SETTINGS), ALRC(**SETTINGS)
    ours, theirs = Recorder(callback.alrc), Recorder(inside)
    fit(Regression(), callback, ours, accumulate_grad_batches=12)
    fit(Regression(inside), theirs, accumulate_grad_batches=12)
    for step, expected in zip(ours.steps, theirs.steps, strict=True):
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)
    assert callback.alrc.num_clipped > 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precision_makes_no_difference_to_what_is_limited(precision) -> None:
    def prepare(module) -> None:
        if precision == "bf16-true":  # a loss in half precision too
            module.loss = lambda batch: (module.net(batch[0]) - batch[1]).square().mean()

    callback, recorder, _ = train_twins(prepare=prepare, precision=precision)
    assert {value.dtype for value in callback.alrc.state_dict().values()} == {
        torch.float32,
        torch.int64,
    }
    assert (
        recorder.steps[-1][0].dtype
        == {
            "bf16-mixed": torch.float32,
            "bf16-true": torch.bfloat16,
            "64-true": torch.float64,
        }[precision]
    )


@pytest.mark.parametrize("number", [1, 2])
def test_the_scaler_of_float16_is_undone_while_its_scale_moves(number) -> None:
    scales = []

    class Scales(Regression):
        def on_before_zero_grad(self, optimizer) -> None:
            scales.append(self.trainer.precision_plugin.scaler.get_scale())

    train_twins(Scales, plugins=mixed_float16, accumulate_grad_batches=number)
    changes = [b / a for a, b in itertools.pairwise(scales)]
    assert {0.5, 2.0} <= set(changes)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_after_they_are_limited(algorithm) -> None:
    train_twins(gradient_clip_val=0.5, gradient_clip_algorithm=algorithm)


def test_a_compiled_network_trains_the_same() -> None:
    def prepare(module) -> None:
        module.net = torch.compile(module.net, backend="aot_eager")

    train_twins(prepare=prepare)


def test_a_nan_is_counted_and_moves_nothing_else() -> None:
    def prepare(module) -> None:
        def drop_nan(optimizer) -> None:
            for p in module.parameters():
                p.grad.nan_to_num_(0.0)

        module.on_before_optimizer_step = drop_nan

    callback, recorder, _ = train_twins(
        prepare=prepare, batches=lambda: Batches(nan_at=6), max_epochs=1
    )
    before, after = (recorder.steps[step][2:] for step in (5, 6))
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], after[:-1], strict=True))
    assert (before[-1], after[-1], callback.alrc.num_nonfinite) == (0, 1, 1)


# Lightning says so itself, once: a warning about the user's training_step.
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_that_the_module_skips_moves_nothing() -> None:
    class Skipping(Regression):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 5 == 2 else super().training_step(batch, batch_idx)

    callback, recorder, _ = train_twins(Skipping, max_epochs=1)
    assert callback.alrc.num_losses == NUM_BATCHES - 3
    assert_same_steps([recorder.steps[1]], [recorder.steps[2]])


def test_validation_moves_nothing() -> None:
    callback, states = ALRCCallback(**SETTINGS), []

    class Validating(Regression):
        def validation_step(self, batch, batch_idx) -> None:
            self.loss(batch)
            states.append(callback.alrc.to_dict())

    trainer = Trainer(
        callbacks=[callback], max_epochs=1, val_check_interval=8, num_sanity_val_steps=2, **QUIET
    )
    module, batches = Validating(), lightning_ranks.Batches(Batches(seed=1))
    trainer.fit(module, Batches(), batches)
    counts = [state["num_losses"] for state in states]
    assert counts == [0] * 2 + [8] * NUM_BATCHES + [16] * NUM_BATCHES
    end = callback.alrc.to_dict()
    trainer.validate(module, batches, verbose=False)
    assert len(states) == 2 + 3 * NUM_BATCHES
    assert states[-1] == callback.alrc.to_dict() == end
