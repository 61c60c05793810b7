"""``alrc lab run``: its options reach the run, and refusals come in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from alrc.lab.cli.commands import app
from alrc.lab.data import images as data
from alrc.lab.data.images import Images


@pytest.fixture(autouse=True)
def _tiny_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    monkeypatch.setattr(data, "load_images", lambda folder=None: Images("noise", images, images))


def run(out: Path, *arguments: str) -> tuple[int, str, str]:
    tiny = ("--iterations", "20", "--width", "2")
    result = CliRunner().invoke(
        app, ["lab", "run", "cifar10", "--out", str(out), *tiny, *arguments]
    )
    return result.exit_code, result.stdout, result.stderr


def test_options_reach_the_run(tmp_path: Path) -> None:
    options = {
        "arm": "alrc",
        "num-stddev": 2.5,
        "num-stddev-below": 4,
        "mu1-start": 25,
        "mu2-start": 900,
        "error": "squared",
        "batch-size": 2,
        "optimizer": "sgd",
        "learning-rate": 0.001,
        "seed": 7,
        "evaluate-every": 10,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    code, output, progress = run(tmp_path / "run", *arguments, "--no-sqrt-step")
    assert code == 0, progress
    assert (
        json.loads((tmp_path / "run/config.json").read_text()).items()
        >= {
            "num_stddev": 2.5,
            "num_stddev_below": 4.0,
            "mu1_start": 25.0,
            "mu2_start": 900.0,
            "original": False,
            "power": 2,
            "batch_size": 2,
            "optimizer": "sgd",
            "learning_rate": 0.001,
            "seed": 7,
            "evaluate_every": 10,
            "iterations": 20,
            "width": 2,
            "sqrt_step": False,
            "device": "cpu",
            "compile": False,
        }.items()
    )
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert output.splitlines() == [f"{name}: {value:g}" for name, value in result.items()]
    assert np.load(tmp_path / "run/held_out.npy").shape == (2,)
    assert "20/20" in progress


@pytest.mark.parametrize("arm", ["off", "alrc", "original"])
def test_each_arm(tmp_path: Path, arm: str) -> None:
    code, _, progress = run(tmp_path, "--arm", arm, "--num-stddev", "0.5")
    assert code == 0, progress
    clipped = json.loads((tmp_path / "result.json").read_text())["num_clipped"]
    assert (clipped > 0) == (arm != "off")


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    checkpoint = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    code, output, progress = run(tmp_path)
    assert (code, output) == (0, first[1])
    assert progress == ""
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--checkpoint-every", "0"],
            "--checkpoint-every and --width must be at least 1; got 0 and 2.",
        ),
        (
            ["--device", "cuda"],
            "--device cuda needs a GPU that torch can use; there is none here.",
        ),
        (
            ["--arm", "off", "--mu1-start", "1", "--mu2-start", "2"],
            "num_stddev must be given with num_stddev_below, mu1_start, mu2_start or original, "
            "because they are settings of ALRC; got None. Pass num_stddev=3.0.",
        ),
        (
            ["--arm", "original", "--num-stddev-below", "1"],
            "original takes num_stddev alone, because its starts are fixed and it has no lower "
            "limit; got num_stddev_below, mu1_start or mu2_start too. Leave them out.",
        ),
        (
            ["--evaluate-every", "0"],
            "evaluate_every must be at least 1, because it counts training steps; got 0.",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(tmp_path / "run", *arguments) == (2, "", f"alrc: {message}\n")
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    code, _, message = run(tmp_path, "--seed", "1")
    assert code == 2
    assert "it holds another one: got seed 1 (there: 0)" in message
