"""What stands in the files of a report, and reports without figures, which are quick."""

import csv
from pathlib import Path
from typing import Any

import pytest
from fabricated_studies import png
from matplotlib.figure import Figure

from alrc.lab.report.report import write_report


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without content, for tests about words."""

    def savefig(figure: Figure, file: Any, format: str, **options: object) -> None:
        file.write(png(0) if format == "png" else '<svg viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr(Figure, "savefig", savefig)


def markdown(study: Path) -> str:
    write_report(study)
    return (study / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")


def rows(text: str) -> list[list[str]]:
    return [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]


def cells(text: str) -> list[list[str]]:
    """The rows of the matrix, without its header."""
    table = text.partition("\n| setting |")[2].partition("\n\n")[0]
    return rows(table)[1:]


def comparison(text: str) -> list[str]:
    """The first comparison in the table of them."""
    return next(row for row in rows(text) if len(row) == 15 and row[2] == "held-out error")


def bullets(text: str) -> list[str]:
    start = text.index("## What the runs show")
    return [line[2:] for line in text[start:].split("\n## ")[0].splitlines() if line[:2] == "- "]


def spreadsheet(study: Path, name: str) -> list[dict[str, str]]:
    with (study / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
