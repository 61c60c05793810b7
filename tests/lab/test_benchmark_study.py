"""A benchmark from its file to its compact results, however often it is stopped."""

import csv
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mishaps
import numpy as np
import pytest
import stackable
from launching import process_group, succeed
from mishaps import Here
from rich.console import Console

from alrc.lab.engine.benchmark_file import Benchmark
from alrc.lab.engine.tuning import read_tuning
from alrc.lab.exec import benchmark as running
from alrc.lab.exec import study
from alrc.lab.exec.stopping import StudyStopped
from alrc.lab.report.compact import HEADER, compact_folder, write_compact

HEAD = """
[arms]
all = ["off", "clip-grad-norm", "alrc num_stddev=2 mu1_start=1 mu2_start=1.5"]
[tune]
seeds = [100, 101]
[tune.all]
clip-grad-norm = { max_norm = [1, 0.01] }
"alrc mu1_start=1 mu2_start=1.5" = { num_stddev = [2, 4] }
"""
WORKLOAD = """
[[workloads]]
name = "{name}"
part = "one"
title = "T"
kind = "calm"
family = "regression"
task = "{task}"
arms = ["all"]
seeds = 2
set = {{ training.steps = {steps}, training.batch_size = 4 }}
"""


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_SECONDS", 0.0)  # a single step


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "some.toml"
    dense, line = (
        f"{stackable.__file__}:Dense width=4",
        f"{Path(mishaps.__file__).parent}/tiny.py:Line",
    )
    text = WORKLOAD.format(name="dense", task=dense, steps=160)
    file.write_text(HEAD + text + WORKLOAD.format(name="line", task=line, steps=12))
    return file


class StoppedAt(Here):
    """Workers in this process, with a signal before a job."""

    def __init__(self, job: int) -> None:
        super().__init__()
        self.left = job

    def wait(self) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().wait()


def run(file: Path, out: Path, *workers: Here) -> None:
    """The part, with workers for the tuning and for the rest; then its compact results."""
    given = iter(workers)
    console = Console(file=io.StringIO(), width=80)
    benchmark = Benchmark.read(file)
    failed = running.run_part(benchmark, "one", out / "one", lambda: next(given, Here()), console)
    assert failed == {}
    write_compact(out / "one", out / "compact")


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "compact/one.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def results(folder: Path) -> int:
    return len(list(folder.glob("runs/*/result.json")))


def test_what_is_stored_of_a_part_is_what_its_runs_hold(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(file, out)
    table, facts = rows(out), json.loads((out / "compact/one.json").read_text())
    assert tuple(table[0]) == HEADER
    order = [(r["workload"], r["arm"], r["tuned"], int(r["seed"])) for r in table]
    assert order == sorted(order)
    # Chosen trials that are arms of the list too are run once, and have two rows.
    names = ("off", "clip-grad-norm", "alrc num_stddev=2 mu1_start=1 mu2_start=1.5")
    for workload, said in facts["workloads"].items():
        chosen = {arm: own["best"] for arm, own in said["tuning"].items()}
        assert set(chosen) == {"clip-grad-norm", "alrc mu1_start=1 mu2_start=1.5"}
        expected = {(n, "") for n in names} | {(best, arm) for arm, best in chosen.items()}
        mine = [r for r in table if r["workload"] == workload]
        assert {(r["arm"], r["tuned"]) for r in mine} == expected
        assert len(mine) == 2 * len(expected)
        assert said["title"] == "T"
        tuned = read_tuning(out / "one/tuning")[workload]
        assert said["target"] == pytest.approx(tuned.target, rel=1e-5)
    distinct = {(r["workload"], r["arm"], r["seed"]) for r in table}
    assert results(out / "one") == len(distinct)
    assert facts["versions"].keys() >= {"torch"}
    assert facts["seconds"] > 0
    check_rows(table, facts, out / "one/runs")
    assert compact_folder(out) == out / "compact" == compact_folder(out / "compact")
    assert compact_folder(out / "one") is None
    assert not list(out.rglob("checkpoint.pt"))


def check_rows(table: list[dict[str, str]], facts: Any, runs: Path) -> None:
    """Each row against what is computed from the series of its run, in another way."""
    folders = {}
    for path in runs.iterdir():
        config = json.loads((path / "config.json").read_text())
        workload = "dense" if "Dense" in config["task"] else "line"
        folders[workload, config["arm"], str(config["seed"])] = path
    seen = set()
    for row in table:
        path = folders[row["workload"], row["arm"], row["seed"]]
        series = {f.stem: np.load(f).astype(float) for f in path.glob("series/*.npy")}
        raw = series["loss.raw"]
        spiky = [
            raw[i] > np.mean(raw[i - 128 : i]) + 6 * np.std(raw[i - 128 : i])
            for i in range(128, len(raw))
        ]
        assert float(row["spikes"]) == pytest.approx(
            np.mean(spiky) if spiky else np.nan, nan_ok=True, rel=1e-5
        )
        limited, share = series.get("loss.limited", raw), series.get("loss.share", raw * 0)
        assert float(row["limited"]) == pytest.approx(share.mean(), rel=1e-4)
        assert float(row["kept"]) == pytest.approx(limited.sum() / raw.sum(), rel=1e-4)
        evaluations = np.load(path / "evaluation.npy")
        assert float(row["first"]) == pytest.approx(evaluations[-1, 1], rel=1e-5)
        assert (row["second"] == "") == (row["workload"] == "dense")
        target = facts["workloads"][row["workload"]]["target"]
        reached = [int(step) for step, first, *_ in evaluations if first <= target]
        assert row["reached"] == (str(reached[0]) if reached else "")
        assert row["diverged"] == str(int(not np.isfinite([raw[-1], *evaluations[-1]]).all()))
        seen |= {name for name in ("limited", "spikes") if float(row[name]) > 0}
        seen |= {"reached"} if reached else {"not reached"}
    assert seen == {"limited", "spikes", "reached", "not reached"}


def test_stopped_in_tuning_and_after_it_comes_to_the_same(file: Path, tmp_path: Path) -> None:
    run(file, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(StudyStopped):
        run(file, out, StoppedAt(3))
    assert not (out / "one/runs").exists()
    with pytest.raises(StudyStopped):
        run(file, out, Here(), StoppedAt(4))
    assert 0 < results(out / "one") < results(tmp_path / "whole/one")
    assert not (out / "compact").exists()
    run(file, out)
    assert (out / "compact/one.csv").read_bytes() == (
        tmp_path / "whole/compact/one.csv"
    ).read_bytes()


PROGRAM = "from alrc.lab.cli.commands import app; app()"


@pytest.mark.slow
def test_killed_in_tuning_and_after_it_comes_to_the_same(tmp_path: Path) -> None:
    file, whole, out = tmp_path / "some.toml", tmp_path / "whole", tmp_path / "out"

    def command(gate: Path) -> list[str]:
        task = f"{mishaps.__file__}:Held gate={gate}"
        file.write_text(HEAD + WORKLOAD.format(name="line", task=task, steps=12))
        return ["lab", "study", str(file), "--out", str(out), "--workers", "1"]

    (tmp_path / "program.py").write_text(f"if __name__ == '__main__':\n    {PROGRAM}\n")
    program = str(tmp_path / "program.py")
    command(tmp_path / "none")
    run(file, whole)
    for place in (out / "one/tuning", out / "one"):
        gate = place / "gate"
        place.mkdir(parents=True, exist_ok=True)
        gate.write_text("2")
        with process_group([sys.executable, program, *command(gate)]) as process:
            while not list(place.glob("gate.*")):
                assert process.poll() is None
                time.sleep(0.05)
        gate.unlink()
        assert results(place) == 2
    succeed(program, *command(tmp_path / "none"), cwd=tmp_path)
    assert (out / "compact/one.csv").read_bytes() == (whole / "compact/one.csv").read_bytes()


def test_trials_that_fail_leave_the_rest_untrained(file: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("9")
    task = f"{mishaps.__file__}:Planted left={left}"
    file.write_text(HEAD + WORKLOAD.format(name="line", task=task, steps=12))
    console = Console(file=io.StringIO(), width=80)
    benchmark = Benchmark.read(file)
    failed = running.run_part(benchmark, "one", tmp_path / "one", Here, console)
    assert len(failed) == 9
    assert not (tmp_path / "one/runs").exists()
    assert running.run_part(benchmark, "one", tmp_path / "one", Here, console, retry=True) == {}


def test_two_workloads_that_are_the_same_runs_are_refused(file: Path, tmp_path: Path) -> None:
    text = WORKLOAD.format(name="again", task=f"{stackable.__file__}:Dense width=4", steps=160)
    file.write_text(file.read_text() + text)
    with pytest.raises(ValueError, match="must differ") as caught:
        run(file, tmp_path / "out")
    assert str(caught.value) == (
        f"{file}: workload again: workloads of a part must differ in task or training; dense is "
        "the same. Remove one of them."
    )
