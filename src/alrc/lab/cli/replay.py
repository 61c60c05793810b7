"""``alrc replay``: a log's loss curve, and what limits would have done to it.

It needs no more than the extra ``replay`` brings, while most commands here need ``lab``.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alrc.lab.cli.options import fail

if TYPE_CHECKING:
    from rich.console import Console

    from alrc import Settings
    from alrc.replay.curve import Curve
    from alrc.replay.replay import Replay

    Found = tuple[Curve, Replay]

__all__ = ["replay"]

STANDARD_INPUT = "-"
SETTINGS = "Settings of the rule"


def replay(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...",
            help="Files that a training wrote, or folders of TensorBoard or MLflow; - is standard "
            "input.",
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option(
            help="Column, key or tag of the loss; its end is enough.",
            show_default="that of the training loss",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the curves to this file.", show_default=False),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page to zoom in, with all logs side by side.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, a list with an object for each curve.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Go on reading while the logs grow, and tell what changes, until Ctrl-C.",
        ),
    ] = False,
    num_stddev: Annotated[
        float | None,
        typer.Option(
            help="Standard deviations above the mean at which losses are limited, > 0.",
            show_default="2",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    scale: Annotated[
        Literal["log", "linear"] | None,
        typer.Option(
            help="Whether these are of the losses' logarithms or of the losses.",
            show_default="log",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            help="Share of the moments that is kept at each step, in [0, 1).",
            show_default="0.999",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    recency: Annotated[
        float | None,
        typer.Option(
            help="How much more recent losses weigh at the start, >= 1.",
            show_default="1",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    center: Annotated[
        Literal["zero", "mean"] | None,
        typer.Option(
            help="mean, with --scale linear, is for losses of either sign.",
            show_default="zero",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
) -> None:
    """Say what the loss curve in a log shows, and whether limiting losses would have mattered.

    Reads what TensorBoard, Lightning, transformers, Keras, W&B, MLflow and many others write, and
    plain numbers. Nothing is written unless you name a file.
    """
    given = {
        **{"num_stddev": num_stddev, "scale": scale, "decay": decay},
        **{"recency": recency, "center": center},
    }
    try:
        settings = _settings(given)
        for file, ending, option in ((png, ".png", "--png"), (page, ".html", "--page")):
            _check(file, ending, option)
    except ValueError as refusal:
        fail(str(refusal).removeprefix("ALRC: "), 2)
    if follow:
        found, refused = _follow(logs, column, settings, as_json)
    else:
        found, refused = _judge(logs, column, settings)
        _show(found, refused, as_json)
    for path in _write(found, png, page):
        typer.echo(f"Wrote {path}", err=as_json)
    if refused:
        raise typer.Exit(2)


def _settings(given: dict[str, Any]) -> "Settings | None":
    """None where nothing is asked for: losses of either sign then get settings of their own."""
    from alrc import Settings

    asked = {name: value for name, value in given.items() if value is not None}
    return Settings(**asked) if asked else None


def _check(file: Path | None, ending: str, option: str) -> None:
    """Refuses a file that could not be written, before minutes of following."""
    if file is None:
        return
    if file.suffix.lower() != ending:
        raise ValueError(
            f"{option} must end in {ending}, which is what is written there; got {file}."
        )
    if file.is_dir() or not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise ValueError(
            f"{option} must name a file in an existing folder that can be written to; got {file}."
        )


def _complain(words: object) -> None:
    typer.echo(f"alrc: {words}", err=True)


def _judge(
    logs: Sequence[str], column: str | None, settings: "Settings | None"
) -> tuple[list["Found"], dict[str, str]]:
    """The curves with what is said of them; and by log, why it was refused."""
    from rich.console import Console

    from alrc.replay.logs import read_logs
    from alrc.replay.replay import replay as replayed

    found, refused = [], {}
    console = Console(stderr=True)
    for log in logs:
        try:
            with console.status(f"Reading {log} ..."):
                for curve in read_logs([log], column):
                    if curve.name == Path(log).name:
                        # As it was typed: many runs write a file of the same name.
                        curve = changed(curve, name=log)
                    found.append((curve, replayed(curve, settings)))
        except (ValueError, OSError) as refusal:
            refused[log] = _named(log, refusal)
            _complain(refused[log])
    return found, refused


def _named(log: str, refusal: Exception) -> str:
    words = str(refusal)
    return words if Path(log).name in words or log == STANDARD_INPUT else f"{log}: {words}"


def _show(found: Sequence["Found"], refused: dict[str, str], as_json: bool) -> None:
    from alrc.replay import show

    if as_json:
        typer.echo(show.as_json(found, refused))
        return
    console = _console()
    for place, one in enumerate(found):
        if place:
            console.print()
        for part in show.view(*one, console.width, named=len(found) + len(refused) > 1):
            console.print(part)


def _console() -> "Console":
    """Lines stay whole where they are not read on a terminal."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    console.soft_wrap = not console.is_terminal
    return console


def _write(found: Sequence["Found"], png: Path | None, page: Path | None) -> list[Path]:
    if found and png is not None:
        from alrc.replay.picture import draw

        draw(found, png)
    if found and page is not None:
        from alrc.replay.page import write_page

        write_page(found, page)
    return [path for path in (png, page) if found and path is not None]


def _follow(
    logs: Sequence[str], column: str | None, settings: "Settings | None", as_json: bool
) -> tuple[list["Found"], dict[str, str]]:
    """The same as `_judge`, of what the logs were when Ctrl-C was pressed or their writer ended."""
    from alrc.replay.follow import Growing, Piped, follow, lines, live

    for log in logs:
        if Path(log).is_dir():
            fail(
                f"--follow must be of files, because a folder does not grow; got {log}. Name the "
                "file in it that does.",
                2,
            )
    followed = [Piped(column) if log == STANDARD_INPUT else Growing(log, column) for log in logs]
    if as_json or not sys.stdout.isatty():
        follow(followed, settings, lines(as_json, named=len(logs) > 1))
    else:
        live(followed, settings, _console())
    refused = {one.name: one.words for one in followed if one.words and not one.found}
    for words in refused.values():
        _complain(words)
    return [each for one in followed for each in one.found], refused
