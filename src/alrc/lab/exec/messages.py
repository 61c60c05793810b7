"""What workers do with a job, and what they say of it."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from signal import strsignal
from typing import Any, Protocol

from alrc.lab.engine.files import FULL, Damaged
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.storage import InUse
from alrc.lab.engine.training import Progress, Stopped
from alrc.lab.exec.progress import Show

__all__ = ["Failed", "Finished", "Gone", "Message", "Paused", "Workers", "throttled", "train_job"]
SIGKILL = 9  # which Windows does not have


@dataclass(frozen=True)
class Finished:
    """A job came to its end."""

    results: Mapping[str, dict[str, Any]]
    pace: float = nan  # seconds that a step takes; NaN if that is not known


@dataclass(frozen=True)
class Paused:
    """A job left a checkpoint of all that it had done.

    Args:
        pace: Seconds that a step takes; NaN if that is not known.
        asked: Whether its worker was asked to stop, and ends; else the seconds of the job are over.
    """

    pace: float = nan
    asked: bool = False


@dataclass(frozen=True)
class Failed:
    """A job raised an exception.

    Args:
        reason: In a line.
        log: The traceback.
        disk_full: Whether that was all; there is nothing wrong with the job then.
        damaged: The folder without which it would be trained anew, if that is what helps.
        in_use: Whether another process is at one of its runs; there is nothing wrong with it then.
    """

    reason: str
    log: str
    disk_full: bool = False
    damaged: Path | None = None
    in_use: bool = False

    @classmethod
    def of(cls, error: BaseException) -> "Failed":
        """From the exception that is being handled."""
        words = str(error).strip().split("\n")[0]
        if not isinstance(error, ValueError):  # whose words stand alone
            words = f"{type(error).__name__}: {words}"
        disk_full = isinstance(error, OSError) and error.errno in FULL
        damaged = error.folder if isinstance(error, Damaged) else None
        in_use = isinstance(error, InUse)
        return cls(words.rstrip("."), traceback.format_exc(), disk_full, damaged, in_use)


@dataclass(frozen=True)
class Gone:
    """A worker ended without a word.

    Args:
        how: What its process did, in words.
    """

    how: str = "was ended from outside"

    @classmethod
    def by(cls, exit_code: int | None) -> "Gone":
        """From what the system says: the number of a signal is below 0."""
        if exit_code in (None, 0, -SIGKILL):  # who asks a worker to end lets it say 0
            return cls()
        if exit_code < 0:
            return cls(f"was ended by signal {-exit_code} ({strsignal(-exit_code)})")
        return cls(f"ended with exit code {exit_code}")


# How far a job has come; or how it ended.
Message = Progress | Finished | Paused | Failed | Gone


class Workers(Protocol):
    """Where the jobs of a study are trained."""

    count: int | None
    """Jobs at a time; None if that is not known."""

    @property
    def free(self) -> bool:
        """Whether another job may be started."""

    def start(self, job: Job, runs: Path, seconds: float | None = None) -> None:
        """Starts a job, or goes on with it; it pauses after so many seconds of training."""

    def wait(self) -> list[tuple[str, Message]]:
        """Waits a moment for messages from the jobs that were started, by their names."""

    def ask_to_stop(self) -> None:
        """Asks all jobs to pause."""

    def stop(self) -> None:
        """Ends all jobs and leaves no process behind."""


def train_job(
    job: Job,
    runs: Path,
    seconds: float | None,
    report: Show,
    asked: Callable[[], bool],
) -> Message:
    """Trains a job, and says how that ended. All that a worker does, wherever it is.

    Args:
        job: The job.
        runs: The folder of runs.
        seconds: After how many of them, from its first step on, it pauses; None for never.
        report: Is given how far it has come.
        asked: Says whether it is to pause at once.
    """
    clock = _Clock(seconds, asked)
    try:
        return Finished(run_job(job, runs, report, clock.is_over), clock.pace)
    except Stopped:
        return Paused(clock.pace, asked())
    except (Exception, SystemExit) as error:  # a task may call sys.exit
        return Failed.of(error)


class _Clock:
    """Asked after each step whether to stop; so it knows how long they take."""

    def __init__(self, seconds: float | None, asked: Callable[[], bool]) -> None:
        self.seconds, self.asked = seconds, asked
        self.steps, self.first, self.last = 0, 0.0, 0.0

    def is_over(self) -> bool:
        self.last = time.perf_counter()
        if self.steps == 0:
            self.first = self.last  # after the first step, which may have compiled the network
        self.steps += 1
        seconds = self.last - self.first
        return self.asked() or (self.seconds is not None and seconds >= self.seconds)

    @property
    def pace(self) -> float:
        return (self.last - self.first) / (self.steps - 1) if self.steps > 1 else nan


def throttled(send: Callable[[Progress], object], seconds: float) -> Show:
    """A report that is sent at most once in so many seconds."""
    last = -inf

    def report(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            send(progress)

    return report
