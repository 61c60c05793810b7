"""A benchmark as its compact results have it: runs, workloads and parts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAMILIES", "PLAIN", "Bench", "Run", "Workload"]

PLAIN = "off"  # the arm that does nothing, against which all others are measured
FAMILIES = ("regression", "images", "control", "classification", "language")


@dataclass(frozen=True)
class Run:
    """What is kept of one run; a metric that is not finite is one that diverged."""

    first: float
    second: float | None
    flagged: bool
    spikes: float
    reached: int | None
    limited: float
    kept: float

    @property
    def diverged(self) -> bool:
        return self.flagged or not math.isfinite(self.first)


@dataclass(frozen=True, eq=False)
class Workload:
    """A task in one setting, with its runs by label of the arm and seed.

    Attributes:
        name: Unique in the benchmark.
        about: Its table in the study's file and what was found when it ran, as in PART.json.
        seeds: Of every arm.
        runs: By arm, in the order of the file, and seed. A tuned rival's label is ``NAME, tuned``.
        spelled: The arm behind a label.
    """

    name: str
    about: Mapping[str, Any]
    seeds: tuple[int, ...]
    runs: Mapping[str, Mapping[int, Run]] = field(repr=False)
    spelled: Mapping[str, str] = field(repr=False)

    @property
    def part(self) -> str:
        return str(self.about["part"])

    @property
    def kind(self) -> str:
        return str(self.about["kind"])

    @property
    def family(self) -> str:
        return str(self.about["family"])

    @property
    def title(self) -> str:
        return str(self.about["title"])

    @property
    def metrics(self) -> list[dict[str, str]]:
        return list(self.about["metrics"])


@dataclass(frozen=True)
class Bench:
    """All parts of a benchmark.

    Attributes:
        workloads: In the order of the files: by part, as in PART.json.
        parts: The JSON of each part, by name.
        step_cost: Rows of arm, microseconds and ratio, if they were measured.
    """

    workloads: tuple[Workload, ...]
    parts: Mapping[str, Mapping[str, Any]]
    step_cost: tuple[tuple[str, float, float], ...] = ()

    @property
    def arms(self) -> list[str]:
        """Labels of all that was compared with doing nothing, in order of their first row."""
        labels = dict.fromkeys(label for w in self.workloads for label in w.runs)
        return [label for label in labels if label != PLAIN]

    def of(self, *kinds: str, families: tuple[str, ...] = FAMILIES) -> tuple[Workload, ...]:
        return tuple(w for w in self.workloads if w.kind in kinds and w.family in families)
