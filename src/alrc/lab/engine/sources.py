"""The files that a task or an arm of one's own is made of."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["sha256", "sources_of"]


@cache
def sources_of(file: Path) -> dict[str, Path]:
    """A Python file, and what it imports from beside it, and so on; by the names of modules.

    Only what ``import`` and ``from`` say is found, wherever they stand.
    """
    found: dict[str, Path] = {}
    waiting = {file.stem: file}
    while waiting:
        name, path = waiting.popitem()
        found[name] = path
        waiting |= {n: p for n, p in _imported(path, file.parent) if n not in found}
    return dict(sorted(found.items()))


def _imported(path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # who imports it will say so
    package = path.parent.relative_to(folder).parts
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = [*above, *(node.module or "").split(".")]
            names = [[x for x in (*module, alias.name) if x] for alias in node.names]
        for parts in names:
            for end in range(1, len(parts) + 1):
                base = folder.joinpath(*parts[:end])
                for candidate in (base / "__init__.py", base.with_suffix(".py")):
                    if candidate.is_file():
                        yield ".".join(parts[:end]), candidate


@cache
def sha256(file: Path) -> str:
    """Of what was imported, also if the file was changed since."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
