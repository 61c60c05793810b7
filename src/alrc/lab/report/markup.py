"""What a report is made of, whether it becomes Markdown or HTML.

Words are Markdown of one line; what comes from names goes through :func:`code` or :func:`text`, so
that it is never markup.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = [
    "Block",
    "Bullets",
    "Cell",
    "Gallery",
    "Heading",
    "Image",
    "Paragraph",
    "Table",
    "code",
    "markdown",
    "plural",
    "sentence",
    "text",
]


@dataclass(frozen=True)
class Heading:
    """Of a section, level 2, or of a part of one, level 3."""

    words: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Words; ``lead`` ones are large."""

    words: str
    lead: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list, each of its items words."""

    items: Sequence[str]
    lead: bool = False


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
        words: What it says.
        key: What it is sorted by, if not by what it says.
        kind: Its colour: better, worse, unclear, identical, diverged, or none.
    """

    words: str
    key: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it holds, in a few words; plain text.
        header: Words of each column.
        rows: A cell or words for each column.
        textual: Columns that are aligned as text, all others as numbers.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    textual: Sequence[int] = (0,)


@dataclass(frozen=True)
class Image:
    """A figure of ours, or a picture that a task made.

    Attributes:
        source: Path from the study's folder.
        alt: What it shows, as a sentence; plain text.
        png: Its content.
        svg: The same to be put into a page, where it takes the page's colours.
        caption: Words beneath it, if any.
    """

    source: str
    alt: str
    png: bytes = field(repr=False)
    svg: str = field(default="", repr=False)
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images side by side, as many as there is room for."""

    images: Sequence[Image]


Block = Heading | Paragraph | Bullets | Table | Gallery


def code(value: object) -> str:
    """A name or a value, as it is."""
    words = " ".join(str(value).split()) or " "
    fence = "`" * (max(map(len, re.findall("`+", words)), default=0) + 1)
    pad = " " if "`" in words else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def text(value: object) -> str:
    """A name within a sentence, none of whose letters is markup."""
    return re.sub(r"([\\`*_\[\]<>&#~!])", r"\\\1", " ".join(str(value).split()))


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def sentence(words: str) -> str:
    """The words with a capital first letter, its other letters as they are."""
    return words[:1].upper() + words[1:]


def markdown(title: str, blocks: Iterable[Block]) -> str:
    """The report as a Markdown file, with its figures as files."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.words}"
        case Paragraph():
            return block.words
        case Bullets():
            return "\n".join(f"- {item}" for item in block.items)
        case Table():
            columns = range(len(block.header))
            rule = [":--" if column in block.textual else "--:" for column in columns]
            rows = ([_cell(cell) for cell in row] for row in (block.header, rule, *block.rows))
            return "\n".join([text(block.caption), "", *(f"| {' | '.join(row)} |" for row in rows)])
        case Gallery():
            return "\n".join(map(_image, block.images))


def _cell(cell: Cell | str) -> str:
    return (cell.words if isinstance(cell, Cell) else cell).replace("|", r"\|")


def _image(image: Image) -> str:
    source = re.sub(
        r"[^\w./=-]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), image.source
    )
    caption = f"\n{image.caption}\n" if image.caption else ""
    return f"![{text(image.alt)}]({source}){caption}"
