"""``alrc lab list``: what there is to train, and what became of the runs of a study."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from alrc.lab.cli.options import fail, flowed

__all__ = ["show_list"]


def show_list(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="Folder of a study, to list its runs.", show_default=False
        ),
    ] = None,
) -> None:
    """List tasks, arms and studies that are installed; with DIR, the runs of a study."""
    if folder is None:
        _show_installed()
        return
    try:
        _show_runs(folder)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)


def _show_installed() -> None:
    from alrc.lab.cli.study import PRESETS
    from alrc.lab.engine.naming import Kind, Named, installed

    kinds: tuple[Kind, Kind] = ("task", "arm")
    for kind in kinds:
        typer.echo(f"{kind}s, each with its options:")
        for name in installed(kind):
            cls = Named(kind, name).find()
            summary = flowed(inspect.getdoc(cls) or "").partition("\n\n")[0]
            typer.echo(f"  {name}: {summary}")
            for option, words in cls.helps().items():
                typer.echo(f"    {option}: {flowed(words)}")
    typer.echo("studies, for alrc lab study:")
    for file in sorted(PRESETS.glob("*.toml")):
        typer.echo(f"  {file.stem}: {file.read_text().partition(chr(10))[0].removeprefix('# ')}")
    typer.echo("Of your own: PATH/FILE.py:CLASS; alrc lab new-task DIR writes one to start from.")


def _show_runs(folder: Path) -> None:
    """A line for each run: its name, how it ended, and its primary metric."""
    from alrc.lab.report.reading import read_study

    study = read_study(folder)
    for run in study.runs:
        metric = run.metrics[0]
        ended = f"diverged: {run.diverged}" if run.diverged else "finished"
        value = f"{metric.name} {run.metric(metric.name):.4g} {metric.unit}".rstrip()
        typer.echo(f"{run.name}: {ended}, {value}")
    for name in study.failed:
        typer.echo(f"{name}: failed, see {folder / 'runs' / name / 'log.txt'}")
    for name in study.unfinished:
        typer.echo(f"{name}: unfinished")
