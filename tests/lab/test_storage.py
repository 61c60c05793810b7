"""Runs in folders: stopped anywhere and taken up again, they give the same numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mishaps
import numpy as np
import pytest
import torch

from alrc.lab.data.images import Images
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Run, RunConfig, train
from alrc.lab.exec.workers import run_one
from alrc.lab.tasks.supersampling.task import Supersampling

ARRAYS = ("losses", "limits", "limited", "held_out")
ARMS = {
    "off": {},
    "alrc": {"num_stddev": 1.0},
    "two-sided, paper's starts": {
        "num_stddev": 1.0,
        "num_stddev_below": 1.5,
        "mu1_start": 25.0,
        "mu2_start": 900.0,
    },
    "original": {"num_stddev": 1.0, "original": True},
}


@pytest.fixture(scope="module")
def task() -> Supersampling:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), np.uint8)
    return Supersampling(Images("noise", images, images[:7]), width=2, block=16)


def stored(path: Path) -> dict[str, np.ndarray]:
    return {name: np.load(path / f"{name}.npy") for name in ARRAYS}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert not np.isnan(first[name]).any()


class StoppedError(Exception):
    """Stands for whatever stops a run."""


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("arm", ARMS)
def test_a_run_stopped_and_taken_up_again_is_the_uninterrupted_one(
    task: Supersampling, arm: str, optimizer: str, tmp_path: Path
) -> None:
    config = RunConfig(60, 2, optimizer, 1e-3, evaluate_every=25, **ARMS[arm])
    whole = train(task, config)
    assert whole.clipped.any() == (arm != "off")

    def stop_at(last: int):
        def report(step: int, run: Run) -> None:
            if step == last:
                raise StoppedError

        return report

    for last in (7, 23, 24, 51):
        with (
            RunFolder(tmp_path, task.describe(), config) as folder,
            pytest.raises(StoppedError),
        ):
            train(task, config, stop_at(last), folder, checkpoint_every=10)
        torch.manual_seed(last)  # what else goes on in the process does not matter
    with RunFolder(tmp_path, task.describe(), config) as folder:
        steps = []
        run = train(task, config, lambda step, run: steps.append(step), folder, 10)
        result = folder.save_result(run)
    assert steps == list(range(51, 61))  # from the checkpoint, not from the beginning
    assert_same(stored(tmp_path), {name: getattr(whole, name) for name in ARRAYS})
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["final_error"] == whole.final_error
    assert result["held_out_error"] == whole.held_out[-1]
    assert result["num_clipped"] == whole.clipped.sum()


# Kills itself when so many functions have been called and left, of Python's and of C's, from the
# first training step on: most of them write checkpoints.
KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
from mishaps import noise
from alrc.lab.tasks.supersampling.task import Supersampling
from alrc.lab.engine.training import RunConfig, Trainer
from alrc.lab.exec.workers import run_one

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
task, config = Supersampling(noise(), width=2), RunConfig(40, 50, num_stddev=1.0)
run_one(task, config, pathlib.Path(sys.argv[3]))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    task, config = Supersampling(mishaps.noise(), width=2), RunConfig(40, 50, num_stddev=1.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_one(task, config, whole)
    helpers = str(Path(mishaps.__file__).parent)
    for moment in np.random.default_rng(0).integers(1, 100_000, size=2):  # of more than 200,000
        command = [sys.executable, "-c", KILLED, helpers, str(moment), str(killed)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    steps = []
    run_one(task, config, killed, lambda step, _: steps.append(step))
    assert 1 < steps[0] <= steps[-1] == 40
    assert_same(stored(killed), stored(whole))
    assert (killed / "result.json").read_text() == (whole / "result.json").read_text()
    assert not list(killed.glob(".*.part"))


def test_a_folder_of_another_run_is_refused_and_left_alone(
    task: Supersampling, tmp_path: Path
) -> None:
    with RunFolder(tmp_path, task.describe(), RunConfig(20)):
        pass
    before = (tmp_path / "config.json").read_text()
    other = RunFolder(tmp_path, task.describe(), RunConfig(20, 4, seed=1))
    with pytest.raises(ValueError, match="must hold this very run") as error, other:
        pass
    assert str(error.value) == (
        f"{tmp_path} must hold this very run to go on with it; it holds another one: got "
        "batch_size 4 (there: 1), seed 1 (there: 0). Pass another folder, or the settings of that "
        "run."
    )
    assert (tmp_path / "config.json").read_text() == before
    with RunFolder(tmp_path, task.describe(), RunConfig(20)):  # and it is free again
        pass


def test_a_folder_in_use_is_refused(task: Supersampling, tmp_path: Path) -> None:
    second = RunFolder(tmp_path, task.describe(), RunConfig(20))
    with (
        RunFolder(tmp_path, task.describe(), RunConfig(20)),
        pytest.raises(ValueError, match="one process at a time") as error,
        second,
    ):
        pass
    assert str(error.value) == (
        f"{tmp_path} must belong to one process at a time; another one is training this run. Wait "
        "for it, or pass another folder."
    )


def test_a_checkpoint_that_could_not_be_written_leaves_the_last_one(
    task: Supersampling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(tmp_path, task.describe(), RunConfig(20)) as folder:
        folder.save_checkpoint({"step": 1})

        def fail(state: object, file: Path) -> None:
            file.write_bytes(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            folder.save_checkpoint({"step": 2})
        assert folder.load_checkpoint() == {"step": 1}
    assert {file.name for file in tmp_path.iterdir()} <= {"config.json", "checkpoint.pt", ".lock"}


def test_what_a_killed_process_was_writing_is_cleared_away(
    task: Supersampling, tmp_path: Path
) -> None:
    (tmp_path / ".checkpoint.pt.123.part").write_bytes(b"half")
    with RunFolder(tmp_path, task.describe(), RunConfig(20)):
        assert not list(tmp_path.glob(".*.part"))


def test_a_run_that_diverged_is_a_result(task: Supersampling, tmp_path: Path) -> None:
    config = RunConfig(20, optimizer="sgd", learning_rate=1e6)
    with RunFolder(tmp_path, task.describe(), config) as folder:
        result = folder.save_result(train(task, config, storage=folder))
    assert result["final_error"] is None
    assert json.loads((tmp_path / "result.json").read_text()) == result
