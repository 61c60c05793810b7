"""Compact results of a benchmark that was never run, with effects and divergences as given."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alrc.lab.report.benchmark.reading import COLUMNS

ERROR = {"name": "held-out error", "unit": "", "better": "lower"}
RATE = {"name": "error rate", "unit": "", "better": "lower"}
NATS = {"name": "held-out nats", "unit": "nats", "better": "lower"}


@dataclass(frozen=True)
class Made:
    """A workload.

    Attributes:
        effects: Logarithm of the ratio of the first metric to plain training, by label.
        second: The same of the second metric.
        noise: Standard deviation of the logarithm of a run, besides what its seed does to all.
        lost: Seeds of runs that diverged, by label.
        twin: Its calm twin, if it is broken and has one.
        same: Labels whose runs are those of plain training.
    """

    name: str
    effects: Mapping[str, float]
    kind: str = "broken"
    part: str = "targets"
    family: str = "regression"
    seeds: int = 20
    noise: float = 0.02
    second: Mapping[str, float] | None = None
    lost: Mapping[str, Sequence[int]] = field(default_factory=dict)
    same: Sequence[str] = ()
    twin: str = ""
    metrics: Sequence[Mapping[str, str]] = (ERROR,)
    level: float = 1.0

    def about(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "part": self.part,
            "title": f"Title of {self.name}",
            "kind": self.kind,
            "family": self.family,
            "twin": self.twin,
            "breaks": "Two in a hundred targets are broken.",
            "remedy": "Huber loss.",
            "task": f"{self.family} broken=0.02",
            "arms": ["everywhere"],
            "seeds": self.seeds,
            "set": {"training.steps": 2000},
            "steps": 2000,
            "metrics": list(self.metrics),
            "target": 1.0,
            "tuning": {"clip-grad-norm": {"trials": {}, "best": "clip-grad-norm max_norm=0.3"}},
        }

    def rows(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        levels = self.level * np.exp(rng.normal(0, 0.3, self.seeds))
        plain = np.exp(rng.normal(0, self.noise, (2, self.seeds)))
        found = []
        for label in ("off", *self.effects):
            noise = np.exp(rng.normal(0, self.noise, (2, self.seeds)))
            shift = [e.get(label, 0.0) for e in (self.effects, self.second or {})]
            if label == "off" or label in self.same:
                noise, shift = plain, [0.0, 0.0]
            for seed in range(self.seeds):
                values = levels[seed] * noise[:, seed] * np.exp(shift)
                lost = seed in self.lost.get(label, ())
                tuned = label.removesuffix(", tuned") if label.endswith(", tuned") else ""
                found.append(
                    {
                        "workload": self.name,
                        "arm": f"{tuned} max_norm=0.3" if tuned else label,
                        "tuned": tuned,
                        "seed": seed,
                        "first": "nan" if lost else f"{values[0]:.6g}",
                        "second": f"{values[1]:.6g}" if len(self.metrics) > 1 else "",
                        "diverged": int(lost),
                        "spikes": 0,
                        "reached": "",
                        "limited": 0,
                        "kept": 1,
                    }
                )
        return found


def fabricate(folder: Path, workloads: Sequence[Made], seed: int = 0) -> Path:
    """Writes them, a part each."""
    rng = np.random.default_rng(seed)
    for part in dict.fromkeys(made.part for made in workloads):
        own = [made for made in workloads if made.part == part]
        with (folder / f"{part}.csv").open("w", newline="") as stream:
            lines = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            lines.writeheader()
            lines.writerows(row for made in own for row in made.rows(rng))
        about = {
            "workloads": {made.name: made.about() for made in own},
            "versions": {"torch": "2.13.0"},
            "seconds": 123.4,
            "cores": 2,
        }
        (folder / f"{part}.json").write_text(json.dumps(about))
    return folder


def pair(made: Made, calm: Mapping[str, float], **others: Any) -> list[Made]:
    """A broken workload and its calm twin."""
    twin = replace(made, name=f"{made.name}-calm", kind="calm", effects=calm, lost={}, **others)
    return [replace(made, twin=twin.name), twin]
