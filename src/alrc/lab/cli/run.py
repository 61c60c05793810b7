"""``alrc lab run``: one run in a folder, which goes on where it was stopped."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alrc.lab.cli.options import (
    POWERS,
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

app = typer.Typer(no_args_is_help=True, help="Train one network; type it again to go on.")


class Arm(StrEnum):
    off = "off"
    alrc = "alrc"
    original = "original"


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


@app.callback()
def run() -> None:
    """Keeps ``cifar10`` a command of its own, beside others to come."""


@app.command()
def cifar10(
    out: Annotated[
        Path, typer.Option(help="Folder of this run; a run that was stopped goes on in it.")
    ],
    arm: Annotated[
        Arm,
        typer.Option(
            help="off: plain training; alrc; original: the 0.997/0.001 form of the paper's code."
        ),
    ] = Arm.alrc,
    num_stddev: Annotated[
        float, typer.Option(help="Limit, in standard deviations above the mean loss, > 0.")
    ] = 3.0,
    num_stddev_below: Annotated[
        float | None, typer.Option(help="The same below the mean; without it: no lower limit.")
    ] = None,
    mu1_start: Annotated[
        float | None, typer.Option(help="First mean loss, 25 in the paper; without it: automatic.")
    ] = None,
    mu2_start: Annotated[
        float | None, typer.Option(help="First mean squared loss, 900 in the paper.")
    ] = None,
    error: ErrorPower = Error.quartic,
    batch_size: BatchSize = 1,
    optimizer: OptimizerName = Optimizer.adam,
    learning_rate: LearningRate = 0.1 / 128,
    iterations: Iterations = 100_000,
    seed: Seed = 0,
    width: Annotated[
        int, typer.Option(help="Features of the first layer, >= 1; 64 in the paper.")
    ] = 64,
    sqrt_step: Annotated[
        bool, typer.Option(help="Replace losses of 50 and more by their square root, as the paper.")
    ] = True,
    evaluate_every: Annotated[
        int | None,
        typer.Option(help="Steps between evaluations on held-out images; without it: at the end."),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints, >= 1.")] = 1000,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.cpu,
    compile: Annotated[bool, typer.Option(help="Send the network through torch.compile.")] = False,
    cifar10: Cifar10 = None,
) -> None:
    """Train the paper's supersampling network on CIFAR-10, or on photographs.

    Every step's loss is kept, before and after it is limited. Kill it whenever you like: the same
    command goes on from the last checkpoint, to the same numbers.
    """
    import torch
    from rich.console import Console

    from alrc.lab.data.images import load_images
    from alrc.lab.engine.storage import RunFolder
    from alrc.lab.engine.training import Run, RunConfig, train
    from alrc.lab.exec.progress import State, show_progress
    from alrc.lab.tasks.supersampling.task import Supersampling

    torch.set_num_threads(1)  # as many threads, as many ways to add up
    try:
        if checkpoint_every < 1 or width < 1:
            raise ValueError(
                "--checkpoint-every and --width must be at least 1; got "
                f"{checkpoint_every} and {width}."
            )
        if device is Device.cuda and not torch.cuda.is_available():
            raise ValueError("--device cuda needs a GPU that torch can use; there is none here.")
        config = RunConfig(
            iterations,
            batch_size,
            optimizer.value,
            learning_rate,
            None if arm is Arm.off else num_stddev,
            seed,
            num_stddev_below=num_stddev_below,
            mu1_start=mu1_start,
            mu2_start=mu2_start,
            original=arm is Arm.original,
            evaluate_every=evaluate_every,
            device=device.value,
            compile=compile,
        )
        task = Supersampling(
            load_images(str(cifar10 or "photographs")), POWERS[error], width, sqrt_step
        )
        with (
            RunFolder(out, task.describe(), config) as folder,
            show_progress({arm.value: config}, Console(stderr=True)) as show,
        ):

            def report(step: int, run: Run) -> None:
                if step % 50 == 0 or step == iterations:
                    show(arm.value, State.of(step, run))

            result = folder.save_result(train(task, config, report, folder, checkpoint_every))
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except KeyboardInterrupt:
        fail("stopped; the same command goes on from the last checkpoint.", 130)
    for name, value in result.items():
        typer.echo(f"{name}: {'not finite' if value is None else f'{value:g}'}")
