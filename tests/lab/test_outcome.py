"""What result.json says of the losses of a run: where they began and ended, what was limited, and
whether they diverged."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from alrc.lab.api import Metric, Networks, Task
from alrc.lab.engine import outcome
from alrc.lab.engine.outcome import evaluate, last_tenth, summarise
from alrc.lab.engine.series import Series

CONFIG = {"losses_limited": True, "diverged_above": 3.0}


def summary(
    folder: Path,
    raw: Any,
    limited: Any = None,
    first_step: int = 0,
    metric: float = 1.0,
    **config: Any,
) -> dict[str, Any]:
    """Of a run with this loss, from a step on; and of another that is always 1."""
    raw = np.asarray(raw, np.float32)
    limited = raw if limited is None else np.asarray(limited, np.float32)
    series = Series(folder / "series")
    for step in range(first_step + len(raw)):
        series.record(step, "other.raw", 1.0)
        series.record(step, "other.limited", 1.0)
    for step, (before, after) in enumerate(zip(raw, limited, strict=True), first_step):
        series.record(step, "loss.raw", torch.as_tensor(before))
        series.record(step, "loss.limited", torch.as_tensor(after))
    manifest = series.commit(first_step + len(raw))
    return summarise(folder, {**CONFIG, **config}, manifest, {"error": metric})


@pytest.fixture(params=[2**22, 7], ids=["whole", "in chunks"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "CHUNK", request.param)


@pytest.mark.parametrize(("steps", "tenth"), [(1, 1), (10, 1), (19, 1), (20, 2), (10_000, 1000)])
def test_the_last_tenth(steps: int, tenth: int) -> None:
    assert last_tenth(steps) == tenth


@pytest.mark.usefixtures("_chunks")
def test_a_calm_run(tmp_path: Path) -> None:
    raw = np.linspace(40, 1, 40).reshape(40, 1) + np.array([0.0, 2.0])
    limited = raw.copy()
    limited[3] = [20, 21]
    limited[9, 1] = 30
    result = summary(tmp_path, raw, limited)
    assert result["diverged"] is None
    assert result["diverged_step"] is None
    assert result["losses"]["loss"] == pytest.approx(
        {
            "training_loss": 1 + 2.5,  # 4, 3, 2, 1, and half of them 2 higher
            "first_median": 1 + 38.5,
            "last_median": 1 + 2.5,
            "largest": 42.0,
            "kept": (raw.sum() - (17 + 18 + 3)) / raw.sum(),
            "count": 80,
            "limited": 3,
            "nonfinite": 0,
        }
    )
    assert result["losses"]["other"]["training_loss"] == 1


@pytest.mark.usefixtures("_chunks")
def test_a_single_infinite_loss_is_no_divergence(tmp_path: Path) -> None:
    raw = np.ones((40, 2))
    raw[10, 1] = np.inf
    result = summary(tmp_path, raw, np.ones((40, 2)))
    assert result["diverged"] is None
    found = result["losses"]["loss"]
    assert (found["nonfinite"], found["limited"], found["largest"], found["kept"]) == (1, 0, 1, 1)
    assert found["training_loss"] == 1


def test_one_in_the_last_tenth_leaves_no_training_loss_and_is_no_divergence(tmp_path: Path) -> None:
    raw = np.ones((40, 1))
    raw[38] = np.inf
    result = summary(tmp_path, raw)
    assert result["diverged"] is None
    assert result["losses"]["loss"]["training_loss"] is None
    assert result["losses"]["loss"]["last_median"] == 1


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_a_loss_that_is_never_well_again_diverged(value: float, word: str, tmp_path: Path) -> None:
    raw = np.ones((40, 2))
    raw[5] = raw[12:, 0] = value
    result = summary(tmp_path, raw)
    assert result["diverged"] == f"loss is {word} from step 13 on"
    assert result["diverged_step"] == 13
    assert result["losses"]["loss"]["training_loss"] is None
    assert result["losses"]["loss"]["last_median"] is None


def test_one_that_was_never_well_diverged_at_once(tmp_path: Path) -> None:
    result = summary(tmp_path, np.full((40, 1), np.nan))
    assert result["diverged"] == "loss is NaN from step 1 on"
    found = result["losses"]["loss"]
    assert found["first_median"] is found["largest"] is None
    assert (found["count"], found["nonfinite"], found["kept"]) == (40, 40, 1)


def test_one_that_is_mostly_broken_at_the_end_diverged(tmp_path: Path) -> None:
    raw = np.ones((100, 1))
    raw[30] = raw[90:96] = np.nan
    result = summary(tmp_path, raw)
    assert result["diverged"] == "loss is NaN or infinite in 6 of its last 10 steps"
    raw[90] = 1  # half of them
    assert summary(tmp_path / "half", raw)["diverged"] is None


@pytest.mark.parametrize(("end", "diverged"), [(6.0, False), (6.1, True)])
def test_one_whose_median_grew_beyond_its_multiple_diverged(
    end: float, diverged: bool, tmp_path: Path
) -> None:
    raw = np.full(100, 2.0)
    raw[90:] = end
    raw[[3, 92, 93]] = [1e9, np.inf, 0.0]  # medians do not mind a few
    result = summary(tmp_path, raw)
    words = "loss has a median of 6.1 over its last tenth, more than 3 times the 2 of its first"
    assert result["diverged"] == (words if diverged else None)
    assert result["diverged_step"] is None
    assert summary(tmp_path / "other", raw, diverged_above=4.0)["diverged"] is None


def test_losses_below_zero_have_no_multiple(tmp_path: Path) -> None:
    raw = np.full(100, -2.0)
    raw[90:] = 50
    assert summary(tmp_path, raw)["diverged"] is None


def test_a_phase_that_begins_late_is_judged_by_its_own_steps(tmp_path: Path) -> None:
    raw = np.linspace(20, 1, 20)
    found = summary(tmp_path, raw, first_step=80)["losses"]["loss"]
    assert found["count"] == 20
    assert found["first_median"] == 19.5
    assert found["training_loss"] == 1.5
    raw[7:] = np.nan
    result = summary(tmp_path / "broken", raw, first_step=80)
    assert result["diverged"] == "loss is NaN from step 88 on"
    assert result["diverged_step"] == 88


@pytest.mark.usefixtures("_chunks")
def test_losses_limited_as_one_per_batch_are_counted_by_the_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = rng.exponential(size=(50, 33)).astype(np.float32)
    limited = torch.from_numpy(raw).mean(dim=1).numpy()  # rounded to float32
    limited[[4, 7]] /= 2
    found = summary(tmp_path, raw, limited)["losses"]["loss"]
    assert (found["count"], found["limited"]) == (50, 2)
    means = raw.mean(axis=1, dtype=np.float64)
    expected = 1 - (means[4] + means[7]) / 2 / means.sum()
    assert found["kept"] == pytest.approx(expected, rel=1e-6)


def test_an_arm_that_limits_no_losses_kept_all_of_them(tmp_path: Path) -> None:
    found = summary(tmp_path, np.ones(20), np.zeros(20), losses_limited=False)["losses"]["loss"]
    assert (found["limited"], found["kept"]) == (0, 1)


def test_losses_of_zero_are_kept(tmp_path: Path) -> None:
    found = summary(tmp_path, np.zeros(20))["losses"]["loss"]
    assert (found["training_loss"], found["limited"], found["kept"]) == (0, 0, 1)


def test_a_metric_that_is_not_finite_is_a_divergence(tmp_path: Path) -> None:
    assert summary(tmp_path, np.ones(20), metric=np.nan)["diverged"] == "error is NaN"
    assert summary(tmp_path / "2", np.ones(20), metric=np.inf)["diverged"] == "error is infinite"


def test_evaluation_leaves_nothing_behind() -> None:
    networks = {"line": nn.Sequential(nn.Linear(1, 1), nn.Dropout())}
    networks["line"][1].eval()
    modes = [module.training for module in networks["line"].modules()]
    torch.manual_seed(0)
    state = torch.get_rng_state()

    class Looking(tiny.Line):
        def evaluate(self, networks: Networks) -> dict[str, float]:
            assert not any(m.training for m in networks["line"].modules())
            assert not torch.is_grad_enabled()
            torch.rand(3)
            return super().evaluate(networks)

    values = evaluate(Looking(), networks)
    assert len(values) == 2
    assert [module.training for module in networks["line"].modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_metrics_that_are_not_listed_are_refused() -> None:
    class Wrong(Task):
        metrics = (Metric("error"), Metric("PSNR"))

        def evaluate(self, networks: Networks) -> dict[str, float]:
            return {"error": 1.0, "other": 2.0}

    with pytest.raises(ValueError, match="lists") as caught:
        evaluate(Wrong.__new__(Wrong), {})
    assert str(caught.value) == (
        "Wrong.evaluate must give error, PSNR, because metrics lists them; it gave error, other."
    )


class Drawing(Task):
    metrics = (Metric("drawn"),)

    def evaluate(self, networks: Networks) -> dict[str, float]:
        return {"drawn": torch.rand(()).item() + np.random.random() + random.random()}


def test_what_an_evaluation_draws_is_the_same_each_time() -> None:
    first = evaluate(Drawing(), {})
    torch.rand(3), np.random.random(), random.random()
    assert evaluate(Drawing(), {}) == first
