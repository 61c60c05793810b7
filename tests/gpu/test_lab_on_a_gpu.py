"""What only a GPU can show of the lab: runs train there, go on there, and are like the CPU's."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from alrc.lab.api import Training
from alrc.lab.cli.commands import app
from alrc.lab.data.stem.paths import spiral
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series, is_present, read_series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.trainer import Trainer
from alrc.lab.engine.training import Stopped

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: make gpu there")
STEPS = 24
TASKS = [
    "supersampling width=2",
    "photographs width=2",
    "regression",
    "language",
    "control",
    "partial-stem size=XS side=32 hard_examples=true adversarial=true",
    "partial-stem size=XS side=32 block=8 path=infill",
    "stem-supersampling side=32 width=8",
]
ARMS = ["off", "alrc", "alrc-log num_stddev=1 + huberise per=batch", "clip-grad-norm", "agc"]


def spec(task: str, device: str, arm: str = "alrc-log num_stddev=1", **training: object) -> Spec:
    named = Named.parse("task", task, Path.cwd())
    settings = {**task_of(named).defaults, "steps": STEPS, "device": device, **training}
    return Spec(named, Named.parse("arm", arm, Path.cwd()), Training(**settings), 0)


def trained(folder: Path, wanted: Spec, name: str) -> dict[str, np.ndarray]:
    """The series of a run."""
    result = run_job(Job({name: wanted}), folder)[name]
    return {n: read_series(folder / name, result, n) for n in result["series"]}


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, as on the CPU; by default cuDNN rounds to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("task", TASKS)
def test_runs_begin_with_the_losses_and_limits_of_the_cpu(task: str, tmp_path: Path) -> None:
    here, there = (trained(tmp_path, spec(task, device), device) for device in ("cpu", "cuda"))
    assert here.keys() == there.keys()
    compared = [name for name in here if name.endswith((".raw", ".limited", ".limit"))]
    assert any(name.endswith(".limit") for name in compared)
    for name in compared:  # later, rounding errors have grown
        np.testing.assert_allclose(there[name][:8], here[name][:8], 5e-3, 1e-4, err_msg=name)
        assert is_present(here[name]).tolist() == is_present(there[name]).tolist()


@pytest.mark.parametrize("arm", ARMS)
def test_training_steps_do_not_wait_for_the_gpu(arm: str, tmp_path: Path) -> None:
    task = "partial-stem size=XS side=32"
    trainer = Trainer(spec(task, "cuda", arm), Series(tmp_path))
    batches = trainer.batches()
    for _ in range(3):
        trainer.advance(next(batches))
    prepared = [next(batches) for _ in range(8)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in prepared:
            trainer.advance(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 11


@pytest.mark.parametrize("task", ["supersampling width=2", TASKS[5], "regression"])
def test_a_run_that_was_stopped_goes_on(task: str, tmp_path: Path) -> None:
    whole = trained(tmp_path, spec(task, "cuda"), "whole")
    asked = iter(range(STEPS))
    with pytest.raises(Stopped):
        run_job(Job({"parts": spec(task, "cuda")}), tmp_path, stop=lambda: next(asked) == 13)
    checkpoint = torch.load(tmp_path / "parts/checkpoint.pt", weights_only=False)
    assert checkpoint["step"] == 14
    parts = trained(tmp_path, spec(task, "cuda"), "parts")
    assert whole.keys() == parts.keys()
    for name, series in whole.items():  # sums on a GPU come in no fixed order
        np.testing.assert_allclose(parts[name], series, 2e-2, 1e-3, err_msg=name)


def test_runs_are_trained_together(tmp_path: Path) -> None:
    arms = ("off", "alrc-log num_stddev=1", "clip-grad-norm")
    specs = {arm: spec("regression", "cuda", arm) for arm in arms}
    alone = {arm: trained(tmp_path / "alone", one, arm) for arm, one in specs.items()}
    results = run_job(Job(specs), tmp_path / "together")
    for arm, series in alone.items():
        raw = read_series(tmp_path / "together" / arm, results[arm], "loss.raw")
        np.testing.assert_allclose(raw, series["loss.raw"], 1e-3, 1e-4, err_msg=arm)


def test_scans_are_completed_as_on_the_cpu(tmp_path: Path) -> None:
    """By a network that was trained on the GPU: its checkpoint opens on either."""
    trained(tmp_path, spec("partial-stem size=XS side=32 path=infill", "cuda"), "run")
    scan = np.random.default_rng(0).random((96, 80), np.float32) + 1
    tifffile.imwrite(tmp_path / "scan.tif", np.where(spiral(96, 0.05)[:, :80], scan, 0))
    made = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.tif"
        options = {"--checkpoint": "run", "--scan": "scan.tif", "--out": out.name}
        words = [w for k, v in options.items() for w in (k, str(tmp_path / v))]
        result = CliRunner().invoke(app, ["lab", "complete", *words, "--device", device])
        assert result.exit_code == 0, result.output
        made.append(tifffile.imread(out))
    assert made[0].shape == (96, 80)
    np.testing.assert_allclose(made[1], made[0], 1e-3, 1e-3 * np.ptp(made[0]))
