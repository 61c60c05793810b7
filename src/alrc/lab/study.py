"""A study: runs in a folder, trained in parallel, which go on where they were stopped."""

import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import filelock
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alrc.lab.files import written_whole
from alrc.lab.grid import Job, StudyTask
from alrc.lab.progress import State
from alrc.lab.storage import RunFolder
from alrc.lab.training import Run, RunConfig, train

__all__ = ["run_one", "run_study"]

CHECKPOINT_EXAMPLES = 250  # about a minute at the paper's width, whatever the batch size
REPORT_SECONDS = 0.25
RESTARTS = 3
KILLED = f"The process was ended from outside {RESTARTS + 1} times; was there too little memory?\n"


def run_one(
    task: StudyTask,
    config: RunConfig,
    folder: Path,
    report: Callable[[int, Run], None] | None = None,
) -> dict[str, Any]:
    """Trains one run in its folder, from its last checkpoint, and returns its result.

    All that a worker does, wherever it is.
    """
    every = max(CHECKPOINT_EXAMPLES // config.batch_size, 1)
    # A run that diverges is a result like any other.
    with (
        np.errstate(over="ignore", invalid="ignore"),
        RunFolder(folder, task.describe(), config) as storage,
    ):
        return storage.save_result(train(task, config, report, storage, every))


def run_study(
    jobs: Mapping[str, Job], out: Path, workers: int, console: Console, retry: bool = False
) -> dict[str, Path]:
    """Trains all runs that have no result yet, each from its last checkpoint.

    Every worker is a process with one thread. However this ends, no process is left running. Only
    for the main thread: it sees to Ctrl-C.

    Args:
        jobs: The runs by name.
        out: The folder; a run is in ``runs/NAME`` there.
        workers: Runs at a time, >= 1.
        console: Where to show progress: live on a terminal, else a line for each run that ends.
        retry: Whether runs that failed earlier are run again.

    Returns:
        The logs of the runs that failed, now or earlier, by name; there are no others left.

    Raises:
        ValueError: If the folder holds another study, or one that another command is at.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            return _Study(jobs, out, console).run(workers, retry)
    except filelock.Timeout:
        raise ValueError(
            f"{out} must belong to one command at a time; another one is at this study. Wait for "
            "it, or pass another folder."
        ) from None


class _Study:
    """Which runs are finished, failed, waiting or with a worker."""

    def __init__(self, jobs: Mapping[str, Job], out: Path, console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.folders = {name: out / "runs" / name for name in jobs}
        self.logs = {name: folder / "log.txt" for name, folder in self.folders.items()}
        self.workers: dict[Connection, _Worker] = {}
        self.kills: Counter[str] = Counter()
        tasks = {id(job.task): job.task for job in jobs.values()}
        descriptions = {key: task.describe() for key, task in tasks.items()}  # once: it takes long
        for name, (task, config) in jobs.items():
            with RunFolder(self.folders[name], descriptions[id(task)], config):
                pass  # another run of this name is refused
        self.finished = {n for n, f in self.folders.items() if (f / "result.json").exists()}
        self.failed = {n for n, log in self.logs.items() if log.exists()} - self.finished
        self.waiting: deque[str] = deque()

    def run(self, workers: int, retry: bool) -> dict[str, Path]:
        earlier = f"{len(self.finished)} finished and {len(self.failed)} failed earlier"
        if retry:
            for name in self.failed:
                self.logs[name].unlink()
            self.failed.clear()
        todo = self.jobs.keys() - self.finished - self.failed
        # The longest first, so that none of them is left alone at the end.
        order = sorted(self.jobs, key=lambda name: self.jobs[name].examples, reverse=True)
        self.waiting.extend(name for name in order if name in todo)
        self.say(f"{len(self.jobs)} runs: {earlier}, {len(todo)} to do")
        try:
            with _Bars(self) as bars:
                while self.waiting or self.workers:
                    while self.waiting and len(self.workers) < workers:
                        worker = _Worker(self.waiting.popleft())
                        self.workers[worker.connection] = worker
                    for connection in wait(list(self.workers)):
                        self.hear(self.workers[cast(Connection, connection)], bars)
        finally:
            for worker in self.workers.values():
                worker.stop()
        return {name: self.logs[name] for name in self.jobs if name in self.failed}

    def hear(self, worker: "_Worker", bars: "_Bars") -> None:
        """Deals with a message from a worker, or with its end."""
        name = worker.name
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self.workers.pop(worker.connection).stop()
            self.kills[name] += 1
            if self.kills[name] <= RESTARTS:
                self.waiting.appendleft(name)
                self.say(f"{name}: its process was ended from outside; starting it again")
            else:
                self.fail(name, KILLED)
            bars.end(name)
            return
        match message:
            case None:  # it has started
                self.give(worker)
                return
            case State():
                bars.show(name, message)
                return
            case str():
                self.fail(name, message)
            case _:
                self.finished.add(name)
                error = message["final_error"]
                self.say(f"{name}: finished, error {math.nan if error is None else error:.4g}")
        if self.waiting:
            worker.name = self.waiting.popleft()
            self.give(worker)
        else:
            self.workers.pop(worker.connection).stop()
        bars.end(name)

    def give(self, worker: "_Worker") -> None:
        with suppress(OSError):  # if it has ended, the next message says so
            worker.connection.send((*self.jobs[worker.name], self.folders[worker.name]))

    def fail(self, name: str, reason: str) -> None:
        with written_whole(self.logs[name]) as part:
            part.write_text(reason, encoding="utf-8")
        self.failed.add(name)
        self.say(f"{name}: failed, see {self.logs[name]}")

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


class _Worker:
    """A process that trains one run after another until it is stopped or this process ends."""

    def __init__(self, name: str) -> None:
        self.name = name  # of the run it has, or will have when it has started
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_work, args=(other_end,), daemon=True)
        # Inherited, so that Ctrl-C reaches this process alone, which then stops the workers.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, interrupt)
            other_end.close()  # or the end of the worker would not end the conversation

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection) -> None:
    """In a worker: says None when ready, then for each run states, and its result or traceback."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    last = 0.0

    def report(step: int, run: Run) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            connection.send(State.of(step, run))

    with suppress(EOFError, OSError):  # nobody is there any more
        connection.send(None)
        while True:
            job = connection.recv_bytes()
            try:
                task, config, folder = pickle.loads(job)
                connection.send(run_one(task, config, folder, report))
            except Exception:
                connection.send(traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # as safe as a kill at any other moment


class _Bars:
    """On a terminal, live bars: of the study, with the time it still takes, and of its runs."""

    def __init__(self, study: _Study) -> None:
        self.study = study
        self.steps: Counter[str] = Counter()
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=study.console,
            disable=not study.console.is_terminal,
        )
        self.todo = sum(study.jobs[name].examples for name in study.waiting)
        self.total = self.progress.add_task("all runs", total=self.todo, state="")

    def __enter__(self) -> "_Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, name: str, state: State) -> None:
        """Shows how far a run has come."""
        total = self.study.jobs[name].config.iterations
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, total=total, state="")
        self.steps[name] = state.iteration
        text = f"{state.iteration:,}/{total:,} error {state.error:.3g}"
        self.progress.update(self.bars[name], completed=state.iteration, state=text)
        self.count()

    def end(self, name: str) -> None:
        """Takes the bar of a run away."""
        if name in self.bars:
            self.progress.remove_task(self.bars.pop(name))
        del self.steps[name]
        self.count()

    def count(self) -> None:
        study = self.study
        left = [*study.waiting, *(worker.name for worker in study.workers.values())]
        examples = sum(
            study.jobs[n].examples - self.steps[n] * study.jobs[n].config.batch_size for n in left
        )
        text = (
            f"{len(study.finished)} finished, {len(study.workers)} running, "
            f"{len(study.failed)} failed, {len(study.waiting)} waiting"
        )
        self.progress.update(self.total, completed=self.todo - examples, state=text)
