"""Tasks that say they are stackable and are not, each for another reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from stackable import Dense
from torch import Tensor, nn
from torch.optim import Optimizer

from alrc.lab.api import Arm, Training
from alrc.lab.arms.alrc import Alrc


@dataclass(frozen=True)
class Unwilling(Dense):
    stackable: ClassVar[bool] = False


@dataclass(frozen=True)
class TwoPhases(Dense):
    def phases(self, step: int, training: Training) -> Sequence[str]:
        return ("step", "step")


@dataclass(frozen=True)
class OwnOptimizer(Dense):
    def optimizers(self, networks: Any, training: Training) -> Mapping[str, Optimizer]:
        return super().optimizers(networks, training)


@dataclass(frozen=True)
class Statistics(Dense):
    def build(self, seed: int) -> dict[str, nn.Module]:
        return {**super().build(seed), "head": nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1))}


@dataclass(frozen=True)
class Dropping(Dense):
    def build(self, seed: int) -> dict[str, nn.Module]:
        return {**super().build(seed), "head": nn.Sequential(nn.Dropout(), nn.Linear(8, 1))}


@dataclass(frozen=True)
class Idle(Dense):
    def build(self, seed: int) -> dict[str, nn.Module]:
        return {**super().build(seed), "idle": nn.Linear(1, 1)}


@dataclass(frozen=True)
class Shared(Dense):
    def build(self, seed: int) -> dict[str, nn.Module]:
        networks = super().build(seed)
        return {**networks, "again": networks["head"]}


@dataclass(frozen=True)
class Mixed(Dense):
    def build(self, seed: int) -> dict[str, nn.Module]:
        networks = super().build(seed)
        return {**networks, "head": networks["head"].double()}


@dataclass(frozen=True)
class Numbers(Dense):
    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Any]:
        return ({**batch, "n": 1} for batch in super().batches(seed, batch_size, start))


@dataclass(frozen=True)
class Uneven(Dense):
    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Any]:
        return super().batches(seed, batch_size + seed, start)


@dataclass(frozen=True)
class Reading(Dense):
    def step(self, networks: Any, batch: Any) -> Mapping[str, Tensor]:
        losses = super().step(networks, batch).losses
        return {"loss": losses["loss"] * (1.0 if losses["loss"].mean().item() > 0 else 2.0)}


@dataclass(frozen=True)
class Looking(Dense):
    def step(self, networks: Any, batch: Any) -> Mapping[str, Tensor]:
        weight = networks["body"][0].weight
        return {"loss": weight.square().mean() + super().step(networks, batch).losses["loss"]}


class Scaled(nn.Linear):
    """With something of each seed that is neither parameter nor buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


@dataclass(frozen=True)
class Hidden(Dense):
    def build(self, seed: int) -> dict[str, nn.Module]:
        head = Scaled(8, 1)
        head.scale = 1.0 + seed
        return {**super().build(seed), "head": head}


@dataclass
class Greedy(Arm):
    """Its stacked form changes the learning rate of all other arms."""

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        optimizer.param_groups[0]["lr"] *= 0.9

    def stacked(self, members: int) -> Arm:
        return self


@dataclass
class Removing(Arm):
    """Skips a step in a way that its stacked form can't."""

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        optimizer.zero_grad()
        parameters[0].grad = None

    def stacked(self, members: int) -> Arm:
        return self


@dataclass
class Narrow(Arm):
    """Its stacked form takes the mean over the members too."""

    def limit(self, name: str, losses: Tensor) -> Tensor:
        return losses.mean()

    def stacked(self, members: int) -> Arm:
        return self


@dataclass
class Halved(Alrc):
    """Does something else than the stacked form of what it is derived from."""

    def limit(self, name: str, losses: Tensor) -> Tensor:
        return 0.5 * torch.as_tensor(super().limit(name, losses))
