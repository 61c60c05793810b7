"""Options of the command line that are made from those of tasks and training, and refusals."""

import dataclasses
import functools
import inspect
import shutil
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from alrc.lab.api import Options

__all__ = ["check_device", "fail", "make_app", "parameters"]

NARROW = 60  # columns
SIMPLE = (int, float, str, bool)


class _Narrow(TyperCommand):
    """Puts the help of an option below its name where there is no room beside it."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        formatter.write_dl = functools.partial(formatter.write_dl, col_max=NARROW // 4)
        super().format_options(ctx, formatter)


class _NarrowApp(typer.Typer):
    def command(self, *arguments: Any, **settings: Any) -> Any:
        return super().command(*arguments, cls=_Narrow, **settings)


def make_app(**settings: Any) -> typer.Typer:
    """A group of commands, whose help stays readable in a narrow terminal too."""
    settings |= {"add_completion": False, "pretty_exceptions_enable": False}
    width = shutil.get_terminal_size().columns
    if width >= NARROW:
        return typer.Typer(**settings)
    # Without boxes, which would leave a word of help in each line.
    return _NarrowApp(rich_markup_mode=None, context_settings={"terminal_width": width}, **settings)


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
