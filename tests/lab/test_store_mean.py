"""Only the means of steps stored: the same facts as with every loss, in less room."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stackable
import tiny
from mishaps import after

from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.series import is_present
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.training import Stopped
from alrc.lab.report.report import write_report

ARMS = ("off", "alrc num_stddev=1 mu1_start=1 mu2_start=1.5", "clip-grad-norm", "Wary", "Skipping")
PER_BATCH = "alrc num_stddev=1 per=batch mu1_start=1 mu2_start=1.5"


def job(task: str, store: str, seeds: tuple[int, ...] = (0, 1, 1000), **training: Any) -> Job:
    specs: dict[str, Spec] = {
        f"{i}-{seed}": stackable.spec(task, arm, seed, store=store, **training)
        for i, arm in enumerate((*ARMS, PER_BATCH))
        for seed in seeds
    }
    return Job(specs)


def assert_same_facts(each: Any, mean: Any) -> None:
    assert (each["store"], mean["store"]) == ("each", "mean")
    assert each["metrics"] == mean["metrics"]
    assert (each["diverged"], each["diverged_step"]) == (mean["diverged"], mean["diverged_step"])
    for name, facts in each["losses"].items():
        for key in ("count", "limited", "nonfinite", "largest"):
            assert mean["losses"][name][key] == facts[key]
        for key in ("kept", "training_loss", "first_median", "last_median"):
            assert mean["losses"][name][key] == pytest.approx(facts[key], rel=2e-7), key


@pytest.mark.parametrize("task", ["Dense", "Convolutional"])
def test_facts_and_means_of_an_ensemble_are_those_of_every_loss(task: str, tmp_path: Path) -> None:
    each = run_job(job(task, "each"), tmp_path / "each")
    mean = run_job(job(task, "mean"), tmp_path / "mean")
    limited = 0
    for name, result in each.items():
        assert_same_facts(result, mean[name])
        limited += sum(facts["limited"] for facts in result["losses"].values())
        for loss in result["losses"]:
            raw, kept, limit = (
                np.load(file) if file.exists() else None
                for kind in ("raw", "limited", "limit")
                for file in [tmp_path / "each" / name / "series" / f"{loss}.{kind}.npy"]
            )
            assert raw is not None
            check_means(tmp_path / "mean" / name / "series", loss, raw, kept, limit)
        assert not list((tmp_path / "mean" / name).glob("checkpoint.pt"))
        assert mean[name]["pictures"] == []
    assert limited > 0


def check_means(folder: Path, loss: str, raw: Any, kept: Any, limit: Any) -> None:
    stored = {path.name: np.load(path) for path in folder.glob(f"{loss}.*.npy")}
    expected = raw.reshape(len(raw), -1).mean(1, dtype=np.float64)
    np.testing.assert_allclose(stored[f"{loss}.raw.npy"], expected, rtol=1e-6)
    assert (
        (f"{loss}.limited.npy" in stored) == (f"{loss}.share.npy" in stored) == (kept is not None)
    )
    if kept is not None:
        means = kept.reshape(len(raw), -1).mean(1, dtype=np.float64)
        np.testing.assert_allclose(stored[f"{loss}.limited.npy"], means, rtol=2e-6)
        if kept.shape == raw.shape:
            shares = ((kept != raw) & np.isfinite(raw)).reshape(len(raw), -1).mean(1)
            np.testing.assert_allclose(stored[f"{loss}.share.npy"], shares, rtol=1e-6)
    assert (f"{loss}.limit.npy" in stored) == (limit is not None)
    if limit is not None:
        there = is_present(limit)
        np.testing.assert_array_equal(is_present(stored[f"{loss}.limit.npy"]), there)
        np.testing.assert_array_equal(stored[f"{loss}.limit.npy"][there], limit[there])


@pytest.mark.parametrize("arm", ARMS)
def test_facts_of_a_run_alone_are_those_of_every_loss(arm: str, tmp_path: Path) -> None:
    results = {}
    for store in ("each", "mean"):
        run = Job({"a": stackable.spec("Dense", arm, 1, store=store)})
        results |= {store: run_job(run, tmp_path / store)["a"]}
    assert_same_facts(results["each"], results["mean"])
    raw = np.load(tmp_path / "each/a/series/loss.raw.npy").mean(1, dtype=np.float64)
    np.testing.assert_allclose(np.load(tmp_path / "mean/a/series/loss.raw.npy"), raw, rtol=1e-6)
    assert not (tmp_path / "mean/a/checkpoint.pt").exists()
    assert (tmp_path / "each/a/checkpoint.pt").exists()


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_run_that_goes_on_stores_as_it_began(seeds: tuple[int, ...], tmp_path: Path) -> None:
    whole = run_job(job("Dense", "mean", seeds), tmp_path / "whole")
    with pytest.raises(Stopped):
        run_job(job("Dense", "mean", seeds), tmp_path / "runs", stop=after(9))
    results = run_job(job("Dense", "each", seeds), tmp_path / "runs")
    for name, result in results.items():
        assert {**result, "seconds": 0} == {**whole[name], "seconds": 0}


def test_it_is_the_same_run_however_it_is_stored() -> None:
    each, mean = (tiny.spec(training={"store": store}) for store in ("each", "mean"))
    assert each.config == mean.config


def test_a_report_is_drawn_of_means_too(tmp_path: Path) -> None:
    for seed in (0, 1):
        for arm in (tiny.OFF, tiny.ALRC):
            spec = tiny.spec(arm=arm, seed=seed, training={"store": "mean"})
            run_job(Job({f"{arm.name}{seed}": spec}), tmp_path / "runs")
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "of 48 losses loss" in text
    assert "means of steps" in text
    assert json.loads((tmp_path / "runs/alrc0/result.json").read_text())["store"] == "mean"
