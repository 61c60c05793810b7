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
# Arguments that are told of together.
SEVERAL = re.compile(r"^( +)((?:\w+,\s+)+\w+):((?: .*)?\n(?:\1 +.*\n)*)", re.MULTILINE)


class Markdown(griffe.Extension):
    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value, obj)


def markdown(text: str, obj: Any) -> str:
    text = SEVERAL.sub(each, text).replace("\nExample:\n", "\nExamples:\n")
    if obj.is_class:  # what its calls return
        text = text.replace("\nReturns:\n", "\nResult:\n")
    text = MATH.sub(block, text)
    text = SHORT_MATH.sub(lambda m: f"${m[1]}$", text)
    return ROLE.sub(lambda m: reference(*m.groups(), obj), text)


def each(match: re.Match[str]) -> str:
    space, names, words = match.groups()
    return "".join(f"{space}{name}:{words}" for name in re.findall(r"\w+", names))


def block(match: re.Match[str]) -> str:
    lines = textwrap.dedent(match[2]).strip()
    if "&" in lines:
        lines = f"\\begin{{align*}}\n{lines}\n\\end{{align*}}"
    return textwrap.indent(f"$$\n{lines}\n$$\n\n", match[1])


def reference(role: str, name: str, obj: Any) -> str:
    """Links where the pages of the API have the name, else code."""
    short = name.lstrip("~")
    words = f"`{short.rpartition('.')[2] if name.startswith('~') else short}`"
    rooms = obj.path.split(".")
    for i in range(len(rooms), -1, -1):
        path = ".".join([*rooms[:i], short])
        is_member = role in ("attr", "meth") and path.rpartition(".")[0] in shown()
        if path in shown() or is_member:
            return f"[{words}][{path}]"
    return words


@functools.cache
def shown() -> frozenset[str]:
    """The names that the pages of the API list."""
    pages = (Path(__file__).parents[1] / "docs/api").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return frozenset(re.findall(r"^::: (\S+)", text, re.MULTILINE))
