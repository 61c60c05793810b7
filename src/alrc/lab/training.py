"""One run: a task, trained as a configuration says, with or without ALRC."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from alrc.settings import Settings
from alrc.torch import ALRC

__all__ = ["Run", "RunConfig", "Task", "train"]


class Task(Protocol):
    """What a run learns; everything random in it follows from the seed."""

    def network(self, seed: int) -> nn.Module:
        """The network with its initial weights."""

    def batches(self, seed: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of one training step after the other, without end."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss per example, shape ``(batch_size,)``."""


@dataclass(frozen=True)
class RunConfig:
    """All that fixes a run of a task, checked when it is made.

    Args:
        iterations: Training steps, >= 10.
        batch_size: Examples per step, >= 1.
        optimizer: ``"adam"`` with its default betas and epsilon, or ``"sgd"`` without momentum.
        learning_rate: Step size at the start, > 0.
        num_stddev: Width of ALRC's band in standard deviations, > 0, or None to train without.
        seed: Fixes initial weights, order and augmentation of the examples; >= 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    iterations: int
    batch_size: int = 1
    optimizer: str = "adam"
    learning_rate: float = 0.1 / 128
    num_stddev: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 10:
            raise ValueError(
                "iterations must be at least 10, because a run is judged by its last tenth; got "
                f"{self.iterations}."
            )
        if self.batch_size < 1:
            raise ValueError(
                "batch_size must be at least 1, because it counts the examples of a step; got "
                f"{self.batch_size}."
            )
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer must be 'adam' or 'sgd'; got {self.optimizer!r}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                "learning_rate must be greater than 0 and finite, because it is the size of a "
                f"step; got {self.learning_rate}."
            )
        if self.num_stddev is not None:
            Settings(num_stddev=self.num_stddev)  # checks it and words the error
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1; got {self.seed}.")


@dataclass(frozen=True, eq=False)
class Run:
    """What happened in a run of T iterations of B examples.

    Attributes:
        config: What fixed the run, together with its task.
        losses: Losses before clipping; shape ``(T, B)``, float32.
        limits: Limit on the losses of each step, inf where there was none; shape ``(T,)``, float32.
        clipped: Which losses were limited; shape ``(T, B)``, bool.
    """

    config: RunConfig
    losses: NDArray[np.float32]
    limits: NDArray[np.float32]
    clipped: NDArray[np.bool_]

    @property
    def errors(self) -> NDArray[np.float32]:
        """Training error of each step: the mean loss of its examples before clipping."""
        errors: NDArray[np.float32] = self.losses.mean(axis=1)
        return errors

    @property
    def final_error(self) -> float:
        """Mean error of the last tenth of the run."""
        return float(self.errors[-(self.config.iterations // 10) :].mean(dtype=np.float64))

    @property
    def largest_spike(self) -> float:
        """Largest error after the first fifth of the run."""
        return float(self.errors[self.config.iterations // 5 :].max())


def train(task: Task, config: RunConfig, report: Callable[[int, Run], None] | None = None) -> Run:
    """Trains a network from its initial weights.

    On one machine, with one thread, the same task and configuration give the same run, bit for
    bit.

    Args:
        task: What to learn.
        config: How.
        report: Called after every step with the number of steps done, and the run as far as it
            has come; what lies beyond is still to be written.

    Returns:
        The finished run.
    """
    steps, batch_size = config.iterations, config.batch_size
    run = Run(
        config,
        losses=np.empty((steps, batch_size), np.float32),
        limits=np.full(steps, np.inf, np.float32),
        clipped=np.zeros((steps, batch_size), np.bool_),
    )
    network = task.network(config.seed)
    optimizer = _optimizer(network, config)
    # The paper's schedule: a tenfold fall after each 3.5 million examples.
    schedule = StepLR(optimizer, max(int(10_000 / batch_size * 350), 1), gamma=0.1)
    alrc = None if config.num_stddev is None else ALRC(config.num_stddev)
    batches = task.batches(config.seed, batch_size)
    for step in range(steps):
        inputs, targets = next(batches)
        losses = task.losses(network(inputs), targets)
        run.losses[step] = losses.detach()
        if alrc is not None:
            run.limits[step] = alrc.threshold
            losses = alrc(losses)  # the one line
            run.clipped[step] = losses.detach().numpy() < run.losses[step]
        optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step + 1, run)
    return run


def _optimizer(network: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), config.learning_rate)
    # Fused: one call for all parameters saves a millisecond of a small network's step.
    return torch.optim.Adam(network.parameters(), config.learning_rate, fused=True)
