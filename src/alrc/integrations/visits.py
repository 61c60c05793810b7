"""The log of visits, beside the spike log: which examples each call had, limited or not.

A row is ``step,losses,key,key,...``: the keys of a call with so many losses each that count. Rows
are written as members of one gzip file, which are whole whenever a program ends.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alrc.files import written_whole
from alrc.integrations.spikes import csv_lines


class Visit(NamedTuple):
    """Examples of one call.

    Attributes:
        step: Which call it was in.
        losses: How many losses each of the examples had there that count.
        keys: What they are called.
    """

    step: int
    losses: int
    keys: list[str]


def visits_beside(spikes: Path) -> Path:
    """Where the visits are that belong to the spike log of one rank."""
    return spikes.with_name(f"{spikes.stem}-visits{spikes.suffix}.gz")


def is_visits(path: Path) -> bool:
    """Whether it is named like one of these logs."""
    return re.search(r"-visits(\.[^.]*)?\.gz$", path.name) is not None


def read_visits(path: Path) -> Iterator[Visit]:
    """The rows of a file as far as they are whole, one by one; none if there is no such file.

    Raises:
        ValueError: If it is no log of visits, or was damaged.
    """
    if not path.exists():
        return
    try:
        for step, losses, *keys in csv.reader(_whole_lines(path)):
            yield Visit(int(step), int(losses), keys)
    except (ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"Watch: {path} must be a log of visits, as a Watch writes it; it can't be read: "
            f"{error}. Remove it, or get it back from where it was copied."
        ) from error


def _whole_lines(path: Path) -> Iterator[str]:
    with gzip.open(path) as file:
        try:
            for line in file:
                yield line.decode()
        except EOFError:  # in the member that was being written
            return


class VisitLog:
    """Appends visits to a file, after those of earlier steps that it already holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_open = False

    def append(self, step: int, lines: Iterable[str]) -> None:
        """Appends rows, each of them a line, none of an earlier step than this one."""
        if not self._is_open:
            self._go_on(step)
        if rows := "".join(lines).encode():
            with self.path.open("ab") as file:  # without the time, the same rows are the same bytes
                file.write(gzip.compress(rows, 1, mtime=0))

    def _go_on(self, step: int) -> None:
        """Keeps whole rows of earlier steps."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        visits = (visit for visit in read_visits(self.path) if visit.step < step)
        with (
            written_whole(self.path) as part,
            gzip.open(part, "wt", compresslevel=1, newline="", encoding="utf-8") as file,
        ):
            file.writelines(csv_lines([row.step, row.losses, *row.keys] for row in visits))
        self._is_open = True
