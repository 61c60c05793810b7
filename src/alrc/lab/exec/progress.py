"""How far runs have come, shown live on a terminal and in lines elsewhere."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich import progress as rich
from rich.console import Console

from alrc.lab.engine.jobs import Job
from alrc.lab.engine.training import Progress

__all__ = ["Show", "StudyBars", "show_progress"]

Show = Callable[[Progress], None]

OVERALL = 3600.0  # seconds over which the speed is taken, for the time that is left


@contextmanager
def show_progress(total_steps: int, name: str, console: Console) -> Iterator[Show]:
    """Gives a function that shows how far a run has come: a live bar on a terminal, else a line
    for each tenth of it."""
    if not console.is_terminal:
        yield _lines(total_steps, name, console)
        return
    with _bars(console) as bars:
        bar = bars.add_task(name, total=total_steps, state="starting")

        def show(progress: Progress) -> None:
            bars.update(bar, completed=progress.step, state=_words(progress, total_steps))

        yield show


def _lines(total_steps: int, name: str, console: Console) -> Show:
    shown: int | None = None

    def show(progress: Progress) -> None:
        nonlocal shown
        tenth = 10 * progress.step // total_steps
        if shown is not None and tenth > shown:
            line = f"{name}: {_words(progress, total_steps)}"
            console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)
        shown = tenth

    return show


def _words(progress: Progress, total_steps: int) -> str:
    return f"{progress.step:,}/{total_steps:,} loss {progress.loss:.3g}"


def _bars(console: Console) -> rich.Progress:
    return rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TextColumn("{task.fields[state]}", markup=False),
        rich.TimeRemainingColumn(),
        console=console,
        speed_estimate_period=OVERALL,
    )


class StudyBars:
    """On a terminal, live bars: of a study, with the time it still takes, and of its jobs.

    The time follows from the examples of all runs that are done in a second.

    Args:
        jobs: What is still to do, by name.
        console: Where to show them; nothing is shown where it is no terminal.
    """

    def __init__(self, jobs: Mapping[str, Job], console: Console) -> None:
        self.jobs = jobs
        self.examples = {name: job.examples / job.steps for name, job in jobs.items()}  # of a step
        self.begun: dict[str, int] = {}  # steps that were done before
        self.steps: Counter[str] = Counter()
        self.bars: dict[str, rich.TaskID] = {}
        self.progress = _bars(console)
        self.progress.disable = not console.is_terminal
        self.all = self.progress.add_task("all runs", total=None, state="")

    def __enter__(self) -> "StudyBars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, name: str, progress: Progress) -> None:
        """Shows how far a job has come."""
        job = self.jobs[name]
        self.begun.setdefault(name, progress.step - 1)
        self.steps[name] = progress.step
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(job.label, total=job.steps, state="")
        self.progress.update(
            self.bars[name], completed=progress.step, state=_words(progress, job.steps)
        )

    def end(self, name: str, is_over: bool) -> None:
        """Takes the bar of a job away, which is to go on later or is over."""
        if name in self.bars:
            self.progress.remove_task(self.bars.pop(name))
        if is_over:
            self.steps[name] = self.jobs[name].steps

    def count(self, words: str) -> None:
        """Shows what is done of all."""
        if self.progress.disable:
            return
        total = done = 0.0
        for name, job in self.jobs.items():
            begun = self.begun.get(name, 0)
            total += self.examples[name] * (job.steps - begun)
            done += self.examples[name] * max(self.steps[name] - begun, 0)
        self.progress.update(self.all, total=total, completed=done, state=words)
