"""Options of the command line that are made from those of tasks and training, and refusals."""

import dataclasses
import functools
import inspect
import os
import re
import shutil
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from alrc.lab.api import Options

__all__ = ["Group", "check_device", "check_figure", "fail", "flowed", "make_app", "parameters"]

NARROW = 60  # columns
SIMPLE = (int, float, str, bool)


class _Command(TyperCommand):
    """Its paragraphs flow, and in a narrow terminal helps stand below names that are long."""

    def __init__(self, *arguments: Any, help: str | None = None, **settings: Any) -> None:
        super().__init__(*arguments, help=help and flowed(help), **settings)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        formatter.write_dl = functools.partial(formatter.write_dl, col_max=NARROW // 4)
        super().format_options(ctx, formatter)


class Group(TyperGroup):
    """Lists its commands with all of their first paragraphs in a narrow terminal too."""

    def __init__(self, *arguments: Any, help: str | None = None, **settings: Any) -> None:
        super().__init__(*arguments, help=help and flowed(help), **settings)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        helps = {name: (command and command.help) or "" for name, command in found.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(n, words.partition("\n\n")[0]) for n, words in helps.items()])


class _App(typer.Typer):
    def command(self, *arguments: Any, **settings: Any) -> Any:
        return super().command(*arguments, cls=_Command, **settings)


def make_app(**settings: Any) -> typer.Typer:
    """A group of commands, whose help stays readable in a narrow terminal too."""
    settings.setdefault("cls", Group)
    settings |= {"add_completion": False, "pretty_exceptions_enable": False}
    width = shutil.get_terminal_size().columns
    if width >= NARROW:
        return _App(**settings)
    # Without boxes, which would leave a word of help in each line.
    return _App(rich_markup_mode=None, context_settings={"terminal_width": width}, **settings)


def flowed(doc: str) -> str:
    """A docstring for a terminal of any width: paragraphs are of one line, code has no marks."""
    paragraphs = doc.replace("`", "").split("\n\n")
    return "\n\n".join(
        words if re.search(r"^(\s|[-*] )", words, re.MULTILINE) else " ".join(words.split())
        for words in paragraphs
    )


def parameters(
    cls: "type[Options]", panel: str, defaults: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """An option for each field of a class, with its help; ``defaults`` stand for its own."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = defaults.get(field.name, field.default)
        flag = [f"--{field.name.replace('_', '-')}"] if default is False else []
        option = typer.Option(
            *flag,  # without its opposite, which changes nothing
            metavar=" " if flag else None,  # no "<bool>": nothing is to be typed behind it
            help=cls.helps()[field.name],
            rich_help_panel=panel,
            show_default=default is not None,
        )
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=... if default is dataclasses.MISSING else default,
            annotation=Annotated[_type(hints[field.name]), option],
        )


def _type(hint: Any) -> Any:
    """What typer makes an option of: for all that is not simple, text that is parsed later."""
    given = [x for x in typing.get_args(hint) if x is not type(None)]
    if typing.get_origin(hint) is Literal or hint in SIMPLE:
        return hint
    if len(given) == 1 and type(None) in typing.get_args(hint):
        return _type(given[0]) | None
    return str


def fail(message: object, code: int) -> NoReturn:
    """Says in one line on stderr what went wrong, and ends the command."""
    typer.echo(f"alrc: {message}", err=True)
    raise typer.Exit(code)


def check_device(device: str) -> None:
    """Refuses a device that is not here.

    Raises:
        ValueError: If it is none of cpu, cuda and cuda:N, or there is no such GPU.
    """
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda or cuda:1; got {device!r}.") from None
    count = torch.cuda.device_count()
    if parsed.type == "cuda" and (parsed.index or 0) >= count:
        raise ValueError(f"device {device} needs a GPU that torch can use; there are {count} here.")


def check_figure(out: Path) -> None:
    """Refuses a file that a figure could not be written to, before minutes of training.

    Raises:
        ValueError: If it is no PNG, or not in an existing folder that can be written to.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, because the figure is a PNG; got {out}.")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(
            f"--out must name a file in an existing folder that can be written to; got {out}."
        )
