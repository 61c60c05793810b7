"""The finished runs of a study, read from its folder and sorted into comparisons."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alrc.lab.engine.training import Run, RunConfig

__all__ = ["Arm", "FinishedRun", "Setting", "Study", "common", "read_study"]

OURS = {field.name for field in dataclasses.fields(RunConfig)}


class Setting(NamedTuple):
    """What runs have in common that are compared; a table has a row for each."""

    power: int
    optimizer: str
    learning_rate: float
    batch_size: int

    @property
    def error(self) -> str:
        return {2: "squared error", 4: "quartic error"}.get(
            self.power, f"error of power {self.power}"
        )

    @property
    def rate(self) -> str:
        return f"{'SGD' if self.optimizer == 'sgd' else 'Adam'} at {self.learning_rate:g}"

    def __str__(self) -> str:
        return f"{self.error}, batch size {self.batch_size}, {self.rate}"


class Arm(NamedTuple):
    """What is done to the losses; runs that are compared differ in nothing else."""

    num_stddev: float | None
    original: bool
    num_stddev_below: float | None
    mu1_start: float | None
    mu2_start: float | None

    @property
    def order(self) -> tuple[Any, ...]:
        """Plain training first and the original form last, narrow limits before wide ones."""
        return self.original, *((x is not None, x or 0) for x in self)

    @property
    def name(self) -> str:
        if self.num_stddev is None:
            return "off"
        parts = [f"n = {self.num_stddev:g}"]
        if self.num_stddev_below is not None:
            parts.append(f"{self.num_stddev_below:g} below")
        return ", ".join([*parts, *["original form"] * self.original])

    @property
    def starts(self) -> str:
        if self.num_stddev is None or self.original:
            return ""
        if self.mu1_start is None or self.mu2_start is None:
            return "automatic start"
        return f"starts {self.mu1_start:g} and {self.mu2_start:g}"


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run with a result.

    Attributes:
        name: Of its folder.
        stored: Its config.json.
        run: Its arrays, which stay on disk until they are needed.
    """

    name: str
    stored: Mapping[str, Any]
    run: Run

    @property
    def setting(self) -> Setting:
        return Setting(*(self.stored[name] for name in Setting._fields))

    @property
    def arm(self) -> Arm:
        return Arm(*(getattr(self.run.config, name) for name in Arm._fields))

    @property
    def seed(self) -> int:
        return self.run.config.seed

    @property
    def window(self) -> int:
        """Steps at the end that are averaged: a twentieth, at most the paper's 5,000."""
        return max(min(self.run.config.iterations // 20, 5000), 1)

    @cached_property
    def training_error(self) -> float:
        """Mean of the last training errors; they are the losses before they are limited."""
        return float(self.run.losses[-self.window :].mean(dtype=np.float64))

    @cached_property
    def held_out_error(self) -> float:
        return float(self.run.held_out[-1])

    @property
    def diverged(self) -> bool:
        """Whether an error that the run ended with is NaN or infinite."""
        return not np.isfinite([self.training_error, self.held_out_error]).all()

    @cached_property
    def num_clipped(self) -> int:
        return int(self.run.clipped.sum())

    @cached_property
    def largest_loss(self) -> float:
        """Largest finite loss before it is limited; 0 without any."""
        losses = self.run.losses
        return float(losses.max(where=np.isfinite(losses), initial=0))

    @cached_property
    def num_nonfinite(self) -> int:
        return int((~np.isfinite(self.run.losses)).sum())


@dataclass(frozen=True, eq=False)
class Study:
    """The runs of a folder.

    Attributes:
        folder: Where they are.
        runs: Those with a result, at least one; by setting, arm and seed.
        failed: Names of those that left a log.txt instead.
        unfinished: Names of those that have neither.
    """

    folder: Path
    runs: list[FinishedRun]
    failed: list[str]
    unfinished: list[str]

    @property
    def total(self) -> int:
        return len(self.runs) + len(self.failed) + len(self.unfinished)

    @property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(run.setting for run in self.runs))

    @property
    def arms(self) -> list[Arm]:
        return sorted({run.arm for run in self.runs}, key=lambda arm: arm.order)

    @cached_property
    def labels(self) -> dict[Arm, str]:
        """A name for each arm, with its starts where there are several of that name."""
        names = [arm.name for arm in self.arms]
        return {
            arm: arm.name if names.count(arm.name) == 1 else f"{arm.name}, {arm.starts}"
            for arm in self.arms
        }

    def of(self, setting: Setting, arm: Arm) -> list[FinishedRun]:
        """The runs of an arm in a setting, by seed; there may be none."""
        return [run for run in self.runs if (run.setting, run.arm) == (setting, arm)]

    def groups(self) -> list[list[Setting]]:
        """Settings that differ only in batch size, together."""
        return [list(g) for _, g in groupby(self.settings, key=lambda setting: setting[:-1])]


def read_study(folder: Path) -> Study:
    """Reads the runs in the folder ``runs`` of a study.

    Raises:
        ValueError: If there is no finished run, a finished one is not whole, runs that would be
            compared are of different tasks, or one is there twice.
        OSError: If a file cannot be read.
    """
    root = folder / "runs"
    names = sorted(p.name for p in root.glob("[!.]*") if p.is_dir()) if root.is_dir() else []
    if not names:
        raise ValueError(
            f"{folder} must hold at least one run, as runs/NAME/, because a report is drawn from "
            "stored results; it holds none. Pass the folder of a study."
        )
    finished = [name for name in names if (root / name / "result.json").is_file()]
    others = [name for name in names if name not in finished]
    failed = [name for name in others if (root / name / "log.txt").is_file()]
    if not finished:
        raise ValueError(
            f"{folder} must hold at least one finished run, because a report is drawn from stored "
            f"results; none of its {len(names):,} has a result.json. Let one of them finish."
        )
    runs = [_read(root / name) for name in finished]
    runs.sort(key=lambda run: (run.setting, run.arm.order, run.seed))
    study = Study(folder, runs, failed, [name for name in others if name not in failed])
    for setting in study.settings:
        _check_same_task(folder, [run for run in runs if run.setting == setting])
    for one, other in pairwise(runs):
        if (one.setting, one.arm, one.seed) == (other.setting, other.arm, other.seed):
            raise ValueError(
                f"{folder} must hold each run once, because a copy would count as a repeat; "
                f"{one.name} and {other.name} have the same settings and seed. Remove one of them."
            )
    return study


def _read(path: Path) -> FinishedRun:
    """One run, its arrays memory-mapped."""
    try:
        stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config = RunConfig(**{name: stored[name] for name in OURS & stored.keys()})
        if missing := {*Setting._fields, *Arm._fields, "seed", "iterations"} - stored.keys():
            raise ValueError(f"config.json lacks {', '.join(sorted(missing))}")
        shapes = Run.shapes(config)
        arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in shapes}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name}.npy has shape {arrays[name].shape} instead of {shape}")
    except (ValueError, TypeError, EOFError, FileNotFoundError) as fault:
        raise ValueError(
            f"{path} must hold a whole run, because it has a result.json; but: {fault}. Remove "
            "result.json and finish the run again, or remove the folder."
        ) from None
    return FinishedRun(path.name, stored, Run(config, **arrays))


def _check_same_task(folder: Path, runs: list[FinishedRun]) -> None:
    """All but the arm and the seed has to be the same; evaluations change nothing in training."""
    free = {*Arm._fields, "seed", "evaluate_every"}
    first = runs[0]
    for run in runs[1:]:
        for name in sorted((first.stored.keys() | run.stored.keys()) - free):
            one, other = first.stored.get(name), run.stored.get(name)
            if one != other:
                raise ValueError(
                    f"{folder} must not mix tasks in one comparison ({first.setting}), because "
                    f"their errors mean different things; {first.name} has {name} {one!r}, "
                    f"{run.name} has {other!r}. Keep them in separate folders."
                )


def common(study: Study) -> Iterator[tuple[str, Any]]:
    """What all finished runs of a study have in common, by name; in the order of the files."""
    for name, value in study.runs[0].stored.items():
        if all(run.stored.get(name) == value for run in study.runs):
            yield name, value
