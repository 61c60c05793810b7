"""``alrc demo paper``: a study of two runs that differ in one line, and a figure of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alrc.lab.cli.options import check_figure, fail

if TYPE_CHECKING:
    from rich.table import Table

    from alrc.lab.report.results import Run

__all__ = ["paper"]


def paper(
    steps: Annotated[int, typer.Option(help="Training steps of each run, >= 10.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Fixes initial weights and data, >= 0.")] = 0,
    error: Annotated[
        str, typer.Option(metavar="squared|quartic", help="25 mean(difference^p), p = 2 or 4.")
    ] = "quartic",
    batch_size: Annotated[int, typer.Option(help="Images per training step, >= 1.")] = 1,
    num_stddev: Annotated[
        float, typer.Option(help="ALRC's limit, in standard deviations above the mean loss, > 0.")
    ] = 3.0,
    learning_rate: Annotated[
        float, typer.Option(help="Step size, > 0; the paper's by default.")
    ] = 0.1 / 128,
    optimizer: Annotated[
        str, typer.Option(metavar="adam|adamw|sgd", help="What takes the steps.")
    ] = "adam",
    images: Annotated[
        str,
        typer.Option(
            help="photographs, which come with scikit-image, or a folder with CIFAR-10's six "
            "binary files."
        ),
    ] = "photographs",
    out: Annotated[
        Path, typer.Option(help="PNG file for the figure; its folder has to exist.")
    ] = Path("alrc-demo-paper.png"),
) -> None:
    """Train the paper's supersampling network twice, plain and with ALRC, and compare.

    A quarter of the paper's width, for minutes on two CPU cores. Both runs start from the same
    weights and see the same images in the same order; one line is all they differ in.
    """
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from alrc.lab.api import Training
    from alrc.lab.engine.jobs import Job
    from alrc.lab.engine.naming import Named
    from alrc.lab.engine.spec import Spec
    from alrc.lab.exec.stopping import StudyStopped
    from alrc.lab.exec.study import run_study
    from alrc.lab.exec.workers import Processes
    from alrc.lab.report.figures import draw_comparison, save
    from alrc.lab.report.reading import read_study

    try:
        check_figure(out)
        how = Training(steps, batch_size, optimizer, learning_rate)  # type: ignore[arg-type]
        given = {"error": error, "width": 16, "images": images}
        task = Named("task", "supersampling").having(given).placed()
        arms = {
            "plain": Named("arm", "off"),
            "ALRC": Named("arm", "alrc").having({"num_stddev": num_stddev}),
        }
        specs = {name: Spec(task, arm, how, seed) for name, arm in arms.items()}
        with TemporaryDirectory(prefix="alrc-demo-") as folder:
            jobs = [Job({name: spec}) for name, spec in specs.items()]
            failed = run_study(jobs, Path(folder), Processes(2), Console(stderr=True))
            if failed:
                fail("\n".join(log.read_text() for log in failed.values()), 1)
            runs = {run.name: run for run in read_study(Path(folder)).runs}
            plain, limited = runs["plain"], runs["ALRC"]
            Console().print(compare(plain, limited))
            typer.echo(verdict(plain, limited))
            figure = draw_comparison(plain, limited, _title(specs["ALRC"]))
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except StudyStopped as stopped:
        fail("stopped; no figure was written.", stopped.exit_code)
    except KeyboardInterrupt:
        fail("stopped; no figure was written.", 130)
    try:
        save(figure, out)
    except OSError as failure:
        fail(f"the figure could not be written: {failure}", 1)
    typer.echo(f"Figure: {out}")


def _title(spec: Any) -> str:
    training, config = spec.training, spec.config
    return (
        f"Supersampling {config['task_facts']['images']} with "
        f"{config['task_options']['error']} error\n"
        f"batch size {training.batch_size}, {training.optimizer} at {training.learning_rate:.3g}, "
        f"{config['arm']}, seed {spec.seed}"
    )


def compare(plain: "Run", limited: "Run") -> "Table":
    """A table of what came of the two runs."""
    from rich.table import Table

    tenth = max(plain.steps // 10, 1)
    table = Table("")
    for title in (f"training loss, last {tenth:,}", "held-out error", "losses limited", "time"):
        table.add_column(title, justify="right")
    for name, run in (("plain", plain), ("with ALRC", limited)):
        count = run.losses["loss"]["count"]
        table.add_row(
            name,
            f"{run.training_loss('loss'):.4g}",
            f"{run.metric('held-out error'):.4g}",
            f"{run.limited:,} ({run.limited / count:.2%})" if run is limited else "-",
            f"{run.result['seconds']:.0f} s",
        )
    return table


def verdict(plain: "Run", limited: "Run") -> str:
    """One sentence on whether the held-out error is lower with ALRC."""
    before, after = (run.metric("held-out error") for run in (plain, limited))
    if limited.diverged or plain.diverged:
        both = bool(limited.diverged) and bool(plain.diverged)
        who = "both runs" if both else "the run with ALRC" if limited.diverged else "the plain run"
        outcome = f"With this seed {who} diverged{'' if both else ' and the other did not'}"
    elif limited.fingerprint == plain.fingerprint:
        outcome = "The two runs are identical: nothing was limited"
    elif after < before:
        outcome = f"With this seed the held-out error is {1 - after / before:.1%} lower with ALRC"
    else:
        outcome = (
            "No gain with this seed: the held-out error is "
            f"{after / before - 1:.1%} higher with ALRC"
        )
    return f"{outcome}; one seed is a lead, not a result."
