"""Files, folders and standard input."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from alrc.replay.curve import Curve
from alrc.replay.logs import refusals
from alrc.replay.logs.assemble import curves_of
from alrc.replay.logs.events import EventsReader
from alrc.replay.logs.refusals import LogRefused
from alrc.replay.logs.stream import LogReader, only
from alrc.replay.logs.table import ByStep, Table

__all__ = ["read_log", "read_logs"]

PIECE = 1 << 20  # bytes that are read at once
STANDARD_INPUT = "-"


def read_log(source: str | Path, column: str | None = None) -> Curve:
    """Reads a training log, whatever wrote it, as one loss curve.

    Args:
        source: A file, a folder with the logs of one run, or ``"-"`` for standard input.
        column: The column, key or tag to read; None for that which is the training loss. The end
            of a name is enough where it is the end of no other.

    Raises:
        LogRefused: There is no curve in it, or there are several.
    """
    return only(_read(source, column), str(source))


def read_logs(sources: Sequence[str | Path], column: str | None = None) -> list[Curve]:
    """Reads all curves of some files and folders, in this order; arguments as for `read_log`.

    A folder may hold many runs, and so may a chart export of Weights & Biases.
    """
    return [curve for source in sources for curve in _read(source, column)]


def _read(source: str | Path, column: str | None) -> list[Curve]:
    if str(source) == STANDARD_INPUT:
        return _curves(sys.stdin.buffer, "standard input", column)
    path = Path(source)
    if path.is_dir():
        return _folder(path, column)
    if not path.exists():
        raise refusals.missing(str(source))
    return _file(path, path.name, column)


def _file(path: Path, name: str, column: str | None) -> list[Curve]:
    with path.open("rb") as file:
        return _curves(file, name, column)


def _curves(file: BinaryIO, name: str, column: str | None) -> list[Curve]:
    log = LogReader(name, column)
    while piece := file.read(PIECE):
        log.feed(piece)
    log.end()
    return log.curves()


def _folder(folder: Path, column: str | None) -> list[Curve]:
    """The curves of the surest kind of log that a folder and those within it hold."""
    first: LogRefused | None = None
    for find in KINDS:
        curves: list[Curve] = []
        for read in find(folder, column):
            try:
                curves += read()
            except LogRefused as refused:
                first = first or refused
        if curves:
            return curves
    raise first or refusals.nothing_in(str(folder))


Reading = Callable[[], list[Curve]]


def _named(path: Path, folder: Path) -> str:
    inside = path.relative_to(folder).as_posix()
    return folder.name if inside == "." else f"{folder.name}/{inside}"


def _events(folder: Path, column: str | None) -> Iterator[Reading]:
    """A run for each folder with event files; a run that was resumed has several."""
    runs: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*tfevents*")):
        runs.setdefault(path.parent, []).append(path)
    for run, paths in runs.items():

        def read(run: Path = run, paths: list[Path] = paths) -> list[Curve]:
            events = EventsReader()
            for path in paths:
                events.next_file()
                events.feed(path.read_bytes())
            return curves_of(events.table, _named(run, folder), column)

        yield read


def _mlflow(folder: Path, column: str | None) -> Iterator[Reading]:
    """A run for each folder called metrics in which MLflow keeps a file for each metric."""
    within = [folder] if folder.name == "metrics" else []
    for metrics in [*within, *sorted(folder.rglob("metrics"))]:
        if not metrics.is_dir() or not (metrics.parent / "meta.yaml").exists():
            continue

        def read(metrics: Path = metrics) -> list[Curve]:
            table = Table("MLflow's metric files")
            joined = ByStep(table)
            for path in sorted(p for p in metrics.rglob("*") if p.is_file()):
                name = path.relative_to(metrics).as_posix()
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    try:
                        _, value, step = line.split()[:3]
                        joined.put(int(step), name, float(value))
                    except ValueError:
                        table.miss(number, line, name)
            run = metrics.parent
            return curves_of(table, _named(run, folder) if run != folder.parent else "run", column)

        yield read


def _trainer_states(folder: Path, column: str | None) -> Iterator[Reading]:
    """The last state of each run: a checkpoint's has what those before it had."""
    states: dict[Path, list[tuple[int, Path]]] = {}
    for path in sorted(folder.rglob("trainer_state.json")):
        kind, _, step = path.parent.name.rpartition("-")
        of_checkpoint = kind == "checkpoint" and step.isdigit()
        run = path.parent.parent if of_checkpoint else path.parent
        # That beside the checkpoints is written at the end.
        order = int(step) if of_checkpoint else sys.maxsize
        states.setdefault(run, []).append((order, path))
    for of_run in states.values():
        yield partial(_last, [path for _, path in sorted(of_run)], folder, column)


def _last(paths: Sequence[Path], folder: Path, column: str | None) -> list[Curve]:
    """Of the last file that can be read: transformers writes in place, and may be killed at it."""
    *before, last = paths
    name = _named(last, folder)
    try:
        return _file(last, name, column)
    except LogRefused:
        with suppress(LogRefused):
            if before:
                note = f"Not read: {name}, which is damaged or is being written."
                curves = _last(before, folder, column)
                return [replace(curve, notes=(*curve.notes, note)) for curve in curves]
        raise


def _endings(*endings: str) -> Callable[[Path, str | None], Iterator[Reading]]:
    def find(folder: Path, column: str | None) -> Iterator[Reading]:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name.lower().endswith(endings):
                yield partial(_file, path, _named(path, folder), column)

    return find


# A run often keeps one curve in several ways; only the first of these is read. Here endings count,
# because a folder holds many files that are no logs.
KINDS: tuple[Callable[[Path, str | None], Iterator[Reading]], ...] = (
    _events,
    _mlflow,
    _trainer_states,
    _endings(".csv", ".tsv"),
    _endings(".jsonl", "metrics.json", "log.json", "history.json"),
    _endings(".log"),
    _endings(".txt", ".out"),
)
