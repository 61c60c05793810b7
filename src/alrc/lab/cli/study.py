"""``alrc lab study``: a grid of runs in a folder, which goes on where it was stopped."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alrc.lab.cli.benchmark import run_benchmark
from alrc.lab.cli.options import check_device, fail
from alrc.lab.cli.report import report

if TYPE_CHECKING:
    from alrc.lab.exec.messages import Workers

__all__ = ["PRESETS", "study"]

PRESETS = Path(__file__).parents[1] / "presets"


def study(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE.toml",
            help="What to cross with what; or one of those that come with the lab: "
            "supersampling-smoke (8 runs, under a minute), -small (120, over an hour on two "
            "cores), -small-high-learning-rate (80), -paper (its 320) and -high-learning-rate "
            "(40); stability (the benchmark, hours) and stability-smoke.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of this study; one that was stopped goes on in it.",
            show_default="studies/NAME",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Takes the place of what the file says: seeds=2, task.width=16, "
            "training.steps=1000; may be given several times.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Runs at a time, >= 1.", show_default="one for each core or GPU"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to train: cpu or cuda.", show_default="as the file says, or cpu"),
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
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="NAME",
            help="Of a benchmark, run this part alone; may be given several times.",
            show_default="all of them",
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run those that failed again.")] = False,
) -> None:
    """Train each task of a study with each arm and seed, then write its report.

    Runs with the same seed start from the same weights and see the same data in the same order.
    Kill it whenever you like: the same command goes on, to the same numbers. Finished runs are
    not run again; a run that failed is when you say --retry.
    """
    from rich.console import Console

    from alrc.lab.engine.benchmark_file import is_benchmark
    from alrc.lab.engine.grid import Grid
    from alrc.lab.engine.jobs import plan
    from alrc.lab.exec.stopping import StudyStopped
    from alrc.lab.exec.study import run_study

    try:
        file = _file(what)
        out = out or Path("studies") / _name(file)
        changed = _changes(changes or [], device)
        if is_benchmark(file):
            run_benchmark(
                file, changed, parts or [], out, lambda place: _workers(place, workers, ray), retry
            )
            return
        if parts:
            raise ValueError(f"--part must be of a benchmark, which has parts; {file} has none.")
        grid = Grid.read(file, changed)
        there = [path.name for path in out.glob("runs/*")]
        specs = grid.named_specs(there)
        if others := len(set(there) - specs.keys()):
            typer.echo(
                f"{out} also holds {others:,} runs that this study does not ask for; its report "
                "will leave them out.",
                err=True,
            )
        where = _workers(next(iter(specs.values())).training.device, workers, ray)
        jobs = plan(specs, grid.ensembles)
        record = {**grid.record(), "runs": list(specs)}
        failed = run_study(jobs, out, where, Console(stderr=True), retry, record)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except StudyStopped as stopped:
        fail(stopped, stopped.exit_code)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on.", 130)
    for name, log in failed.items():
        typer.echo(f"{name}: {log}", err=True)
    if len(failed) < len(specs):
        report(out)
    if failed:
        fail(
            f"{len(failed)} of {len(specs)} runs failed, with the logs above; --retry runs them "
            "again.",
            1,
        )


def _file(what: str) -> Path:
    """The file that was named, or that of a preset."""
    preset = PRESETS / f"{what}.toml"
    if preset.is_file():
        return preset
    if not what.endswith(".toml") and not Path(what).exists():
        names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
        raise ValueError(f"what to train must be a .toml file or one of {names}; got {what}.")
    return Path(what)


def _name(file: Path) -> str:
    """That of the file; of its folder where all are called alike, as new-task does."""
    return file.stem if file.stem != "study" else file.resolve().parent.name


def _changes(given: list[str], device: str | None) -> dict[str, Any]:
    """What --set and --device ask for."""
    from alrc.lab.engine.naming import parse_value

    changes = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set must be KEY=VALUE, such as task.width=16; got {text!r}.")
        changes[key.strip()] = parse_value(value.strip())
    if device is not None:
        check_device(device)
        changes["training.device"] = device
    return changes


def _workers(device: str, count: int | None, ray: str | None) -> "Workers":
    from alrc.lab.exec.workers import Processes

    if count is not None and count < 1:
        raise ValueError(f"--workers must be at least 1, because each trains a run; got {count}.")
    if ray is not None:
        from alrc.lab.exec.cluster import RayWorkers

        return RayWorkers(ray, count)
    return Processes(count or _places(device))


def _places(device: str) -> int:
    """Runs that can be trained at a time: one on each GPU, or on each core we may use."""
    if device != "cpu":
        import torch

        return torch.cuda.device_count()
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1
