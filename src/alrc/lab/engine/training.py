"""One run: a task, trained with an arm, from its initial weights or from its last checkpoint."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from alrc.lab.api import Arm, Networks, Task, Training
from alrc.lab.engine.outcome import evaluate, save_pictures, summarise
from alrc.lab.engine.randomness import build, random_state, seed_all, set_random_state
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.steps import (
    SKIPPED,
    act_and_step,
    check_depends,
    optimizer_of,
    outcome_of,
    schedules_of,
)
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.stored import FORMAT, save_evaluations

__all__ = ["Progress", "Stopped", "Trainer", "train"]

REPORT_SECONDS = 0.1  # a mean loss costs more than a small step, and on a GPU waits for it
END = object()
LARGEST_WAIT = 2**26  # bytes of series that may wait in memory for the next checkpoint


class Stopped(Exception):
    """A run was asked to stop, and left a checkpoint of all that it had done."""


class Progress(NamedTuple):
    """How far a run has come."""

    step: int
    loss: float  # mean of the first loss over the last hundredth of the run


@dataclass(frozen=True)
class Trained:
    """A run at its end, its series on the disk."""

    task: Task
    networks: Networks
    series: Series
    step: int
    seconds: float


class Trains(Protocol):
    """What :func:`go_on` trains: a run, or several together."""

    task: Task
    training: Training
    series: Series
    step: int

    def batches(self) -> Iterator[Any]: ...

    def advance(self, batch: Any, /) -> None: ...

    def evaluate(self) -> list[Any]: ...

    def latest(self, count: int, /) -> float: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...


class Trainer:
    """All that changes in a run: networks, optimizers, schedules, the arm, random state, series.

    Args:
        spec: What is trained, and how.
        series: Where to keep what happens.
    """

    def __init__(self, spec: Spec, series: Series) -> None:
        self.task, self.training, self.series = task_of(spec.task), spec.training, series
        self.seed = spec.seed
        self.device = torch.device(self.training.device)
        self.networks = {n: x.to(self.device) for n, x in build(self.task, spec.seed).items()}
        self.forward: Networks = self.networks
        if self.training.compile:
            self.forward = {n: torch.compile(x) for n, x in self.networks.items()}  # type: ignore[misc]
        self.optimizers = self.task.optimizers(self.networks, self.training)
        self.schedules = schedules_of(self.task, self.optimizers, self.training)
        self.parameters = {
            phase: [p for group in optimizer.param_groups for p in group["params"]]
            for phase, optimizer in self.optimizers.items()
        }
        arms: dict[int, Arm] = {}  # one for each optimizer: what one sees is not that of another
        self.arms = {
            phase: arms.setdefault(id(optimizer), spec.make_arm())
            for phase, optimizer in self.optimizers.items()
        }
        self.limits_losses: bool = spec.config["losses_limited"]
        self.step, self.seconds, self.first_loss = 0, 0.0, ""
        seed_all(spec.seed)  # for networks with dropout, say
        for arm in arms.values():
            arm.begin(self.device)

    def advance(self, batch: Any) -> None:
        """One training step, written into the series."""
        start = time.perf_counter()
        if self.device.type != "cpu":
            batch = tree_map_only(Tensor, lambda x: x.to(self.device, non_blocking=True), batch)
        for phase in self.task.phases(self.step, self.training):
            self._run_phase(phase, batch)
        self.step += 1
        self.seconds += time.perf_counter() - start

    def _run_phase(self, phase: str, batch: Any) -> None:
        optimizer = optimizer_of(self.task, phase, self.optimizers)
        arm, record = self.arms[phase], self._record
        outcome = outcome_of(self.task, phase, self.forward, batch)
        self.first_loss = self.first_loss or f"{next(iter(outcome.losses))}.raw"
        limited = {}
        for name, losses in outcome.losses.items():
            record(f"{name}.raw", losses)
            if (limit := arm.threshold(name)) is not None:
                record(f"{name}.limit", limit.clone())  # the arm may move it in place
            limited[name] = arm.limit(name, losses)  # the one line
            if self.limits_losses:
                record(f"{name}.limited", limited[name])
        for name, value in outcome.logged.items():
            record(f"logged.{name}", value)
        optimizer.zero_grad()
        total = self.task.combine(phase, limited)
        check_depends(self.task, phase, total)
        total.backward()  # type: ignore[no-untyped-call]
        loss, parameters = total.detach().reshape(()), self.parameters[phase]
        stepped = act_and_step(arm, phase, loss, parameters, optimizer)
        if phase in self.schedules:
            self.schedules[phase].step()
        for name, number in {**({} if stepped else {SKIPPED: 1}), **arm.logged()}.items():
            record(f"arm.{name}.{phase}", number)

    def _record(self, name: str, row: Tensor | float) -> None:
        self.series.record(self.step, name, row)

    def batches(self) -> Iterator[Any]:
        """Those of the steps to come."""
        return self.task.batches(self.seed, self.training.batch_size, self.step)

    def evaluate(self) -> list[float]:
        """The metrics in their order."""
        return evaluate(self.task, self.networks)

    def latest(self, count: int) -> float:
        """The mean of the first loss over so many steps."""
        return self.series.latest(self.first_loss, count)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "first_loss": self.first_loss,
            "random": random_state(self.device),
            "frozen": {name: _frozen(network) for name, network in self.networks.items()},
            **{
                kind: {n: x.state_dict() for n, x in parts.items()} for kind, parts in self._parts()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from where ``state`` was taken."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.first_loss = state["first_loss"]
        set_random_state(state["random"], self.device)
        for kind, parts in self._parts():
            for name, part in parts.items():
                part.load_state_dict(state[kind][name])
        for name, network in self.networks.items():
            _freeze(network, state["frozen"][name])

    def _parts(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            ("networks", self.networks),
            ("optimizers", self.optimizers),
            ("schedules", self.schedules),
            ("arms", self.arms),
        ]


def _frozen(network: nn.Module) -> dict[str, list[str]]:
    """What a task may have set in a step, and what no state_dict holds."""
    return {
        "modules": [name for name, module in network.named_modules() if not module.training],
        "parameters": [name for name, x in network.named_parameters() if not x.requires_grad],
    }


def _freeze(network: nn.Module, frozen: Mapping[str, list[str]]) -> None:
    for name, module in network.named_modules():
        module.training = name not in frozen["modules"]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen["parameters"])


def train(
    spec: Spec,
    folder: RunFolder,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Trains a run in its folder to the end, from its last checkpoint if there is one.

    On one machine, with one thread, the same run gives the same numbers, bit for bit, however
    often it was stopped and taken up again.

    Args:
        spec: What is trained, and how.
        folder: Where it is kept.
        report: Called after the first and the last step, and ten times a second.
        stop: Asked after every step whether to stop now.

    Returns:
        What result.json holds.

    Raises:
        Stopped: If ``stop`` said so; a checkpoint was written.
        Damaged: If a stored file is.
    """
    if (result := folder.result) is not None:
        return result
    state, series = folder.load_checkpoint(spec.training.device)
    trainer = Trainer(spec, series)
    evaluations = go_on(trainer, folder, state, report, stop)
    trained = Trained(trainer.task, trainer.networks, series, trainer.step, trainer.seconds)
    return finish(spec, folder, trained, evaluations)


def go_on(
    trainer: "Trains",
    folder: RunFolder,
    state: Mapping[str, Any] | None,
    report: Callable[[Progress], None] | None,
    stop: Callable[[], bool] | None,
) -> list[Any]:
    """Trains to the end, from a state if there is one, with checkpoints in a folder.

    Returns:
        A row for each evaluation: the step, and what came of it.
    """
    if state is not None:
        with folder.reading_checkpoint():
            trainer.load_state_dict(state)
    steps, every = trainer.training.steps, trainer.training.evaluate_every or trainer.training.steps
    window = max(steps // 100, 1)
    evaluations: list[Any] = [] if state is None else state["evaluations"]
    batches = trainer.batches()
    saved, reported = time.monotonic(), -math.inf

    def save() -> None:
        nonlocal saved
        folder.save_checkpoint({**trainer.state_dict(), "evaluations": evaluations}, trainer.series)
        saved = time.monotonic()

    while trainer.step < steps:
        if (batch := next(batches, END)) is END:
            raise ValueError(
                f"{type(trainer.task).__name__}.batches must go on without end, because it is not "
                f"asked how many there are; it ended before step {trainer.step + 1:,}."
            )
        trainer.advance(batch)
        if trainer.step % every == 0 or trainer.step == steps:
            evaluations.append([trainer.step, *trainer.evaluate()])
        is_due = time.monotonic() - reported >= REPORT_SECONDS or trainer.step == steps
        if report is not None and is_due:
            reported = time.monotonic()
            report(Progress(trainer.step, trainer.latest(window)))
        if trainer.step == steps:
            break
        if stop is not None and stop():
            save()
            raise Stopped
        is_late = time.monotonic() - saved >= trainer.training.checkpoint_seconds
        if is_late or trainer.series.size > LARGEST_WAIT:
            save()
    save()
    return evaluations


def finish(
    spec: Spec, folder: RunFolder, run: Trained, evaluations: list[list[float]], **more: Any
) -> dict[str, Any]:
    """Writes what came of a run whose last checkpoint is on the disk, and returns it.

    Args:
        spec, folder, run: What was trained, where it is kept, and what it has become.
        evaluations: Step and metrics, of each.
        more: What else result.json is to say.
    """
    names = [metric.name for metric in run.task.metrics]
    metrics = dict(zip(names, evaluations[-1][1:], strict=True))
    manifest = run.series.manifest
    result = {
        "format": FORMAT,
        "steps": run.step,
        "seconds": run.seconds,
        "metrics": {n: x if math.isfinite(x) else None for n, x in metrics.items()},
        **summarise(folder.path, spec.config, manifest, metrics),
        "pictures": save_pictures(run.task, run.networks, folder.path),
        "series": manifest,
        "evaluation": save_evaluations(folder.path, evaluations),
        "versions": folder.versions,
        **more,
    }
    folder.save_result(result)
    return result
