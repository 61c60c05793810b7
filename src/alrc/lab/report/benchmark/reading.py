"""Compact results of a benchmark are read, checked, and refused in words."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alrc.lab.engine.benchmark_file import KINDS
from alrc.lab.engine.files import Damaged
from alrc.lab.report.benchmark.compact import FAMILIES, PLAIN, Bench, Run, Workload
from alrc.lab.report.compact import HEADER as COLUMNS

__all__ = ["COLUMNS", "read_bench"]

WORDS = ("part", "title", "kind", "family", "task")
NOT_PARTS = ("step_cost.csv", "matrix.csv", "arms.csv", "decision.json")
MEND = "Write the compact files anew from the runs."


def read_bench(folder: Path) -> Bench:
    """Reads ``PART.csv`` and ``PART.json`` of every part in a folder.

    Raises:
        Damaged: If something is missing or is not as it has to be; with the file and the line.
    """
    names = {
        file.stem
        for file in folder.glob("*.*")
        if file.suffix in (".csv", ".json") and file.name not in NOT_PARTS
    }
    if not names:
        raise Damaged(
            f"{folder} must hold PART.csv and PART.json of at least one part of a benchmark; there "
            "is none. Pass the folder of the compact results."
        )
    found: dict[str, Workload] = {}
    parts = {}
    for name in sorted(names):
        parts[name], workloads = _part(folder / f"{name}.csv", folder / f"{name}.json")
        for workload in workloads:
            if workload.name in found:
                raise Damaged(
                    f"{folder / name}.json: a workload must be in one part only, so that it is not "
                    f"counted twice; {workload.name} is in {found[workload.name].part} too. {MEND}"
                )
            found[workload.name] = workload
    cost = folder / "step_cost.csv"
    return Bench(tuple(found.values()), parts, tuple(_costs(cost)) if cost.exists() else ())


def _part(table: Path, about: Path) -> tuple[dict[str, Any], list[Workload]]:
    for file, other in ((table, about), (about, table)):
        if not file.is_file():
            raise Damaged(
                f"{file} must stand beside {other.name}, because a part is both; it is missing. "
                f"{MEND}"
            )
    given = _json(about)
    known = {name: _about(about, name, words) for name, words in given["workloads"].items()}
    runs: dict[str, dict[str, dict[int, Run]]] = {name: {} for name in known}
    spelled: dict[str, dict[str, str]] = {name: {} for name in known}
    for where, row in _rows(table, COLUMNS):
        name, label = row["workload"], f"{row['tuned']}, tuned" if row["tuned"] else row["arm"]
        if name not in known:
            raise Damaged(
                f"{where}: workload must be one of those in {about.name}; got {name!r}. {MEND}"
            )
        if spelled[name].setdefault(label, row["arm"]) != row["arm"]:
            raise Damaged(
                f"{where}: a tuned arm must have the same options with every seed; got "
                f"{row['arm']!r} after {spelled[name][label]!r} of {label!r}. {MEND}"
            )
        seed = _whole(where, "seed", row["seed"])
        if seed in (of_arm := runs[name].setdefault(label, {})):
            raise Damaged(
                f"{where}: workload, arm and seed must occur once; {name}, {label}, seed {seed} is "
                f"there already. {MEND}"
            )
        of_arm[seed] = _run(where, row, len(known[name]["metrics"]) > 1)
    return given, [_workload(table, name, known[name], runs[name], spelled[name]) for name in known]


def _workload(
    table: Path,
    name: str,
    about: dict[str, Any],
    runs: dict[str, dict[int, Run]],
    spelled: dict[str, str],
) -> Workload:
    seeds = about["seeds"]
    wanted = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if PLAIN not in runs:
        raise Damaged(
            f"{table}: {name} must have runs of {PLAIN!r}, because all others are compared with "
            f"them; there are none. {MEND}"
        )
    for label, of_arm in runs.items():
        for word, odd in (
            ("lacks", set(wanted) - set(of_arm)),
            ("adds", set(of_arm) - set(wanted)),
        ):
            if odd:
                raise Damaged(
                    f"{table}: {name}, {label} must have the {len(wanted)} seeds of its workload, "
                    f"because runs are paired by seed; it {word} {', '.join(map(str, sorted(odd)))}"
                    f". {MEND}"
                )
    return Workload(name, about, wanted, runs, spelled)


def _json(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise Damaged(f"{file}:{error.lineno}: must be JSON; {error.msg}. {MEND}") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{file}: must be text in UTF-8; it is not. {MEND}") from error
    if not isinstance(given, dict) or not isinstance(given.get("workloads"), dict):
        raise Damaged(f"{file}: must have 'workloads', a table by name; it has none. {MEND}")
    if not given["workloads"]:
        raise Damaged(f"{file}: must have at least one workload; it has none. {MEND}")
    return given


def _about(file: Path, name: str, given: Any) -> dict[str, Any]:
    def refuse(what: str, must: str) -> Damaged:
        got = given.get(what) if isinstance(given, dict) else given
        return Damaged(f"{file}: {what} of {name} must be {must}; got {got!r}. {MEND}")

    if not isinstance(given, dict):
        raise refuse("the table", "a table")
    for key in WORDS:
        if not isinstance(given.get(key), str) or not given[key]:
            raise refuse(key, "text")
    for key in ("breaks", "remedy"):
        if not isinstance(given.setdefault(key, ""), str):
            raise refuse(key, "text")
    for key, choices in (("kind", KINDS), ("family", FAMILIES)):
        if given[key] not in choices:
            raise refuse(key, f"one of {', '.join(choices)}")
    if given["part"] != file.stem:
        raise refuse("part", f"{file.stem}, as the file is called")
    seeds = given.get("seeds")
    if isinstance(seeds, bool) or not (
        (isinstance(seeds, int) and seeds >= 1)
        or (isinstance(seeds, list) and len({s for s in seeds if type(s) is int}) == len(seeds) > 0)
    ):
        raise refuse("seeds", "a number of seeds or a list of them, each once")
    metrics = given.get("metrics")
    if not isinstance(metrics, list) or not metrics or not all(map(_is_metric, metrics)):
        raise refuse("metrics", "a list of name, unit and better ('lower' or 'higher')")
    if metrics[0]["unit"] == "dB":
        raise refuse(
            "metrics", "such that the first has ratios that mean something, which dB have not"
        )
    return given


def _is_metric(given: Any) -> bool:
    return (
        isinstance(given, dict)
        and all(isinstance(given.get(key), str) for key in ("name", "unit"))
        and given.get("better") in ("lower", "higher")
    )


def _run(where: str, row: dict[str, str], two: bool) -> Run:
    if row["diverged"] not in ("0", "1"):
        raise Damaged(f"{where}: diverged must be 0 or 1; got {row['diverged']!r}. {MEND}")
    if not two and row["second"]:
        raise Damaged(
            f"{where}: second must be empty, because the workload has one metric; got "
            f"{row['second']!r}. {MEND}"
        )
    return Run(
        _float(where, "first", row["first"]),
        _float(where, "second", row["second"]) if two else None,
        row["diverged"] == "1",
        _float(where, "spikes", row["spikes"]),
        _whole(where, "reached", row["reached"]) if row["reached"] else None,
        _float(where, "limited", row["limited"]),
        _float(where, "kept", row["kept"]),
    )


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its file and line."""
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        lines = csv.reader(stream)
        header = next(lines, [])
        if missing := [column for column in columns if column not in header]:
            raise Damaged(f"{file}:1: must have all columns; it lacks {', '.join(missing)}. {MEND}")
        for row in lines:
            where = f"{file}:{lines.line_num}"
            if len(row) != len(header):
                raise Damaged(
                    f"{where}: must have {len(header)} values, as the header has; it has "
                    f"{len(row)}. {MEND}"
                )
            yield where, dict(zip(header, row, strict=True))


def _costs(file: Path) -> Iterator[tuple[str, float, float]]:
    for where, row in _rows(file, ("arm", "microseconds", "ratio")):
        yield (
            row["arm"],
            _float(where, "microseconds", row["microseconds"]),
            _float(where, "ratio", row["ratio"]),
        )


def _float(where: str, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Damaged(f"{where}: {column} must be a number; got {text!r}. {MEND}") from None


def _whole(where: str, column: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise Damaged(f"{where}: {column} must be a whole number; got {text!r}. {MEND}")
    return int(text)
