"""Which room imports which: arrows point one way; and no file is too long to be read."""

import ast
import graphlib
import io
import sys
import tokenize
from pathlib import Path

import pytest

import alrc

SOURCE = Path(alrc.__file__).parent
TESTS = Path(__file__).parents[1]
CORE = {"alrc.rule", "alrc.settings", "alrc.state", "alrc.refusals", "alrc.opaque"}
FRONT_ENDS = {"alrc.torch", "alrc.jax", "alrc.keras"}
# What each room, which is a folder or a file of this name, may import of ours besides itself:
# arrows point down, never back and never sideways.
ARROWS = {
    "alrc": {"alrc.settings"},
    "alrc.settings": set(),
    "alrc.rule": {"alrc.settings"},
    "alrc.state": {"alrc.rule", "alrc.settings"},
    "alrc.refusals": {"alrc.rule", "alrc.settings"},
    "alrc.opaque": {"alrc.rule"},
    "alrc.files": set(),
    **dict.fromkeys(FRONT_ENDS, CORE),
    "alrc.integrations": {"alrc.files"} | FRONT_ENDS | CORE,
    "alrc.replay": {"alrc.files", "alrc.rule", "alrc.settings"},  # its command is in alrc.lab.cli
    "alrc.suspects": {"alrc.integrations"},
    "alrc.cli": {"alrc.lab.cli"},
    # cli -> report, exec -> engine -> api <- tasks, arms: what trains knows no task and no arm.
    "alrc.lab": set(),
    "alrc.lab.api": set(),
    "alrc.lab.data": set(),
    "alrc.lab.tasks": {"alrc.lab.api", "alrc.lab.data"},
    "alrc.lab.arms": {"alrc.lab.api", "alrc.torch", "alrc.rule", "alrc.settings"},
    "alrc.lab.engine": {"alrc.files", "alrc.lab.api"},
    "alrc.lab.exec": {"alrc.lab.api", "alrc.lab.engine"},
    "alrc.lab.report": {"alrc", "alrc.suspects", "alrc.lab.api", "alrc.lab.engine"},
    "alrc.lab.cli": {
        *("alrc", "alrc.replay", "alrc.suspects"),
        *(f"alrc.lab.{room}" for room in ("api", "data", "engine", "exec", "report")),
    },
    "alrc.lab.templates": {"alrc.lab.api", "alrc.lab.engine"},
}
# And of what others have written; the rooms that are not here may import whatever they fit.
OUTSIDE = {
    **{room: set() for room in ("alrc", *CORE)},
    "alrc.opaque": {"torch"},
    "alrc.torch": {"torch"},
    "alrc.replay": {"numpy", "matplotlib", "plotly", "jinja2", "rich"},
    "alrc.jax": {"jax", "numpy", "optax"},
    "alrc.keras": {"keras", "numpy", "tensorflow", "jax", "torch"},
}
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 300  # lines of code


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The lab is a house of its own, with rooms."""
    return ".".join(module.split(".")[: 3 if module.startswith("alrc.lab.") else 2])


def is_module(name: str) -> bool:
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere: at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in names if is_module(n)} or {node.module}
    return found


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == "alrc"


def lines_of_code(source: str) -> int:
    """Lines with something else than a comment or a docstring."""
    docstrings, code = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent | {tokenize.ENDMARKER}:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(module_name(path))
    ours = {room_of(name) for name in imports(path) if is_ours(name)}
    assert ours - {room} <= ARROWS[room]
    outside = {name.partition(".")[0] for name in imports(path) if not is_ours(name)}
    if room in OUTSIDE:
        assert outside - OUTSIDE[room] <= set(sys.stdlib_module_names)


def test_no_module_imports_what_imports_it() -> None:
    graph = {module_name(path): {n for n in imports(path) if is_ours(n)} for path in FILES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(FILES)


def test_the_oracle_imports_nothing_of_ours() -> None:
    path = TESTS / "helpers/reference.py"
    assert {n.partition(".")[0] for n in imports(path)} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_file_is_too_long_to_be_read(path: Path) -> None:
    assert lines_of_code(path.read_text()) <= LONGEST


def test_lines_of_code_are_those_that_do_something() -> None:
    assert lines_of_code('"""Docs\n\nof a module."""\n\nx = """a\nb"""  # why\n# no code\n') == 2
