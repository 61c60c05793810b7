"""docs/troubleshooting.md quotes messages that the library has, word for word."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import alrc

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^```text\n(.*)\n```", PAGE, re.MULTILINE)


def pieces(node: ast.expr) -> str:
    """A pattern of the texts that an expression may give, with anything for what is put in."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(pieces(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return pieces(node.left) + pieces(node.right)
    return "(.*)"


def templates() -> Iterator[str]:
    """Of all long texts in the source that are raised or warned of."""
    for file in Path(alrc.__file__).parent.rglob("*.py"):
        if "lab" not in file.parts:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    for argument in node.args:
                        pattern = pieces(argument)
                        if len(pattern.replace("(.*)", "")) > 60:
                            yield pattern


@pytest.fixture(scope="module")
def known() -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.DOTALL) for pattern in templates()]


def test_messages_are_quoted() -> None:
    assert len(QUOTED) > 10


@pytest.mark.parametrize("message", QUOTED, ids=lambda message: message[:40])
def test_a_quoted_message_is_one_of_the_librarys(known, message: str) -> None:
    assert any(pattern.fullmatch(message) for pattern in known)


def test_a_message_with_a_word_changed_is_none_of_the_librarys(known) -> None:
    changed = QUOTED[0].replace("floating", "flowing")
    assert not any(pattern.fullmatch(changed) for pattern in known)
