"""Tasks and arms for ensembles: dense and convolutional networks, arms with and without a form
for several members."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

from alrc.lab.api import Arm, Metric, Outcome, Picture, Task, Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec

ERROR = Metric("error")
RIVALS = [
    "clip-grad-value clip_value=0.1",
    "agc",
    "autoclip window=20",
    "zclip warmup=5 max_norm=1.0",
    "adagc warmup=5",
    "skip-step window=20 num_stddev=2.0",
    "metaseq",
    "stable-adamw",
    "autoclip + metaseq",
]


@dataclass(frozen=True)
class Dense(Task):
    """Regression with heavy-tailed noise, which is infinite for seeds from 1000 on."""

    metrics = (ERROR,)
    stackable: ClassVar[bool] = True
    width: Annotated[int, "Of both layers."] = 64
    decaying: Annotated[bool, "Whether the learning rate decays."] = False

    def build(self, seed: int) -> dict[str, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {
                "body": nn.Sequential(
                    nn.Linear(10, self.width), nn.ReLU(), nn.Linear(self.width, self.width)
                ),
                "head": nn.Sequential(nn.ReLU(), nn.Linear(self.width, 1)),
            }

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Any]:
        for step in count(start):
            rng = np.random.default_rng([seed, step])
            x = rng.standard_normal((batch_size, 10), dtype=np.float32)
            y = np.sin(x[:, :1]) + rng.standard_t(1.5, (batch_size, 1)).astype(np.float32)
            y[0] = np.inf if seed >= 1000 and step >= 5 else y[0]
            yield {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}

    def step(self, networks: Any, batch: Any) -> Mapping[str, Tensor] | Outcome:
        outputs = networks["head"](networks["body"](batch["x"]))
        losses = (outputs - batch["y"]).square().mean(1)
        return Outcome({"loss": losses}, {"largest": outputs.abs().amax()})

    def evaluate(self, networks: Any) -> Mapping[str, float]:
        x = next(self.batches(77, 64, 0))["x"]
        outputs = networks["head"](networks["body"](x))
        return {"error": float((outputs - x[:, :1].sin()).square().mean())}

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        return {"step": ExponentialLR(optimizers["step"], 0.99)} if self.decaying else {}

    def pictures(self, networks: Any) -> Sequence[Picture]:
        return [Picture("weights", "The first weights.", networks["body"][0].weight.detach().abs())]


@dataclass(frozen=True)
class Convolutional(Task):
    """Two layers, a bias that is not trained, and two losses, one of them for the whole batch."""

    metrics = (ERROR,)
    stackable: ClassVar[bool] = True

    def build(self, seed: int) -> dict[str, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)
            )
        layers[2].bias.requires_grad_(False)
        return {"net": layers}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Any]:
        for step in count(start):
            rng = np.random.default_rng([seed, step])
            x = rng.standard_normal((batch_size, 1, 6, 6), dtype=np.float32)
            noise = rng.standard_t(1.5, (batch_size, 1, 1, 1)).astype(np.float32)
            noise[0] = np.inf if seed >= 1000 and step >= 5 else noise[0]
            yield torch.from_numpy(x), torch.from_numpy(x.clip(0) + noise)

    def step(self, networks: Any, batch: Any) -> Mapping[str, Tensor]:
        x, y = batch
        outputs = networks["net"](x)
        return {
            "squared": (outputs - y).square().mean((1, 2, 3)),
            "size": outputs.abs().mean(),
        }

    def evaluate(self, networks: Any) -> Mapping[str, float]:
        x, _ = next(self.batches(77, 16, 0))
        return {"error": float((networks["net"](x) - x.clip(0)).square().mean())}


def replace(parameter: nn.Parameter) -> None:
    """Puts other tensors in the place of its gradient and its values."""
    assert parameter.grad is not None
    parameter.grad = 0.5 * parameter.grad
    parameter.data = 0.99 * parameter.data


@dataclass
class Wary(Arm):
    """Skips the step where the gradient is a good deal larger than before, and lowers the learning
    rate for a while; draws random numbers; has no stacked form."""

    factor: Annotated[float, "How much larger."] = 1.3

    def begin(self, device: torch.device) -> None:
        self.usual, self.rate, self.noise = -1.0, 0.0, 0.0
        self.moving = torch.zeros(())

    def threshold(self, name: str) -> Tensor | None:
        return self.moving if self.noise > 0.3 else None  # now and then

    def limit(self, name: str, losses: Tensor) -> Tensor:
        self.noise = float(torch.rand(()))
        self.moving.fill_(100 * self.usual)
        return losses * (1 + 0.01 * self.noise)

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        self.loss = float(loss)
        norm = float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        self.step_ok = self.usual < 0 or norm < self.factor * self.usual
        self.usual = norm if self.usual < 0 else 0.9 * self.usual + 0.1 * norm
        optimizer.param_groups[0]["lr"] *= 1.001 if self.step_ok else 0.99
        self.rate = optimizer.param_groups[0]["lr"]
        replace(parameters[0])

    def logged(self) -> Mapping[str, float | Tensor]:
        return {"rate": self.rate, "noise": self.noise, "loss": self.loss}


@dataclass
class Skipping(Arm):
    """Skips about every other step but the first; has a stacked form."""

    def begin(self, device: torch.device) -> None:
        self.calls = 0

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        self.calls, self.loss = self.calls + 1, loss
        last = [p.grad for p in parameters if p.grad is not None][-1]
        replace(parameters[0])
        self.step_ok = (last.flatten()[0] > 0) | (self.calls == 1)  # as good as at random

    def logged(self) -> Mapping[str, float | Tensor]:
        return {"loss": self.loss}

    def stacked(self, members: int) -> Arm:
        return _StackedSkipping()


@dataclass
class _StackedSkipping(Skipping):
    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        self.calls, self.loss = self.calls + 1, loss
        last = [p.grad for p in parameters if p.grad is not None][-1]
        replace(parameters[0])
        self.step_ok = (last.flatten(1)[:, 0] > 0) | (self.calls == 1)


def spec(task: str, arm: str, seed: int, **training: Any) -> Spec:
    """A run of a task of this file, and of an arm of this file or an installed one."""
    folder, here = Path(__file__).parent, Path(__file__).name
    arm = " + ".join(f"{here}:{x}" if x[0].isupper() else x for x in arm.split(" + "))
    task = f"{here}:{task}" if task[0].isupper() else task
    return Spec(
        Named.parse("task", task, folder),
        Named.parse("arm", arm, folder),
        Training(**{"steps": 20, "batch_size": 4, "learning_rate": 1e-3, **training}),
        seed,
    )
