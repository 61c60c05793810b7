"""One run: a task, trained with an arm, from its initial weights or from its last checkpoint."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from alrc.lab.api import Networks, Task, Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.outcome import baselines, save_pictures, summarise
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.stored import FORMAT, save_evaluations
from alrc.lab.engine.trainer import Trainer

__all__ = ["Progress", "Stopped", "train"]

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
    counts: Mapping[str, Mapping[str, float]] | None = None  # of losses, if means alone are stored


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
    counts = trainer.tallies.of(0) if trainer.store == "mean" else None
    trained = Trained(trainer.task, trainer.networks, series, trainer.step, trainer.seconds, counts)
    result = finish(spec, folder, trained, evaluations)
    if counts is not None:
        (folder.path / "checkpoint.pt").unlink()
    return result


def go_on(
    trainer: Trains,
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
    manifest, counts = run.series.manifest, run.counts
    pictures = [] if counts is not None else save_pictures(run.task, run.networks, folder.path)
    untrained = _baselines(spec.task)
    result = {
        "format": FORMAT,
        "steps": run.step,
        "seconds": run.seconds,
        "metrics": {n: x if math.isfinite(x) else None for n, x in metrics.items()},
        **summarise(folder.path, spec.config, manifest, metrics, counts),
        "pictures": pictures,
        **({"baselines": untrained} if untrained else {}),
        "store": "each" if counts is None else "mean",
        "series": manifest,
        "evaluation": save_evaluations(folder.path, evaluations),
        "versions": folder.versions,
        **more,
    }
    folder.save_result(result)
    return result


@cache  # the same for all runs of a task that a process trains
def _baselines(task: Named) -> dict[str, dict[str, float | None]]:
    return baselines(task_of(task))
