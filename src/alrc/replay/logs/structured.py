"""JSON: documents, and one object per line."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from alrc.replay.logs import columns
from alrc.replay.logs.cells import number
from alrc.replay.logs.console import DETECTRON_NOTE
from alrc.replay.logs.delimited import is_split
from alrc.replay.logs.table import Table

__all__ = ["JsonLinesReader", "JsonReader", "is_document", "is_lines"]

DOCUMENT = re.compile(
    r"""\{\s*("|\}|$)|\[\s*([{\["\]]|$|-?(\d+\.?\d*(e[+-]?\d+)?|nan)\s*(,|$))""", re.I
)


def is_lines(lines: list[str]) -> bool:
    """Whether there is an object in the first line that is not blank."""
    first = next((line for line in lines if line.strip()), "")
    if not first.lstrip().startswith("{"):
        return False
    try:
        item = json.loads(first)
    except ValueError:
        return False
    # A document may stand in one line; it holds its rows as lists.
    alone = sum(bool(line.strip()) for line in lines) == 1
    return not (alone and any(isinstance(value, (list, dict)) for value in item.values()))


def is_document(lines: list[str]) -> bool:
    """Whether a document begins in the first line that is not blank."""
    first = next((line.strip() for line in lines if line.strip()), "")
    # A line of text may begin with [time] or [1, 2000] as well; an object has its first key quoted.
    return bool(DOCUMENT.match(first)) and not re.match(r"\[[^\]]*\]\s*[^\s,\]]", first)


def _numbers(item: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of an object and of those within it, by keys joined by slashes."""
    for key, value in item.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)
        elif isinstance(value, str):
            # Newer trainers round numbers into words.
            try:
                held = number(value)
            except ValueError:
                continue
            if held is not None:
                yield name, held


def _add(table: Table, item: Mapping[str, Any]) -> None:
    cells = dict(_numbers(item))
    if any(isinstance(value, str) and is_split(key, value) for key, value in item.items()):
        cells = {f"eval {n}" if columns.is_loss(n) else n: v for n, v in cells.items()}
    if cells:
        table.add(cells)
    for key, value in item.items():
        if isinstance(value, str) and key not in cells:
            table.texts.setdefault(key, value)


def _written_by(item: Mapping[str, Any]) -> tuple[str, bool | None]:
    if "current_steps" in item and "total_steps" in item:
        return "a trainer_log.jsonl of LLaMA-Factory", True
    if "iteration" in item and "total_loss" in item:
        return "the JSON lines of detectron2", True
    if "grad_norm" in item and "learning_rate" in item:
        return "JSON lines of transformers' Trainer", True
    return "JSON lines", None


class JsonLinesReader:
    """Reads an object from each line."""

    def __init__(self) -> None:
        self._line = 0
        self.table = Table("JSON lines")

    def feed(self, text: str) -> None:
        """Takes whole lines."""
        for line in text.removesuffix("\n").split("\n"):
            self._line += 1
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError:
                item = None
            if not isinstance(item, dict):
                self.table.miss(self._line, line)
                continue
            if not self.table.rows:
                self.table.format, self.table.averaged = _written_by(item)
                if self.table.format.endswith("detectron2"):
                    self.table.running = DETECTRON_NOTE
            _add(self.table, item)


class JsonReader:
    """Reads a document when it is complete."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._read: Table | None = None

    def feed(self, text: str) -> None:
        self._parts.append(text)
        self._read = None

    @property
    def table(self) -> Table:
        if self._read is None:
            self._read = _document("".join(self._parts))
        return self._read


def _document(text: str) -> Table:
    try:
        item = json.loads(text)
    except json.JSONDecodeError as error:
        table = Table("JSON")
        lines = text.splitlines()
        table.miss(error.lineno, lines[error.lineno - 1] if error.lineno <= len(lines) else "")
        return table
    if isinstance(item, dict) and isinstance(item.get("log_history"), list):
        table = Table("a trainer_state.json of transformers", True)
        rows = item["log_history"]
    elif isinstance(item, dict):
        table, rows = Table("JSON"), _of_lists(item)
        if rows and not any(columns.is_position(key) for key in rows[0]):
            _number_epochs(table, rows)
    else:
        table, rows = Table("JSON"), item if isinstance(item, list) else []
        if rows and all(isinstance(row, list) and len(row) == 3 for row in rows):
            # What TensorBoard's page saves: wall time, step and value.
            table = Table("JSON of TensorBoard", losses=("value",))
            rows = [{"step": step, "value": value} for _, step, value in rows]
    for row in rows:
        if isinstance(row, dict):
            _add(table, row)
        elif isinstance(row, (int, float)) and not isinstance(row, bool):
            table.add({"loss": float(row)})
    return table


def _of_lists(item: Mapping[str, Any], above: str = "") -> list[dict[str, Any]]:
    """Rows from lists by name, as Keras' history has them; shorter lists end earlier."""
    rows: list[dict[str, Any]] = []
    for key, value in item.items():
        if isinstance(value, Mapping):
            below = _of_lists(value, f"{above}{key}/")
        elif isinstance(value, list) and value and not isinstance(value[0], (dict, list)):
            below = [{f"{above}{key}": cell} for cell in value]
        else:
            continue
        rows += [{} for _ in range(len(below) - len(rows))]
        for row, cells in zip(rows, below, strict=False):
            row.update(cells)
    return rows


def _number_epochs(table: Table, rows: list[dict[str, Any]]) -> None:
    """Keras' history has a value for each epoch, and says so by its val_ keys alone."""
    if any(key.startswith("val_") for row in rows[:1] for key in row):
        table.format, table.averaged = "a history of Keras", True
        for epoch, row in enumerate(rows):
            row["epoch"] = epoch
