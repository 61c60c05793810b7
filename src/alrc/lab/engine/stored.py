"""Whether config.json and result.json hold what a run is known by: for the engine and the report.

Their faults are half-sentences; who opened the file says which one it is, and what to do.
"""

from collections.abc import Mapping
from typing import Any

from alrc.lab.api import Metric

__all__ = ["FORMAT", "check_config", "check_result"]

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
