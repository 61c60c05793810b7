"""Files of the lab that appear whole or not at all, and words for what keeps them from it."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from alrc.files import beside, remove, sync_folder
from alrc.files import written_whole as written_alone

__all__ = [
    "FULL",
    "Damaged",
    "NotStored",
    "digest",
    "plain",
    "read_json",
    "storing",
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


class NotStored(OSError, ValueError):
    """The system keeps a file from being written or read; the message says why, in words."""

    def __init__(self, words: str, error: OSError) -> None:
        super().__init__(words)
        self.words, self.errno, self.strerror = words, error.errno, error.strerror

    def __str__(self) -> str:
        return self.words


class InTheWay(NotStored, Damaged):
    """There is a folder in the place of a file, or a file in that of a folder."""


FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Says in words what keeps the files of a folder from being written or read.

    Raises:
        NotStored: With what the system says; :class:`InTheWay`, which is :class:`Damaged` too, if
            there is a folder in the place of a file, or a file in that of a folder.
    """
    try:
        yield
    except NotStored:
        raise
    except OSError as error:
        name = error.filename2 or error.filename
        file = Path(name) if isinstance(name, str | Path) else folder
        if isinstance(error, IsADirectoryError):
            words = f"{file} must be a file; it is a folder. Move it away."
            raise InTheWay(words, error) from error
        if isinstance(error, NotADirectoryError | FileExistsError):
            file = next((path for path in (file, *file.parents) if path.is_file()), file)
            words = (
                f"{file} must be a folder, because a run is kept in it; it is a file. Move it "
                "away, or pass another path."
            )
            raise InTheWay(words, error) from error
        if error.errno in FULL:
            words = (
                f"{folder} must have room for what is stored in it; the disk is full. Free some "
                "space, and the same command goes on."
            )
        elif error.errno in READ_ONLY:
            words = (
                f"{file} must be writable, because a run is stored there; it is not "
                f"({error.strerror}). Make it so, or pass another folder."
            )
        elif isinstance(error, FileNotFoundError):
            words = (
                f"{file} must stay there while its folder is in use; it was removed. The same "
                "command goes on from what is left."
            )
        else:
            words = (
                f"{file} must be on a disk that works; the system says: {error.strerror or error}. "
                "When it does, the same command goes on."
            )
        raise NotStored(words, error) from error


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
            with storing(path.parent):
                os.replace(part, path)
        sync_all({path.parent for path in waiting.values()})
    finally:
        _waiting.reset(token)
        for part in waiting:
            remove(part)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """The same as :func:`alrc.files.written_whole`, within :func:`written_together` at its end.

    Raises:
        NotStored: With what the system says.
    """
    waiting = _waiting.get()
    with storing(path.parent):
        if waiting is None:
            with written_alone(path) as part:
                yield part
            return
        part = beside(path)
        try:
            yield part
            waiting[part] = path
        finally:
            if part not in waiting:
                remove(part)


def sync_all(files: Iterable[Path]) -> None:
    """Brings many files and folders to the disk, at once where the system can."""
    files = [*files]
    if files and hasattr(os, "sync"):  # which waits for all disks
        os.sync()
        return
    for file in files:
        if not file.is_dir():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


def plain(value: Any, name: str) -> Any:
    """A value as JSON can say it; infinity and NaN become text, as which TOML has them.

    Raises:
        ValueError: If it can't, which is said of its ``name``.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(x, f"{name}.{key}") for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x, name) for x in value]
    raise ValueError(
        f"{name} must be a plain value, such as a number or text, because it is stored as JSON; it "
        f"is of type {type(value).__name__}."
    )


def digest(value: Any) -> str:
    """Tells plain values from others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(file: Path, value: Any) -> None:
    """Writes plain values, whole."""
    text = json.dumps(plain(value, file.name), indent=2)
    with written_whole(file) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_json(file: Path, mend: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        file: The file.
        mend: What to do if it can't be read; a sentence.

    Raises:
        Damaged: If it is not one.
    """
    try:
        with storing(file.parent):
            value = json.loads(file.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
    except (Damaged, NotStored):
        raise
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one too
        raise Damaged(f"{file} must hold a JSON object; {error}. {mend}") from None
    return value
