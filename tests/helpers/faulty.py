"""Tasks and arms that do what they must not, or what is rare."""

import collections
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import tiny
import torch
from stackable import Dense
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from alrc.lab.api import Arm, Networks, Outcome, Picture, Training


@dataclass(frozen=True)
class Faulty(tiny.Line):
    """A task with one fault."""

    fault: str = ""

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        endless = super().batches(seed, batch_size, start)
        return islice(endless, 6) if self.fault == "batches end" else endless

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Any:
        loss = super().step(networks, batch).losses["loss"]
        steps = {
            "nothing": None,
            "no losses": {},
            "a list": [loss],
            "no loss": {"loss": loss[:0]},
            "a number": {"loss": 3.0},
            "detached": {"loss": loss.detach()},
            "slash": {"a/b": loss},
            "logged like a loss": Outcome({"loss": loss}, {"x.raw": loss}),
            "loss like a logged": {"logged.x": loss},
        }
        return steps.get(self.fault, {"loss": loss})

    def describe(self) -> dict[str, Any]:
        return {"number": np.int64(3)} if self.fault == "describe" else {}

    def combine(self, phase: str, losses: Mapping[str, Tensor]) -> Tensor:
        return losses["loss"] if self.fault == "combine" else super().combine(phase, losses)

    def pictures(self, networks: Networks) -> Iterable[Picture]:
        pixels = np.full((2, 3), 0.5)
        broken = np.array([[0.5, np.nan], [np.inf, -np.inf]])
        pictures = {
            "twice": [Picture("a", "One.", pixels), Picture("a", "Another.", pixels)],
            "picture slash": [Picture("a/b", "One.", pixels)],
            "picture shape": [Picture("a", "One.", np.zeros((3, 4, 4)))],
            "picture NaN": [Picture("a", "One.", broken)],
        }
        return pictures.get(self.fault, [])


@dataclass(frozen=True)
class Milestones(tiny.Line):
    """A schedule that keeps what is neither list nor dict, and which PyTorch can read."""

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        return {"step": MultiStepLR(optimizers["step"], [5, 9])}


@dataclass(frozen=True)
class Dicing(tiny.Line):
    """Draws from every generator there is, also for its weights."""

    def build(self, seed: int) -> Networks:
        networks = {"line": nn.Sequential(nn.Linear(1, 1))}
        nn.init.constant_(networks["line"][0].bias, random.random() + np.random.rand())
        return networks

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Any:
        factor = random.random() + np.random.rand() + torch.rand(())
        return {"loss": factor * super().step(networks, batch).losses["loss"]}

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        return {"slope error": random.random(), "sureness": np.random.rand()}


@dataclass
class Keeping(Arm):
    """An arm that keeps something that checkpoints can't."""

    what: Literal["deque", "number of NumPy", "function"] = "deque"

    def begin(self, device: torch.device) -> None:
        kept = {"deque": collections.deque([1.0]), "number of NumPy": np.float32(1)}
        self.past = {"values": [1.0, kept.get(self.what, lambda: 1)]}


@dataclass
class Remembering(Arm):
    """Keeps a sum of its losses, beside the state of a generator of its own."""

    def begin(self, device: torch.device) -> None:
        self.sums = torch.zeros(7, device=device)
        self.drawn = torch.Generator().manual_seed(0).get_state()

    def limit(self, name: str, losses: Tensor) -> Tensor:
        self.sums += losses.detach().mean()
        return losses


@dataclass
class Unlimited(Arm):
    """An arm with a default that JSON does not know."""

    most: float = float("inf")


@dataclass
class Detaching(Arm):
    """Leaves nothing to train with."""

    def limit(self, name: str, losses: Tensor) -> Tensor:
        return losses.detach()


@dataclass
class DicingArm(Arm):
    """Draws from NumPy's generator, which runs that are trained together share."""

    def limit(self, name: str, losses: Tensor) -> Tensor:
        return losses * float(np.random.rand())


@dataclass(frozen=True)
class Ending(Dense):
    """Batches end, those of each seed elsewhere."""

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Any]:
        return islice(super().batches(seed, batch_size, start), 6 + seed)
