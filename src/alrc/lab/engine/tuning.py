"""Which trial of an arm is the best, and what plain training reaches: from stored results alone.

``study.json`` in the folder of a part's tuning says which runs are trials of what.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alrc.lab.engine.files import read_json
from alrc.lab.engine.stored import check_config, check_result, read_evaluations

__all__ = ["Ended", "Tuned", "best", "ended", "read_tuning", "target"]

Better = Literal["lower", "higher"]
MEND = "Remove the folder, and the same command makes it anew."


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        folder: Where it is.
        config: Its config.json.
        result: Its result.json.
        evaluations: A row for each: the step, then the metrics.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    evaluations: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def first(self) -> float:
        """The first metric at the end."""
        return float(self.evaluations[-1, 1])

    @property
    def diverged(self) -> bool:
        """Whether its losses or metrics ended as NaN or infinite.

        A loss that only rose is judged by the metrics: where data break plain training it does so
        in most runs, whose metrics say by how much.
        """
        ends = np.isfinite(self.evaluations[-1, 1:]).all()
        return self.result.get("diverged_step") is not None or not bool(ends)

    @property
    def better(self) -> Better:
        """Which direction of the first metric is."""
        better: Better = self.config["metrics"][0]["better"]
        return better


@dataclass(frozen=True)
class Tuned:
    """What came of the tuning on a workload.

    Attributes:
        target: What plain training reaches, the median over the seeds; None if it diverges.
        trials: Of each arm that is tuned: the first metric of each trial with each seed.
        chosen: Of each of them, the best trial.
    """

    target: float | None
    trials: Mapping[str, Mapping[str, Sequence[float]]]
    chosen: Mapping[str, str]


def ended(folder: Path) -> Ended:
    """A finished run.

    Raises:
        ValueError: If it is not whole.
        OSError: If a file can't be read.
    """
    config = read_json(folder / "config.json", MEND)
    result = read_json(folder / "result.json", MEND)
    try:
        check_config(config)
        check_result(result, config)
    except (ValueError, TypeError, AttributeError) as fault:
        raise ValueError(f"{folder} must hold a finished run; {fault}. {MEND}") from None
    rows = read_evaluations(folder, result, 1 + len(config["metrics"]))
    if rows is None:
        raise ValueError(f"{folder} must hold a finished run; it has no evaluation.npy. {MEND}")
    return Ended(folder, config, result, rows)


def read_tuning(folder: Path) -> dict[str, Tuned]:
    """What came of the tuning of a part, by workload.

    Args:
        folder: With study.json and runs.
    """
    found = {}
    for workload, record in read_json(folder / "study.json", MEND)["workloads"].items():
        plain = [ended(folder / "runs" / name) for name in record["plain"]]
        trials = {
            arm: {trial: [ended(folder / "runs" / n) for n in runs] for trial, runs in own.items()}
            for arm, own in record["trials"].items()
        }
        found[workload] = Tuned(
            target([run.first for run in plain], plain[0].better),
            {
                arm: {trial: [run.first for run in runs] for trial, runs in own.items()}
                for arm, own in trials.items()
            },
            {arm: best(own) for arm, own in trials.items()},
        )
    return found


def best(trials: Mapping[str, Sequence[Ended]]) -> str:
    """The trial with the best mean of the first metric on the log scale.

    One with a run that diverged loses to any without. A metric that is not finite is the worst
    there is; the first of those that are equal is chosen. The scale is plain where a value is
    below 0.
    """
    values = [run.first for runs in trials.values() for run in runs if math.isfinite(run.first)]
    is_plain = any(value < 0 for value in values)

    def badness(name: str) -> tuple[bool, float]:
        runs = trials[name]
        numbers = np.array([run.first for run in runs])
        with np.errstate(divide="ignore"):
            mean = float((numbers if is_plain else np.log(np.abs(numbers))).mean())
        sign = 1 if runs[0].better == "lower" else -1
        is_broken = not np.isfinite(numbers).all()
        return any(run.diverged for run in runs), math.inf if is_broken else sign * mean

    return min(trials, key=badness)


def target(values: Sequence[float], better: Better) -> float | None:
    """The median, in which what is not finite is the worst; None if it is not finite itself."""
    worst = math.inf if better == "lower" else -math.inf
    median = float(np.median([x if math.isfinite(x) else worst for x in values]))
    return median if math.isfinite(median) else None
