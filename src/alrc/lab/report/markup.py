"""Pieces of Markdown, and a page of HTML that is made from it."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from markdown_it import MarkdownIt

__all__ = ["bullets", "code", "page", "plural", "sentence", "table"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 80rem; margin: 2rem auto;
  padding: 0 1rem; }
p, li { max-width: 48rem; }
p:has(img) { max-width: none; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 0.5rem; }
h2 { border-bottom: 1px solid #bbb; padding-bottom: 0.3rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums;
  font-size: 0.9rem; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid #ddd; text-align: left; }
thead th { border-bottom: 2px solid #222; vertical-align: bottom; }
img { max-width: 100%; height: auto; }
code { background: #f3f3f3; padding: 0.1rem 0.3rem; overflow-wrap: anywhere; }
"""


def table(header: list[str], rows: Iterable[list[str]], text: tuple[int, ...] = (0,)) -> str:
    """A table; the columns ``text`` are aligned as text and all others as numbers."""
    rule = [":--" if column in text else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def code(value: object) -> str:
    return f"`` {value} ``" if "`" in str(value) else f"`{value}`"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def sentence(text: str) -> str:
    """The text with a capital first letter, its other letters as they are."""
    return text[:1].upper() + text[1:]


def page(title: str, markdown: str, folder: Path) -> str:
    """HTML that needs no other file: the images of ``folder`` are inside."""
    converter = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = converter.parse(markdown)
    for image in (c for t in tokens for c in t.children or [] if c.type == "image"):
        content = base64.b64encode((folder / str(image.attrs["src"])).read_bytes()).decode()
        image.attrs["src"] = f"data:image/png;base64,{content}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{converter.renderer.render(tokens, converter.options, {})}</body>\n</html>\n"
    )
