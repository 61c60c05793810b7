"""The commands of ``alrc``. Heavy imports wait until a command needs them."""

from typing import Annotated

import typer

from alrc import __version__
from alrc.lab.cli import data, demo, run
from alrc.lab.cli.complete import complete
from alrc.lab.cli.listing import show_list
from alrc.lab.cli.new_task import new_task
from alrc.lab.cli.options import make_app
from alrc.lab.cli.replay import replay
from alrc.lab.cli.report import report
from alrc.lab.cli.study import study
from alrc.lab.cli.suspects import suspects

app = make_app(no_args_is_help=True)
lab = make_app(no_args_is_help=True, help="Experiments: tasks, arms, studies, reports.")
lab.command("list")(show_list)
lab.add_typer(run.app, name="run")
lab.command("study")(study)
lab.command("report")(report)
lab.command("new-task")(new_task)
lab.command("complete")(complete)
lab.add_typer(data.app, name="data")
app.command("suspects")(suspects)
app.add_typer(demo.app, name="demo")
app.command("replay")(replay)
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
