"""``alrc demo``: training on data of which a few are broken, plain, with a norm clip, with ALRC."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alrc.lab.cli.demo_paper import paper
from alrc.lab.cli.options import check_figure, fail, make_app

if TYPE_CHECKING:
    from rich.table import Table

    from alrc.lab.report.demo_figure import Panel
    from alrc.lab.report.results import Run

__all__ = ["app", "table"]

TASKS = {"2 % broken": "photographs", "all clean": "photographs broken=0"}
ALRC = "alrc-log num_stddev=2"  # what ALRC() is
ARMS = {"plain": "off", "norm clip": "clip-grad-norm", "ALRC": ALRC}
EVALUATIONS = 20
FIRST_SEED = 10  # the task was made while others were looked at

app = make_app(invoke_without_command=True)
app.command("paper")(paper)


@app.callback()
def demo(
    ctx: typer.Context,
    steps: Annotated[int, typer.Option(help="Training steps of each run, >= 10.")] = 1000,
    seeds: Annotated[int, typer.Option(help="How often each is trained, >= 1.")] = 5,
    out: Annotated[
        Path, typer.Option(help="PNG file for the figure; its folder has to exist.")
    ] = Path("alrc-demo.png"),
) -> None:
    """Train on photographs, 2 % of which are broken: plain, with a norm clip, and with ALRC.

    About a minute on two CPU cores. A network learns to take the noise out of photographs, with
    quartic error. In some targets a square is hot, as from a broken detector; then the same without
    them. Each is trained from several seeds, and judged by clean photographs that it never saw.
    """
    if ctx.invoked_subcommand is not None:
        return
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from alrc.lab.engine.files import written_together, written_whole
    from alrc.lab.engine.jobs import plan
    from alrc.lab.exec.stopping import StudyStopped
    from alrc.lab.exec.study import run_study
    from alrc.lab.exec.workers import Processes
    from alrc.lab.report.demo_figure import draw_demo
    from alrc.lab.report.figures import save

    try:
        check_figure(out)
        specs = _specs(steps, seeds)
        with TemporaryDirectory(prefix="alrc-demo-") as folder:
            # An ensemble for each task, of all its arms and seeds: one on each core.
            failed = run_study(plan(specs), Path(folder), Processes(2), Console(stderr=True))
            if failed:
                fail("\n".join(log.read_text() for log in failed.values()), 1)
            panels = _panels(Path(folder), seeds)
            Console().print(table(panels))
            figure = draw_demo(panels)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except StudyStopped as stopped:
        fail("stopped; no figure was written.", stopped.exit_code)
    except KeyboardInterrupt:
        fail("stopped; no figure was written.", 130)
    try:
        with written_together():
            save(figure, out)
            with written_whole(numbers := out.with_suffix(".csv")) as part:
                part.write_text(_numbers(panels), encoding="utf-8")
    except OSError as failure:
        fail(f"the figure could not be written: {failure}", 1)
    typer.echo(f"Figure: {out}\nNumbers: {numbers}")


def _specs(steps: int, seeds: int) -> dict[str, Any]:
    """All runs, by their names."""
    from alrc.lab.api import Training
    from alrc.lab.engine.naming import Named
    from alrc.lab.engine.spec import Spec, task_of

    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, because each is a training; got {seeds}.")
    specs = {}
    for i, task in enumerate(TASKS.values()):
        named = Named.parse("task", task, Path.cwd())
        given = {**task_of(named).defaults, "steps": steps}
        training = Training(**given, evaluate_every=max(steps // EVALUATIONS, 1))
        for arm in ARMS.values():
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                how = Named.parse("arm", arm, Path.cwd())
                specs[_name(i, arm, seed)] = Spec(named, how, training, seed)
    return specs


def _name(task: int, arm: str, seed: int) -> str:
    return f"{list(TASKS)[task]}, {arm}, seed {seed}"


def _panels(folder: Path, seeds: int) -> "list[Panel]":
    from alrc.lab.report.demo_figure import Panel
    from alrc.lab.report.reading import read_study

    runs = {run.name: run for run in read_study(folder).runs}
    return [
        Panel(
            title,
            {
                label: [runs[_name(i, arm, seed)] for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
                for label, arm in ARMS.items()
            },
        )
        for i, title in enumerate(TASKS)
    ]


def _numbers(panels: "list[Panel]") -> str:
    """The error and the share of losses limited of each run, as CSV."""
    lines = ["targets,training,seed,error,limited"]
    for panel in panels:
        for label, runs in panel.arms.items():
            for run, error in zip(runs, panel.values(label).values(), strict=True):
                lines.append(f"{panel.title},{label},{run.seed},{error:.6g},{_limited([run]):.6g}")
    return "\n".join(lines) + "\n"


def _limited(runs: "Sequence[Run]") -> float:
    losses = [loss for run in runs for loss in run.losses.values()]
    share: float = sum(x["limited"] for x in losses) / sum(x["count"] for x in losses)
    return share


def table(panels: "list[Panel]") -> "Table":
    """What came of all runs: the error of each arm, and against plain training in pairs."""
    from rich.table import Table

    made = Table(caption="median of the seeds; mean change in pairs of a seed, 95 % t interval")
    for title in ("targets", "training"):
        made.add_column(title, no_wrap=True)
    made.add_column(panels[0].metric.replace(" ", "\n"), justify="right")
    for title in ("change", "better", "limited"):
        made.add_column(title, justify="right", no_wrap=True)
    changes = _compare(panels)
    for panel in panels:
        made.add_section()
        for label, runs in panel.arms.items():
            errors = panel.values(label).values()
            error = statistics.median(x if math.isfinite(x) else math.inf for x in errors)
            share = _limited(runs)
            change, better = changes.get((panel.title, label), ("", ""))
            row = ("" if changes.get((panel.title, label)) else panel.title, label, f"{error:.3g}")
            made.add_row(*row, change, better, f"{share:.2%}" if share else "-")
    return made


def _compare(panels: "list[Panel]") -> Mapping[tuple[str, str], tuple[str, str]]:
    """The change of each arm against the first, in words."""
    from alrc.lab.report.statistics import Pairs, compare

    families = {
        (panel.title, label): Pairs(panel.values(panel.baseline), panel.values(label))
        for panel in panels
        for label in panel.arms
        if label != panel.baseline
    }
    words = {}
    for key, found in zip(families, compare(list(families.values())), strict=True):
        change = f"{found.change:+.0%}" if found.seeds else "diverged"
        if found.interval is not None:
            low, high = found.interval
            change += f" [{low:+.0%}, {high:+.0%}]"
        words[key] = change, f"{found.wins} of {len(found.seeds)}"
    return words
