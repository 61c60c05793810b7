"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

__all__ = [
    "Damaged",
    "read_json",
    "sync_all",
    "sync_folder",
    "write_json",
    "written_together",
    "written_whole",
]


class Damaged(ValueError):
    """A stored file is missing, or not as it was written.

    ``folder`` holds a run that can be trained anew without it, if that is what helps.
    """

    folder: Path | None = None


# Files that are written, and the names that they are to have, within written_together.
_waiting: ContextVar[dict[Path, Path] | None] = ContextVar("waiting", default=None)


@contextmanager
def written_together() -> Iterator[None]:
    """Lets all files that :func:`written_whole` writes within it appear at its end, or none.

    The disk is waited for once for all of them, not twice for each, which takes milliseconds.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "result.txt"
        >>> with written_together():
        ...     with written_whole(path) as part:
        ...         _ = part.write_text("42")
        ...     path.exists()
        False
        >>> path.read_text()
        '42'
    """
    waiting: dict[Path, Path] = {}
    token = _waiting.set(waiting)
    try:
        yield
        sync_all(waiting)
        for part, path in waiting.items():
            os.replace(part, path)
        sync_all({path.parent for path in waiting.values()})
    finally:
        _waiting.reset(token)
        for part in waiting:
            part.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and renames it to ``path`` if all went well.

    It is on the disk before it is renamed, so that it is whole after a crash of the machine too.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "result.txt"
        >>> with written_whole(path) as part:
        ...     _ = part.write_text("42")
        >>> path.read_text()
        '42'
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    waiting = _waiting.get()
    try:
        yield part
        if waiting is not None:
            waiting[part] = path
            return
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        if waiting is None or part not in waiting:
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_all(files: Iterable[Path]) -> None:
    """Brings many files and folders to the disk, at once where the system can."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for file in files:
        if not file.is_dir():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


def write_json(file: Path, value: Any) -> None:
    """Writes plain values, whole; NaN and infinity are not among them."""
    with written_whole(file) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(file: Path, mend: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        file: The file.
        mend: What to do if it can't be read; a sentence.

    Raises:
        Damaged: If it is not one.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
    except ValueError as error:  # UnicodeDecodeError is one too
        raise Damaged(f"{file} must hold a JSON object; {error}. {mend}") from None
    return value
