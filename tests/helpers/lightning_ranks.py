"""Trains on two processes, as a user starts it: ``python lightning_ranks.py FOLDER``.

Lightning starts the second process itself. Each writes what it saw to ``FOLDER/<rank>.json``. With
``FOLDER ddp_fork``, or another such strategy, it starts both; what ALRCCallback said, and what it
has learnt in the first of them and in the program that started them, is printed.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from alrc.integrations.lightning import ALRCCallback
from alrc.torch import ALRC

SETTINGS = {"scale": "linear", "num_stddev": 1.0, "decay": 0.9, "warmup": 3}
LEARNING_RATE, ACCUMULATED, LOGGED = 0.05, 2, 3
ONE_EPOCH = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def batches(rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Losses of the second process are larger, so that a limit of its own would be another."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(16, 4, 3, generator=generator)
    y = torch.randn(16, 4, 1, generator=generator) * (1 + rank)
    y[5 + rank :: 6] *= 5  # outliers, now of the one, now of the other
    return list(zip(x, y, strict=True))


def net() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def train_dataloader(self):
        return Batches(batches(self.global_rank))

    def training_step(self, batch):
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), LEARNING_RATE)


class Batches(list):
    """One loader of all of them; Lightning would take a plain list for a loader in each item."""


class Recorder(Callback):
    def __init__(self, alrc: ALRC) -> None:
        self.alrc, self.steps, self.states = alrc, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx > 0:  # not right after the batch, where reading would wait for the other rank
            self.states.append(self.alrc.to_dict())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        parameters = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        loss = outputs["loss"].item() * ACCUMULATED
        self.steps.append({"loss": loss, "parameters": parameters.tolist()})

    def on_fit_end(self, trainer, pl_module) -> None:
        # Read in a way that waits for nothing: it has to be there already.
        self.states.append({name: buffer.item() for name, buffer in self.alrc.named_buffers()})


def train(folder: Path) -> None:
    callback = ALRCCallback(**SETTINGS)
    recorder = Recorder(callback.alrc)
    trainer = Trainer(
        callbacks=[callback, recorder],
        strategy="ddp",
        devices=2,
        accumulate_grad_batches=ACCUMULATED,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=LOGGED,
        **ONE_EPOCH,
    )
    trainer.fit(Regression())
    path = folder / f"{trainer.global_rank}.json"
    path.write_text(json.dumps({"steps": recorder.steps, "states": recorder.states}))


class Printer(Callback):
    """Is pickled together with the callback, and has the same ALRC in the other process, too."""

    def __init__(self, alrc: ALRC) -> None:
        self.alrc = alrc

    def setup(self, trainer, pl_module, stage) -> None:
        warnings.showwarning = lambda message, *_: print(message, flush=True)
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", "ALRCCallback")

    def on_fit_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            print(json.dumps(self.alrc.to_dict()), flush=True)


def train_elsewhere(strategy: str) -> None:
    callback = ALRCCallback(**SETTINGS)
    callbacks = [callback, Printer(callback.alrc)]
    trainer = Trainer(callbacks=callbacks, strategy=strategy, devices=2, logger=False, **ONE_EPOCH)
    trainer.fit(Regression())
    print(json.dumps(callback.alrc.to_dict()))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[2:]:
        train_elsewhere(sys.argv[2])
    else:
        train(Path(sys.argv[1]))
