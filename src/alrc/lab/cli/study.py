"""``alrc lab study``: a grid of runs in a folder, which goes on where it was stopped."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alrc.lab.cli.options import Cifar10, fail

PRESETS = Path(__file__).parents[1] / "presets"

app = typer.Typer(
    no_args_is_help=True, help="Train a grid of networks, in parallel; type it again to go on."
)


class Preset(StrEnum):
    smoke = "smoke"
    small = "small"
    paper = "paper"
    high_learning_rate = "high-learning-rate"


@app.callback()
def study() -> None:
    """Keeps ``cifar10`` a command of its own, beside others to come."""


@app.command()
def cifar10(
    out: Annotated[
        Path, typer.Option(help="Folder of this study; a study that was stopped goes on in it.")
    ],
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="smoke: 8 runs, less than a minute; small: 30, about half an hour on two cores; "
            "paper: its 320; high-learning-rate: 40.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(help="TOML file with a grid of your own, like those of the presets."),
    ] = None,
    cifar10: Cifar10 = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time, >= 1; without it: one for each core."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Train on the Ray cluster at this address; --out must be on storage that all its "
            "machines share. auto: one that is started on this machine.",
            show_default=False,
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run those that failed again.")] = False,
) -> None:
    """Train the paper's supersampling network with every design of a grid.

    Runs with the same seed start from the same weights and see the same images in the same order.
    Kill it whenever you like: the same command goes on, to the same numbers. Finished runs are
    not run again; a run that failed is when you say --retry.
    """
    from rich.console import Console

    from alrc.lab.data.images import load_images
    from alrc.lab.engine.grid import Grid
    from alrc.lab.exec.study import run_study
    from alrc.lab.exec.workers import Processes, Workers

    try:
        if (preset is None) == (grid is None):
            raise ValueError("either --preset or --grid must be given, to say what to run.")
        if workers is not None and workers < 1:
            raise ValueError(
                f"--workers must be at least 1, because each trains a run; got {workers}."
            )
        designs = Grid.read(PRESETS / f"{preset}.toml" if grid is None else grid)
        jobs = designs.jobs(load_images(str(cifar10 or "photographs")))
        where: Workers
        if ray is None:
            where = Processes(workers or _cores())
        else:
            from alrc.lab.exec.cluster import RayWorkers

            where = RayWorkers(ray, workers)
        failed = run_study(jobs, out, where, Console(stderr=True), retry)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoints.", 130)
    for name, log in failed.items():
        typer.echo(f"{name}: {log}", err=True)
    if failed:
        fail(
            f"{len(failed)} of {len(jobs)} runs failed, with the logs above; --retry runs them "
            "again.",
            1,
        )
    typer.echo(f"All {len(jobs)} runs are finished: {out / 'runs'}")


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1
