"""One run: a task, trained as a configuration says, with or without ALRC."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from alrc.lab.arms.original import OriginalALRC
from alrc.settings import Settings
from alrc.torch import ALRC

__all__ = ["Run", "RunConfig", "Storage", "Task", "Trainer", "train"]


class Task(Protocol):
    """What a run learns; everything random in it follows from the seed."""

    def network(self, seed: int) -> nn.Module:
        """The network with its initial weights."""

    def batches(
        self, seed: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of the training steps from ``start`` on, without end."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss per example, shape ``(batch_size,)``."""

    def held_out_error(self, network: nn.Module) -> float:
        """Mean loss over examples that are not trained on."""


class Storage(Protocol):
    """Where a run is kept, so that it can go on after it was stopped."""

    def open_run(self, config: "RunConfig") -> "Run":
        """The stored run as far as it has come, to be written in place."""

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first."""

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the last checkpoint, whole."""


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
        num_stddev_below: The same below the mean, or None for no lower limit.
        mu1_start: ALRC's start; the paper's is 25. None, with ``mu2_start``: automatic.
        mu2_start: ALRC's start; the paper's is 900.
        original: Whether the original repository's 0.997/0.001 form takes the place of ALRC.
        evaluate_every: Steps between evaluations on held-out examples, >= 1, or None for a single
            one at the end.
        device: Where to train, ``"cpu"`` or ``"cuda"``.
        compile: Whether the network goes through ``torch.compile``.

    Raises:
        ValueError: If an argument is out of range.
    """

    iterations: int
    batch_size: int = 1
    optimizer: str = "adam"
    learning_rate: float = 0.1 / 128
    num_stddev: float | None = None
    seed: int = 0
    num_stddev_below: float | None = None
    mu1_start: float | None = None
    mu2_start: float | None = None
    original: bool = False
    evaluate_every: int | None = None
    device: str = "cpu"
    compile: bool = False

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
        limits = (self.num_stddev_below, self.mu1_start, self.mu2_start)
        if self.num_stddev is not None:
            self.settings  # noqa: B018 - checks the numbers and words the error
        elif self.original or any(x is not None for x in limits):
            raise ValueError(
                "num_stddev must be given with num_stddev_below, mu1_start, mu2_start or original, "
                "because they are settings of ALRC; got None. Pass num_stddev=3.0."
            )
        if self.original and any(x is not None for x in limits):
            raise ValueError(
                "original takes num_stddev alone, because its starts are fixed and it has no lower "
                "limit; got num_stddev_below, mu1_start or mu2_start too. Leave them out."
            )
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise ValueError(
                "evaluate_every must be at least 1, because it counts training steps; got "
                f"{self.evaluate_every}."
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1; got {self.seed}.")

    @property
    def settings(self) -> Settings:
        """The settings of ALRC, for a run that has a ``num_stddev``."""
        assert self.num_stddev is not None
        return Settings(
            self.num_stddev,
            mu1_start=self.mu1_start,
            mu2_start=self.mu2_start,
            num_stddev_below=self.num_stddev_below,
        )

    @property
    def evaluations(self) -> list[int]:
        """The steps after which held-out examples are evaluated; the last is the last."""
        every = self.evaluate_every or self.iterations
        return [*range(every, self.iterations, every), self.iterations]


@dataclass(frozen=True, eq=False)
class Run:
    """What happens in a run of T iterations of B examples; NaN where it is still to happen.

    Attributes:
        config: What fixed the run, together with its task.
        losses: Losses before they are limited; shape ``(T, B)``, float32.
        limits: Limit on the losses of each step, inf where there was none; shape ``(T,)``, float32.
        limited: The losses as trained with; shape ``(T, B)``, float32.
        held_out: Errors on held-out examples after ``config.evaluations``; float32.
    """

    config: RunConfig
    losses: NDArray[np.float32]
    limits: NDArray[np.float32]
    limited: NDArray[np.float32]
    held_out: NDArray[np.float32]

    @classmethod
    def shapes(cls, config: RunConfig) -> dict[str, tuple[int, ...]]:
        """The shape of each array."""
        steps = config.iterations
        return {
            "losses": (steps, config.batch_size),
            "limits": (steps,),
            "limited": (steps, config.batch_size),
            "held_out": (len(config.evaluations),),
        }

    @classmethod
    def empty(cls, config: RunConfig) -> "Run":
        """A run in memory that has yet to happen."""
        shapes = cls.shapes(config)
        return cls(config, **{n: np.full(shapes[n], np.nan, np.float32) for n in shapes})

    @property
    def clipped(self) -> NDArray[np.bool_]:
        """Which losses were limited; shape ``(T, B)``."""
        changed: NDArray[np.bool_] = (self.limited != self.losses) & np.isfinite(self.losses)
        return changed

    @property
    def errors(self) -> NDArray[np.float32]:
        """Training error of each step: the mean loss of its examples before they are limited."""
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


class Trainer:
    """All that changes in a run: network, optimizer, schedule, limits, random state, progress.

    Args:
        task: What to learn.
        config: How.
    """

    def __init__(self, task: Task, config: RunConfig) -> None:
        self.task, self.config = task, config
        self.network = task.network(config.seed).to(config.device)
        self.optimizer = _optimizer(self.network, config)
        # The paper's schedule: a tenfold fall after each 3.5 million examples.
        steps = max(int(10_000 / config.batch_size * 350), 1)
        self.schedule = StepLR(self.optimizer, steps, gamma=0.1)
        self.limiter = _limiter(config)
        self.forward = torch.compile(self.network) if config.compile else self.network
        self.step, self.seconds = 0, 0.0
        torch.manual_seed(config.seed)  # for networks with dropout, say

    def advance(self, inputs: Tensor, targets: Tensor, run: Run) -> None:
        """One training step, written into the run."""
        start, device = time.perf_counter(), self.config.device
        losses = self.task.losses(self.forward(inputs.to(device)), targets.to(device))
        run.losses[self.step] = losses.detach().cpu()
        run.limits[self.step] = math.inf
        if self.limiter is not None:
            run.limits[self.step] = self.limiter.threshold.cpu()
            losses = self.limiter(losses)  # the one line
        run.limited[self.step] = losses.detach().cpu()
        self.optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.seconds += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where ``state`` was taken."""
        self.step, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["random"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts if self.limiter is None else {**parts, "limiter": self.limiter}


def train(
    task: Task,
    config: RunConfig,
    report: Callable[[int, Run], None] | None = None,
    storage: Storage | None = None,
    checkpoint_every: int = 1000,
) -> Run:
    """Trains a network from its initial weights, or from the last checkpoint in ``storage``.

    On one machine, with one thread, the same task and configuration give the same run, bit for
    bit, however often it was stopped and taken up again.

    Args:
        task: What to learn.
        config: How.
        report: Called after every step with the number of steps done, and the run as far as it
            has come.
        storage: Where to keep the run; None for memory alone.
        checkpoint_every: Steps between checkpoints, >= 1.

    Returns:
        The finished run.
    """
    trainer = Trainer(task, config)
    run = Run.empty(config) if storage is None else storage.open_run(config)
    if storage is not None and (state := storage.load_checkpoint()) is not None:
        trainer.load_state_dict(state)
    evaluations = {step: index for index, step in enumerate(config.evaluations)}
    batches = task.batches(config.seed, config.batch_size, start=trainer.step)
    while trainer.step < config.iterations:
        trainer.advance(*next(batches), run)
        if trainer.step in evaluations:
            trainer.network.eval()
            run.held_out[evaluations[trainer.step]] = task.held_out_error(trainer.network)
            trainer.network.train()
        at_checkpoint = trainer.step % checkpoint_every == 0 or trainer.step == config.iterations
        if storage is not None and at_checkpoint:
            storage.save_checkpoint(trainer.state_dict())
        if report is not None:
            report(trainer.step, run)
    return run


def _limiter(config: RunConfig) -> ALRC | OriginalALRC | None:
    if config.num_stddev is None:
        return None
    if config.original:
        return OriginalALRC(config.num_stddev).to(config.device)
    s = config.settings
    return ALRC(
        s.num_stddev,
        s.decay,
        s.mu1_start,
        s.mu2_start,
        num_stddev_below=s.num_stddev_below,
        device=config.device,
    )


def _optimizer(network: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), config.learning_rate)
    # Fused: one call for all parameters saves a millisecond of a small network's step.
    return torch.optim.Adam(network.parameters(), config.learning_rate, fused=True)
