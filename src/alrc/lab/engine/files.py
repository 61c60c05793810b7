"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and renames it to ``path`` if all went well.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "result.txt"
        >>> with written_whole(path) as part:
        ...     _ = part.write_text("42")
        >>> path.read_text()
        '42'
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
