"""Runs: the same twice, the same data in all arms; what is done to losses is all that differs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from alrc.lab.api import Metric, Networks, Task, Training
from alrc.lab.engine import training
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import is_present, read_series
from alrc.lab.engine.training import Progress
from alrc.torch import ALRC


@dataclass(frozen=True)
class Slope(Task):
    """One weight w, starting at 0, with losses (w - target)^2."""

    metrics: ClassVar = (Metric("error"),)

    def build(self, seed: int) -> Networks:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        return {"network": network}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in count(start):
            rng = np.random.default_rng([seed, step])
            targets = 1 + 0.1 * rng.standard_t(2, (batch_size, 1))
            yield torch.ones(batch_size, 1), torch.tensor(targets, dtype=torch.float32)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        inputs, targets = batch
        return {"loss": (networks["network"](inputs) - targets).square().flatten()}

    def evaluate(self, networks: Networks) -> dict[str, float]:
        return {"error": float(networks["network"].weight.detach() - 1) ** 2}


@dataclass(frozen=True)
class Falling(Slope):
    """A loss of slope 1, whose learning rate falls tenfold after each 7 steps."""

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": networks["network"](batch[0]).flatten()}

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        return {"step": StepLR(optimizers["step"], 7, gamma=0.1)}


@dataclass(frozen=True)
class TwoPhases(Slope):
    """Two weights with an optimizer each; the second is trained from step 4 on, twice a step."""

    def build(self, seed: int) -> Networks:
        return {"first": super().build(seed)["network"], "second": super().build(seed)["network"]}

    def phases(self, step: int, training: Training) -> tuple[str, ...]:
        return ("one",) if step < 4 else ("one", "two", "three")

    def one(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return self._loss("one", networks["first"], batch)

    def two(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return self._loss("two", networks["second"], batch)

    def three(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return self._loss("three", networks["second"], batch)

    def _loss(self, name: str, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        return {name: (network(batch[0]) - batch[1]).square().flatten()}

    def optimizers(self, networks: Networks, training: Training) -> dict[str, Optimizer]:
        make = training.make_optimizer
        second = make(networks["second"].parameters())
        return {"one": make(networks["first"].parameters()), "two": second, "three": second}

    def evaluate(self, networks: Networks) -> dict[str, float]:
        return {"error": float(networks["second"].weight.detach())}


def run(
    folder: Path, task: str = "Slope", arm: Named = tiny.OFF, seed: int = 0, **how: Any
) -> dict[str, np.ndarray]:
    """The series of a run."""
    file = tiny.__file__ if task == "Line" else __file__
    spec = tiny.spec(task, file, arm, seed, {"steps": 60, **how})
    name = str(len(list(folder.iterdir())))
    result = run_job(Job({name: spec}), folder)[name]
    return {n: read_series(folder / name, result, n) for n in result["series"]}


def alrc(num_stddev: float) -> Named:
    return Named("arm", "alrc", (("num_stddev", num_stddev),))


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, series in first.items():
        np.testing.assert_array_equal(series, second[name], err_msg=name)


@pytest.mark.parametrize("arm", [tiny.OFF, tiny.ALRC])
def test_the_same_seed_gives_the_same_run(arm: Named, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = run(tmp_path, "Line", arm, seed=3)
    torch.manual_seed(1)
    assert_equal(first, run(tmp_path, "Line", arm, seed=3))
    assert (first["loss.raw"] != run(tmp_path, "Line", arm, seed=4)["loss.raw"]).all()


def test_arms_are_the_same_until_the_first_limited_loss(tmp_path: Path) -> None:
    plain, limited = (run(tmp_path, "Line", arm) for arm in (tiny.OFF, tiny.ALRC))
    changed = (limited["loss.raw"] != limited["loss.limited"]).any(axis=1)
    first = int(changed.argmax())
    assert changed.any()
    assert first >= 10  # the warm-up
    raw = [x["loss.raw"] for x in (plain, limited)]
    np.testing.assert_array_equal(raw[0][: first + 1], raw[1][: first + 1])
    assert (raw[0][first + 1 :] != raw[1][first + 1 :]).any()


def test_a_limit_out_of_reach_changes_nothing(tmp_path: Path) -> None:
    plain, limited = (run(tmp_path, arm=arm) for arm in (tiny.OFF, alrc(1e6)))
    np.testing.assert_array_equal(plain["loss.raw"], limited["loss.raw"])
    np.testing.assert_array_equal(limited["loss.raw"], limited["loss.limited"])
    assert plain.keys() == {"loss.raw"}  # the arm changes no losses, and has no limit
    assert np.isinf(limited["loss.limit"][:10]).all()
    assert np.isfinite(limited["loss.limit"][10:]).all()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_limits_and_limited_losses_are_those_of_alrc(batch_size: int, tmp_path: Path) -> None:
    series = run(tmp_path, arm=alrc(2.0), steps=300, batch_size=batch_size, learning_rate=0.01)
    rows = zip(*(series[f"loss.{x}"] for x in ("raw", "limit", "limited")), strict=True)
    limiter, counted = ALRC(num_stddev=2.0, scale="linear"), 0
    for raw, limit, limited in rows:
        assert limit == limiter.threshold.item()
        np.testing.assert_array_equal(limited, limiter(torch.from_numpy(raw.copy())).numpy())
        counted += (raw != limited).sum()
    assert 0 < counted < 0.2 * series["loss.raw"].size


def replay(batch_size: int, rate: float, num_stddev: float | None) -> list[float]:
    """Mean losses of gradient descent on Slope, in plain Python floats."""
    weight, errors = 0.0, []
    limiter = None if num_stddev is None else ALRC(num_stddev, scale="linear")
    for _, (_, targets) in zip(range(100), Slope().batches(0, batch_size, 0), strict=False):
        values = targets.flatten().tolist()
        losses = [(weight - target) ** 2 for target in values]
        factors = [1.0] * batch_size
        if limiter is not None:
            limited = limiter(torch.tensor(losses)).tolist()
            factors = [after / before for after, before in zip(limited, losses, strict=True)]
        errors.append(sum(losses) / batch_size)
        slopes = [f * 2 * (weight - target) for f, target in zip(factors, values, strict=True)]
        weight -= rate * sum(slopes) / batch_size
    return errors


@pytest.mark.parametrize("num_stddev", [None, 1.0])
def test_sgd_is_plain_gradient_descent_on_the_mean_loss(
    num_stddev: float | None, tmp_path: Path
) -> None:
    arm = tiny.OFF if num_stddev is None else alrc(num_stddev)
    how = {"steps": 100, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.05}
    found = run(tmp_path, arm=arm, **how)["loss.raw"].mean(axis=1)
    np.testing.assert_allclose(found, replay(4, 0.05, num_stddev), rtol=1e-3)


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 0.0), ("adamw", 0.3)])
def test_adam_takes_the_steps_of_adam(optimizer: str, decay: float, tmp_path: Path) -> None:
    how = {"batch_size": 1, "optimizer": optimizer, "learning_rate": 0.01, "weight_decay": decay}
    found = run(tmp_path, steps=10, **how)["loss.raw"]
    weight, first, second = 0.0, 0.0, 0.0
    for step, (_, target) in zip(range(1, 11), Slope().batches(0, 1, 0), strict=False):
        assert found[step - 1, 0] == pytest.approx((weight - target.item()) ** 2, rel=1e-4)
        slope = 2 * (weight - target.item())
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        scaled = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        weight -= 0.01 * scaled + 0.01 * decay * weight


def test_the_schedule_of_a_task_is_followed(tmp_path: Path) -> None:
    series = run(tmp_path, "Falling", steps=21, optimizer="sgd", learning_rate=1.0)
    steps = -np.diff(series["loss.raw"][:, 0])
    np.testing.assert_allclose(steps, np.repeat([1, 0.1, 0.01], [7, 7, 6]), rtol=1e-4)


def test_phases_have_losses_limits_and_optimizers_of_their_own(tmp_path: Path) -> None:
    series = run(tmp_path, "TwoPhases", alrc(1.0), optimizer="sgd", learning_rate=0.05)
    kinds = ("raw", "limit", "limited")
    assert series.keys() == {f"{n}.{kind}" for n in ("one", "two", "three") for kind in kinds}
    for name, first in (("one", 0), ("two", 4), ("three", 4)):
        for kind in kinds:
            assert np.flatnonzero(is_present(series[f"{name}.{kind}"]))[0] == first
    # The second weight is trained twice in a step, and so looks at the same data twice.
    assert (series["three.raw"][4:] != series["two.raw"][4:]).all()
    lone = run(tmp_path, "Slope", alrc(1.0), optimizer="sgd", learning_rate=0.05)
    for kind in kinds:
        np.testing.assert_array_equal(series[f"one.{kind}"], lone[f"loss.{kind}"])


def test_an_arm_may_change_gradients_and_log_what_it_saw(tmp_path: Path) -> None:
    arm = Named("arm", "clip-grad-norm", (("max_norm", 0.01),))
    series = run(tmp_path, arm=arm, optimizer="sgd", learning_rate=1.0, batch_size=1)
    assert series.keys() == {"loss.raw", "arm.gradient_norm.step"}
    norms = 2 * np.sqrt(series["loss.raw"][:, 0])
    np.testing.assert_allclose(series["arm.gradient_norm.step"], norms, rtol=1e-5)
    assert (norms[:10] > 0.01).all()  # each of these steps moves the weight by 0.01
    targets = [y.item() for _, (_, y) in zip(range(10), Slope().batches(0, 1, 0), strict=False)]
    expected = [(0.01 * step - y) ** 2 for step, y in enumerate(targets)]
    np.testing.assert_allclose(series["loss.raw"][:10, 0], expected, rtol=1e-4)


def test_reports_come_after_the_first_and_last_step_and_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, steps in ((3600.0, [1, 12]), (0.0, list(range(1, 13)))):
        monkeypatch.setattr(training, "REPORT_SECONDS", seconds)
        seen: list[Progress] = []
        job = tiny.job(f"{seconds}", "Slope", __file__)
        (result,) = run_job(job, tmp_path, seen.append).values()
        assert [progress.step for progress in seen] == steps
        raw = read_series(tmp_path / f"{seconds}", result, "loss.raw")
        assert seen[-1].loss == pytest.approx(raw[-1].mean())


def test_a_run_that_diverged_is_a_result(tmp_path: Path) -> None:
    how = {"steps": 60, "optimizer": "sgd", "learning_rate": 1e6}
    result = run_job(tiny.job("run", "Slope", __file__, tiny.OFF, training=how), tmp_path)["run"]
    assert result["losses"]["loss"]["training_loss"] is None
    assert result["metrics"] == {"error": None}
    assert result["diverged"].startswith("loss is ")
