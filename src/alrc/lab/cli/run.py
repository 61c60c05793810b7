"""``alrc lab run``: one run in a folder, which goes on where it was stopped."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from alrc.lab.cli.options import Group, check_device, fail, make_app, parameters

__all__ = ["app"]


class _Tasks(Group):
    """A command for each task, made from its options when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        from alrc.lab.engine.naming import installed

        return installed("task")

    def get_command(self, ctx: Any, name: str) -> Any:
        one = make_app()
        try:
            one.command(name)(_command(name))
        except ValueError as refusal:
            fail(refusal, 2)
        return typer.main.get_command(one)


app = make_app(
    cls=_Tasks,
    no_args_is_help=True,
    help="Train one network; type it again to go on. PATH/FILE.py:CLASS is a task of your own.",
    subcommand_metavar="TASK [OPTIONS]",
)


@app.callback()
def run() -> None:
    """Makes this a group, whose commands are the tasks."""


def _command(name: str) -> Any:
    """The function whose parameters are the options of a task."""
    from alrc.lab.api import Task, Training
    from alrc.lab.engine.naming import Named

    named = Named.parse("task", name, Path.cwd())
    cls = named.find()
    assert issubclass(cls, Task)

    def command(
        out: Annotated[
            Path, typer.Option(help="Folder of this run; a run that was stopped goes on in it.")
        ],
        arm: Annotated[
            str,
            typer.Option(
                metavar="'NAME key=value ...'",
                help="What is done to losses and gradients: off, 'alrc num_stddev=2', 'alrc + "
                "clip-grad-norm' (one after the other), ...; alrc lab list shows them.",
            ),
        ] = "alrc",
        seed: Annotated[int, typer.Option(help="Fixes initial weights and data, >= 0.")] = 0,
        **options: Any,
    ) -> None:
        training = {n: options.pop(n) for n in Training.helps()}
        _train(named.having(options).placed(), arm, training, seed, out)

    options = [
        *parameters(cls, f"Options of {named.short_name}", {}),
        *parameters(Training, "Training", cls.defaults),
    ]
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    names = [p.name for p in (*own, *options)]
    if twice := [n for n in names if names.count(n) > 1]:
        raise ValueError(
            f"{named.short_name}: options must not be called as those of every run are; "
            f"{twice[0]} is. Rename it."
        )
    kept = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
    command.__signature__ = signature.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    command.__doc__ = inspect.getdoc(cls)
    if command.__doc__:
        command.__doc__ = command.__doc__.partition("\n\nReferences:")[0]
    return command


def _train(named: Any, arm: str, training: dict[str, Any], seed: int, out: Path) -> None:
    import torch
    from rich.console import Console

    from alrc.lab.api import Training
    from alrc.lab.engine.naming import Named
    from alrc.lab.engine.series import read_series
    from alrc.lab.engine.spec import Spec
    from alrc.lab.engine.steps import SKIPPED
    from alrc.lab.engine.storage import RunFolder
    from alrc.lab.engine.training import Stopped, train
    from alrc.lab.exec.estimate import data_lines
    from alrc.lab.exec.progress import show_progress
    from alrc.lab.exec.stopping import Signals

    torch.set_num_threads(1)  # as many threads, as many ways to add up
    console = Console(stderr=True)
    try:
        how = Training(**training)
        spec = Spec(named, Named.parse("arm", arm, Path.cwd()), how, seed)
        check_device(how.device)
        with (
            Signals(second_interrupts=True) as signals,
            RunFolder(out, spec.config) as folder,
            show_progress(how.steps, spec.config["arm"], console) as show,
        ):
            for line in data_lines([spec]):
                console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)
            result = train(spec, folder, show, stop=lambda: signals.first is not None)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except Stopped:
        code = 128 + (signals.first or 0)
        fail(f"stopped with a checkpoint in {out}; the same command goes on from it.", code)
    except KeyboardInterrupt:
        fail("stopped at once; the same command goes on from the last checkpoint.", 130)
    for name, value in result["metrics"].items():
        typer.echo(f"{name}: {'not finite' if value is None else f'{value:g}'}")
    for baseline, values in result.get("baselines", {}).items():
        for name, value in values.items():
            number = "not finite" if value is None else f"{value:g}"
            typer.echo(f"{name} without training ({baseline}): {number}")
    for name, loss in result["losses"].items():
        value = loss["training_loss"]
        typer.echo(f"training {name}: {'not finite' if value is None else f'{value:g}'}")
        typer.echo(f"{name}: {loss['limited']:,} of {loss['count']:,} limited")
    for name in [n for n in result["series"] if n.startswith(f"arm.{SKIPPED}.")]:
        series = read_series(out, result, name)
        steps = f"{(series == 1).sum():,} of {len(series):,} steps"
        typer.echo(f"{name.removeprefix(f'arm.{SKIPPED}.')}: {steps} skipped")
    if result["diverged"]:
        typer.echo(f"diverged: {result['diverged']}")
