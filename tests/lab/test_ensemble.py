"""Runs that are trained together: what each would be alone, whatever becomes of the others."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from stackable import spec

from alrc.lab.engine.batched import Ensemble
from alrc.lab.engine.jobs import Job, plan, run_job
from alrc.lab.engine.series import Series, is_present, read_series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.trainer import Trainer
from alrc.lab.engine.training import Stopped

ARMS = [
    "off",
    "alrc num_stddev=1.0",
    "alrc num_stddev=1.0 recency=4",
    "alrc num_stddev=2.0 per=batch",
    "alrc num_stddev_below=1.5 center=mean",
    "clip-grad-norm max_norm=0.5",
    "original num_stddev=0.1",
    "Wary",
    "Skipping",
]
CHAINS = [
    "alrc num_stddev=1.0 + clip-grad-norm max_norm=0.5",
    "Skipping + clip-grad-norm max_norm=0.5 + original num_stddev=0.1",
    "Wary + alrc num_stddev=1.0 + Skipping",
]
Results = dict[str, dict[str, Any]]


def runs(task: str, arms: list[str], seeds: list[int], **training: Any) -> dict[str, Spec]:
    return {f"{i} {s}": spec(task, a, s, **training) for i, a in enumerate(arms) for s in seeds}


def series_of(folder: Path, results: Results) -> dict[str, np.ndarray[Any, Any]]:
    return {
        f"{run} {name}": read_series(folder / "runs" / run, result, name)
        for run, result in results.items()
        for name in result["series"]
    }


def assert_same_bits(folders: tuple[Path, Path], results: tuple[Results, Results]) -> None:
    first, second = (series_of(*each) for each in zip(folders, results, strict=True))
    assert first.keys() == second.keys()
    for name, rows in first.items():
        assert rows.tobytes() == second[name].tobytes(), name
    for run, result in results[0].items():
        assert {**result, "seconds": 0} == {**results[1][run], "seconds": 0}
        rows = [(f / "runs" / run / "evaluation.npy").read_bytes() for f in folders]
        assert rows[0] == rows[1]


class Alone:
    """A run alone, which does not share its random numbers with those beside it."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.trainer, self.folder = Trainer(spec, Series(folder / "series")), folder
        self.random = torch.get_rng_state()

    def advance(self, batch: Any) -> None:
        torch.set_rng_state(self.random)
        self.trainer.advance(batch)
        self.random = torch.get_rng_state()

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.trainer.parameters["step"] if p.requires_grad]

    @property
    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """As if all trained parameters were one."""
        states = [self.trainer.optimizers["step"].state[p] for p in self.trained]
        joined = {n: torch.cat([state[n].flatten() for state in states]) for n in states[0]}
        return {n: x[0] if n == "step" else x for n, x in joined.items()}


SGD = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1e-4}
SETTINGS = [
    ("Dense width=16", ARMS, [3, 5], {"optimizer": "adam"}),
    ("Dense width=8 decaying=true", [ARMS[0], ARMS[1], *ARMS[-2:]], [3], SGD),
    ("Dense width=8", CHAINS, [3, 5], {}),
    ("Convolutional", ARMS[1:], [4], {"optimizer": "adamw", "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("task", "arms", "seeds", "training"), SETTINGS)
def test_each_member_is_at_every_step_what_it_is_alone(
    task: str, arms: list[str], seeds: list[int], training: Mapping[str, Any], tmp_path: Path
) -> None:
    ensemble = Ensemble(runs(task, arms, seeds, **training), Series(tmp_path / "all" / "series"))
    alone = [Alone(spec, tmp_path / name) for name, spec in ensemble.specs.items()]
    batches = ensemble.batches()
    for _ in range(200):
        batch = next(batches)
        ensemble.advance(batch)
        for run in alone:
            run.advance(batch[ensemble.stack.seeds.index(run.trainer.seed)])
        weights = torch.stack([torch.cat([p.flatten() for p in run.trained]) for run in alone])
        torch.testing.assert_close(ensemble.stack.values, weights.detach(), rtol=1e-4, atol=1e-5)
    (shared,) = ensemble.rows
    stacked = [i for design in ensemble.designs if design.is_stacked for i in design.members]
    for member, row in zip(stacked, shared.rows, strict=True):
        expected = alone[member].optimizer_state
        torch.testing.assert_close(
            dict(shared.optimizer.state[row]), expected, rtol=1e-3, atol=1e-5
        )
    together = {"series": ensemble.series.commit(200)}
    for member, run in enumerate(alone):
        own = {"series": run.trainer.series.commit(200)}
        seen = set()
        for there, here, row in ensemble.series_of(member, together["series"]):
            mine = read_series(tmp_path / "all", together, there)[:, row]
            theirs = read_series(run.folder, own, here)
            np.testing.assert_array_equal(is_present(mine), is_present(theirs))
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
            seen.add(here)
        assert seen == own["series"].keys()
        name = next(n for n in own["series"] if n.endswith(".raw")).removesuffix(".raw")
        if (
            f"{name}.limited" in own["series"]
            and "Wary" not in run.trainer.arms["step"].__class__.__name__
        ):
            limited = read_series(run.folder, own, f"{name}.limit")
            assert np.isfinite(limited).any()


def test_a_member_is_stored_as_if_it_had_been_trained_alone(tmp_path: Path) -> None:
    specs = runs("Dense width=8", ARMS, [0, 1], steps=30, evaluate_every=10)
    together = run_job(Job(specs), tmp_path / "together" / "runs")
    for name, single in specs.items():
        alone = run_job(Job({name: single}), tmp_path / "alone" / "runs")[name]
        folders = [tmp_path / way / "runs" / name for way in ("together", "alone")]
        configs = [(folder / "config.json").read_bytes() for folder in folders]
        assert configs[0] == configs[1]
        files = [{p.relative_to(f).as_posix() for p in f.rglob("*")} for f in folders]
        assert files[0] == files[1] - {"checkpoint.pt"}
        result = together[name]
        assert result == RunFolder(folders[0], single.config).result
        assert result.pop("trained_with") == len(specs)
        assert result.keys() == alone.keys()
        assert result["series"].keys() == alone["series"].keys()
        for series, facts in result["series"].items():
            assert facts["shape"] == alone["series"][series]["shape"]
        assert result["pictures"] == alone["pictures"]
        pictures = [plt.imread(folder / "pictures" / "weights.png") for folder in folders]
        np.testing.assert_allclose(*pictures, atol=1.01 / 255)
        assert result["losses"]["loss"] == pytest.approx(alone["losses"]["loss"], rel=1e-4)
        rows = [np.load(folder / "evaluation.npy") for folder in folders]
        np.testing.assert_allclose(*rows, rtol=1e-4)
        assert rows[0][:, 0].tolist() == [10, 20, 30]
    assert not list(tmp_path.glob("together/ensembles/*"))


class Crash(Exception):
    """Stands for kill -9: nothing is written after it."""


def crash_after(steps: int) -> Callable[[], bool]:
    """Asked after every step whether to stop."""
    left = iter(range(steps - 1, -1, -1))

    def stop() -> bool:
        if not next(left):
            raise Crash
        return False

    return stop


@pytest.mark.parametrize("task", ["Dense width=8 decaying=true", "Convolutional"])
def test_a_resumed_ensemble_is_bit_for_bit_the_uninterrupted_one(task: str, tmp_path: Path) -> None:
    specs = runs(task, ARMS + CHAINS, [0, 1], steps=30, evaluate_every=7)
    often = runs(task, ARMS + CHAINS, [0, 1], steps=30, evaluate_every=7, checkpoint_seconds=0.0)
    whole = run_job(Job(specs), tmp_path / "whole" / "runs")
    folder, parts = tmp_path / "parts", tmp_path / "parts" / "runs"
    backwards = Job(dict(reversed(specs.items())))  # the order does not matter
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        run_job(backwards, parts, stop=lambda: next(asked))
    with pytest.raises(Crash):  # the last checkpoint is that of step 10
        run_job(Job(often), parts, stop=crash_after(8))
    (series,) = folder.glob("ensembles/*/series")
    for file in series.iterdir():  # as if half of the next rows had been written
        file.write_bytes(file.read_bytes() + b"half a row")
    with pytest.raises(Crash):
        run_job(Job(specs), parts, stop=crash_after(10))
    assert_same_bits((tmp_path / "whole", folder), (whole, run_job(backwards, parts)))


@pytest.mark.parametrize("finished", [0, 3])
def test_killed_while_results_are_written_it_writes_the_rest_of_them(
    finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = runs("Dense width=8", ["off", "alrc"], [0, 1, 2])
    whole = run_job(Job(specs), tmp_path / "whole" / "runs")
    replace, left = os.replace, [finished]

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "result.json":
            if not left[0]:
                raise Crash
            left[0] -= 1
        replace(source, target)

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(Crash):
        run_job(Job(specs), tmp_path / "parts" / "runs")
    monkeypatch.undo()
    results = list(tmp_path.glob("parts/runs/*/result.json"))
    times = {file: file.stat().st_mtime_ns for file in results}
    assert len(results) == finished
    steps: list[int] = []
    again = run_job(Job(specs), tmp_path / "parts" / "runs", report=lambda p: steps.append(p.step))
    assert steps == []  # nothing was trained again
    assert {file: file.stat().st_mtime_ns for file in results} == times
    assert_same_bits((tmp_path / "whole", tmp_path / "parts"), (whole, again))


def test_what_is_finished_alone_is_not_trained_again(tmp_path: Path) -> None:
    specs = runs("Dense width=8", ["off", "alrc"], [0, 1, 2])
    alone = run_job(Job({"1 1": specs["1 1"]}), tmp_path / "runs")
    asked = iter([False] * 7 + [True])
    with pytest.raises(Stopped):
        run_job(Job(specs), tmp_path / "runs", stop=lambda: next(asked))
    steps: list[int] = []
    results = run_job(Job(specs), tmp_path / "runs", report=lambda p: steps.append(p.step))
    assert (steps[0], steps[-1]) == (9, 20)  # reported are the first, the last, and some between
    assert results["1 1"] == alone["1 1"]
    assert [result.get("trained_with") for result in results.values()] == [5] * 4 + [None, 5]
    rest = {name: spec for name, spec in specs.items() if name != "1 1"}
    whole = run_job(Job(rest), tmp_path / "whole" / "runs")
    del results["1 1"]
    assert_same_bits((tmp_path, tmp_path / "whole"), (results, whole))
    assert run_job(Job(specs), tmp_path / "runs") == {**results, **alone}
    assert not list(tmp_path.glob("ensembles/*"))


@pytest.mark.parametrize("task", ["Dense width=8", "Convolutional"])
def test_a_member_that_diverges_leaves_the_others_bit_for_bit_as_they_are(
    task: str, tmp_path: Path
) -> None:
    folders, results = [], []
    for third in (2, 1000):
        specs = runs(task, ARMS, [0, 1, third])
        folders.append(tmp_path / str(third))
        results.append(run_job(Job(specs), folders[-1] / "runs"))
    diverged = {n: r["diverged"] for n, r in results[1].items() if n.endswith(" 1000")}
    assert diverged["0 1000"] is not None
    others: list[Results] = [
        {n: r for n, r in each.items() if n.endswith((" 0", " 1"))} for each in results
    ]
    assert len(others[0]) == 2 * len(ARMS)
    assert_same_bits((folders[0], folders[1]), (others[0], others[1]))


def test_learning_rates_may_differ(tmp_path: Path) -> None:
    specs = {
        f"{arm} {rate}": spec("Dense width=8", arm, 0, learning_rate=rate)
        for arm in ("off", "alrc", "Wary")
        for rate in (1e-3, 1e-2)
    }
    together = run_job(Job(specs), tmp_path / "together" / "runs")
    for name, single in specs.items():
        alone = run_job(Job({name: single}), tmp_path / "alone" / "runs")[name]
        assert together[name]["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)


def test_plans_do_not_tear_seeds_apart_and_put_other_runs_one_by_one() -> None:
    dense = runs("Dense width=8", ["off", "alrc"], [2, 0, 1])
    other = {"other": spec("Dense width=16", "off", 0), "alone": spec("supersampling", "off", 0)}
    specs = {**dense, **other}
    planned = [list(job.specs) for job in plan(specs, most=5)]
    assert planned == [["alone"], ["0 0", "1 0", "0 1", "1 1"], ["0 2", "1 2"], ["other"]]
    assert [len(job.specs) for job in plan(dense, most=1)] == [1] * 6
    assert [list(job.specs) for job in plan(specs, ensembles=False)] == [[n] for n in specs]
    rates = {str(x): spec("Dense", "off", 0, learning_rate=x) for x in (0.1, 0.2)}
    assert len(plan(rates)) == 1
    assert len(plan({"a": spec("Dense", "off", 0), "b": spec("Dense", "off", 0, steps=30)})) == 2
