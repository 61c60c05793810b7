"""Options of the command line that are made from those of tasks and training, and refusals."""

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from alrc.lab.api import Options

__all__ = ["fail", "parameters"]

SIMPLE = (int, float, str, bool)


def parameters(
    cls: "type[Options]", panel: str, defaults: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """An option for each field of a class, with its help; ``defaults`` stand for its own."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = defaults.get(field.name, field.default)
        option = typer.Option(
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
