"""Workers on this machine: processes with one thread each."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

import torch

from alrc.lab.engine.jobs import Job
from alrc.lab.engine.training import Progress
from alrc.lab.exec.messages import Gone, Message, Paused, throttled, train_job

__all__ = ["Processes"]

REPORT_SECONDS = 0.25
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAIT_SECONDS = 0.2  # after which the study looks for signals


class Processes:
    """Trains jobs in processes of this machine, one at a time in each.

    Only for the main thread: it sees to Ctrl-C.

    Args:
        count: Jobs at a time, >= 1. Where there are several GPUs, they take turns.
    """

    def __init__(self, count: int) -> None:
        self.count: int | None = count
        self.busy: dict[Connection, _Process] = {}
        self.idle: list[_Process] = []
        self.numbers = list(range(count))  # that no process has

    @property
    def free(self) -> bool:
        return bool(self.idle or self.numbers)

    def start(self, job: Job, runs: Path, seconds: float | None = None) -> None:
        process = self.idle.pop() if self.idle else _Process(self.numbers.pop(0))
        process.give(job.name, (job, runs, seconds))
        self.busy[process.connection] = process

    def wait(self) -> list[tuple[str, Message]]:
        ready = cast(list[Connection], wait(list(self.busy), WAIT_SECONDS))
        return [message for connection in ready for message in self._hear(connection)]

    def _hear(self, connection: Connection) -> list[tuple[str, Message]]:
        process = self.busy[connection]
        message: Message | None
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = Gone()
        if message is None:
            process.has_started()
            return []
        if isinstance(message, Progress):
            return [(process.name, message)]
        del self.busy[connection]
        if isinstance(message, Gone) or (isinstance(message, Paused) and message.asked):
            process.stop()
            self.numbers.append(process.number)
            if isinstance(message, Gone):
                message = Gone.by(process.process.exitcode)
        else:
            self.idle.append(process)
        return [(process.name, message)]

    def ask_to_stop(self) -> None:
        for process in self.busy.values():
            process.process.terminate()

    def stop(self) -> None:
        for process in (*self.busy.values(), *self.idle):
            process.stop()
        self.busy, self.idle = {}, []


class _Process:
    """A process that trains one job after another until it is stopped or this process ends."""

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number, self.name, self.job, self.started = number, "", b"", False
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_work, args=(other_end, number), daemon=True)
        with _signals_wait():
            self.process.start()
        other_end.close()  # or the end of the worker would not end the conversation

    def give(self, name: str, job: tuple[Job, Path, float | None]) -> None:
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


@contextmanager
def _signals_wait() -> Iterator[None]:
    """They reach this process later; who is started here has them wait until it hears them."""
    if os.name != "posix":
        yield
        return
    resource_tracker.ensure_running()  # else it is started in here, and lets the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ear:
    """Hears that a worker is asked to stop: SIGTERM. Ctrl-C is for the command alone."""

    def __init__(self) -> None:
        self.is_training = self.asked = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._hear)
        if os.name == "posix":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _hear(self, *_: object) -> None:
        self.asked = True
        if not self.is_training:
            os._exit(0)


def _work(connection: Connection, number: int) -> None:
    """In a worker: says None when ready, then for each job how far it has come and how it ended."""
    ear = _Ear()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # nobody is there any more
        connection.send(None)
        while not ear.asked:
            job, runs, seconds = pickle.loads(connection.recv_bytes())
            ear.is_training = True
            choose_gpu(job, number)
            report = throttled(connection.send, REPORT_SECONDS)
            connection.send(train_job(job, runs, seconds, report, lambda: ear.asked))
            ear.is_training = False


def choose_gpu(job: Job, number: int) -> None:
    """Lets ``cuda`` mean another GPU in each worker, where there are several."""
    devices = {torch.device(spec.training.device) for spec in job.specs.values()}
    if devices == {torch.device("cuda")} and (count := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % count)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # as safe as a kill at any other moment
