"""Tables of numbers: CSV, tabs, semicolons, blanks, and one number per line.

Lightning, Keras, Ultralytics, W&B, TensorBoard, openai's loggers, MLflow and numpy write these.
"""

import csv
import re
import warnings
from dataclasses import dataclass

import numpy as np

from alrc.replay.logs import columns
from alrc.replay.logs.cells import is_number, number
from alrc.replay.logs.table import Table

__all__ = ["DelimitedReader", "Layout", "layout_of"]

DELIMITERS = (",", "\t", ";", None)  # None: any blanks
BULK = 4096  # characters from which whole chunks are parsed at once
EPOCH_MS = 10**11  # smaller are no times of MLflow
BOUNDS = ("__MIN", "__MAX")  # of the steps that Weights & Biases draws as one point


@dataclass(frozen=True)
class Layout:
    """How lines are cut, and what the cells are called."""

    delimiter: str | None
    names: tuple[str, ...]
    has_header: bool

    def cut(self, line: str) -> list[str]:
        line = line.strip("\r\n")
        if self.delimiter is None:
            return line.split()
        if '"' in line:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=self.delimiter))]
        return [cell.strip() for cell in line.split(self.delimiter)]


def layout_of(lines: list[str]) -> Layout | None:
    """The layout of a table that begins with these lines, or None if they are no table."""
    comments = [line for line in lines[:100] if line.lstrip().startswith("#")]
    lines = [line for line in lines[:100] if line.strip() and line not in comments]
    if not lines:
        return None
    for delimiter in DELIMITERS:
        layout = Layout(delimiter, (), False)
        cells = [layout.cut(line) for line in lines]
        width = len(cells[0])
        if width == 1 and delimiter is not None:
            continue
        if np.mean([len(row) == width for row in cells]) < 0.8:
            continue
        if _all_numbers(cells[0]) and any(cells[0]):
            if _are_numbers(cells, width):
                return Layout(delimiter, _unnamed(cells, comments, width), False)
        elif _are_below_header(cells, width, delimiter):
            return Layout(delimiter, tuple(_distinct(cells[0])), True)
    return None


def _are_numbers(cells: list[list[str]], width: int) -> bool:
    whole = [row for row in cells if len(row) == width]
    return bool(np.mean([_all_numbers(row) for row in whole]) > 0.8)


def _are_below_header(cells: list[list[str]], width: int, delimiter: str | None) -> bool:
    """Whether the first row names columns of which one has numbers, and none is a sentence."""
    header, body = cells[0], [row for row in cells[1:] if len(row) == width]
    if any(is_number(name) for name in header) or len(set(header)) < len(header):
        return False
    if not body:  # a table that has only begun
        return delimiter is not None and any(columns.is_loss(name) for name in header)
    numeric = [
        np.mean([is_number(row[place]) or not row[place] for row in body]) > 0.5
        and any(is_number(row[place]) for row in body)
        for place in range(width)
    ]
    return any(numeric) and (delimiter is not None or all(numeric))


def _distinct(names: list[str]) -> list[str]:
    return [name or f"column {place + 1}" for place, name in enumerate(names)]


def _unnamed(cells: list[list[str]], comments: list[str], width: int) -> tuple[str, ...]:
    """Names of columns without a header: from a comment above, or from what they hold."""
    for comment in comments:
        text = comment.strip().lstrip("#").strip()
        for cut in (text.split(), re.split(r"\s*[,;\t]\s*", text)):
            if len(cut) == width and not any(is_number(name) for name in cut):
                return tuple(cut)
    if width == 1:
        return ("loss",)
    rows = [[number(c) for c in row] for row in cells if len(row) == width and _all_numbers(row)]
    held = np.array([[np.nan if v is None else v for v in row] for row in rows], np.float64)
    if width >= 3 and (held[:, 0] > EPOCH_MS).all() and (held[:, 2] % 1 == 0).all():
        return ("timestamp", "value", "step", *(f"column {i + 1}" for i in range(3, width)))
    names = [f"column {place + 1}" for place in range(width)]
    counts_up = (held[:, 0] % 1 == 0).all() and (np.diff(held[:, 0]) > 0).mean() > 0.5
    if len(held) > 1 and counts_up:
        names[0] = "step"
        if width == 2:
            names[1] = "loss"
    return tuple(names)


def _all_numbers(row: list[str]) -> bool:
    return all(is_number(cell) or not cell for cell in row)


class DelimitedReader:
    """Reads a table line by line, and at once where all its cells are numbers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._line = 0
        self._headed = not layout.has_header
        self.table = Table(*_written_by(layout))
        if "value" in (name.lower() for name in layout.names):
            self.table.losses = tuple(n for n in layout.names if n.lower() == "value")
        self.table.not_losses = tuple(
            name
            for name in layout.names
            if name.lower() in ("timestamp", "wall time", "_timestamp") or name.endswith(BOUNDS)
        )

    def feed(self, text: str) -> None:
        """Takes whole lines."""
        if self._headed and len(text) > BULK and self._bulk(text):
            return
        for line in text.removesuffix("\n").split("\n"):
            self._line += 1
            if line.strip() and not line.lstrip().startswith("#"):
                self._read(line)

    def _bulk(self, text: str) -> bool:
        """Whether all cells were numbers, of as many columns in each line, and are now read."""
        width, delimiter = len(self._layout.names), self._layout.delimiter
        lines = text.count("\n")
        if delimiter is not None:
            # As many delimiters in each line; sums alone would let two faults make up for one
            # another.
            codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
            ends = np.flatnonzero(codes == ord("\n"))
            before = np.cumsum(codes == ord(delimiter))[ends]
            if not np.array_equal(before, np.arange(1, lines + 1) * (width - 1)):
                return False
            text = text.replace("\n", delimiter)
        elif width > 1 or " " in text or "\t" in text:
            return False  # blanks can't be counted so; np.fromstring would shift cells
        with warnings.catch_warnings():
            # Older NumPys read what stands before that which is no number, and warn.
            warnings.simplefilter("error", DeprecationWarning)
            try:
                cells = np.fromstring(text, sep=delimiter or " ")
            except (ValueError, DeprecationWarning):
                return False
        if len(cells) != lines * width:
            return False
        self.table.extend(list(self._layout.names), cells.reshape(lines, width))
        self._line += lines
        return True

    def _read(self, line: str) -> None:
        cells = self._layout.cut(line)
        names = self._layout.names
        if self._layout.has_header and self._is_header(cells):
            if self._headed:
                # Written again by a run that was started anew, perhaps with other columns.
                self._layout = Layout(self._layout.delimiter, tuple(_distinct(cells)), True)
                self.table.begin()
            self._headed = True
            return
        if len(cells) > len(names) and not any(cells[len(names) :]):
            cells = cells[: len(names)]
        if len(cells) != len(names):
            self.table.miss(self._line, line)
            return
        read: dict[str, float] = {}
        aside = ""
        for name, cell in zip(names, cells, strict=True):
            try:
                value = number(self._decimal(cell))
            except ValueError:
                self._word(name, cell)
                if is_split(name, cell):
                    aside = "eval "
                continue
            if value is not None:
                read[name] = value
        self.table.add(
            {aside + n if columns.is_loss(n) else n: value for n, value in read.items()}
            if aside
            else read
        )

    def _decimal(self, cell: str) -> str:
        """Where semicolons part cells, a comma is a point."""
        return cell.replace(",", ".") if self._layout.delimiter == ";" else cell

    def _is_header(self, cells: list[str]) -> bool:
        if not self._headed:
            return True
        known = set(self._layout.names)
        return sum(cell in known for cell in cells) > len(cells) / 2 and not any(
            is_number(cell) for cell in cells
        )

    def _word(self, name: str, cell: str) -> None:
        if name in self.table.columns or columns.rank(name) is not None:
            self.table.miss(self._line, cell, name)
        else:
            self.table.texts.setdefault(name, cell)


def is_split(name: str, cell: str) -> bool:
    """Whether a cell in words says that its row is of an evaluation."""
    return name.lower() in ("split", "phase", "mode", "stage", "set") and columns.is_evaluation(
        cell
    )


def _written_by(layout: Layout) -> tuple[str, bool | None]:
    """What wrote the table, and whether that takes means."""
    names = layout.names
    have = {name.lower() for name in names}
    if not layout.has_header:
        if names[:3] == ("timestamp", "value", "step"):
            return "an MLflow metric file", None
        return ("a list of numbers" if len(names) == 1 else "a table of numbers"), None
    if {"wall time", "step", "value"} == have:
        return "a CSV of TensorBoard", None
    if "step" in have and any(columns.run_and_key(name)[0] for name in names):
        return "a chart export of Weights & Biases", None
    if "metrics/map50(b)" in have or "train/box_loss" in have:
        return "a results.csv of Ultralytics", True
    if "loss_q0" in have:
        return "a progress.csv of openai's logger", True
    if any(name.endswith(("_step", "_epoch")) for name in names) and "epoch" in have:
        return "a CSV of Lightning's CSVLogger", None
    if names[0] == "epoch" and "step" not in have:
        return "a CSV with a row for each epoch, as of Keras", True
    return "a table" if layout.delimiter != "," else "a CSV", None
