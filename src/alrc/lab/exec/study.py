"""A study: runs in a folder, trained in parallel, which go on where they were stopped."""

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from alrc.lab.engine.files import FULL, write_json, written_together, written_whole
from alrc.lab.engine.jobs import Job
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Progress
from alrc.lab.exec.estimate import data_lines, estimate, first_of_each_setting, setting_of
from alrc.lab.exec.folders import locked, refuse_another, set_aside
from alrc.lab.exec.messages import Failed, Finished, Gone, Message, Paused, Workers
from alrc.lab.exec.progress import StudyBars
from alrc.lab.exec.stopping import Signals, StudyStopped

__all__ = ["run_study"]

RESTARTS = 3
TRIAL_SECONDS = 1.0  # of training, from which the time of a setting is estimated
ANSWER_SECONDS = 8.0  # for a checkpoint; some systems kill ten seconds after they said SIGTERM
FULL_DISK = 1  # the exit code
HELD_SECONDS = 1.0  # between looks at a run that another process trains


def run_study(
    jobs: Sequence[Job],
    out: Path,
    workers: Workers,
    console: Console,
    retry: bool = False,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Trains all runs that have no result yet, each from its last checkpoint.

    However this ends, the workers are stopped.

    Args:
        jobs: The runs; those of a job are trained together.
        out: The folder; a run is in ``runs/NAME`` there.
        workers: Where the runs are trained.
        console: Where to show progress: live on a terminal, else a line for each run that ends.
        retry: Whether runs that failed earlier are run again. The folder of one that can't be read
            is moved to ``damaged/NAME``, and the run is trained anew.
        record: What was asked for, as plain values; kept in study.json for the report.

    Returns:
        The logs of the runs that failed, now or earlier, by name; there are no others left.

    Raises:
        ValueError: If the folder holds another study, or one that another command is at.
        StudyStopped: If a signal or a full disk stopped it before all runs had ended.
    """
    try:
        with locked(out):
            study = _Study(jobs, out, console)
            if record is not None:
                write_json(out / "study.json", record)
            return study.run(workers, retry)
    finally:
        with Signals():  # nothing keeps a worker from its end
            workers.stop()


class _Study:
    """Which runs are finished or failed, and which jobs are waiting or with a worker."""

    def __init__(self, jobs: Sequence[Job], out: Path, console: Console) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.specs = {name: spec for job in jobs for name, spec in job.specs.items()}
        if len(self.specs) != sum(len(job.specs) for job in jobs):
            raise ValueError(
                "Runs must have different names, because each has a folder of its own."
            )
        self.out, self.runs, self.console = out, out / "runs", console
        for name, spec in self.specs.items():
            refuse_another(RunFolder(self.runs / name, spec.config))
        self.finished = {n for n in self.specs if (self.runs / n / "result.json").exists()}
        logs = {name: self.runs / name / "log.txt" for name in self.specs}
        self.failed = {n: log for n, log in logs.items() if log.exists() and n not in self.finished}
        self.waiting = deque[str]()
        self.running = set[str]()
        self.held, self.told = dict[str, float](), set[str]()  # until when; of which it was said
        self.kills, self.steps = Counter[str](), Counter[str]()
        self.ahead = set[str]()  # jobs that may have done more than their checkpoint holds
        self.paces: dict[str, float] = {}  # by setting
        self.in_trial = False
        self.stopping: str | None = None  # why
        self.deadline, self.exit_code, self.kept, self.lost = math.inf, 0, 0, 0

    def run(self, workers: Workers, retry: bool) -> dict[str, Path]:
        for line in data_lines(self.specs.values()):
            self.say(line)
        earlier = f"{len(self.finished)} finished and {len(self.failed)} failed earlier"
        self.retry = retry
        if retry:
            for log in self.failed.values():
                with suppress(OSError):  # then the run says what there is to say
                    log.unlink()
            self.failed.clear()
        ended = self.finished | self.failed.keys()
        # The longest first, so that none of them is left alone at the end.
        todo = [job for job in self.jobs.values() if not ended.issuperset(job.specs)]
        todo.sort(key=lambda job: job.examples, reverse=True)
        left = len(self.specs) - len(ended)
        bars = StudyBars({job.name: job for job in todo}, self.console)
        with Signals() as self.signals, bars as self.bars:
            # Said when signals are heard, so that who reads it may count on it.
            self.say(f"{number_of(self.specs, 'run')}: {earlier}, {left} to do")
            self.in_trial = True
            self.train(first_of_each_setting(todo, workers.count or 1), workers)
            self.in_trial = False
            todo = [job for job in todo if not self.has_ended(job)]
            named = {job.name: job for job in todo}
            words = estimate(named, self.steps, self.paces, workers.count)
            if words and not self.stopping:
                self.say(words)
            self.train(todo, workers)
        if self.stopping and not all(map(self.has_ended, self.jobs.values())):
            raise StudyStopped(self.last_words(), self.exit_code)
        return self.failed

    def has_ended(self, job: Job) -> bool:
        return job.specs.keys() <= self.finished | self.failed.keys()

    def train(self, jobs: Iterable[Job], workers: Workers) -> None:
        """Until all have ended or paused, or the study is stopped."""
        self.waiting.extend(job.name for job in jobs)
        while self.running or self.waiting or self.held:
            self.look_for_signals(workers)
            due = [name for name, when in self.held.items() if time.monotonic() >= when]
            self.waiting.extend(name for name in due if self.held.pop(name))
            while self.waiting and workers.free and not self.stopping:
                self.start(self.waiting.popleft(), workers)
            if self.running:
                for name, message in workers.wait():
                    self.hear(name, message, workers)
            elif self.held:
                time.sleep(HELD_SECONDS / 10)
            if self.stopping:
                self.waiting.clear()
            if self.is_impatient() or time.monotonic() > self.deadline:
                self.lost += sum(self.begun(name) for name in self.running)
                self.running.clear()

    def start(self, name: str, workers: Workers) -> None:
        job = self.jobs[name]
        self.running.add(name)
        try:
            # From now on they are fixed: a worker that finds other code or data refuses.
            with ExitStack() as folders, written_together():
                for each, spec in job.specs.items():
                    folders.enter_context(RunFolder(self.runs / each, spec.config))
        except (ValueError, OSError) as error:
            self.hear(name, Failed.of(error), workers)
        else:
            workers.start(job, self.runs, TRIAL_SECONDS if self.in_trial else None)

    def hear(self, name: str, message: Message, workers: Workers) -> None:
        """Deals with how far a job has come, or with its end."""
        job = self.jobs[name]
        if isinstance(message, Progress):
            self.steps[name] = message.step
            self.ahead.add(name)
            self.bars.show(name, message)
        else:
            self.running.remove(name)
            if isinstance(message, Finished | Paused):
                self.paces[setting_of(job)] = message.pace
                self.ahead.discard(name)
            match message:
                case Finished():
                    self.finish(message)
                case Failed(damaged=Path() as folder) if self.retry:
                    self.begin_anew(job, folder, message, workers)
                case Failed(disk_full=True):
                    why = f"the disk is full ({message.reason.partition(';')[0]})"
                    self.ask_to_stop(why, FULL_DISK, workers)
                case Failed(in_use=True):
                    self.hold(job)
                case Failed():
                    self.fail(job, message, workers)
                case Paused() if self.stopping:
                    self.kept += len(job.specs.keys() - self.finished)
                case Paused(asked=False) if self.in_trial:
                    pass
                case _:
                    self.restart(job, message if isinstance(message, Gone) else Gone(), workers)
            self.bars.end(name, self.has_ended(job))
        self.bars.count(
            f"{len(self.finished)} finished, {len(self.running)} running, "
            f"{len(self.failed)} failed, {len(self.waiting) + len(self.held)} waiting"
        )

    def finish(self, message: Finished) -> None:
        for name, result in message.results.items():
            if name in self.finished:
                continue
            if log := self.failed.pop(name, None):  # of an ensemble with others that had not
                log.unlink()
            self.finished.add(name)
            metric, value = next(iter(result["metrics"].items()))
            words = f"{metric} {math.nan if value is None else value:.4g}"
            if result["diverged"] is not None:
                words += f"; diverged: {result['diverged']}"
            self.say(f"{name}: finished, {words}")

    def hold(self, job: Job) -> None:
        """While another process trains one of its runs, after which there may be no more to do."""
        if self.in_trial or self.stopping:
            return
        if job.name not in self.told:
            self.told.add(job.name)
            self.say(f"{job.label}: another process is training it; waiting for its end")
        self.held[job.name] = time.monotonic() + HELD_SECONDS

    def restart(self, job: Job, end: Gone, workers: Workers) -> None:
        """After its worker was ended by others."""
        if self.stopping:
            self.lost += self.begun(job.name)
            return
        self.kills[job.name] += 1
        if self.kills[job.name] > RESTARTS:
            words = f"its process {end.how} {self.kills[job.name]} times"
            if end == Gone():
                words += ", perhaps for lack of memory"
            self.fail(job, Failed(words, f"{words.capitalize()}.\n"), workers)
        else:
            self.waiting.appendleft(job.name)
            self.say(f"{job.label}: its process {end.how}; starting it again")

    def begin_anew(self, job: Job, folder: Path, failure: Failed, workers: Workers) -> None:
        """After a folder couldn't be read; what is in it is left to the user."""
        try:
            place = set_aside(folder, self.out / "damaged")
        except OSError:
            self.fail(job, failure, workers)
        else:
            self.waiting.appendleft(job.name)
            self.say(f"{job.label}: trained anew; what there was is now {place} ({failure.reason})")

    def begun(self, name: str) -> int:
        """Runs of a job that may have done more than their checkpoint holds."""
        return len(self.jobs[name].specs.keys() - self.finished) if name in self.ahead else 0

    def fail(self, job: Job, failure: Failed, workers: Workers) -> None:
        """Of an ensemble, all fail that are not finished."""
        for name in job.specs.keys() - self.finished:
            log = self.runs / name / "log.txt"
            try:
                with written_whole(log) as part:
                    part.write_text(failure.log, encoding="utf-8")
                where = f"see {log}"
            except OSError as error:
                where = f"and its log can't be written ({error.strerror}):\n{failure.log}"
                if error.errno in FULL:
                    self.ask_to_stop("the disk is full", FULL_DISK, workers)
            self.failed[name] = log
            self.say(f"{name}: failed, {failure.reason}; {where}")

    def look_for_signals(self, workers: Workers) -> None:
        if (number := self.signals.first) is not None:
            self.ask_to_stop("stopped", 128 + number, workers)

    def is_impatient(self) -> bool:
        """Whether a signal came while the study was stopping."""
        signals = self.signals
        return signals.repeated or (self.exit_code == FULL_DISK and signals.first is not None)

    def ask_to_stop(self, why: str, exit_code: int, workers: Workers) -> None:
        """Lets all jobs pause."""
        if not self.stopping:
            self.stopping, self.exit_code = why, exit_code
            self.deadline = time.monotonic() + ANSWER_SECONDS
            workers.ask_to_stop()  # before it is said, so that who reads it may count on it
            what = number_of(self.running, "job")
            self.say(f"{why}; waiting for {what} to leave a checkpoint (Ctrl-C: do not wait)")

    def last_words(self) -> str:
        kept = f"{len(self.finished)} of {number_of(self.specs, 'run')} finished"
        if self.kept:
            kept += f", {self.kept} left a checkpoint of all that was done"
        if self.lost:
            kept += f", {self.lost} ended without, to go on from an earlier one"
        mend = "free some space, and " if self.stopping != "stopped" else ""
        return f"{self.stopping}; {kept}; {mend}the same command goes on."

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)


def number_of(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
