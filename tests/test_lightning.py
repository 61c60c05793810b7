"""The callback for Lightning, against ALRC in training_step and against the formula by hand.

Two oracles. The one is the very same ALRC written into the user's module: every parameter and every
moment must then be the same bit for bit after every batch. The other shares no code with the
callback, ALRC or Lightning: a plain loop in PyTorch with the factors of ``reference.py``.

Divisions for accumulation are by 2 or 4 where bits are compared: the callback undoes them, and
L / 3 * 3 is not always L in floating point.
"""

import csv
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning_ranks
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from reference import Reference
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import mse_loss

from alrc.integrations import lightning as integration
from alrc.integrations.lightning import ALRCCallback
from alrc.torch import ALRC

# Lightning 2.6 asks PyTorch 2.13's pytree in a way that this one deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")

SETTINGS = {"num_stddev": 1.0, "decay": 0.9, "warmup": 3}
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
LEARNING_RATE = 0.05
NUM_BATCHES = 16


class Batches:
    """Batches with outliers; like a resumable DataLoader, it knows which come next."""

    def __init__(self, nan_at: int | None = None, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(NUM_BATCHES, 4, 3, generator=generator)
        self.y = torch.randn(NUM_BATCHES, 4, 1, generator=generator)
        self.y[4::5] *= 10  # outliers
        if nan_at is not None:
            self.y[nan_at] = math.nan
        self.next = 0

    def __len__(self) -> int:
        return NUM_BATCHES

    def __iter__(self):
        start, self.next = self.next, 0
        for index in range(start, NUM_BATCHES):
            self.next = (index + 1) % NUM_BATCHES
            yield self.x[index], self.y[index]

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state) -> None:
        self.next = state["next"]


class Regression(LightningModule):
    """A user's module. Only the twin to compare with gets an ALRC, and calls it."""

    def __init__(self, alrc: ALRC | None = None, seed: int = 0, optimizer=torch.optim.SGD) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Linear(3, 1)
        self.limit = alrc or torch.nn.Identity()
        self.optimizer = optimizer

    def loss(self, batch) -> torch.Tensor:
        return mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        return self.limit(self.loss(batch))

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters(), LEARNING_RATE)


class TwoLosses(LightningModule):
    """Manual optimization with an optimizer for each of two losses, the second much larger."""

    automatic_optimization = False

    def __init__(self, first: ALRC | None = None, second: ALRC | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.nets = torch.nn.ModuleList(torch.nn.Linear(3, 1) for _ in range(2))
        self.limits = torch.nn.ModuleList(alrc or torch.nn.Identity() for alrc in (first, second))

    def training_step(self, batch, batch_idx) -> None:
        for i, optimizer in enumerate(self.optimizers()):
            loss = mse_loss(self.nets[i](batch[0]), batch[1].roll(i)) * 100**i
            optimizer.zero_grad()
            self.manual_backward(self.limits[i](loss))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), 1e-3) for net in self.nets]


class Recorder(Callback):
    """Copies, after every batch, all there is to compare."""

    def __init__(self, *alrcs: ALRC) -> None:
        self.alrcs, self.steps, self.losses, self.gradients = alrcs, [], [], []

    def on_after_backward(self, trainer, pl_module) -> None:
        gradients = [p.grad.clone() for p in pl_module.parameters() if p.grad is not None]
        self.gradients.append(gradients)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        values = [p.detach().clone() for p in pl_module.parameters()]
        for alrc in self.alrcs:
            values += [value.clone() for value in alrc.state_dict().values()]
        self.steps.append(values)
        if outputs:
            self.losses.append(outputs["loss"] * trainer.accumulate_grad_batches)


def fit(module, *callbacks, batches=None, ckpt_path=None, **options) -> Trainer:
    trainer = Trainer(callbacks=list(callbacks), **{**QUIET, "max_epochs": 2, **options})
    trainer.fit(module, batches or Batches(), ckpt_path=ckpt_path)
    return trainer


def assert_same_steps(steps, expected) -> None:
    assert len(steps) == len(expected) > 0
    for index, (ours, theirs) in enumerate(zip(steps, expected, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), f"step {index}"


def train_twins(module=Regression, prepare=lambda module: None, batches=Batches, **options):
    """Trains with the callback and with ALRC in training_step; asserts that all steps are equal.

    Options that keep a state are given as functions that make them.
    """
    callback, inside = ALRCCallback(**SETTINGS), ALRC(**SETTINGS)
    recorders = []
    for alrc, twin, callbacks in (
        (callback.alrc, module(), [callback]),
        (inside, module(inside), []),
    ):
        prepare(twin)
        recorder = Recorder(alrc)
        made = {k: v() if callable(v) else v for k, v in options.items()}
        fit(twin, *callbacks, recorder, batches=batches(), **made)
        recorders.append(recorder)
    assert_same_steps(recorders[0].steps, recorders[1].steps)
    assert callback.alrc.num_clipped > 2
    return callback, *recorders


# What it does to the training


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


def mixed_float16() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", growth_interval=3))


@pytest.mark.parametrize("number", [1, 2])
def test_the_scaler_of_float16_is_undone_while_its_scale_moves(number) -> None:
    scales = []

    class Scales(Regression):
        def on_before_zero_grad(self, optimizer) -> None:
            scales.append(self.trainer.precision_plugin.scaler.get_scale())

    train_twins(Scales, plugins=mixed_float16, accumulate_grad_batches=number)
    changes = [b / a for a, b in itertools.pairwise(scales)]
    assert {0.5, 2.0} <= set(changes)


def test_mixed_float16_of_manual_optimization_is_undone_too() -> None:
    first, second = ALRCCallback(**SETTINGS, name="a", backward=0), ALRC(**SETTINGS)
    ours, theirs = Recorder(first.alrc), Recorder(second)
    fit(TwoLosses(), first, ours, plugins=mixed_float16())
    fit(TwoLosses(second), theirs, plugins=mixed_float16())
    assert_same_steps(ours.steps, theirs.steps)
    assert first.alrc.num_clipped > 2


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


# Manual optimization


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


# Checkpoints


class Saving(Callback):
    """Saves a checkpoint where ModelCheckpoint(every_n_train_steps=...) would."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [9, NUM_BATCHES, NUM_BATCHES + 5])
def test_resumed_training_is_bit_for_bit_the_uninterrupted_run(step, tmp_path) -> None:
    """At the end of an epoch, and in the middle of one if the loader can resume, as here."""
    path, optimizer = tmp_path / "half.ckpt", torch.optim.Adam
    straight, resumed = ALRCCallback(**SETTINGS), ALRCCallback(**SETTINGS)
    whole, rest = Recorder(straight.alrc), Recorder(resumed.alrc)
    fit(Regression(optimizer=optimizer), straight, whole, Saving(path, step), max_epochs=3)
    module = Regression(optimizer=optimizer, seed=1)
    fit(module, resumed, rest, ckpt_path=str(path), max_epochs=3)
    assert_same_steps(rest.steps, whole.steps[step:])
    before = torch.load(path)["callbacks"][straight.state_key]["num_clipped"]
    assert 0 < before < resumed.alrc.num_clipped


def test_a_checkpoint_loads_with_weights_only_and_holds_each_callback(tmp_path) -> None:
    callbacks = [ALRCCallback(name="a", backward=0), ALRCCallback(name="b", backward=1)]
    trainer = fit(TwoLosses(), *callbacks)
    trainer.save_checkpoint(tmp_path / "both.ckpt")
    states = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert list(states) == ["ALRCCallback[name=a]", "ALRCCallback[name=b]"]
    for callback, state in zip(callbacks, states.values(), strict=True):
        fresh = ALRCCallback(name="c")
        fresh.load_state_dict(state)
        assert fresh.alrc.to_dict() == callback.alrc.to_dict()
    assert callbacks[0].alrc.mean != callbacks[1].alrc.mean


def test_a_saved_state_does_not_move_on_with_the_training() -> None:
    callback = ALRCCallback(mu1_start=1.0, mu2_start=2.0)
    state = callback.state_dict()
    callback.alrc(torch.tensor(3.0))
    assert (state["mean"], state["num_losses"]) == (1.0, 0)


def test_a_damaged_state_is_refused_in_words() -> None:
    callback = ALRCCallback()
    state = {**callback.state_dict(), "mean": torch.tensor(math.nan)}
    with pytest.raises(RuntimeError) as error:
        callback.load_state_dict(state)
    assert str(error.value) == (
        "Error(s) in loading state_dict for ALRC:\n\tALRC: mean must be finite in float32; got "
        "nan. The checkpoint is damaged or not one of ALRC's: load another, or remove ALRC's keys "
        "from it and load it with strict=False to start afresh."
    )


# Several processes


def test_two_processes_of_ddp_share_one_limit_at_every_step(tmp_path) -> None:
    """The moments are those of the losses of both, and the gradients the mean of the two."""
    script = Path(lightning_ranks.__file__)
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    states = [rank["states"] for rank in ranks]
    assert states[0] == states[1]
    assert len(states[0]) == len(ranks[0]["steps"]) == 16
    net, number = lightning_ranks.net(), lightning_ranks.ACCUMULATED
    optimizer = torch.optim.SGD(net.parameters(), lightning_ranks.LEARNING_RATE)
    reference = Reference(**lightning_ranks.SETTINGS)
    data = zip(*map(lightning_ranks.batches, range(2)), strict=True)
    for step, batches in enumerate(data):
        losses = [mse_loss(net(x), y) for x, y in batches]
        clipped = reference([loss.item() for loss in losses])
        loss = sum(loss * c.factor for loss, c in zip(losses, clipped, strict=True))
        (loss / 2 / number).backward()
        if (step + 1) % number == 0:
            optimizer.step()
            optimizer.zero_grad()
        for rank, loss in zip(ranks, losses, strict=True):
            assert rank["steps"][step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
            parameters = torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()
            assert rank["steps"][step]["parameters"] == pytest.approx(parameters, rel=1e-5)
        assert states[0][step] == pytest.approx(
            {
                "mean": reference.mean,
                "variance": reference.variance,
                "num_updates": step + 1,
                "num_losses": 2 * (step + 1),
                "num_clipped": reference.num_clipped,
                "num_nonfinite": 0,
            },
            rel=1e-5,
        )
    assert reference.num_clipped > 2
    rows, interval = logged(tmp_path), number * lightning_ranks.LOGGED
    for row, state in zip(rows, states[0][interval - 1 :: interval], strict=True):
        assert row["alrc/mean"] == pytest.approx(state["mean"])
        fraction = state["num_clipped"] / state["num_losses"]
        assert row["alrc/clipped_fraction"] == pytest.approx(fraction)
    assert fraction > 0


def test_one_process_starts_no_collectives_even_after_many_did() -> None:
    callback = ALRCCallback()
    callback.alrc.sync = True
    fit(Regression(), callback, max_epochs=1)
    assert callback.alrc.sync is False


def test_the_moments_go_to_the_device_of_the_training() -> None:
    callback = ALRCCallback()
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    callback.on_fit_start(SimpleNamespace(strategy=strategy, world_size=1), Regression())
    assert {buffer.device.type for buffer in callback.alrc.buffers()} == {"meta"}


# Logging


def logged(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("number", [1, 2])
def test_six_metrics_are_logged_when_the_trainer_logs(number, tmp_path) -> None:
    settings = {**SETTINGS, "warmup": 4}
    callback, recorder = ALRCCallback(**settings, name="mine"), Recorder()

    class Careful(Regression):
        def on_before_optimizer_step(self, optimizer) -> None:
            for p in self.parameters():
                p.grad.nan_to_num_(0.0)

    logger = CSVLogger(tmp_path, name="", version="")
    options = {"logger": logger, "log_every_n_steps": 3, "max_epochs": 1}
    batches = Batches(nan_at=5)
    options["accumulate_grad_batches"] = number
    fit(Careful(), callback, recorder, batches=batches, **options)
    reference, expected = Reference(**settings), []
    for index, loss in enumerate(recorder.losses):
        reference([loss.item()])
        row = {
            "epoch": 0,
            "step": index // number,
            "mine/loss": loss.item(),
            "mine/limit": reference.upper,
            "mine/mean": reference.mean,
            "mine/stddev": math.sqrt(reference.variance),
            "mine/clipped_fraction": reference.num_clipped / reference.num_losses,
            "mine/nonfinite": reference.num_nonfinite,
        }
        if (index + 1) % (3 * number) == 0:
            expected.append(row)
    rows = logged(tmp_path)
    assert len(rows) == len(expected) == NUM_BATCHES // (3 * number)
    for row, values in zip(rows, expected, strict=True):
        assert row == pytest.approx(values, rel=1e-5, nan_ok=True)
    # What the rows must have shown: no limit at first, a limited loss, and the NaN
    assert number == 2 or rows[0]["mine/limit"] == math.inf
    assert rows[-1]["mine/clipped_fraction"] > 0
    assert math.isnan(rows[1 // number]["mine/loss"])


def test_lightning_is_handed_metrics_only_at_the_steps_it_logs(tmp_path) -> None:
    """Six calls of ``log`` would take longer than the training step of a small network."""
    steps = []

    class Noting(Regression):
        def log_dict(self, *arguments, **options) -> None:
            steps.append(self.trainer.global_step)
            super().log_dict(*arguments, **options)

    logger = CSVLogger(tmp_path, name="", version="")
    fit(Noting(), ALRCCallback(), logger=logger, log_every_n_steps=5)
    assert steps == [5, 10, 15, 20, 25, 30]
    assert [row["step"] for row in logged(tmp_path)] == [4, 9, 14, 19, 24, 29]
    fit(Noting(), ALRCCallback(), max_epochs=1, log_every_n_steps=5)  # without a logger
    fit(Noting(), ALRCCallback(), max_epochs=1, logger=logger, log_every_n_steps=0)
    assert len(steps) == 6


def test_the_last_step_of_a_run_that_is_stopped_is_logged(tmp_path) -> None:
    class Stopping(Regression):
        def training_step(self, batch, batch_idx):
            self.trainer.should_stop = batch_idx == 6
            return super().training_step(batch, batch_idx)

    logger = CSVLogger(tmp_path, name="", version="")
    callback = ALRCCallback()
    fit(Stopping(), callback, logger=logger, log_every_n_steps=5, max_epochs=1)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == [4, 6]
    assert rows[1]["alrc/mean"] == pytest.approx(callback.alrc.mean.item())


@pytest.mark.parametrize("module", [Regression, TwoLosses])
def test_a_resumed_run_logs_what_the_uninterrupted_run_does(module, tmp_path) -> None:
    path = tmp_path / "half.ckpt"

    def rows(folder, *callbacks, **options):
        logger = CSVLogger(tmp_path, name=folder, version="")
        options = {"logger": logger, "log_every_n_steps": 5, **options}
        fit(module(), ALRCCallback(**SETTINGS), *callbacks, **options)
        return logged(tmp_path / folder)

    per_batch = 1 if module is Regression else 2  # steps of optimizers
    straight = rows("straight", Saving(path, 22 * per_batch))
    assert [row["step"] for row in straight] == [4, 9, 14, 19, 24, 29]
    assert rows("resumed", ckpt_path=str(path)) == straight[4:]


def test_a_loss_that_is_not_there_at_the_steps_that_are_logged_is_logged(tmp_path) -> None:
    """As where a GAN trains its generator only at every third batch."""

    class Alternating(TwoLosses):
        def training_step(self, batch, batch_idx) -> None:
            optimizer = self.optimizers()[0]
            loss = mse_loss(self.nets[0](batch[0]), batch[1])
            losses.append(loss.item())
            for _ in range(2 if batch_idx % 3 == 0 else 1):
                optimizer.zero_grad()
                self.manual_backward(loss, retain_graph=True)
                optimizer.step()

    callback, losses = ALRCCallback(name="rare", backward=1), []
    logger = CSVLogger(tmp_path, name="", version="")
    fit(Alternating(), callback, logger=logger, log_every_n_steps=5, max_epochs=1)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == [4, 9, 14]
    seen = [losses[step] for step in (3, 9, 12)]
    assert [row["rare/loss"] for row in rows] == pytest.approx(seen)
    assert rows[0]["rare/mean"] == pytest.approx((losses[0] + losses[3]) / 2)


def test_two_callbacks_log_under_their_names(tmp_path) -> None:
    callbacks = [ALRCCallback(name=name, backward=k) for k, name in enumerate(("one", "two"))]
    logger = CSVLogger(tmp_path, name="", version="")
    fit(TwoLosses(), *callbacks, logger=logger, log_every_n_steps=4, max_epochs=1)
    rows = logged(tmp_path)
    names = ("loss", "limit", "mean", "stddev", "clipped_fraction", "nonfinite")
    assert set(rows[0]) == {"epoch", "step"} | {f"{c.name}/{n}" for c in callbacks for n in names}
    assert [row["step"] for row in rows] == [3, 7, 11, 15]
    assert all(row["two/mean"] > 10 * row["one/mean"] for row in rows)


# Lightning warns everybody who writes this kind of training_step.
@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument in the `training_step`")
def test_metrics_are_logged_where_lightning_knows_no_batch_size(tmp_path) -> None:
    class Iterating(Regression):
        def training_step(self, dataloader_iter):
            return self.loss(next(dataloader_iter)[0])

    logger = CSVLogger(tmp_path, name="", version="")
    fit(Iterating(), ALRCCallback(), logger=logger, log_every_n_steps=8, max_epochs=1)
    assert [row["step"] for row in logged(tmp_path)] == [7, 15]


def test_no_number_is_read_from_a_device() -> None:
    """Reading one would wait for a GPU; of these tensors it is an error, for they hold no data."""
    metrics = {}
    with FakeTensorMode():
        trainer = SimpleNamespace(
            accumulate_grad_batches=2,
            log_every_n_steps=1,
            global_step=1,
            should_stop=False,
            loggers=[object()],
            precision_plugin=SimpleNamespace(scaler=torch.amp.GradScaler("cpu")),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            world_size=1,
        )
        module = SimpleNamespace(
            automatic_optimization=True, log_dict=lambda values, **_: metrics.update(values)
        )
        callback = ALRCCallback()
        callback.on_fit_start(trainer, module)
        for _ in range(2):
            weight = torch.ones((), requires_grad=True)
            callback.on_train_batch_start(trainer, module, None, 0)
            loss = trainer.precision_plugin.scaler.scale(weight / 2)
            callback.on_before_backward(trainer, module, loss)
            loss.backward()
            callback.on_train_batch_end(trainer, module, None, None, 0)
        with pytest.raises(DataDependentOutputException):
            metrics["alrc/loss"].item()
    assert len(metrics) == 6


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"name": None},
            TypeError,
            "ALRCCallback: name must be a str, because metrics are logged under it; got None. Type "
            "name='generator', say.",
        ),
        (
            {"backward": True},
            TypeError,
            "ALRCCallback: backward must be a whole number, or None for every backward pass; got "
            "True. Type backward=0 for the first manual_backward of each batch.",
        ),
        (
            {"backward": "d"},
            TypeError,
            "ALRCCallback: backward must be a whole number, or None for every backward pass; got "
            "'d'. Type backward=0 for the first manual_backward of each batch.",
        ),
        (
            {"backward": -1},
            ValueError,
            "ALRCCallback: backward must be 0 or more, because passes are counted from the first "
            "of each batch; got -1. Type backward=0 for the first.",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, kind, message) -> None:
    with pytest.raises(kind) as error:
        ALRCCallback(**arguments)
    assert str(error.value) == message


def test_settings_are_those_of_alrc() -> None:
    callback = ALRCCallback(2.0, 0.5, 1.0, 4.0, num_stddev_below=1.0, warmup=7, center="mean")
    expected = ALRC(2.0, 0.5, 1.0, 4.0, num_stddev_below=1.0, warmup=7, center="mean")
    assert callback.alrc.settings == expected.settings
    for settings in ({"num_stddev": 0.0}, {"mu1_start": 1.0}):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - compared with ALRC's, word for word
            ALRC(**settings)
        with pytest.raises(ValueError) as ours:  # noqa: PT011
            ALRCCallback(**settings)
        assert str(ours.value) == str(error.value)


def test_a_choice_of_backward_is_refused_where_there_is_but_one() -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared word for word
        fit(Regression(), ALRCCallback(backward=0))
    assert str(error.value) == (
        "ALRCCallback: backward must be None for a module with automatic optimization, which has "
        "one backward pass for each loss; got 0. Leave backward out, or set "
        "automatic_optimization = False in the module."
    )


def test_without_lightning_the_module_says_what_to_install(monkeypatch) -> None:
    path = integration.__file__
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    spec = importlib.util.spec_from_file_location("alone", path)
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.integrations.lightning needs Lightning, which is not installed here. Install it "
        'with: pip install "alrc[lightning]"'
    )


# The example


def test_the_example_runs_and_leaves_no_file_behind(tmp_path) -> None:
    script = Path(__file__).parents[1] / "examples/with_lightning.py"
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert run.returncode == 0, run.stderr
    limited, of, number, *rest = run.stdout.split()
    assert (of, rest) == ("of", ["losses", "were", "limited"])
    assert 0 < int(limited) < int(number) / 10
    assert list(tmp_path.iterdir()) == []
    assert len(script.read_text().splitlines()) < 60
