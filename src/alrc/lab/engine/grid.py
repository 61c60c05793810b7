"""A grid of runs, from a TOML file: what is crossed with what."""

import math
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from alrc.lab.cli.options import POWERS, Error
from alrc.lab.data.images import Images
from alrc.lab.engine.training import RunConfig, Task
from alrc.lab.tasks.supersampling.task import Supersampling

__all__ = ["Grid", "Job", "StudyTask"]


class StudyTask(Task, Protocol):
    """What a run of a study learns; has to be picklable and hashable."""

    def describe(self) -> dict[str, Any]:
        """All that fixes the task, as plain values."""


class Job(NamedTuple):
    """A run to be made."""

    task: StudyTask
    config: RunConfig

    @property
    def examples(self) -> int:
        """Examples in the whole run, as a measure of how long it lasts."""
        return self.config.iterations * self.config.batch_size


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda x: type(x) is int and least <= x < 2**63


def _positive(x: Any) -> bool:
    return type(x) in (int, float) and 0 < x < math.inf


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: type(x) is list and x != [] and all(holds(v) and x.count(v) == 1 for v in x)


def _optimizer(x: Any) -> bool:
    return type(x) is list and len(x) == 2 and x[0] in ("adam", "sgd") and _positive(x[1])


# What each key of a grid must be, in words and as a check.
KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "error": (
        'a list of "squared" and "quartic", each once',
        _list_of(lambda x: x in ("squared", "quartic")),
    ),
    "batch_size": ("a list of different whole numbers >= 1", _list_of(_whole(1))),
    "num_stddev": (
        'a list of different numbers > 0 and "off"',
        _list_of(lambda x: x == "off" or _positive(x)),
    ),
    "optimizer": (
        'a list of different pairs such as ["adam", 0.001] or ["sgd", 0.001]',
        _list_of(_optimizer),
    ),
    "seeds": ("a list of different whole numbers >= 0", _list_of(_whole(0))),
    "iterations": ("a whole number >= 10", _whole(10)),
    "width": ("a whole number >= 1", _whole(1)),
    "original": ("true or false", lambda x: type(x) is bool),
    "sqrt_step": ("true or false", lambda x: type(x) is bool),
    "evaluate_every": ("a whole number >= 1", _whole(1)),
}


@dataclass(frozen=True)
class Grid:
    """Runs of the paper's CIFAR-10 experiment: every value of each list with every other.

    Args:
        error: ``"squared"``, ``"quartic"``.
        batch_size: Examples per training step.
        num_stddev: Limits of ALRC in standard deviations; ``"off"`` trains without.
        optimizer: Pairs of ``"adam"`` or ``"sgd"`` and a learning rate.
        seeds: A seed gives the same initial weights and data to all designs.
        iterations: Training steps.
        width: Features of the network's first layer; 64 in the paper.
        original: Whether each number in ``num_stddev`` is run in the original repository's
            0.997/0.001 form too.
        sqrt_step: Whether losses of 50 and more are replaced by their square root.
        evaluate_every: Steps between evaluations on held-out images; None for one at the end.
    """

    error: list[str]
    batch_size: list[int]
    num_stddev: list[Any]
    optimizer: list[tuple[str, float]]
    seeds: list[int]
    iterations: int
    width: int
    original: bool = False
    sqrt_step: bool = True
    evaluate_every: int | None = None

    @classmethod
    def read(cls, file: Path) -> "Grid":
        """Reads a TOML file with the arguments above as keys.

        Raises:
            ValueError: If a key is missing or unknown, or a value is not what it must be.
        """
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:  # UnicodeDecodeError is one too
            raise ValueError(f"{file} must be a TOML file; {error}.") from None
        if unknown := [key for key in values if key not in KEYS]:
            raise ValueError(f"{file}: keys must be among {', '.join(KEYS)}; got {unknown[0]}.")
        for field in fields(cls):
            words, holds = KEYS[field.name]
            if field.name not in values:
                if field.default is MISSING:
                    raise ValueError(f"{file}: {field.name} must be {words}; it is missing.")
            elif not holds(values[field.name]):
                got = values[field.name]
                raise ValueError(f"{file}: {field.name} must be {words}; got {got!r}.")
        return cls(**values)

    def jobs(self, images: Images) -> dict[str, Job]:
        """The runs by name. A name tells the run from all others in the study, and stays."""
        tasks = {
            error: Supersampling(images, POWERS[Error(error)], self.width, self.sqrt_step)
            for error in self.error
        }
        arms: dict[str, tuple[float | None, bool]] = {}
        for n in self.num_stddev:
            arms["off" if n == "off" else f"n{_short(n)}"] = (None if n == "off" else n, False)
            if self.original and n != "off":
                arms[f"original-n{_short(n)}"] = (n, True)
        jobs = {}
        axes = (self.error, self.batch_size, self.optimizer, arms, self.seeds)
        for error, batch_size, (optimizer, rate), arm, seed in product(*axes):
            name = f"{error}-b{batch_size}-{optimizer}{_short(rate)}-{arm}-seed{seed}"
            num_stddev, original = arms[arm]
            config = RunConfig(
                self.iterations,
                batch_size,
                optimizer,
                rate,
                num_stddev,
                seed,
                original=original,
                evaluate_every=self.evaluate_every,
            )
            jobs[name] = Job(tasks[error], config)
        return jobs


def _short(x: float) -> str:
    """As few digits as tell the number from all others."""
    return f"{x:g}" if float(f"{x:g}") == x else repr(x)
