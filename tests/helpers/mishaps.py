"""Runs that come to grief, or wait, in a module that spawned processes can import; their studies.

Whatever is to be stopped half-way waits there: a machine may be too busy to stop it in time.
"""

import functools
import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from alrc.lab.data.images import Images
from alrc.lab.engine import grid
from alrc.lab.engine.grid import Job
from alrc.lab.engine.training import Run, RunConfig, train
from alrc.lab.exec.study import run_study
from alrc.lab.exec.workers import Processes, Workers
from alrc.lab.tasks.supersampling import task as tasks
from alrc.lab.tasks.supersampling.task import Supersampling


def noise() -> Images:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), np.uint8)
    return Images("noise", images, images[:2])


@dataclass(frozen=True, eq=False)
class Planted(Supersampling):
    """A task whose run comes to grief in step 8, while ``counter`` has a number above 0."""

    counter: Path = Path()
    signal: int | None = None  # None for an exception, 0 for an hour's sleep
    losses_are: float = 1.0

    def batches(
        self, seed: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        batches = super().batches(seed, batch_size, start)
        for step, (inputs, targets) in enumerate(batches, start):
            if step == 7 and (left := int(self.counter.read_text())) > 0:
                self.counter.write_text(str(left - 1))
                if self.signal is None:
                    raise ZeroDivisionError("planted")
                if self.signal == 0:
                    time.sleep(3600)
                os.kill(os.getpid(), self.signal)
            yield inputs, targets * self.losses_are


@dataclass(frozen=True, eq=False)
class Held(Supersampling):
    """A task whose runs wait in a step while so many runs are finished, and else for ever."""

    step: int = 0
    runs: Path = Path()
    finished: int = 0

    def batches(
        self, seed: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(super().batches(seed, batch_size, start), start + 1):
            while step == self.step and len(finished(self.runs)) >= self.finished:
                time.sleep(0.002)
            yield batch


def finished(runs: Path) -> list[Path]:
    return list(runs.glob("*/result.json"))


def hold(step: int, runs: Path = Path(), finished: int = 0) -> None:
    """Makes every task of this process one whose runs wait."""
    held = functools.partial(Held, step=step, runs=runs, finished=finished)
    grid.Supersampling = tasks.Supersampling = held


def planted(counter: Path, times: int, **settings: float | None) -> Job:
    counter.write_text(str(times))
    return Job(
        Planted(noise(), width=1, counter=counter, **settings),
        RunConfig(12, batch_size=50, num_stddev=1.0),
    )


def run(
    jobs: dict[str, Job], out: Path, workers: Workers | None = None, **settings: bool
) -> tuple[dict[str, Path], list[str]]:
    """The failed runs of a study, and the lines it showed."""
    screen = Console(file=io.StringIO(), width=80)
    failed = run_study(jobs, out, workers or Processes(2), screen, **settings)
    assert not multiprocessing.active_children()
    assert "\x1b" not in screen.file.getvalue()  # no live bars where there is no terminal
    return failed, screen.file.getvalue().splitlines()


def assert_as_if_alone(folder: Path, job: Job) -> None:
    alone = train(job.task, job.config)
    for name in Run.shapes(job.config):
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), getattr(alone, name))
    result = json.loads((folder / "result.json").read_text())
    for name, value in (("final_error", alone.final_error), ("held_out_error", alone.held_out[-1])):
        assert result[name] == value or np.isnan(value)
