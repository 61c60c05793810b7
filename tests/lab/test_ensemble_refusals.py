"""What can't be trained together, and what is damaged, is refused before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
from stackable import spec

from alrc.lab.engine.batched import Ensemble
from alrc.lab.engine.jobs import Job, plan, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.training import Stopped

FILE = Path(__file__).parents[1] / "helpers" / "unstackable.py"
TOGETHER = "for its runs to be trained together it must"
MEND = "Set its stackable = False, and they are trained one by one."


def own(task: str, seeds: tuple[int, ...] = (0, 1), arm: str = "off", **training: Any) -> Any:
    named = Named.parse("task", f"{FILE}:{task} width=8", FILE.parent)
    like = spec("Dense", arm, 0, **training)
    return {str(seed): Spec(named, like.arm, like.training, seed) for seed in seeds}


def refused(specs: dict[str, Spec], folder: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run_job(Job(specs), folder / "runs")
    assert not list(folder.rglob("*.npy"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Statistics", "have networks whose buffers stay, so no running statistics"),
        ("Dropping", "draw no random numbers in its steps, so no dropout"),
        ("Idle", "use every parameter in its losses, or freeze it"),
        ("Shared", "have networks that share no parameters"),
        ("Mixed", "have parameters to train, all of one type"),
        ("Numbers", "have batches of tensors alone, not of int"),
        ("Uneven", "have batches of one shape, whatever the seed"),
        (
            "Reading",
            "have a step that works under torch.func.vmap (vmap: It looks like you're calling "
            ".item() on a Tensor. We don't support vmap over calling .item() on a Tensor, please "
            "try to rewrite what you're doing with other operations. If error is occurring "
            "somewhere inside PyTorch internals, please file a bug report)",
        ),
        (
            "Looking",
            "have a step that works under torch.func.vmap ('_Stateless' object is not "
            "subscriptable)",
        ),
        ("Hidden", "give the same loss for networks alone and in a stack"),
    ],
)
def test_a_task_that_is_not_stackable_is_refused(task: str, words: str, tmp_path: Path) -> None:
    assert refused(own(task), tmp_path) == f"{task}: {TOGETHER} {words}. {MEND}"


@pytest.mark.parametrize(
    ("task", "words", "training"),
    [
        ("Unwilling", "have stackable = True", {}),
        ("OwnOptimizer", "leave optimizers() as it is", {}),
        ("TwoPhases", "have a single phase", {}),
        ("Hidden", "be trained without compile", {"compile": True}),
    ],
)
def test_what_is_planned_one_by_one_is_not_trained_together(
    task: str, words: str, training: dict[str, Any], tmp_path: Path
) -> None:
    specs = own(task, **training)
    assert len(plan(specs)) == 2
    assert refused(specs, tmp_path) == f"{task}: {TOGETHER} {words}. Train them one by one."


def test_runs_of_two_settings_are_not_trained_together(tmp_path: Path) -> None:
    specs = {"a": spec("Dense", "off", 0), "b": spec("Dense", "off", 0, steps=30)}
    assert refused(specs, tmp_path) == (
        "Runs that are trained together must have the same task and training, up to optimizer, "
        "learning_rate, momentum, weight_decay; 'b' and 'a' have not. Train them one by one."
    )


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (
            "Greedy",
            "leave the optimizer as it is, because other arms share it. Return None from "
            "stacked(), and each run has an optimizer of its own.",
        ),
        (
            "Removing",
            "leave a gradient for each parameter; it removed one. To skip a step, set step_ok to "
            "False.",
        ),
        ("Narrow", "give a first axis of its 2 members; got the shape ()."),
    ],
)
def test_a_stacked_arm_that_can_not_be_honoured_is_refused(
    arm: str, words: str, tmp_path: Path
) -> None:
    specs = {str(seed): spec("Dense width=8", f"{FILE}:{arm}", seed) for seed in (0, 1)}
    assert refused(specs, tmp_path) == f"unstackable.py:{arm}: its stacked form must {words}"


def test_an_arm_does_not_inherit_a_stacked_form(tmp_path: Path) -> None:
    specs = {arm: spec("Dense width=8", arm, 0) for arm in (f"{FILE}:Halved", "alrc")}
    ensemble = Ensemble(specs, Series(tmp_path))
    stacked = {design.specs[0].arm.short_name: design.is_stacked for design in ensemble.designs}
    assert stacked == {"alrc": True, "unstackable.py:Halved": False}


@pytest.mark.parametrize("damage", ["checkpoint", "series", "config", "missing"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    specs = {str(seed): spec("Dense width=8", "off", seed) for seed in (0, 1)}
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        run_job(Job(specs), tmp_path / "runs", stop=lambda: next(asked))
    (folder,) = tmp_path.glob("ensembles/*")
    file = folder / "series" / "all.loss.raw.npy"
    remove = "Remove the folder of this run, and it is trained anew."
    if damage == "checkpoint":
        file = folder / "checkpoint.pt"
        file.write_bytes(file.read_bytes()[:1000])
        words = (
            f"{file} must be a checkpoint of this run; it can't be read (BadZipFile). Remove "
            f"{folder}, and the run is trained anew."
        )
    elif damage == "series":
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        words = f"{file} must have the checksum"
    elif damage == "config":
        file = folder / "config.json"
        file.write_text("{")
        words = f"{file} must hold a JSON object; Expecting property name"
    else:
        file.unlink()
        words = f"{file} must be there, because it is part of a run; it is missing. {remove}"
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        run_job(Job(specs), tmp_path / "runs")
    assert str(caught.value).startswith(words)
