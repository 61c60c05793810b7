"""The numbers of a report as CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from alrc.lab.report.comparing import Compared, measures
from alrc.lab.report.results import Run, Study

__all__ = ["comparisons_csv", "runs_csv"]

LOSS = ("training_loss", "first_median", "last_median", "largest", "count", "limited", "nonfinite")


def runs_csv(study: Study) -> str:
    """A line for each run: what it was, and what came of it."""
    rows = [_run(study, run) for run in study.runs]
    for status, names in (("failed", study.failed), ("unfinished", study.unfinished)):
        rows += [{"run": name, "status": status} for name in names]
    return _csv(rows)


def _run(study: Study, run: Run) -> dict[str, Any]:
    row = {
        "run": run.name,
        "status": "finished",
        "setting": study.labels[run.setting],
        "task": run.config["task"],
        "arm": run.arm,
        "seed": run.seed,
        "is_baseline": run.config["is_baseline"],
        "diverged": run.diverged,
    }
    for metric in run.metrics:
        row[f"metric.{metric.name}"] = run.result["metrics"].get(metric.name)
    for name, loss in run.losses.items():
        row |= {f"loss.{name}.{key}": loss.get(key) for key in (*LOSS, "kept")}
    for room in ("task_options", "arm_options", "training"):
        prefix = room.removesuffix("_options")
        row |= {f"{prefix}.{name}": value for name, value in run.config[room].items()}
    return row


def comparisons_csv(study: Study, comparisons: Sequence[Compared]) -> str:
    """A line for each comparison."""
    return _csv(_comparison(study, c) for c in comparisons)


def _comparison(study: Study, c: Compared) -> dict[str, Any]:
    r = c.result
    low, high = r.interval or (None, None)
    both, before, after, neither = r.diverged
    return {
        "setting": study.labels[c.setting],
        "arm": c.arm,
        "baseline": c.baseline,
        "measure": c.measure.name,
        "unit": c.measure.metric.unit,
        "better": c.measure.metric.better,
        "primary_metric": c.measure == measures(study, c.setting)[0],
        "declared_primary": c.primary,
        "verdict": r.verdict.name,
        "divergence": r.divergence.name,
        "change": r.change,
        "change_is": "absolute" if r.absolute else "relative",
        "low": low,
        "high": high,
        "p": r.p,
        "level": r.level,
        "pairs": len(r.seeds),
        "wins": r.wins,
        "ties": r.ties,
        "losses": r.losses,
        "identical": r.identical,
        "diverged_both": both,
        "diverged_baseline_only": before,
        "diverged_arm_only": after,
        "diverged_neither": neither,
        "p_diverged": r.p_diverged,
        "unpaired": r.unpaired,
        "detectable": r.detectable,
        "seeds_needed": r.seeds_needed,
        "changes": " ".join(f"{seed}:{x!r}" for seed, x in zip(r.seeds, r.relative, strict=True)),
    }


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    """Columns in the order in which they occur first; what is not finite stays empty."""
    given = list(rows)
    stream = io.StringIO()
    columns = list(dict.fromkeys(column for row in given for column in row))
    lines = csv.DictWriter(stream, columns or ["setting"], lineterminator="\n")
    lines.writeheader()
    for row in given:
        lines.writerow({k: v for k, v in row.items() if not _is_missing(v)})
    return stream.getvalue()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
