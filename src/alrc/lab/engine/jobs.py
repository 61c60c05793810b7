"""What a worker is given: a run, or runs that are trained together."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alrc.lab.engine.batched import setting_of, why_alone
from alrc.lab.engine.ensemble import train_together
from alrc.lab.engine.files import written_together
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Progress, train

__all__ = ["MOST_TOGETHER", "Job", "plan", "run_job"]

MOST_TOGETHER = 512  # runs in one job: of 40 arms, a run takes a third less time than with 240


@dataclass(frozen=True, eq=False)
class Job:
    """Runs for one worker, by name: a single one, or several that are trained as one network."""

    specs: Mapping[str, Spec]

    @property
    def name(self) -> str:
        """That of its first run, by which a job is told from others."""
        return next(iter(self.specs))

    @property
    def label(self) -> str:
        """Its name, and how many runs there are beside."""
        more = len(self.specs) - 1
        return f"{self.name} and {more} more" if more else self.name

    @property
    def steps(self) -> int:
        """Training steps, of each run."""
        return next(iter(self.specs.values())).training.steps

    @property
    def examples(self) -> int:
        """Examples in all its runs, as a measure of how long it lasts."""
        return sum(s.training.steps * s.training.batch_size for s in self.specs.values())


def plan(specs: Mapping[str, Spec], ensembles: bool = True, most: int = MOST_TOGETHER) -> list[Job]:
    """What workers are given: runs one by one, or together where their task allows it.

    Which runs are trained together follows from the runs alone: give all of a study, finished or
    not, and leave out the jobs that are finished as a whole. Runs with the same seed, which are
    compared with each other, stay together where ``most`` allows it.

    Args:
        specs: The runs, by name.
        ensembles: Whether runs may be trained together.
        most: How many at most.
    """
    jobs: list[Job] = []
    settings: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if ensembles and why_alone(spec) is None:
            settings.setdefault(setting_of(spec), []).append(name)
        else:
            jobs.append(Job({name: spec}))
    for names in settings.values():
        seeds: dict[int, list[str]] = {}
        for name in names:
            seeds.setdefault(specs[name].seed, []).append(name)
        some: list[str] = []
        for seed in sorted(seeds):
            if some and len(some) + len(seeds[seed]) > most:
                jobs.append(Job({name: specs[name] for name in some}))
                some = []
            some += seeds[seed]
            while len(some) > most:
                jobs.append(Job({name: specs[name] for name in some[:most]}))
                some = some[most:]
        jobs.append(Job({name: specs[name] for name in some}))
    return jobs


def run_job(
    job: Job,
    runs: Path,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, dict[str, Any]]:
    """Trains the runs of a job in their folders ``runs/NAME``, from their last checkpoint.

    All that a worker does, wherever it is.

    Returns:
        The result of each run.

    Raises:
        Stopped: If ``stop`` said so; a checkpoint was written.
    """
    with ExitStack() as stack:
        # A run that diverges is a result like any other.
        stack.enter_context(np.errstate(over="ignore", invalid="ignore"))
        with written_together():
            folders = {
                name: stack.enter_context(RunFolder(runs / name, spec.config))
                for name, spec in job.specs.items()
            }
        if len(job.specs) > 1:
            return train_together(job.specs, folders, report, stop)
        ((name, spec),) = job.specs.items()
        return {name: train(spec, folders[name], report, stop)}
