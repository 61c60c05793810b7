"""``alrc suspects``: which examples were limited most often. Heavy imports wait until it runs."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alrc.lab.cli.options import fail

if TYPE_CHECKING:
    from rich.table import Table

    from alrc.suspects import Ranking

__all__ = ["suspects"]

FEW = 0.02  # Of the losses: so few are limited where a limit is too high to find bad data by.
HALF = 0.5  # Of their gradients: what is left of the worst.


def suspects(
    spikes: Annotated[
        list[Path],
        typer.Argument(
            metavar="SPIKES...",
            help="Spike logs: what Watch was given as spikes. Those of other ranks, and the logs "
            "of visits, are found beside them.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many to show, in table and sheet.")] = 20,
    by: Annotated[
        Literal["factor", "share"],
        typer.Option(
            help="Rank by what is left of an example's gradients, so by how often and how hard it "
            "was limited; or by the share of its visits in which it was, then by that."
        ),
    ] = "factor",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of them to this CSV file.")
    ] = None,
    min_visits: Annotated[
        int, typer.Option(min=1, help="Leave out examples with fewer losses that count.")
    ] = 1,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Function, of an importable module or of a path/to/file.py, that is given a key "
            "and returns the example as text, an image (array, tensor, PIL), a matplotlib figure, "
            "or the Path of an image. The worst are put on a sheet.",
        ),
    ] = None,
    sheet: Annotated[
        Path, typer.Option(metavar="FILE", help="The sheet of --show, one HTML file.")
    ] = Path("suspects.html"),
) -> None:
    """Rank examples by how often their losses were limited, to find bad data.

    Wrong labels and broken targets are learned last, so their losses are limited again and again.
    Watch must have been told the examples' names: watch.name_next(keys) before each call.
    """
    from rich.console import Console

    from alrc.lab.engine.files import written_whole
    from alrc.suspects import rank_suspects, write_csv

    try:
        view = None if show is None else _function(show)
        ranking = rank_suspects(spikes, by=by, min_visits=min_visits)
        typer.echo(summary(ranking))
        if ranking.suspects:
            Console(soft_wrap=False).print(table(ranking, top))
        for note in ranking.notes:
            typer.echo(f"Note: {note}")
        if advice := _advice(ranking):
            typer.echo(advice)
        if csv is not None:
            with (
                written_whole(csv) as part,
                part.open("w", newline="", encoding="utf-8") as file,
            ):
                write_csv(ranking.suspects, file)
            typer.echo(csv)
        if view is not None:
            from alrc.lab.report.sheet import write_sheet

            write_sheet(sheet, summary(ranking), ranking.suspects[:top], view)
            typer.echo(sheet)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)


def summary(ranking: "Ranking") -> str:
    """In one line, how much was read and what it says."""
    lost = f" and {ranking.nonfinite:,} not finite" if ranking.nonfinite else ""
    worst = sum(suspect.factor <= HALF for suspect in ranking.suspects)
    return (
        f"Of {ranking.visits:,} losses, {ranking.limited:,} were limited "
        f"({ranking.limited / ranking.visits:.1%}){lost}: at least once in "
        f"{len(ranking.suspects):,} examples, {worst:,} of which lost half of their gradients or "
        "more."
    )


def table(ranking: "Ranking", top: int) -> "Table":
    """The worst of them, worst first."""
    from rich.table import Table
    from rich.text import Text

    made = Table()
    made.add_column("", justify="right", no_wrap=True)
    made.add_column("example", overflow="fold")
    for title in ("limited", "of visits", "factor"):
        made.add_column(title, justify="right", no_wrap=True)
    for place, suspect in enumerate(ranking.suspects[:top], 1):
        made.add_row(str(place), Text(suspect.key), *cells(suspect))  # a key is never markup
    if (rest := len(ranking.suspects) - top) > 0:
        made.caption = f"and {rest:,} more: --top, --csv"
    return made


def cells(suspect: Any) -> tuple[str, str, str]:
    """How often an example was limited, in which share of its visits, and how hard."""
    number = f"{suspect.limited:,}"
    if suspect.nonfinite:
        number = f"{number} + {suspect.nonfinite:,} not finite"
    return number, f"{suspect.share:.0%} of {suspect.visits:,}", f"{suspect.factor:.3g}"


def _advice(ranking: "Ranking") -> str:
    if ranking.limited >= FEW * ranking.visits:
        return ""
    return (
        "Few losses were limited, as they should be in training; where more data may be bad, a "
        "lower limit tells more. A second ALRC can look on without limiting what is trained: "
        "ALRC(num_stddev=0.75), called with losses.detach(), in a Watch of its own."
    )


def _function(name: str) -> Callable[[str], Any]:
    """The function that ``--show`` names."""
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise ValueError(
            "--show must name a function as module:function or path/to/file.py:function; got "
            f"{name}. Pass --show my_data:show, say."
        )
    path = Path(module_name)
    if path.suffix == ".py" and not path.is_file():
        raise ValueError(f"--show: {path} must be a Python file; there is none. Check the path.")
    try:
        module = _of_file(path) if path.suffix == ".py" else _importable(module_name)
    except Exception as error:
        raise ValueError(
            f"--show: {module_name} must be importable; {type(error).__name__}: {error}. Run it "
            "with python to see where."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"--show: {module_name} must define a function {attribute}; it does not.")
    return function  # type: ignore[no-any-return]


def _of_file(path: Path) -> ModuleType:
    """By a name of its own, which no other module can have taken."""
    sys.path.append(os.fspath(path.parent.resolve()))  # for what it imports from beside it
    spec = importlib.util.spec_from_file_location("alrc_own_show", path)
    assert spec is not None  # as it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _importable(name: str) -> ModuleType:
    sys.path.append(os.fspath(Path.cwd()))  # which a console script does not look into
    return importlib.import_module(name)
