"""``alrc lab report``: what came of a study or a run, in words, tables and figures."""

from pathlib import Path
from typing import Annotated

import typer

from alrc.lab.cli.benchmark import draw
from alrc.lab.cli.options import fail

__all__ = ["report"]


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of a study, with its runs in DIR/runs; of one run; of a benchmark, or of "
            "its compact results.",
        ),
    ],
) -> None:
    """Write report.html, report.md with figures/, and CSV files into DIR, from stored results."""
    from alrc.lab.report.compact import compact_folder
    from alrc.lab.report.report import write_report

    try:
        if (compact := compact_folder(folder)) is not None:
            draw(compact, folder)
            return
        files = write_report(folder)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    for file in files:
        if file.parent == folder:
            typer.echo(file)
