"""The files that code of one's own consists of: a file, and what it imports from beside it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["sources"]


@cache  # of what was imported, also if a file was changed since
def sources(file: Path) -> list[Path]:
    """The file first, then those beside it that it imports, whether directly or not.

    They follow from what the files say, not from what happens to be imported in this process.
    """
    found: dict[Path, None] = {}
    waiting = [file]
    while waiting:
        if (path := waiting.pop()) not in found:
            found[path] = None
            waiting += _beside(file.parent, path)
    first, *others = found
    return [first, *sorted(others)]


def _beside(folder: Path, file: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # which is told when it is imported
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = folder / name.partition(".")[0]
            if (module := top.with_suffix(".py")).is_file():
                yield module
            elif top.is_dir():
                yield from top.rglob("*.py")
