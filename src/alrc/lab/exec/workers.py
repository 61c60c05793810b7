"""Workers, which train one run after another: what they do, and those on this machine."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from alrc.lab.engine.grid import Job, StudyTask
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Run, RunConfig, train
from alrc.lab.exec.progress import State

__all__ = ["Message", "Processes", "Workers", "run_one", "throttled"]

CHECKPOINT_EXAMPLES = 250  # about a minute at the paper's width, whatever the batch size
REPORT_SECONDS = 0.25

# How far a run has come; or, at its end: its result, its traceback, or None if its worker is gone.
Message = State | dict[str, Any] | str | None


class Workers(Protocol):
    """Where the runs of a study are trained."""

    @property
    def free(self) -> bool:
        """Whether another run may be started."""

    def start(self, name: str, job: Job, folder: Path) -> None:
        """Starts a run, or goes on with it."""

    def wait(self) -> list[tuple[str, Message]]:
        """Waits for messages from the runs that were started, or for a moment."""

    def stop(self) -> None:
        """Ends all runs and leaves no process behind."""


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


def throttled(send: Callable[[State], object], seconds: float) -> Callable[[int, Run], None]:
    """A report for :func:`run_one` that sends a state at most once in so many seconds."""
    last = 0.0

    def report(step: int, run: Run) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            send(State.of(step, run))

    return report


class Processes:
    """Workers on this machine: processes with one thread each.

    Only for the main thread: it sees to Ctrl-C.

    Args:
        count: Runs at a time, >= 1.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.busy: dict[Connection, _Process] = {}
        self.idle: list[_Process] = []

    @property
    def free(self) -> bool:
        return len(self.busy) < self.count

    def start(self, name: str, job: Job, folder: Path) -> None:
        process = self.idle.pop() if self.idle else _Process()
        process.give(name, (*job, folder))
        self.busy[process.connection] = process

    def wait(self) -> list[tuple[str, Message]]:
        ready = cast(list[Connection], wait(list(self.busy)))
        return [message for connection in ready for message in self._hear(connection)]

    def _hear(self, connection: Connection) -> list[tuple[str, Message]]:
        process = self.busy[connection]
        message: Message
        try:
            message = connection.recv()
        except (EOFError, OSError):
            process.stop()
            message = None
        else:
            if message is None:
                process.has_started()
                return []
            if isinstance(message, State):
                return [(process.name, message)]
            self.idle.append(process)
        del self.busy[connection]
        return [(process.name, message)]

    def stop(self) -> None:
        for process in (*self.busy.values(), *self.idle):
            process.stop()


class _Process:
    """A process that trains one run after another until it is stopped or this process ends."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.job, self.started = "", b"", False
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_work, args=(other_end,), daemon=True)
        # Inherited, so that Ctrl-C reaches this process alone, which then stops the workers.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, interrupt)
            other_end.close()  # or the end of the worker would not end the conversation

    def give(self, name: str, job: tuple[Any, ...]) -> None:
        self.name, self.job = name, pickle.dumps(job)
        if self.started:  # before, nobody reads, and a large job would not fit into the pipe
            self._send()

    def has_started(self) -> None:
        self.started = True
        self._send()

    def _send(self) -> None:
        with suppress(OSError):  # if it has ended, the next message says so
            self.connection.send_bytes(self.job)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection) -> None:
    """In a worker: says None when ready, then for each run states, and its result or traceback."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    report = throttled(connection.send, REPORT_SECONDS)
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
