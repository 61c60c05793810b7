"""The finished runs of a study, sorted into settings and arms."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alrc.lab.api import Metric
from alrc.lab.engine.files import plain
from alrc.lab.engine.naming import parse_value
from alrc.lab.engine.series import read_series
from alrc.lab.engine.stored import read_evaluations

__all__ = ["Run", "Setting", "Study", "natural"]


class Setting(NamedTuple):
    """What runs have in common that are compared; a table has a row for each."""

    task: str
    training: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Run:
    """A run with a result.

    Attributes:
        folder: Where it is.
        config: Its config.json.
        result: Its result.json.
        read: Opens a series, given the two and its name.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    read: Callable[[Path, Mapping[str, Any], str], NDArray[np.float32]] = read_series
    kept: dict[Any, Any] = field(default_factory=dict)  # what was computed from its series

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def arm(self) -> str:
        return str(self.config["arm"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def is_baseline(self) -> bool:
        return bool(self.config["is_baseline"])

    @cached_property
    def setting(self) -> Setting:
        return Setting(self.config["task"], tuple(self.config["training"].items()))

    @cached_property
    def metrics(self) -> list[Metric]:
        """The first is the primary one."""
        return [Metric(**metric) for metric in self.config["metrics"]]

    @property
    def losses(self) -> Mapping[str, Mapping[str, Any]]:
        """Numbers about each loss."""
        losses: Mapping[str, Mapping[str, Any]] = self.result["losses"]
        return losses

    @property
    def diverged(self) -> str | None:
        """How, in words."""
        words: str | None = self.result["diverged"]
        return words

    @property
    def diverged_step(self) -> int | None:
        """From which on a loss was not finite; the last one if it diverged otherwise."""
        if self.diverged is None:
            return None
        return int(self.result.get("diverged_step") or self.steps)

    @property
    def steps(self) -> int:
        return int(self.result["steps"])

    @property
    def limited(self) -> int:
        """How many losses were limited."""
        return sum(loss["limited"] for loss in self.losses.values())

    @property
    def fingerprint(self) -> tuple[tuple[str, str], ...]:
        """Equal in runs that are bit-identical."""
        series = self.result["series"]
        return tuple(sorted((n, s["crc32"]) for n, s in series.items() if n.endswith(".raw")))

    def metric(self, name: str) -> float:
        return _number(self.result["metrics"].get(name))

    @property
    def untrained(self) -> dict[str, dict[str, float]]:
        """What needs no training gives in each metric, by its name; empty if the task has none."""
        return {
            name: {metric: _number(value) for metric, value in values.items()}
            for name, values in self.result.get("baselines", {}).items()
        }

    def training_loss(self, name: str) -> float:
        """Mean over the last tenth of the steps, before limiting."""
        return _number(self.losses.get(name, {}).get("training_loss"))

    def has(self, name: str) -> bool:
        return name in self.result["series"]

    def series(self, name: str) -> NDArray[np.float32]:
        """A series, memory-mapped; verified when it is opened first."""
        if name not in self.kept:
            self.kept[name] = self.read(self.folder, self.result, name)
        array: NDArray[np.float32] = self.kept[name]
        return array

    @cached_property
    def evaluations(self) -> NDArray[np.float64]:
        """A row for each evaluation: the step, then the metrics."""
        rows = read_evaluations(self.folder, self.result, 1 + len(self.metrics))
        if rows is None:  # it adds nothing to the metrics at the end
            rows = np.array([[self.steps, *(self.metric(metric.name) for metric in self.metrics)]])
        return rows


def _number(value: Any) -> float:
    """null stands for NaN and infinity."""
    return float("nan") if value is None else float(value)


@dataclass(frozen=True, eq=False)
class Study:
    """The runs of a folder.

    Attributes:
        folder: Where they are.
        runs: Those with a result, at least one; by setting, arm and seed.
        failed: Names of those that left a log.txt instead.
        unfinished: Names of those that have neither.
        single: Whether it is a lone run's folder.
        declared: The primary comparison that the study declares.
        others: How many runs beside are not of the study as it was last asked for.
        lost: Of the designs of failed and unfinished runs, as far as those were told: which of
            both they are.
    """

    folder: Path
    runs: list[Run]
    failed: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    single: bool = False
    declared: Mapping[str, Any] = field(default_factory=dict)
    others: int = 0
    lost: Mapping[tuple[Setting, str], str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return len(self.runs) + len(self.failed) + len(self.unfinished)

    @cached_property
    def designs(self) -> dict[tuple[Setting, str], list[Run]]:
        """The runs of each setting and arm, by seed."""
        designs: dict[tuple[Setting, str], list[Run]] = {}
        for run in self.runs:
            designs.setdefault((run.setting, run.arm), []).append(run)
        return designs

    @cached_property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(setting for setting, _ in self.designs))

    def untrained(self, setting: Setting) -> dict[str, dict[str, float]]:
        """What needs no training gives; it is the same for all runs of a setting."""
        runs = [run for arm in self.arms_of(setting) for run in self.of(setting, arm)]
        return next((run.untrained for run in runs if run.untrained), {})

    @cached_property
    def arms(self) -> list[str]:
        """Baselines first, the declared primary one next."""
        arms = {run.arm: run.is_baseline for run in self.runs}
        declared = {arm for _, arm in self.primary}
        return sorted(arms, key=lambda arm: (not arms[arm], arm not in declared, natural(arm)))

    @cached_property
    def labels(self) -> dict[Setting, str]:
        """The task, and what of its options and of training is not the same in all its settings."""
        if len(self.settings) == 1:
            return {setting: setting.task for setting in self.settings}
        names = {setting: setting.task.partition(" ")[0] for setting in self.settings}
        options = {
            setting: self.of(setting, self.arms_of(setting)[0])[0].config["task_options"]
            for setting in self.settings
        }
        training = {setting: dict(setting.training) for setting in self.settings}
        labels = {}
        for setting, name in names.items():
            alike = [s for s in self.settings if names[s] == name]
            words = [name, *_varying(options[setting], [options[s] for s in alike])]
            varying = _varying(training[setting], [training[s] for s in alike])
            labels[setting] = ", ".join([" ".join(words), *varying])
        return labels

    def of(self, setting: Setting, arm: str) -> list[Run]:
        """The runs of an arm in a setting, by seed; there may be none."""
        return self.designs.get((setting, arm), [])

    def arms_of(self, setting: Setting) -> list[str]:
        return [arm for arm in self.arms if (setting, arm) in self.designs]

    def baseline(self, setting: Setting) -> str | None:
        """The arm that the others are compared with."""
        arms = self.arms_of(setting)
        return next((a for a in arms if self.of(setting, a)[0].is_baseline), None)

    def metrics(self, setting: Setting) -> list[Metric]:
        return self.of(setting, self.arms_of(setting)[0])[0].metrics

    def losses(self, setting: Setting) -> list[str]:
        """Names of the losses."""
        runs = (run for arm in self.arms_of(setting) for run in self.of(setting, arm))
        return list(dict.fromkeys(name for run in runs for name in run.losses))

    @cached_property
    def primary(self) -> list[tuple[Setting, str]]:
        """Designs that the declared primary comparison names: one, or none if it isn't there."""
        if not self.declared:
            return []
        found = [
            design for design, runs in self.designs.items() if _is_named(runs[0], self.declared)
        ]
        if len(found) > 1:
            raise ValueError(
                f"{self.folder}: the study's primary must name one comparison, because its verdict "
                f"is to be believed as it stands; it names {len(found)}. Add keys of the setting, "
                "such as task.width or training.batch_size."
            )
        return found


def _is_named(run: Run, declared: Mapping[str, Any]) -> bool:
    """Whether a run is of the design that ``primary`` of the study says."""
    for key, value in declared.items():
        room, _, name = key.partition(".")
        if name:
            kind = "training" if room == "training" else f"{room}_options"
            if run.config.get(kind, {}).get(name) != value:
                return False
        elif not _same_spelling(value, run, room):
            return False
    return True


def _same_spelling(text: str, run: Run, kind: str) -> bool:
    """Whether ``NAME key=value ...`` is the task or arm of a run; 2 and 2.0 are the same."""
    name, *words = text.split()
    spelt, *others = str(run.config.get(kind)).split()
    given = dict(word.partition("=")[::2] for word in words)
    options = run.config.get(f"{kind}_options", {})
    return (
        name == spelt
        and {word.partition("=")[0] for word in others} <= given.keys()
        and all(options.get(key) == plain(parse_value(value), key) for key, value in given.items())
    )


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sorts numbers in names by their size."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def _varying(given: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the options is not the same in all of the others."""
    return [f"{n}={x}" for n, x in given.items() if any(other.get(n) != x for other in others)]
