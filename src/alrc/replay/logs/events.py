"""TensorBoard's event files, read without TensorBoard.

A file is a row of records: length (8 bytes), its checksum (4), a protocol buffer, its checksum (4).
Of a buffer's fields, these are read: Event.step = 2, Event.summary = 5, Summary.value = 1,
Value.tag = 1, Value.simple_value = 2, Value.tensor = 8; TensorProto.dtype = 1, tensor_content = 4,
float_val = 5, double_val = 6.
"""

import struct
from collections.abc import Iterator

from alrc.replay.logs.table import ByStep, Table

__all__ = ["EventsReader", "is_events"]

MARK = b"brain.Event:"  # the version, which the first record of each file holds
LONGEST = 2**30
FLOAT, DOUBLE = 1, 2

Field = tuple[int, int | bytes]


def is_events(head: bytes) -> bool:
    return MARK in head[:64]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def _fields(data: bytes) -> Iterator[Field]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == 2:
            length, place = _varint(data, place)
        else:
            length = {1: 8, 5: 4}[kind]
        yield key >> 3, data[place : place + length]
        place += length


def _scalar(value: dict[int, int | bytes]) -> float | None:
    """The number of a summary's value, which is none if it is an image or a histogram."""
    simple = value.get(2)
    if isinstance(simple, bytes):
        return float(struct.unpack("<f", simple)[0])
    if not isinstance(tensor := value.get(8), bytes):
        return None
    held = dict(_fields(tensor))
    for dtype, own, spelling in ((FLOAT, 5, "<f"), (DOUBLE, 6, "<d")):
        content = held.get(own) or held.get(4)
        size = struct.calcsize(spelling)
        if held.get(1) == dtype and isinstance(content, bytes) and len(content) == size:
            return float(struct.unpack(spelling, content)[0])
    return None


class EventsReader:
    """Reads the scalars of event files; numbers of one step are one row, whenever written."""

    def __init__(self) -> None:
        self._data = b""
        self._records = 0
        self.table = Table("TensorBoard's event files")
        self._joined = ByStep(self.table)

    def feed(self, data: bytes) -> None:
        """Takes bytes; a record that is not complete waits for the rest."""
        self._data += data
        place = 0
        while place + 12 <= len(self._data):
            (length,) = struct.unpack_from("<Q", self._data, place)
            if length > LONGEST:
                self.table.miss(self._records + 1, f"a record of {length} bytes")
                place = len(self._data)
                break
            if place + length + 16 > len(self._data):
                break
            self._records += 1
            try:
                self._read(self._data[place + 12 : place + 12 + length])
            except (IndexError, KeyError, struct.error, UnicodeDecodeError):
                self.table.miss(self._records, "a damaged record")
            place += length + 16
        self._data = self._data[place:]

    def next_file(self) -> None:
        """Another file of the same run follows, which the run wrote when it was started anew."""
        self._data = b""
        self._joined.forget()
        self.table.begin()

    def _read(self, event: bytes) -> None:
        step, summary = 0, b""
        for field, value in _fields(event):
            if field == 2 and isinstance(value, int):
                step = value - 2**64 if value >= 2**63 else value
            elif field == 5 and isinstance(value, bytes):
                summary = value
        for field, value in _fields(summary):
            if field == 1 and isinstance(value, bytes):
                cells = dict(_fields(value))
                number, tag = _scalar(cells), cells.get(1)
                if number is not None and isinstance(tag, bytes):
                    self._joined.put(step, tag.decode(), number)
