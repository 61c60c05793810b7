"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["beside", "remove", "sync_folder", "written_whole"]

# How network file systems say that they have no such thing for folders.
CANNOT = (errno.EINVAL, errno.ENOTSUP)


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
    part = beside(path)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        remove(part)


def beside(path: Path) -> Path:
    """Where a file is written before it has its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove(part: Path) -> None:
    with suppress(OSError):  # what went wrong before is said
        part.unlink()


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
        finally:
            os.close(descriptor)
