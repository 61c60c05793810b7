"""A user's modules, data and callbacks for Lightning, and the twins that are compared.

Twins: a training with the callback, and one with ALRC in the module's ``training_step``. Every
parameter and every moment must be the same bit for bit after every batch.
"""

import csv
import math
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.functional import mse_loss

from alrc.integrations.lightning import ALRCCallback
from alrc.torch import ALRC

# Lightning 2.6 asks PyTorch 2.13's pytree in a way that this one deprecates.
QUIET_PYTREE = r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning"
SETTINGS = {"scale": "linear", "num_stddev": 1.0, "decay": 0.9, "warmup": 3}
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


def mixed_float16() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", growth_interval=3))


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


class Saving(Callback):
    """Saves a checkpoint where ModelCheckpoint(every_n_train_steps=...) would."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def logged(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
