"""A log as bytes that come piece by piece, whatever their encoding and format."""

import codecs
import io
import zlib

from alrc.replay.curve import Curve
from alrc.replay.logs import refusals
from alrc.replay.logs.assemble import curves_of
from alrc.replay.logs.events import EventsReader, is_events
from alrc.replay.logs.formats import BINARIES, TextReader, reader_for
from alrc.replay.logs.table import Table

__all__ = ["LogReader"]

HEAD = 1 << 16  # bytes that say what a log is
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _encoding(head: bytes) -> str | None:
    """The encoding of a text that begins so; None if it is no text."""
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return encoding
    for place, encoding in enumerate(("utf-16-be", "utf-16-le")):
        # Latin letters in two bytes, of which one is 0 and the other is text.
        zeros, letters = head[place::2], head[1 - place :: 2]
        controls = sum(letters.count(code) for code in range(9))
        if zeros.count(0) > 0.8 * len(zeros) and controls < 0.05 * len(letters):
            return encoding
    return None if b"\0" in head else "utf-8-sig"


class _Text:
    """Cuts bytes into whole lines, and gives these to the reader that fits the first of them."""

    def __init__(self, encoding: str) -> None:
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        # Carriage returns, with which progress bars are drawn again, end lines as well.
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest = ""
        self.reader: TextReader | None = None

    def feed(self, data: bytes, final: bool) -> None:
        text = self._rest + self._decoder.decode(data, final)
        if final and text and not text.endswith("\n"):
            text += "\n"
        whole, newline, self._rest = text.rpartition("\n")
        if not newline:
            return
        if self.reader is None:
            self.reader = reader_for(whole.split("\n"))
        self.reader.feed(whole + "\n")


class LogReader:
    """Reads a log that may still be growing.

    Args:
        name: Of the log, for messages.
        column: The column to read; None for that which is the training loss.

    Example:
        >>> log = LogReader("run.log")
        >>> for step in range(30):
        ...     log.feed(f"step {step} | loss {3 - 0.1 * step:.2f}\\n".encode())
        >>> curve = log.curve()
        >>> len(curve), curve.column, float(curve.losses[-1])
        (30, 'loss', 0.1)
    """

    def __init__(self, name: str, column: str | None = None) -> None:
        self.name = name
        self._column = column
        self._head = b""
        self._packed = zlib.decompressobj(31)  # for what gzip packed
        self._is_packed: bool | None = None
        self._source: _Text | EventsReader | None = None
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Takes what the log has grown by.

        Raises:
            LogRefused: It is no log.
        """
        if self._is_packed is None and data:
            self._is_packed = data.startswith(b"\x1f\x8b")
        if self._is_packed:
            data = self._packed.decompress(data)
        if self._source is None:
            self._head += data
            if len(self._head) < HEAD:
                return
            self._source, data, self._head = self._begin(self._head), self._head, b""
        self._give(self._source, data, False)

    def curves(self) -> list[Curve]:
        """The curves of all whole lines so far: one, or one for each run if a log has several.

        Raises:
            LogRefused: There is no curve in it.
        """
        return curves_of(self._table(), self.name, self._column)

    def curve(self) -> Curve:
        """The curve of all whole lines so far.

        Raises:
            LogRefused: There is no curve in it, or there are several.
        """
        return only(self.curves(), self.name)

    def end(self) -> None:
        """Nothing follows, so that the last line is whole."""
        self._ended = True

    def _table(self) -> Table:
        source, rest, final = self._source, b"", self._ended
        if source is None:
            # Too little to be sure of the format: it is found anew when there is more.
            if not self._head.strip():
                raise refusals.empty(self.name)
            source, rest = self._begin(self._head), self._head
        if rest or final:
            self._give(source, rest, final)
        if isinstance(source, EventsReader):
            return source.table
        if source.reader is None:
            raise refusals.empty(self.name)
        return source.reader.table

    def _begin(self, head: bytes) -> "_Text | EventsReader":
        if is_events(head):
            return EventsReader()
        for start, (kind, mend) in BINARIES.items():
            if head.startswith(start):
                raise refusals.binary(self.name, kind, mend)
        encoding = _encoding(head)
        if encoding is None:
            raise refusals.binary(self.name, "bytes that are no text", "Name the log itself.")
        return _Text(encoding)

    @staticmethod
    def _give(source: "_Text | EventsReader", data: bytes, final: bool) -> None:
        if isinstance(source, EventsReader):
            source.feed(data)
        else:
            source.feed(data, final)


def only(curves: list[Curve], name: str) -> Curve:
    """The one curve that there is."""
    if len(curves) > 1:
        raise refusals.several(name, [curve.name for curve in curves])
    return curves[0]
