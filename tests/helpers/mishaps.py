"""Runs that come to grief, or wait, and the studies in which they do.

Whatever is to be stopped half-way waits there: a machine may be too busy to stop it in time.
"""

import errno
import io
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
import tiny
from rich.console import Console
from torch import Tensor

from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.training import Progress, Stopped
from alrc.lab.exec.messages import Message, Workers, train_job
from alrc.lab.exec.study import run_study
from alrc.lab.exec.workers import Processes


@dataclass(frozen=True)
class Planted(tiny.Line):
    """A run that comes to grief in a step, while the file ``left`` holds a number above 0."""

    left: Annotated[str, "File."] = ""
    mishap: Literal["raise", "exit", "kill", "crash", "hang", "full disk", "terminate"] = "raise"
    at: int = 8

    places: ClassVar = ("left",)

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(super().batches(seed, batch_size, start), start + 1):
            if step == self.at and (left := int(Path(self.left).read_text())) > 0:
                Path(self.left).write_text(str(left - 1))
                self.happen()
            yield batch

    def happen(self) -> None:
        match self.mishap:
            case "raise":
                raise ZeroDivisionError("planted")
            case "exit":
                sys.exit("planted")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            case "hang":
                time.sleep(3600)
            case "full disk":
                raise OSError(errno.ENOSPC, "No space left on device", "series/loss.raw.npy")


@dataclass(frozen=True)
class Held(tiny.Line):
    """Runs that wait in a step while the file ``gate`` is there, and no more of them are finished
    than it says; they say so in ``gate.PID``."""

    gate: Annotated[str, "File."] = ""
    at: int = 8

    places: ClassVar = ("gate",)

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(super().batches(seed, batch_size, start), start + 1):
            gate = Path(self.gate)
            while step == self.at and is_closed(gate):
                gate.with_name(f"{gate.name}.{os.getpid()}").touch()
                time.sleep(0.002)
            yield batch


def is_closed(gate: Path) -> bool:
    """Whether as many runs are finished as it says."""
    try:
        return len(list(gate.parent.glob("runs/*/result.json"))) >= int(gate.read_text())
    except FileNotFoundError:
        return False


def planted(name: str, left: Path, times: int, **settings: Any) -> Job:
    """A run that comes to grief so many times."""
    left.write_text(str(times))
    return tiny.job(name, "Planted", __file__, left=str(left), **settings)


class Here:
    """Workers in this process, one after another; nothing has to be started."""

    def __init__(self, count: int | None = 1) -> None:
        self.count, self.given, self.asked = count, list[tuple[Job, Path, float | None]](), False
        self.order: list[tuple[str, float | None]] = []

    @property
    def free(self) -> bool:
        return len(self.given) < (self.count or 1)

    def start(self, job: Job, runs: Path, seconds: float | None = None) -> None:
        self.given.append((job, runs, seconds))
        self.order.append((job.name, seconds))

    def wait(self) -> list[tuple[str, Message]]:
        job, runs, seconds = self.given.pop(0)
        said: list[tuple[str, Message]] = []
        end = train_job(
            job,
            runs,
            seconds,
            lambda progress: said.append((job.name, progress)),
            lambda: self.asked,
        )
        return [*said, (job.name, end)]

    def ask_to_stop(self) -> None:
        self.asked = True

    def stop(self) -> None:
        self.given = []


class Signalled(Here):
    """Workers in this process; a signal comes while a run is trained."""

    def __init__(self, during: str, number: int, answers: bool = True, count: int = 1) -> None:
        super().__init__(count)
        self.during, self.number, self.answers, self.times = during, number, answers, 0

    def wait(self) -> list[tuple[str, Message]]:
        job, _, seconds = self.given[0]
        if seconds is None and job.name == self.during:
            os.kill(os.getpid(), self.number)
            self.times += 1
            if not self.answers or self.times == 1:
                return [(job.name, Progress(1, 0.0))]
        return super().wait()


def run(
    jobs: Sequence[Job], out: Path, workers: Workers | None = None, **settings: Any
) -> tuple[dict[str, Path], list[str]]:
    """The failed runs of a study, and the lines it showed."""
    screen = Console(file=io.StringIO(), width=80)
    try:
        failed = run_study(jobs, out, workers or Processes(2), screen, **settings)
    finally:
        run.said = screen.file.getvalue().splitlines()
        assert not multiprocessing.active_children()
        assert "\x1b" not in screen.file.getvalue()  # no live bars where there is no terminal
    return failed, run.said


def after(steps: int) -> Callable[[], bool]:
    """Says stop after so many steps of a session."""
    counter = count(1)
    return lambda: next(counter) >= steps


def paused(tmp_path: Path) -> tuple[Spec, Path]:
    """A run whose checkpoint is that of step 6."""
    job = tiny.job("run")
    with pytest.raises(Stopped):
        run_job(job, tmp_path, stop=after(6))
    return job.specs["run"], tmp_path / "run"


CHANGING = ("seconds",)  # of a result, what no two runs have in common


def assert_as_if_alone(runs: Path, job: Job, alone: Path) -> None:
    """The runs of a job hold bit for bit what they do if they are trained in one go."""
    results = run_job(job, alone)
    for name, result in results.items():
        stored = json.loads((runs / name / "result.json").read_text())
        assert {k: v for k, v in stored.items() if k not in CHANGING} == {
            k: v for k, v in result.items() if k not in CHANGING
        }
        for series in result["series"]:
            np.testing.assert_array_equal(
                np.load(runs / name / "series" / f"{series}.npy"),
                np.load(alone / name / "series" / f"{series}.npy"),
            )
        assert not list((runs / name).glob(".*.part"))
