"""The report as one page of HTML that needs no other file and no network."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from alrc.lab.report.markup import Block, Bullets, Cell, Gallery, Heading, Image, Paragraph, Table

__all__ = ["page"]

HERE = Path(__file__).parent
FILTERED_FROM = 12  # rows; a shorter table needs no filter
INLINE = MarkdownIt("commonmark", {"html": False}).disable(["link", "image", "autolink"])


def page(title: str, blocks: Sequence[Block]) -> str:
    """HTML with style, script, figures and pictures inside.

    Args:
        title: Words, as in the blocks.
        blocks: What the page holds.
    """
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    headings = [block for block in blocks if isinstance(block, Heading)]
    ids = {id(heading): f"section-{number}" for number, heading in enumerate(headings, 1)}
    contents = "".join(
        f'<li class="level-{h.level}"><a href="#{ids[id(h)]}">{_inline(h.words)}</a></li>\n'
        for h in headings
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_plain(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{_inline(title)}</h1>\n"
        '<button type="button" id="theme" hidden>Dark</button>\n</header>\n'
        f'<nav aria-label="Contents">\n<details open>\n<summary>Contents</summary>\n<ul>\n'
        f"{contents}</ul>\n</details>\n</nav>\n"
        f"<main>\n{''.join(_html(block, ids) for block in blocks)}</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _inline(words: str) -> str:
    return str(INLINE.renderInline(words))


def _plain(words: str) -> str:
    return re.sub("<.*?>", "", _inline(words))


def _html(block: Block, ids: dict[int, str]) -> str:
    match block:
        case Heading():
            h = f"h{block.level}"
            return f'<{h} id="{ids[id(block)]}">{_inline(block.words)}</{h}>\n'
        case Paragraph():
            lead = ' class="lead"' if block.lead else ""
            return f"<p{lead}>{_inline(block.words)}</p>\n"
        case Bullets():
            lead = ' class="lead"' if block.lead else ""
            items = "".join(f"<li>{_inline(item)}</li>\n" for item in block.items)
            return f"<ul{lead}>\n{items}</ul>\n"
        case Table():
            return _table(block)
        case Gallery():
            return f'<div class="gallery">\n{"".join(map(_figure, block.images))}</div>\n'


def _table(table: Table) -> str:
    """In a box of its own, which scrolls if it is too narrow; the Tab key reaches it."""
    caption = html.escape(table.caption)
    filtered = " data-filter" if len(table.rows) >= FILTERED_FROM else ""
    header = "".join(
        f'<th scope="col"{_text_class(table, i)}>{_inline(words)}</th>'
        for i, words in enumerate(table.header)
    )
    rows = "".join(f"<tr>{_row(table, row)}</tr>\n" for row in table.rows)
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{caption}">\n<table{filtered}>\n'
        f"<caption>{caption}</caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n"
        f"{rows}</tbody>\n</table>\n</div>\n"
    )


def _text_class(table: Table, column: int) -> str:
    return ' class="text"' if column in table.textual else ""


def _row(table: Table, row: Iterable[Cell | str]) -> str:
    cells = []
    for column, given in enumerate(row):
        cell = given if isinstance(given, Cell) else Cell(given)
        classes = [*["text"] * (column in table.textual), *[cell.kind] * bool(cell.kind)]
        attributes = f' class="{" ".join(classes)}"' if classes else ""
        if cell.key is not None:
            attributes += f' data-key="{cell.key!r}"'
        tag = "th" if column == 0 else "td"
        scope = ' scope="row"' if column == 0 else ""
        cells.append(f"<{tag}{scope}{attributes}>{_inline(cell.words)}</{tag}>")
    return "".join(cells)


def _figure(image: Image) -> str:
    alt = html.escape(image.alt)
    if image.svg:
        content = image.svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
    else:
        png = base64.b64encode(image.png).decode()
        content = f'<img alt="{alt}" src="data:image/png;base64,{png}">'
    caption = f"<figcaption>{_inline(image.caption)}</figcaption>" if image.caption else ""
    return f"<figure>{content}{caption}</figure>\n"
