"""What came of a part of a benchmark, in two small files that are kept when its runs are not."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alrc.lab.engine.files import read_json, write_json, written_together, written_whole
from alrc.lab.engine.series import is_present, read_series
from alrc.lab.engine.tuning import Ended, Tuned, ended, read_tuning

__all__ = ["HEADER", "compact_folder", "spikes", "write_compact"]

HEADER = (
    *("workload", "arm", "tuned", "seed", "first", "second"),
    *("diverged", "spikes", "reached", "limited", "kept"),
)
WINDOW, WIDTH = 128, 6.0  # steps before one, and how many standard deviations are a spike
MEND = "Remove it, and the same command makes it anew."


def write_compact(part: Path, folder: Path) -> list[Path]:
    """Writes ``NAME.csv``, a row for each run, and ``NAME.json``, from stored results.

    Both appear whole, together, or not at all.

    Args:
        part: The folder of a part, whose runs are finished; NAME is its name.
        folder: Where to write to.

    Raises:
        ValueError: If a run is not finished, or a file is damaged.
        OSError: If a file can't be read or written.
    """
    record = read_json(part / "study.json", MEND)
    tuning = read_tuning(part / "tuning")
    runs: dict[str, Ended] = {}

    def run(name: str) -> Ended:
        if name not in runs:
            runs[name] = ended(part / "runs" / name)
        return runs[name]

    rows, workloads = [], {}
    for workload, said in record["workloads"].items():
        tuned = tuning[workload]
        groups = [("", name) for names in said["runs"].values() for name in names]
        groups += [(arm, name) for arm, names in said["tuned"].items() for name in names]
        for arm, name in groups:
            rows.append(_row(workload, arm, run(name), tuned.target))
        workloads[workload] = _facts(said, tuned, run(groups[0][1]))
    rows.sort(key=lambda row: row[:4])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows)
    trials = [ended(path.parent) for path in sorted((part / "tuning").glob("runs/*/result.json"))]
    everyone = [*runs.values(), *trials]
    whole = {
        "workloads": workloads,
        "versions": _versions(everyone),
        "seconds": _number(sum(each.result["seconds"] for each in everyone)),
        "cores": record["cores"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{part.name}.csv", folder / f"{part.name}.json"]
    with written_together():
        with written_whole(files[0]) as file:
            file.write_text(text.getvalue(), encoding="utf-8")
        write_json(files[1], whole)
    return files


def compact_folder(folder: Path) -> Path | None:
    """That with the compact results of a benchmark, if this is one's folder, or is it itself."""
    for place in (folder / "compact", folder):
        files = [file for file in place.glob("*.csv") if file.with_suffix(".json").is_file()]
        if files and not (place / "runs").is_dir():
            return place
    return None


def _row(workload: str, tuned: str, run: Ended, target: float | None) -> tuple[Any, ...]:
    metrics = run.evaluations[-1, 1:]
    losses = run.result["losses"].values()
    count, limited = (sum(loss[key] for loss in losses) for key in ("count", "limited"))
    kept = next(iter(losses))["kept"]
    return (
        workload,
        run.config["arm"],
        tuned,
        run.config["seed"],
        _spell(metrics[0]),
        _spell(metrics[1]) if len(metrics) > 1 else "",
        int(run.diverged),
        _spell(spikes(_means(run))),
        _reached(run, target),
        _spell(limited / count if count else 0.0),
        _spell(math.nan if kept is None else kept),
    )


def _facts(said: Mapping[str, Any], tuned: Tuned, run: Ended) -> dict[str, Any]:
    """What the JSON file says of a workload."""
    return {
        **said["table"],
        "steps": run.result["steps"],
        "metrics": run.config["metrics"],
        "target": None if tuned.target is None else _number(tuned.target),
        "tuning": {
            arm: {
                "trials": {t: [_number(x) for x in values] for t, values in trials.items()},
                "best": tuned.chosen[arm],
            }
            for arm, trials in tuned.trials.items()
        },
    }


def _versions(runs: list[Ended]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for run in runs:
        for words in run.result.get("versions", []):
            for name, _, version in (word.rpartition(" ") for word in words.split(", ")):
                found.setdefault(name, set()).add(version)
    return {name: " and ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _means(run: Ended) -> NDArray[np.float64]:
    """Of each step, the mean of its first loss before limiting."""
    name = next(iter(run.result["losses"]))
    raw = read_series(run.folder, run.result, f"{name}.raw")
    means: NDArray[np.float64] = raw.reshape(len(raw), -1).mean(axis=1, dtype=np.float64)
    return means[is_present(raw)]


def spikes(means: NDArray[np.float64]) -> float:
    """Share of the steps whose loss is above mean + 6 standard deviations of the 128 before.

    NaN if there are no more than 128.
    """
    if len(means) <= WINDOW:
        return math.nan
    before = np.lib.stride_tricks.sliding_window_view(means, WINDOW)[:-1]
    with np.errstate(invalid="ignore", over="ignore"):
        limits = before.mean(axis=1) + WIDTH * before.std(axis=1)
        return float((means[WINDOW:] > limits).mean())


def _reached(run: Ended, target: float | None) -> int | str:
    """The first step at which the first metric was as good as the target."""
    if target is None:
        return ""
    steps, values = run.evaluations[:, 0], run.evaluations[:, 1]
    good = values <= target if run.better == "lower" else values >= target
    return int(steps[good][0]) if good.any() else ""


def _number(x: float) -> float:
    return float(f"{x:.6g}")


def _spell(x: float) -> str:
    return f"{x:.6g}"
