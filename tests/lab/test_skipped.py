"""Steps that an arm skips are recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stackable
import tiny
import torch
from mishaps import after, assert_as_if_alone
from torch import Tensor, nn
from torch.optim import Optimizer
from typer.testing import CliRunner

from alrc.lab.api import Arm
from alrc.lab.cli.commands import app
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import is_present, read_series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.training import Stopped
from alrc.lab.report.drawing import blocks
from alrc.lab.report.reading import read_study

THIRD = [2, 5, 8, 11]  # of 12 steps


@dataclass
class Third(Arm):
    """Skips each third step."""

    def begin(self, device: torch.device) -> None:
        self.calls = 0

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        self.calls += 1
        self.step_ok = self.calls % 3 != 0


class Telling(Third):
    """Logs it itself."""

    def logged(self) -> Mapping[str, float | Tensor]:
        return {"skipped": float(not self.step_ok)}


class Stacked(Third):
    """Has a form for several members."""

    def stacked(self, members: int) -> Arm:
        return self


@dataclass
class Taking(Arm):
    """Takes its steps itself."""

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        optimizer.step()
        self.step_ok = False


def skipped(folder: Path, result: Mapping[str, Any]) -> np.ndarray[Any, Any] | None:
    has = "arm.skipped.step" in result["series"]
    return read_series(folder, result, "arm.skipped.step") if has else None


@pytest.mark.parametrize("arm", ["Third", "Stacked", "Third + off"])
@pytest.mark.parametrize("members", [1, 2])
def test_they_are_ones_and_all_others_absent(arm: str, members: int, tmp_path: Path) -> None:
    named = Named.parse("arm", f"{Path(__file__).name}:{arm}", Path(__file__).parent)
    like = [stackable.spec("Dense width=4", "off", s, steps=12) for s in range(members)]
    specs = {str(x.seed): Spec(x.task, named, x.training, x.seed) for x in like}
    both = specs | ({"off": like[0]} if members > 1 else {})
    with pytest.raises(Stopped):
        run_job(Job(both), tmp_path / "runs", stop=after(7))
    results = run_job(Job(both), tmp_path / "runs")
    for name in specs:
        series = skipped(tmp_path / "runs" / name, results[name])
        assert series is not None
        assert np.flatnonzero(is_present(series)).tolist() == THIRD
        assert (series[THIRD] == 1).all()
    assert members == 1 or "arm.skipped.step" not in results["off"]["series"]


def test_a_report_draws_their_share(tmp_path: Path) -> None:
    run_job(tiny.job("run", arm=Named("arm", f"{__file__}:Third")), tmp_path / "runs")
    (run,) = read_study(tmp_path).runs
    _, shares = blocks(run, "arm.skipped.step")
    assert shares.mean() == len(THIRD) / 12


def test_what_the_arm_logs_itself_stands(tmp_path: Path) -> None:
    job = tiny.job("run", arm=Named("arm", f"{__file__}:Telling"))
    series = skipped(tmp_path / "run", run_job(job, tmp_path)["run"])
    assert series is not None
    assert series.tolist() == [float(step in THIRD) for step in range(12)]


def test_a_step_that_an_arm_took_is_not_skipped(tmp_path: Path) -> None:
    taking = tiny.job("taking", arm=Named("arm", f"{__file__}:Taking"))
    result = run_job(taking, tmp_path / "runs")["taking"]
    assert "arm.skipped.step" not in result["series"]
    off = run_job(tiny.job("off", arm=tiny.OFF), tmp_path / "runs")["off"]
    assert result["series"]["loss.raw"] == off["series"]["loss.raw"]
    assert_as_if_alone(tmp_path / "runs", taking, tmp_path / "alone")


def test_the_command_tells_how_many(tmp_path: Path) -> None:
    words = ["lab", "run", f"{tiny.__file__}:Line", "--steps", "12", "--out", str(tmp_path)]
    told = CliRunner().invoke(app, [*words, "--arm", f"{__file__}:Third"])
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[-1] == "step: 4 of 12 steps skipped"
