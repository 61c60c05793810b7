"""The kinds of text that are read, and how each is told from the others: by content alone."""

from collections.abc import Callable
from typing import Protocol

from alrc.replay.logs import delimited, structured
from alrc.replay.logs.console import ConsoleReader
from alrc.replay.logs.table import Table

__all__ = ["BINARIES", "TextReader", "reader_for"]


class TextReader(Protocol):
    """Fills a table from text that comes piece by piece, whole lines each time."""

    def feed(self, text: str) -> None: ...

    @property
    def table(self) -> Table: ...


def _json_lines(lines: list[str]) -> TextReader | None:
    return structured.JsonLinesReader() if structured.is_lines(lines) else None


def _json(lines: list[str]) -> TextReader | None:
    return structured.JsonReader() if structured.is_document(lines) else None


def _delimited(lines: list[str]) -> TextReader | None:
    layout = delimited.layout_of(lines)
    return None if layout is None else delimited.DelimitedReader(layout)


# In this order: what is more particular first. A console log is what is left.
FORMATS: tuple[Callable[[list[str]], TextReader | None], ...] = (_json_lines, _json, _delimited)

# What other files begin with, what they are, and what to do instead.
BINARIES = {
    b"SQLite format 3": ("an SQLite database", "Export a metric of one run as CSV."),
    b":W&B": ("a .wandb file", "Export the chart as CSV from the page of the run."),
    b"PK\x03\x04": ("a ZIP archive, an .npz or a checkpoint", "Unpack it, or name the log."),
    b"PAR1": ("a Parquet file", "Convert it: pandas.read_parquet(...).to_csv(...)."),
    b"\x93NUMPY": ("an .npy file", "Convert it: numpy.savetxt('loss.txt', numpy.load(...))."),
    b"\x89HDF": ("an HDF5 file", "Export the losses as CSV."),
}


def reader_for(lines: list[str]) -> TextReader:
    """The reader of a log that begins with these lines."""
    for begin in FORMATS:
        if (reader := begin(lines)) is not None:
            return reader
    return ConsoleReader()
