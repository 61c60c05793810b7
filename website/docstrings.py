"""Docstrings as Markdown: their roles become links and formulas."""

import functools
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe

ROLE = re.compile(r":(class|func|meth|mod|attr|data):`([^`]*)`")
SHORT_MATH = re.compile(r":math:`([^`]*)`")
MATH = re.compile(r"^( *)\.\. math::\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


class Markdown(griffe.Extension):
    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value, obj)


def markdown(text: str, obj: Any) -> str:
    text = MATH.sub(block, text)
    text = SHORT_MATH.sub(lambda m: f"${m[1]}$", text)
    return ROLE.sub(lambda m: reference(m[2], obj), text)


def block(match: re.Match[str]) -> str:
    lines = textwrap.dedent(match[2]).strip()
    if "&" in lines:
        lines = f"\\begin{{aligned}}\n{lines}\n\\end{{aligned}}"
    return textwrap.indent(f"$$\n{lines}\n$$\n\n", match[1])


def reference(name: str, obj: Any) -> str:
    """Links where the pages of the API have the name, else code."""
    short = name.lstrip("~")
    words = f"`{short.rpartition('.')[2] if name.startswith('~') else short}`"
    rooms = obj.path.split(".")
    for i in range(len(rooms), -1, -1):
        path = ".".join([*rooms[:i], short])
        if path in shown() or path.rpartition(".")[0] in shown():
            return f"[{words}][{path}]"
    return words


@functools.cache
def shown() -> frozenset[str]:
    """The names that the pages of the API list."""
    pages = (Path(__file__).parents[1] / "docs/api").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return frozenset(re.findall(r"^::: (\S+)", text, re.MULTILINE))
