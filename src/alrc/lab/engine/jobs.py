"""What a worker is given: a run, or runs that are trained together."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import CHECKPOINT_SECONDS, Progress, train

__all__ = ["Job", "run_job"]


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


def run_job(
    job: Job,
    runs: Path,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
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
        folders = {
            name: stack.enter_context(RunFolder(runs / name, spec.config))
            for name, spec in job.specs.items()
        }
        ((name, spec),) = job.specs.items()
        return {name: train(spec, folders[name], report, stop, checkpoint_seconds)}
