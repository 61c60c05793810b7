"""Whether the small files of a run hold what they must: for the engine and the report.

Faults of config.json and result.json are half-sentences; who opened the file says which one it is,
and what to do.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alrc.lab.api import Metric
from alrc.lab.engine.files import Damaged, storing, written_whole

__all__ = ["FORMAT", "check_config", "check_result", "read_evaluations", "save_evaluations"]

FORMAT = 2
PARTS: dict[str, dict[str, type]] = {
    "config.json": {
        **dict.fromkeys(("task", "arm"), str),
        **dict.fromkeys(("task_options", "task_facts", "arm_options", "sources", "training"), dict),
        **dict.fromkeys(("seed", "is_baseline", "losses_limited", "diverged_above"), object),
        "metrics": list,
    },
    "result.json": {
        **dict.fromkeys(("metrics", "losses", "series"), dict),
        **dict.fromkeys(("steps", "diverged"), object),
        "pictures": list,
    },
}
ENTRIES = {
    "losses": {"training_loss", "largest", "count", "limited", "nonfinite", "kept"},
    "series": {"shape", "crc32"},
}


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses what is no config.json of today's format.

    Raises:
        ValueError: With the fault.
    """
    _check_parts("config.json", config)
    if not config["metrics"]:
        raise ValueError("metrics in config.json is empty")
    for metric in config["metrics"]:
        Metric(**metric)
        if metric.get("better", "lower") not in ("lower", "higher"):
            raise ValueError(f"better in config.json is {metric['better']!r}")


def check_result(result: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuses what is no result.json of the run that is fixed by a config.json.

    Raises:
        ValueError: With the fault.
    """
    _check_parts("result.json", result)
    for key, needed in ENTRIES.items():
        for entry, values in result[key].items():
            if missing := sorted(needed - values.keys()):
                raise ValueError(f"{entry} in result.json lacks {', '.join(missing)}")
    untrained = result.get("baselines", {})  # which most tasks have not, and older runs
    if not isinstance(untrained, dict) or not all(isinstance(x, dict) for x in untrained.values()):
        raise ValueError(f"baselines in result.json is {untrained!r}")
    steps = config["training"].get("steps")
    if result["steps"] != steps:
        raise ValueError(
            f"result.json is of {result['steps']!r} steps and config.json of {steps!r}"
        )


def _check_parts(file: str, content: Mapping[str, Any]) -> None:
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{file} is of format {content.get('format')!r}, and this alrc reads {FORMAT}"
        )
    if missing := sorted(PARTS[file].keys() - content.keys()):
        raise ValueError(f"{file} lacks {', '.join(missing)}")
    for name, kind in PARTS[file].items():
        if not isinstance(content[name], kind):
            raise ValueError(f"{name} in {file} is {content[name]!r}")


def save_evaluations(folder: Path, rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Writes evaluation.npy: a row for each evaluation, the step and then the metrics.

    Returns:
        What result.json says of it.
    """
    content = io.BytesIO()  # np.save does not say when a disk is full
    np.save(content, np.array(rows, np.float64))
    with written_whole(folder / "evaluation.npy") as part:
        part.write_bytes(content.getbuffer())
    return {"crc32": f"{zlib.crc32(content.getbuffer()):08x}"}


def read_evaluations(
    folder: Path, result: Mapping[str, Any], columns: int
) -> NDArray[np.float64] | None:
    """The rows of evaluation.npy; None without one in results that don't speak of it.

    Raises:
        Damaged: If it is not there, has another number of columns, or was changed.
    """
    path, stored = folder / "evaluation.npy", result.get("evaluation")
    if stored is None and not path.exists():
        return None
    try:
        with storing(folder):
            content = path.read_bytes()
        crc = f"{zlib.crc32(content):08x}"
        rows: NDArray[np.float64] = np.load(io.BytesIO(content))
        if rows.shape[1:] != (columns,) or rows.dtype != np.float64 or not len(rows):
            raise ValueError(f"it has {rows.dtype} of shape {rows.shape}")
        if stored is not None and crc != stored["crc32"]:
            raise ValueError(f"its checksum is {crc} instead of {stored['crc32']}")
    except Exception as fault:  # whatever the bytes happen to spell
        words = "it is missing" if not path.exists() else fault
        raise Damaged(
            f"{path} must hold a row of {columns} float64 numbers for each evaluation; {words}. "
            "Remove result.json and finish the run again, or remove the folder."
        ) from None
    return rows
