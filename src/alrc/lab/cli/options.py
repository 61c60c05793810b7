"""Options that several commands share, worded once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer


class Error(StrEnum):
    squared = "squared"
    quartic = "quartic"


class Optimizer(StrEnum):
    adam = "adam"
    sgd = "sgd"


POWERS = {Error.squared: 2, Error.quartic: 4}
TITLES = {Optimizer.adam: "Adam", Optimizer.sgd: "SGD"}


Iterations = Annotated[int, typer.Option(help="Training steps of each run, >= 10.")]
Seed = Annotated[int, typer.Option(help="Fixes initial weights and data, >= 0.")]
ErrorPower = Annotated[
    Error, typer.Option(help="Error to train with: 25 mean(difference^p), p = 2 or 4.")
]
BatchSize = Annotated[int, typer.Option(help="Images per training step, >= 1.")]
LearningRate = Annotated[
    float, typer.Option(help="Step size of the optimizer, > 0; the paper's by default.")
]
OptimizerName = Annotated[
    Optimizer, typer.Option(help="Adam, or gradient descent without momentum.")
]
Cifar10 = Annotated[
    Path | None,
    typer.Option(
        help="Folder with CIFAR-10's six binary files; without it: photographs that come with "
        "scikit-image.",
        show_default=False,
    ),
]


def fail(message: object, code: int) -> NoReturn:
    """Says in one line on stderr what went wrong, and ends the command."""
    typer.echo(f"alrc: {message}", err=True)
    raise typer.Exit(code)
