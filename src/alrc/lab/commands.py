"""The commands of ``alrc``. Heavy imports wait until a command needs them."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from alrc import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Error(StrEnum):
    squared = "squared"
    quartic = "quartic"


class Optimizer(StrEnum):
    adam = "adam"
    sgd = "sgd"


POWERS = {Error.squared: 2, Error.quartic: 4}
TITLES = {Optimizer.adam: "Adam", Optimizer.sgd: "SGD"}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alrc {__version__}")
        raise typer.Exit


@app.callback()
def alrc(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Adaptive learning rate clipping: keeps outlier losses from wrecking training."""


@app.command()
def demo(
    iterations: Annotated[int, typer.Option(help="Training steps of each run, >= 10.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Fixes weights and data of both runs, >= 0.")] = 0,
    error: Annotated[
        Error, typer.Option(help="Error to train with: 25 mean(difference^p), p = 2 or 4.")
    ] = Error.quartic,
    batch_size: Annotated[int, typer.Option(help="Images per training step, >= 1.")] = 1,
    num_stddev: Annotated[
        float,
        typer.Option(help="ALRC's limit, in standard deviations above the mean loss, > 0."),
    ] = 3.0,
    learning_rate: Annotated[
        float, typer.Option(help="Step size of the optimizer, > 0; the paper's by default.")
    ] = 0.1 / 128,
    optimizer: Annotated[
        Optimizer, typer.Option(help="Adam, or gradient descent without momentum.")
    ] = Optimizer.adam,
    out: Annotated[
        Path, typer.Option(help="PNG file for the figure; its folder has to exist.")
    ] = Path("alrc-demo.png"),
    cifar10: Annotated[
        Path | None,
        typer.Option(
            help="Folder with CIFAR-10's six binary files; without it: photographs that come with "
            "scikit-image.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train the paper's supersampling network twice, plain and with ALRC, and compare.

    A quarter of the paper's width, for minutes on two CPU cores. Both runs start from the same
    weights and see the same images in the same order; one line is all they differ in.
    """
    from rich.console import Console

    from alrc.lab import data
    from alrc.lab.demo import RunError, compare, run_side_by_side, verdict
    from alrc.lab.figures import draw_comparison, save
    from alrc.lab.tasks import Supersampling
    from alrc.lab.training import RunConfig

    try:
        _check_out(out)
        settings = (iterations, batch_size, optimizer.value, learning_rate)
        configs = {
            "plain": RunConfig(*settings, seed=seed),
            "ALRC": RunConfig(*settings, num_stddev=num_stddev, seed=seed),
        }
        images = data.read_cifar10(cifar10) if cifar10 else data.load_photographs()
    except (ValueError, OSError) as refusal:
        _fail(refusal, 2)

    task = Supersampling(images, POWERS[error], width=16)
    try:
        results = run_side_by_side(task, configs, Console(stderr=True))
    except RunError as failure:
        _fail(failure, 1)
    except KeyboardInterrupt:
        _fail("stopped; no figure was written.", 130)
    plain, alrc = (timed.run for timed in results.values())
    Console().print(compare(results))
    typer.echo(verdict(plain, alrc))

    title = (
        f"Supersampling {images.name} with {error} error\n"
        f"batch size {batch_size}, {TITLES[optimizer]} at {learning_rate:.3g}, "
        f"ALRC at {num_stddev:g} standard deviations, seed {seed}"
    )
    label = f"training error: 25 mean (difference)${{}}^{task.power}$"
    try:
        save(draw_comparison(plain, alrc, title, label), out)
    except OSError as failure:
        _fail(f"the figure could not be written: {failure}", 1)
    typer.echo(f"Figure: {out}")


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, because the figure is a PNG; got {out}.")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(
            f"--out must name a file in an existing folder that can be written to; got {out}."
        )


def _fail(message: object, code: int) -> NoReturn:
    typer.echo(f"alrc: {message}", err=True)
    raise typer.Exit(code)
