"""The commands of ``alrc``. Heavy imports wait until a command needs them."""

import os
from pathlib import Path
from typing import Annotated

import typer

from alrc import __version__
from alrc.lab.cli import data as data_commands
from alrc.lab.cli import run as run_commands
from alrc.lab.cli import study as study_commands
from alrc.lab.cli.options import (
    POWERS,
    TITLES,
    BatchSize,
    Cifar10,
    Error,
    ErrorPower,
    Iterations,
    LearningRate,
    Optimizer,
    OptimizerName,
    Seed,
    fail,
)
from alrc.lab.cli.report import report

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
lab = typer.Typer(no_args_is_help=True, help="Experiments of the paper, run by run.")
lab.add_typer(data_commands.app, name="data")
lab.add_typer(run_commands.app, name="run")
lab.add_typer(study_commands.app, name="study")
lab.command("report")(report)
app.add_typer(lab, name="lab")


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
    iterations: Iterations = 10_000,
    seed: Seed = 0,
    error: ErrorPower = Error.quartic,
    batch_size: BatchSize = 1,
    num_stddev: Annotated[
        float,
        typer.Option(help="ALRC's limit, in standard deviations above the mean loss, > 0."),
    ] = 3.0,
    learning_rate: LearningRate = 0.1 / 128,
    optimizer: OptimizerName = Optimizer.adam,
    out: Annotated[
        Path, typer.Option(help="PNG file for the figure; its folder has to exist.")
    ] = Path("alrc-demo.png"),
    cifar10: Cifar10 = None,
) -> None:
    """Train the paper's supersampling network twice, plain and with ALRC, and compare.

    A quarter of the paper's width, for minutes on two CPU cores. Both runs start from the same
    weights and see the same images in the same order; one line is all they differ in.
    """
    from rich.console import Console

    from alrc.lab.cli.side_by_side import RunError, compare, run_side_by_side, verdict
    from alrc.lab.data.images import load_images
    from alrc.lab.engine.training import RunConfig
    from alrc.lab.report.figures import draw_comparison, save
    from alrc.lab.tasks.supersampling.task import Supersampling

    try:
        _check_out(out)
        settings = (iterations, batch_size, optimizer.value, learning_rate)
        configs = {
            "plain": RunConfig(*settings, seed=seed),
            "ALRC": RunConfig(*settings, num_stddev=num_stddev, seed=seed),
        }
        images = load_images(str(cifar10 or "photographs"))
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)

    task = Supersampling(images, POWERS[error], width=16)
    try:
        results = run_side_by_side(task, configs, Console(stderr=True))
    except RunError as failure:
        fail(failure, 1)
    except KeyboardInterrupt:
        fail("stopped; no figure was written.", 130)
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
        fail(f"the figure could not be written: {failure}", 1)
    typer.echo(f"Figure: {out}")


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, because the figure is a PNG; got {out}.")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(
            f"--out must name a file in an existing folder that can be written to; got {out}."
        )
