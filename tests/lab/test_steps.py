"""What a task or an arm of one's own gives: refused in words when it is seen first."""

import json
from pathlib import Path

import faulty
import pytest
import stackable
import tiny
from mishaps import after, assert_as_if_alone

from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.training import Stopped

LOSSES = "Faulty.step must give its losses by name, each a tensor that is not empty; it gave "
TOTAL = (
    "Faulty: the losses of step, limited and combined, must be one number that depends on the "
    "networks, because their gradients are taken from it; it "
)
NAME = (
    " must be the name of a file, without / and \\; if it begins with logged. or arm., it must not "
    "end in .raw, .limited or .limit, by which losses are told. Rename the loss, or what is logged."
)
PICTURES = (
    "Faulty.pictures must give each a name of its own, without / and \\, because they are files; "
    "got "
)


def refusal(job: Job, folder: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run_job(job, folder)
    assert not list(folder.rglob("result.json"))
    return str(caught.value)


def faulty_job(fault: str) -> Job:
    return tiny.job("run", "Faulty", faulty.__file__, fault=fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nothing", f"{LOSSES}nothing."),
        ("no losses", f"{LOSSES}nothing."),
        ("a list", f"{LOSSES}a list."),
        ("no loss", f"{LOSSES}'loss' as a tensor of shape (0,)."),
        ("a number", f"{LOSSES}'loss' as a float."),
        ("detached", f"{TOTAL}does not."),
        ("combine", f"{TOTAL}has the shape (4,)."),
        ("slash", f"a/b.raw{NAME}"),
        ("logged like a loss", f"logged.x.raw{NAME}"),
        ("loss like a logged", f"logged.x.raw{NAME}"),
        (
            "batches end",
            "Faulty.batches must go on without end, because it is not asked how many there are; "
            "it ended before step 7.",
        ),
        (
            "describe",
            "Faulty.describe().number must be a plain value, such as a number or text, because it "
            "is stored as JSON; it is of type int64.",
        ),
        ("twice", f"{PICTURES}'a' twice."),
        ("picture slash", f"{PICTURES}'a/b'."),
        (
            "picture shape",
            "Faulty.pictures: the pixels of 'a' must be of shape (H, W) or (H, W, 3); got "
            "(3, 4, 4).",
        ),
    ],
)
def test_what_can_not_be_trained_with_or_stored_is_refused(
    fault: str, message: str, tmp_path: Path
) -> None:
    assert refusal(faulty_job(fault), tmp_path) == message


def test_pictures_of_networks_that_diverged_are_stored_and_their_captions_say_it(
    tmp_path: Path,
) -> None:
    result = run_job(faulty_job("picture NaN"), tmp_path)["run"]
    caption = "One. 1 of 4 pixels are NaN, shown black."
    assert result["pictures"] == [{"file": "pictures/a.png", "caption": caption}]


def test_batches_of_runs_that_are_trained_together_have_no_end_either(tmp_path: Path) -> None:
    task = Named("task", f"{faulty.__file__}:Ending", (("width", 4),))
    like = stackable.spec("Dense", "off", 0)
    specs = {str(seed): Spec(task, like.arm, like.training, seed) for seed in (0, 1)}
    assert refusal(Job(specs), tmp_path / "runs") == (
        "Ending.batches must go on without end, because it is not asked how many there are; it "
        "ended before step 7."
    )


@pytest.mark.parametrize("together", [False, True])
def test_an_arm_that_leaves_nothing_to_train_with_is_refused(
    together: bool, tmp_path: Path
) -> None:
    like = stackable.spec("Dense", "off", 0)
    arm = Named("arm", f"{faulty.__file__}:Detaching")
    specs = {"detaching": Spec(like.task, arm, like.training, 0)}
    if together:  # which has gradients, and would hide that there are none
        specs["off"] = like
    message = refusal(Job(specs), tmp_path / "runs")
    assert message == TOTAL.replace("Faulty", "Dense") + "does not."


def test_arms_that_would_share_a_generator_are_not_trained_together(tmp_path: Path) -> None:
    arm = Named("arm", f"{faulty.__file__}:DicingArm")
    like = [stackable.spec("Dense", "off", seed) for seed in (0, 1)]
    specs = {str(x.seed): Spec(x.task, arm, x.training, x.seed) for x in like}
    assert refusal(Job(specs), tmp_path / "runs") == (
        "Dense: for its runs to be trained together it must draw random numbers from torch alone "
        "in its steps and arms, not from NumPy's or Python's generators, which the runs would "
        "share. Set its stackable = False, and they are trained one by one."
    )


@pytest.mark.parametrize("most", [None, 2.5, float("-inf"), float("nan")])
def test_options_that_json_does_not_know_are_stored_as_text(
    most: float | None, tmp_path: Path
) -> None:
    given = () if most is None else (("most", most),)
    job = tiny.job("run", arm=Named("arm", f"{faulty.__file__}:Unlimited", given))
    with pytest.raises(Stopped):
        run_job(job, tmp_path / "runs", stop=after(4))
    run_job(job, tmp_path / "runs")  # it is the same run
    assert_as_if_alone(tmp_path / "runs", job, tmp_path / "alone")
    config = json.loads((tmp_path / "runs" / "run" / "config.json").read_text())
    stored = "inf" if most is None else most if most == 2.5 else str(most)
    assert config["arm_options"] == {"most": stored}
    assert config["arm"] == "faulty.py:Unlimited" + ("" if most is None else f" most={most}")
