"""Networks of a finished run, to be used for what they were trained for."""

from pathlib import Path

import torch

from alrc.lab.api import Networks, Task
from alrc.lab.engine.files import read_json
from alrc.lab.engine.naming import Named
from alrc.lab.engine.randomness import build, kept
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.stored import check_config

__all__ = ["open_run"]


def open_run(folder: Path, task: str, device: str = "cpu") -> tuple[Task, Networks]:
    """The task of a finished run, and its networks as they were at the end.

    Nothing is written into the folder. Data are not read: options that say where they are stay
    what they are by default.

    Args:
        folder: Of the run.
        task: The name of the task that it has to be of.
        device: Where the networks are to be.

    Raises:
        ValueError: If it is no finished run of that task, or has no checkpoint.
        OSError: If a file can't be read.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} must be the folder of a finished run of {task}, which has a config.json; it "
            f"is not. Train one with: alrc lab run {task} --out {folder}"
        )
    config = read_json(folder / "config.json", f"Remove {folder}, and the run is trained anew.")
    try:
        check_config(config)
    except (ValueError, TypeError, AttributeError) as fault:
        raise ValueError(f"{folder} must hold a run; {fault}. Pass another folder.") from None
    found = str(config["task"]).partition(" ")[0]
    if found != task:
        raise ValueError(
            f"{folder} must be a run of the task {task}, whose networks do this; it is one of "
            f"{found}. Pass another folder."
        )
    run = RunFolder(folder, config)
    result = run.result
    if result is None:
        raise ValueError(
            f"{folder} must be a finished run; this one has no result yet. Type the command that "
            "began it again, and it goes on to its end."
        )
    made: Task = Named("task", task, tuple(config["task_options"].items())).make()
    state = run.read_checkpoint(device)
    if state is None:
        mean = result.get("store") == "mean"
        why = "it was trained with store = mean, which keeps none" if mean else "it is not there"
        if result.get("trained_with", 1) > 1:
            why = f"it was trained together with {result['trained_with'] - 1:,} others"
        raise ValueError(
            f"{folder / 'checkpoint.pt'} must hold the trained networks; {why}. Train the run "
            f"alone, with alrc lab run {task}, which keeps them."
        )
    place = torch.device(device)
    with kept(place):
        networks = {
            name: network.to(place) for name, network in build(made, config["seed"]).items()
        }
    try:
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{folder / 'checkpoint.pt'} must hold the networks that {task} builds today; it holds "
            f"others ({str(error).splitlines()[0]}). Use the alrc that trained it: "
            f"{', '.join(result.get('versions', ['unknown']))}."
        ) from None
    return made, networks
