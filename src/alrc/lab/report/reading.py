"""Reads the runs of a study from its folder, and refuses what is not whole.

Only config.json and result.json are read here; a series is opened, and verified, where a figure
needs it. So ten thousand runs can be listed in seconds.
"""

import contextlib
import itertools
import json
import tomllib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alrc.lab.engine.files import plain
from alrc.lab.engine.stored import check_config, check_result
from alrc.lab.engine.study_file import flat
from alrc.lab.report import old_format
from alrc.lab.report.results import Run, Setting, Study, natural

__all__ = ["read_study"]

Fixing = Callable[[Run], Iterator[tuple[str, Any]]]


def read_study(folder: Path) -> Study:
    """Reads the runs of a study, or a lone one.

    Args:
        folder: Holds runs as ``runs/NAME/``, or is the folder of a run.

    Raises:
        ValueError: If there is no finished run, a finished one is not whole, runs that would be
            compared are of different tasks, or one is there twice.
        OSError: If a file cannot be read.
    """
    root = folder / "runs"
    if not root.is_dir() and (folder / "config.json").is_file():
        return _read_single(folder)
    there = sorted(p.name for p in root.glob("[!.]*") if p.is_dir()) if root.is_dir() else []
    if not there:
        raise ValueError(
            f"{folder} must hold at least one run, as runs/NAME/, because a report is drawn from "
            "stored results; it holds none. Pass the folder of a study, or of a run."
        )
    declared, asked = _asked(folder)
    names = there if asked is None else [name for name in there if name in asked]
    finished = [name for name in names if (root / name / "result.json").is_file()]
    others = [name for name in names if not (root / name / "result.json").is_file()]
    failed = [name for name in others if (root / name / "log.txt").is_file()]
    if not finished:
        raise ValueError(
            f"{folder} must hold at least one finished run, because a report is drawn from stored "
            f"results; none of its {len(names):,} has a result.json. Let one of them finish."
        )
    runs = [_read(root / name) for name in finished]
    keys = {
        run: (natural(run.config["task"]), _sortable(run), not run.is_baseline, natural(run.arm))
        for run in runs
    }
    runs.sort(key=lambda run: (*keys[run], run.seed, run.name))
    unfinished = [name for name in others if name not in failed]
    lost = _designs(root, unfinished, "unfinished") | _designs(root, failed, "failed")
    study = Study(
        folder,
        runs,
        failed,
        unfinished,
        declared=declared,
        others=len(there) - len(names),
        lost=lost,
    )
    _check_comparable(study)
    study.primary  # noqa: B018 - refuses one that names several
    return study


def _designs(root: Path, names: Sequence[str], what: str) -> dict[tuple[Setting, str], str]:
    """Setting and arm of runs without a result; they may have broken off before they told them."""
    found = {}
    for name in names:
        with contextlib.suppress(ValueError, OSError, TypeError, KeyError, AttributeError):
            config = _json(root / name / "config.json")
            setting = Setting(config["task"], tuple(config["training"].items()))
            found[setting, str(config["arm"])] = what
    return found


def _sortable(run: Run) -> list[Any]:
    return [(name, natural(str(value))) for name, value in run.setting.training]


def _read_single(folder: Path) -> Study:
    if not (folder / "result.json").is_file():
        raise ValueError(
            f"{folder} must hold a finished run, because a report is drawn from stored results; it "
            "has no result.json. Let it finish."
        )
    return Study(folder, [_read(folder)], single=True)


def _asked(folder: Path) -> tuple[Mapping[str, Any], Container[str] | None]:
    """The primary comparison and the runs of study.json, which a study writes, or of study.toml.

    Others may be in the folder: of a task before it was changed, or of a first try with few steps.
    """
    readers = {"study.json": json.loads, "study.toml": tomllib.loads}
    for name, loads in readers.items():
        if not (file := folder / name).is_file():
            continue
        try:
            record = loads(file.read_text(encoding="utf-8"))
            primary, runs = record.get("primary") or {}, record.get("runs")
            return flat(plain(primary, "primary")), None if runs is None else set(runs)
        except (ValueError, AttributeError, TypeError) as fault:
            raise ValueError(
                f"{file} must say what was asked of the study, with primary, if at all, as a "
                f"table; but: {fault}. Mend it, or remove it: runs are reported without."
            ) from None
    return {}, None


def _read(path: Path) -> Run:
    """One run; its series stay on disk until they are needed."""
    try:
        config = _json(path / "config.json")
        if "format" not in config:
            config, result, read = old_format.convert(path, config, _json(path / "result.json"))
            return Run(path, config, result, read)
        result = _json(path / "result.json")
        check_config(config)
        check_result(result, config)
        _check_sizes(path, result["series"])
    except FileNotFoundError as error:
        raise _not_whole(path, f"{Path(error.filename).relative_to(path)} is missing") from None
    except (ValueError, TypeError, KeyError, AttributeError, EOFError) as fault:
        raise _not_whole(path, str(fault)) from None
    return Run(path, config, result)


def _not_whole(path: Path, fault: str) -> ValueError:
    return ValueError(
        f"{path} must hold a whole run, because it has a result.json; but: {fault}. Remove "
        "result.json and finish the run again, or remove the folder."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{path.name} is not JSON ({fault})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return value


def _check_sizes(path: Path, series: Mapping[str, Mapping[str, Any]]) -> None:
    """That no series is cut short; whether its content is what it was is seen when it is opened."""
    for name, manifest in series.items():
        size = (path / "series" / f"{name}.npy").stat().st_size
        needed = 4 * int(np.prod(manifest["shape"], dtype=np.int64))
        if size <= needed:
            raise ValueError(f"series/{name}.npy has {size:,} bytes of more than {needed:,}")


def _check_comparable(study: Study) -> None:
    """Everything but arm and seed has to be the same in a setting, and each run be there once."""
    for setting in study.settings:
        runs = [run for arm in study.arms_of(setting) for run in study.of(setting, arm)]
        _check_same(study, runs, "tasks", _fixing_task)
        for arm in study.arms_of(setting):
            _check_same(study, study.of(setting, arm), "arms", _fixing_arm)
            _check_once(study.folder, study.of(setting, arm))


def _check_same(study: Study, runs: Sequence[Run], what: str, fixing: Fixing) -> None:
    seen: dict[str, tuple[Any, Run]] = {}
    for run in runs:
        for name, value in fixing(run):
            first, before = seen.setdefault(name, (value, run))
            if first != value:
                raise ValueError(
                    f"{study.folder} must not mix {what} in one comparison "
                    f"({study.labels[run.setting]}), because their metrics mean different things; "
                    f"{before.name} has {name} {first!r}, {run.name} has {value!r}. Keep them in "
                    "separate folders."
                )


def _fixing_task(run: Run) -> Iterator[tuple[str, Any]]:
    """What has to be the same in a setting, by name; of files, those that both runs have."""
    for room in ("task_options", "task_facts", "sources"):
        for name, value in run.config[room].items():
            yield f"{room}.{name}", value
    yield "metrics", run.config["metrics"]
    yield "diverged_above", run.config["diverged_above"]


def _fixing_arm(run: Run) -> Iterator[tuple[str, Any]]:
    """The same of an arm, whose spelling leaves out what was its default at the time."""
    for name, value in run.config["arm_options"].items():
        yield f"arm_options.{name}", value
    yield "is_baseline", run.is_baseline
    yield "losses_limited", run.config["losses_limited"]


def _check_once(folder: Path, runs: Sequence[Run]) -> None:
    for one, other in itertools.pairwise(runs):
        if one.seed == other.seed:
            raise ValueError(
                f"{folder} must hold each run once, because a copy would count as a repeat; "
                f"{one.name} and {other.name} have the same settings and seed. Remove one of them."
            )
