"""The logs as CSV files that are whole whenever a program ends; needs no PyTorch to be read."""

import csv
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alrc.files import written_whole


class Spike(NamedTuple):
    """One loss that was limited, or that was not finite: a row of the spike log.

    Attributes:
        step: Which call it was in; the first is 0.
        rank: Which process it was in.
        index: Its position among the losses of the call, flattened.
        key: What :meth:`Watch.name_next` called the example; empty if nothing did.
        group: Its group; None without groups.
        loss: The loss that was computed.
        limit: What it was limited to, before it was rounded to the dtype of the losses; NaN if
            it was not finite or too large for the moments, and came back as it was.
        factor: What its gradient was multiplied by; 1 if it came back as it was.
    """

    step: int
    rank: int
    index: int  # type: ignore[assignment] # hides tuple's method of that name
    key: str
    group: int | None
    loss: float
    limit: float
    factor: float


def read_spikes(path: str | os.PathLike[str]) -> list[Spike]:
    """Reads the spike log that a :class:`Watch` writes; of all ranks, by step.

    Args:
        path: What the Watch was given as ``spikes``: the file of rank 0, beside which those of
            the other ranks are found.

    Raises:
        FileNotFoundError: If no rank has written one.
        ValueError: If a file is not a spike log.

    Example:
        >>> from alrc.integrations.loggers import read_spikes
        >>> read_spikes("typo.csv")
        Traceback (most recent call last):
            ...
        FileNotFoundError: read_spikes: there must be a spike log; got typo.csv, which does not \
exist. Pass what Watch was given as spikes.
    """
    spikes = [spike for file in files_of_ranks(Path(path)) for spike in spikes_of(file)]
    return sorted(spikes, key=lambda spike: spike[:3])


def files_of_ranks(path: Path, who: str = "read_spikes") -> list[Path]:
    """The spike log of rank 0 and those of other ranks beside it; refused if there are none."""
    name = f"{re.escape(path.stem)}(-rank[0-9]+)?{re.escape(path.suffix)}"
    folder = path.parent.iterdir() if path.parent.is_dir() else ()
    files = sorted(file for file in folder if re.fullmatch(name, file.name))
    if not files:
        raise FileNotFoundError(
            f"{who}: there must be a spike log; got {path}, which does not exist. Pass what "
            "Watch was given as spikes."
        )
    return files


def spikes_of(file: Path, who: str = "read_spikes") -> Iterator[Spike]:
    """The rows of one rank's file, one by one."""
    rows, line = whole_rows(file), 1
    try:
        _check_columns(who, file, tuple(next(rows, Spike._fields)), Spike._fields)
        for row in rows:
            line += 1
            step, rank, index, key, group, loss, limit, factor = row
            place = int(step), int(rank), int(index)
            numbers = float(loss), float(limit), float(factor)
            if not numbers[2] > 0:
                raise ValueError(f"a factor is above 0, not {factor}")
            yield Spike(*place, key, int(group) if group else None, *numbers)
    except _OtherColumns:
        raise
    except ValueError as error:  # of a number, of too few, or of no text
        raise ValueError(
            f"{who}: {file} must be a spike log, as a Watch writes it; line {line} can't be read: "
            f"{error}. Remove that line, or pass another path."
        ) from error


class Table:
    """A CSV file whose lines are in the order of their steps, in the first column."""

    def __init__(self, who: str, path: Path) -> None:
        self.who, self.path = who, path
        self._columns: tuple[str, ...] = ()

    def append(self, columns: tuple[str, ...], step: int, lines: Iterable[str]) -> None:
        """Appends lines, none of which has an earlier step than this one."""
        if not self._columns:
            self._go_on(columns, step)
        _check_columns(self.who, self.path, self._columns, columns)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.writelines(lines)

    def _go_on(self, columns: tuple[str, ...], step: int) -> None:
        """Keeps whole lines of earlier steps, and writes the first line if there is none."""
        rows = whole_rows(self.path)
        first = next(rows, list(columns))
        _check_columns(self.who, self.path, tuple(first), columns)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = itertools.chain([first], (row for row in rows if int(row[0]) < step))
        with (
            written_whole(self.path) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            file.writelines(csv_lines(kept))
        self._columns = columns


def csv_lines(rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Each row as a line of a CSV file."""
    line = io.StringIO()
    write = csv.writer(line, lineterminator="\n").writerow
    for row in rows:
        write(row)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def whole_rows(path: Path) -> Iterator[list[str]]:
    """The rows of the lines that end; none if there is no such file."""
    if path.exists():
        with path.open("rb") as file:
            yield from csv.reader(line.decode() for line in file if line.endswith(b"\n"))


class _OtherColumns(ValueError):
    pass


def _check_columns(who: str, path: Path, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    if found != wanted:
        raise _OtherColumns(
            f"{who}: {path} must have the columns {', '.join(wanted)}; it has {', '.join(found)}. "
            "Pass another path."
        )


def of_rank(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}-rank{rank}{path.suffix}") if rank else path
