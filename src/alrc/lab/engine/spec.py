"""A run before it is trained: a task, an arm, how it is trained, and a seed."""

import dataclasses
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from alrc.lab.api import Arm, Task, Training
from alrc.lab.engine.chain import limits_losses
from alrc.lab.engine.files import digest, plain
from alrc.lab.engine.naming import Named
from alrc.lab.engine.sources import sha256, sources_of
from alrc.lab.engine.stored import FORMAT

__all__ = ["Spec", "task_of"]

# These change nothing in training, and may be others when it goes on.
NOT_FIXING = ("evaluate_every", "checkpoint_seconds", "store")


@dataclass(frozen=True)
class Spec:
    """All that fixes a run.

    Args:
        task: What is learned.
        arm: What is done to losses and gradients.
        training: How.
        seed: Fixes initial weights and data; from 0 to 2**63 - 1.
    """

    task: Named
    arm: Named
    training: Training
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1; got {self.seed}.")

    def make_arm(self) -> Arm:
        arm: Arm = self.arm.make()
        return arm

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json holds: plain values, by which this run is told from all others.

        Raises:
            ValueError: If task or arm can't be made.
        """
        task, arm = task_of(self.task), self.make_arm()
        training = self.training.options()
        one, other = type(task).__name__, type(arm).__name__
        return {
            "format": FORMAT,
            "task": self.task.spelled,
            "arm": self.arm.spelled,
            "seed": self.seed,
            "is_baseline": arm.is_baseline,
            "task_options": plain(
                {n: v for n, v in task.options().items() if n not in task.places}, one
            ),
            "task_facts": plain(_facts(self.task), f"{one}.describe()"),
            "arm_options": plain(arm.options(), other),
            "sources": self._sources(),
            "training": {n: v for n, v in training.items() if n not in NOT_FIXING},
            "losses_limited": limits_losses(arm),
            "diverged_above": plain(task.diverged_above, f"{one}.diverged_above"),
            "metrics": [
                plain(dataclasses.asdict(metric), f"{one}.metrics") for metric in task.metrics
            ],
        }

    @property
    def digest(self) -> str:
        """Eight digits that tell this run from all others."""
        return digest(self.config)[:8]

    @property
    def own_files(self) -> list[Path]:
        """The files of a task and arms of one's own, with what they import from beside them."""
        files = [named.file for named in (self.task, *self.arm.parts) if named.file is not None]
        return list(dict.fromkeys(path for file in files for path in sources_of(file).values()))

    def _sources(self) -> dict[str, str]:
        """Their checksums, by their names."""
        sums: dict[str, str] = {}
        for file in self.own_files:
            name = file.name
            while sums.get(name, sha256(file)) != sha256(file):  # another file of that name
                name += "'"
            sums[name] = sha256(file)
        return sums

    def __getstate__(self) -> dict[str, Any]:
        """Without the config: another process makes it from the files and data that it has."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@cache
def task_of(named: Named) -> Task:
    """The task, made once in each process, so that it loads its data once."""
    task: Task = named.make()
    return task


@cache
def _facts(named: Named) -> dict[str, Any]:
    return dict(task_of(named).describe())
