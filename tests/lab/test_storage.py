"""Runs in folders: stopped anywhere and taken up again, they give the same numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from mishaps import after, assert_as_if_alone

from alrc.lab.engine.jobs import run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import AnotherRun, RunFolder
from alrc.lab.engine.training import Stopped, train

ARMS = {
    "off": tiny.OFF,
    "alrc": tiny.ALRC,
    "alrc, its starts": Named("arm", "alrc", (("mu1_start", 2.0), ("mu2_start", 9.0))),
    "original": Named("arm", "original"),
    "clip-grad-norm": Named("arm", "clip-grad-norm"),
}


def folder_of(path: Path, spec: Spec) -> RunFolder:
    return RunFolder(path, spec.config)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("arm", ARMS)
def test_a_run_stopped_and_taken_up_again_is_the_uninterrupted_one(
    arm: str, optimizer: str, tmp_path: Path
) -> None:
    how = {"steps": 40, "optimizer": optimizer, "evaluate_every": 15, "momentum": 0.5}
    job = tiny.job("run", arm=ARMS[arm], training=how)
    for steps in (7, 16, 1):
        with pytest.raises(Stopped):
            run_job(job, tmp_path / "runs", stop=after(steps))
        torch.manual_seed(steps)  # what else goes on in the process does not matter
    first = []
    result = run_job(job, tmp_path / "runs", first.append)["run"]
    assert first[0].step == 25  # from the checkpoint, not from the beginning
    assert_as_if_alone(tmp_path / "runs", job, tmp_path / "alone")
    assert result == json.loads((tmp_path / "runs" / "run" / "result.json").read_text())
    curve = np.load(tmp_path / "runs" / "run" / "evaluation.npy")
    np.testing.assert_array_equal(curve, np.load(tmp_path / "alone" / "run" / "evaluation.npy"))
    assert curve[:, 0].tolist() == [15, 30, 40]


def test_what_changes_nothing_in_training_may_be_another_when_a_run_goes_on(tmp_path: Path) -> None:
    for every in (None, 5):
        how = {"evaluate_every": every, "checkpoint_seconds": float(every or 60)}
        job = tiny.job("run", training=how)
        with pytest.raises(Stopped):
            run_job(job, tmp_path, stop=after(4))
    run_job(job, tmp_path)
    assert np.load(tmp_path / "run" / "evaluation.npy")[:, 0].tolist() == [5, 10, 12]


# Kills itself when so many functions have been called and left, of Python's and of C's, from the
# first training step on: many of them write checkpoints, one in each step.
KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import torch, tiny
from alrc.lab.engine.jobs import run_job
from alrc.lab.engine.trainer import Trainer

torch.set_num_threads(1)  # as in the run that is not killed: with more, sums differ by rounding
left, advance = int(sys.argv[2]), Trainer.advance

def count(*event):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def advance_and_count(*args):
    sys.setprofile(count)
    Trainer.advance = advance
    advance(*args)

Trainer.advance = advance_and_count
job = tiny.job("run", training={"steps": 60, "checkpoint_seconds": 0.0})
run_job(job, pathlib.Path(sys.argv[3]))
sys.setprofile(None)
print(int(sys.argv[2]) - left)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path, everything: bool) -> None:
    job, times = tiny.job("run", training={"steps": 60}), 12 if everything else 2
    helpers, killed = str(Path(tiny.__file__).parent), 0
    for moment in np.random.default_rng(0).integers(1, 15_000, size=times):
        words = [sys.executable, "-c", KILLED, helpers, str(moment), str(tmp_path / "runs")]
        done = subprocess.run(words, capture_output=True, text=True)
        killed += done.returncode == -signal.SIGKILL
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert killed >= 1
    steps = []
    run_job(job, tmp_path / "runs", steps.append)
    assert_as_if_alone(tmp_path / "runs", job, tmp_path / "alone")


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    spec = tiny.spec()
    with folder_of(tmp_path, spec):
        pass
    before = (tmp_path / "config.json").read_text()
    other = folder_of(tmp_path, tiny.spec(seed=1, training={"batch_size": 5}, noise=0.5))
    with pytest.raises(AnotherRun) as caught, other:
        pass
    assert str(caught.value) == (
        f"{tmp_path} must hold this very run to go on with it; it holds another one: got seed 1 "
        "(there: 0), task 'tiny.py:Line noise=0.5' (there: 'tiny.py:Line'), task_options.noise 0.5 "
        "(there: 0.1), training.batch_size 5 (there: 4). Pass another folder, or the settings of "
        "that run."
    )
    assert (tmp_path / "config.json").read_text() == before
    with folder_of(tmp_path, spec):  # and it is free again
        pass


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        folder_of(tmp_path, tiny.spec()),
        pytest.raises(ValueError, match="one process at a time") as caught,
        folder_of(tmp_path, tiny.spec()),
    ):
        pass
    assert str(caught.value) == (
        f"{tmp_path} must belong to one process at a time; another one is training this run. Wait "
        "for it, or pass another folder."
    )


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.pt.123.part").write_bytes(b"half")
    with folder_of(tmp_path, tiny.spec()):
        assert not list(tmp_path.glob(".*.part"))


def test_checkpoints_come_by_the_clock_or_when_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = RunFolder.save_checkpoint

    def note(folder: RunFolder, state: dict[str, object], series: Series) -> None:
        saved.append(state["step"])
        save(folder, state, series)

    monkeypatch.setattr(RunFolder, "save_checkpoint", note)
    for seconds, steps in ((3600.0, [12]), (0.0, list(range(1, 13)))):
        spec = tiny.spec(training={"checkpoint_seconds": seconds})
        with folder_of(tmp_path / str(seconds), spec) as folder:
            train(spec, folder)
        assert saved == steps
        saved.clear()
    monkeypatch.setattr("alrc.lab.engine.training.LARGEST_WAIT", 150)  # bytes
    assert tiny.spec().training.checkpoint_seconds == 60
    spec = tiny.spec(training={"checkpoint_seconds": 3600.0})
    with folder_of(tmp_path / "much", spec) as folder:
        train(spec, folder)
    assert saved == [4, 8, 12]  # 40 bytes a step: 4 losses, before and after, a limit and a slope


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    job = tiny.job("run")
    result = run_job(job, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*") if p.name != ".lock"}
    assert run_job(job, tmp_path, stop=lambda: True) == result
    assert before == {p: p.stat().st_mtime_ns for p in before}
