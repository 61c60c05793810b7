"""A study: runs in a folder, trained in parallel, which go on where they were stopped."""

import math
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path

import filelock
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alrc.lab.engine.files import written_whole
from alrc.lab.engine.grid import Job
from alrc.lab.engine.storage import RunFolder
from alrc.lab.exec.progress import State
from alrc.lab.exec.workers import Message, Workers

__all__ = ["run_study"]

RESTARTS = 3
KILLED = f"The process was ended from outside {RESTARTS + 1} times; was there too little memory?\n"


def run_study(
    jobs: Mapping[str, Job], out: Path, workers: Workers, console: Console, retry: bool = False
) -> dict[str, Path]:
    """Trains all runs that have no result yet, each from its last checkpoint.

    However this ends, the workers are stopped.

    Args:
        jobs: The runs by name.
        out: The folder; a run is in ``runs/NAME`` there.
        workers: Where the runs are trained.
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
    finally:
        workers.stop()


class _Study:
    """Which runs are finished, failed, waiting or with a worker."""

    def __init__(self, jobs: Mapping[str, Job], out: Path, console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.folders = {name: out / "runs" / name for name in jobs}
        self.logs = {name: folder / "log.txt" for name, folder in self.folders.items()}
        self.running: set[str] = set()
        self.kills: Counter[str] = Counter()
        tasks = {id(job.task): job.task for job in jobs.values()}
        descriptions = {key: task.describe() for key, task in tasks.items()}  # once: it takes long
        for name, (task, config) in jobs.items():
            with RunFolder(self.folders[name], descriptions[id(task)], config):
                pass  # another run of this name is refused
        self.finished = {n for n, f in self.folders.items() if (f / "result.json").exists()}
        self.failed = {n for n, log in self.logs.items() if log.exists()} - self.finished
        self.waiting: deque[str] = deque()

    def run(self, workers: Workers, retry: bool) -> dict[str, Path]:
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
        with _Bars(self) as bars:
            while self.waiting or self.running:
                while self.waiting and workers.free:
                    name = self.waiting.popleft()
                    workers.start(name, self.jobs[name], self.folders[name])
                    self.running.add(name)
                for name, message in workers.wait():
                    self.hear(name, message, bars)
        return {name: self.logs[name] for name in self.jobs if name in self.failed}

    def hear(self, name: str, message: Message, bars: "_Bars") -> None:
        """Deals with how far a run has come, or with its end."""
        if isinstance(message, State):
            bars.show(name, message)
            return
        self.running.remove(name)
        match message:
            case None:
                self.kills[name] += 1
                if self.kills[name] <= RESTARTS:
                    self.waiting.appendleft(name)
                    self.say(f"{name}: its process was ended from outside; starting it again")
                else:
                    self.fail(name, KILLED)
            case str():
                self.fail(name, message)
            case _:
                self.finished.add(name)
                error = message["final_error"]
                self.say(f"{name}: finished, error {math.nan if error is None else error:.4g}")
        bars.end(name)

    def fail(self, name: str, reason: str) -> None:
        with written_whole(self.logs[name]) as part:
            part.write_text(reason, encoding="utf-8")
        self.failed.add(name)
        self.say(f"{name}: failed, see {self.logs[name]}")

    def say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


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
        left = [*study.waiting, *study.running]
        examples = sum(
            study.jobs[n].examples - self.steps[n] * study.jobs[n].config.batch_size for n in left
        )
        text = (
            f"{len(study.finished)} finished, {len(study.running)} running, "
            f"{len(study.failed)} failed, {len(study.waiting)} waiting"
        )
        self.progress.update(self.total, completed=self.todo - examples, state=text)
