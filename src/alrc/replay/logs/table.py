"""What a reader fills: rows with some cells each, kept column by column.

Logs have many columns and few cells: evaluations, summaries and steps have rows of their own. A
column therefore keeps which of the rows it has, unless it has them all.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from alrc.replay.curve import Floats, Integers

__all__ = ["ByStep", "Column", "Table", "Unread"]


@dataclass(frozen=True)
class Unread:
    """A line, or a cell of it, in which a number was expected; counted from 1."""

    line: int
    text: str


class Column:
    """Numbers, and the rows in which they stood."""

    def __init__(self) -> None:
        self._values = array("d")
        self._rows: array[int] | None = None  # None: row i holds value i

    def __len__(self) -> int:
        return len(self._values)

    def append(self, row: int, value: float) -> None:
        if self._rows is None and row != len(self._values):
            self._rows = array("q", range(len(self._values)))
        if self._rows is not None:
            self._rows.append(row)
        self._values.append(value)

    def extend(self, row: int, values: Floats) -> None:
        """Takes one value for each row from `row` on."""
        if self._rows is None and row != len(self._values):
            self._rows = array("q", range(len(self._values)))
        if self._rows is not None:
            self._rows.frombytes(np.arange(row, row + len(values), dtype=np.int64).tobytes())
        self._values.frombytes(np.ascontiguousarray(values, np.float64).tobytes())

    @property
    def values(self) -> Floats:
        return np.array(self._values, np.float64)

    @property
    def rows(self) -> Integers:
        if self._rows is None:
            return np.arange(len(self._values), dtype=np.int64)
        return np.array(self._rows, np.int64)

    def at(self, rows: Integers) -> tuple[Floats, "np.ndarray[tuple[int, ...], np.dtype[np.bool]]"]:
        """The values in these rows, with NaN where there is none, and where there is one."""
        own = self.rows
        place = np.minimum(np.searchsorted(own, rows), len(own) - 1)
        found = own[place] == rows
        return np.where(found, self.values[place], np.nan), found


@dataclass
class Table:
    """Rows of numbers by name, in the order of the log.

    Args:
        format: What wrote the log, in words.
        averaged: Whether that writes means over steps; None if unknown.
        losses: Columns that are losses whatever they are called.
        not_losses: Columns that are none whatever they are called.
        starts: Rows before which the log says that a run begins.
        unread: By column, how many cells were no numbers, and the first of them; under "" lines.
        texts: Columns that hold words, with the first of these.
        first_text: Number and text of the first line without a number, which is no fault.
        running: What each row hides, where it is a mean of more than the steps since the last.
    """

    format: str
    averaged: bool | None = None
    losses: tuple[str, ...] = ()
    not_losses: tuple[str, ...] = ()
    columns: dict[str, Column] = field(default_factory=dict)
    rows: int = 0
    starts: list[int] = field(default_factory=list)
    unread: dict[str, tuple[int, Unread]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    first_text: tuple[int, str] | None = None
    running: str = ""

    def add(self, cells: Mapping[str, float]) -> None:
        """Adds a row."""
        for name, value in cells.items():
            self.column(name).append(self.rows, value)
        self.rows += 1

    def put(self, row: int, name: str, value: float) -> None:
        """Adds a cell to a row, which must be the column's last so far."""
        self.column(name).append(row, value)
        self.rows = max(self.rows, row + 1)

    def extend(self, names: list[str], rows: Floats) -> None:
        """Adds many rows that have all of the cells; ``(rows, names)``."""
        for name, values in zip(names, rows.T, strict=True):
            self.column(name).extend(self.rows, values)
        self.rows += len(rows)

    def column(self, name: str) -> Column:
        if name not in self.columns:
            self.columns[name] = Column()
        return self.columns[name]

    def begin(self) -> None:
        """The log says that a run begins here."""
        self.starts.append(self.rows)

    def miss(self, line: int, text: str, column: str = "") -> None:
        """Counts what is no number."""
        count, first = self.unread.get(column, (0, Unread(line, text)))
        self.unread[column] = (count + 1, first)


class ByStep:
    """Fills a table with numbers that come one by one: those of one step are one row."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: dict[int, int] = {}  # of a step, the row
        self._last: dict[str, int] = {}  # of a name, its last row

    def put(self, step: int, name: str, value: float) -> None:
        if name == "step":
            return  # said already
        row = self._rows.get(step)
        # The rows of a column must grow: a step that comes again is of a run that was resumed.
        if row is None or row <= self._last.get(name, -1):
            row = self._rows[step] = self._table.rows
            self._table.put(row, "step", step)
        self._table.put(row, name, value)
        self._last[name] = row

    def forget(self) -> None:
        """What follows is of a run that was started anew."""
        self._rows.clear()
