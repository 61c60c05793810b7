"""Studies: whatever happens to runs, each ends as if it were alone, or says why it does not."""

import json
from pathlib import Path

import filelock
import numpy as np
import pytest
import tiny
from mishaps import Here, assert_as_if_alone, planted, run

from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.exec import messages, study
from alrc.lab.exec.messages import Gone, Message, Paused
from alrc.lab.exec.workers import Processes

RESTART = "its process was ended from outside; starting it again"


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_SECONDS", 0.0)  # a single step


def ends(lines: list[str]) -> list[str]:
    """Without numbers, and without the estimate."""
    return sorted(line.split(", slope error")[0] for line in lines if line[:5] != "about")


def test_a_study_with_mishaps_ends_as_if_each_run_were_alone(tmp_path: Path) -> None:
    left = {name: tmp_path / name for name in ("killed", "failing")}
    jobs = [
        planted("killed", left["killed"], 1, mishap="kill"),
        planted("failing", left["failing"], 1),
        tiny.job("plain", arm=tiny.OFF, noise=0.2),
        tiny.job("diverged", noise=1e30),
    ]
    out, runs = tmp_path / "study", tmp_path / "study" / "runs"
    good = ("killed", "plain", "diverged")

    failed, lines = run(jobs, out, record={"seeds": [0]})
    log = runs / "failing" / "log.txt"
    assert failed == {"failing": log}
    assert lines[:3] == [
        "mishaps.py:Planted in 2 settings: points generated",
        "tiny.py:Line in 2 settings: points generated",
        "4 runs: 0 finished and 0 failed earlier, 4 to do",
    ]
    assert ends(lines[3:]) == sorted(
        [
            f"killed: {RESTART}",
            f"failing: failed, ZeroDivisionError: planted; see {log}",
            *[f"{name}: finished" for name in good],
        ]
    )
    assert "diverged: finished, slope error 2.007; diverged: loss is infinite from step 1 on" in (
        lines
    )
    assert log.read_text().splitlines()[0] == "Traceback (most recent call last):"
    assert log.read_text().splitlines()[-1] == "ZeroDivisionError: planted"
    assert json.loads((out / "study.json").read_text()) == {"seeds": [0]}
    for job in jobs:
        if job.name in good:
            assert_as_if_alone(runs, job, tmp_path / "alone")

    # Typed again: finished runs stay as they are, failed ones stay failed.
    times = {name: (runs / name / "result.json").stat().st_mtime_ns for name in good}
    failed, lines = run(jobs, out, Here())
    assert failed == {"failing": log}
    assert lines[2:] == ["4 runs: 3 finished and 1 failed earlier, 0 to do"]

    # With retry: failed ones go on from their checkpoints, the others stay as they are.
    failed, lines = run(jobs, out, Here(), retry=True)
    assert failed == {}
    assert lines[2] == "4 runs: 3 finished and 1 failed earlier, 1 to do"
    assert_as_if_alone(runs, jobs[1], tmp_path / "alone")
    assert not log.exists()
    assert times == {name: (runs / name / "result.json").stat().st_mtime_ns for name in good}


@pytest.mark.parametrize("end", [Gone(), Paused(asked=True)])
def test_a_run_whose_worker_is_always_ended_fails_in_the_end(end: Message, tmp_path: Path) -> None:
    class Ending(Here):
        def wait(self) -> list[tuple[str, Message]]:
            if self.given[0][0].name == "ended":
                self.given.pop(0)
                return [("ended", end)]
            return super().wait()

    workers = Ending()
    failed, lines = run([tiny.job("ended"), tiny.job("other", seed=1)], tmp_path, workers)
    log = tmp_path / "runs" / "ended" / "log.txt"
    assert failed == {"ended": log}
    assert [name for name, _ in workers.order].count("ended") == 4
    words = "its process was ended from outside 4 times, perhaps for lack of memory"
    assert ends(lines[2:]) == sorted(
        [*[f"ended: {RESTART}"] * 3, f"ended: failed, {words}; see {log}", "other: finished"]
    )
    assert log.read_text() == f"{words.capitalize()}.\n"


@pytest.mark.slow
def test_a_worker_that_was_asked_to_stop_by_others_is_replaced(tmp_path: Path) -> None:
    job = planted("asked", tmp_path / "left", 1, mishap="terminate")
    failed, lines = run([job], tmp_path / "study", Processes(1))
    assert failed == {}
    assert ends(lines[2:]) == ["asked: finished", f"asked: {RESTART}"]
    assert_as_if_alone(tmp_path / "study" / "runs", job, tmp_path / "alone")


def test_the_longest_runs_come_first_after_one_of_each_setting(tmp_path: Path) -> None:
    batch_sizes = (4, 64, 1, 16)
    jobs = [
        tiny.job(f"{batch_size}-{seed}", seed=seed, training={"batch_size": batch_size})
        for batch_size in batch_sizes
        for seed in (0, 1)
    ]
    workers = Here()
    failed, lines = run(jobs, tmp_path, workers)
    assert failed == {}
    assert workers.order == [
        *[(f"{size}-0", 0.0) for size in (64, 16, 4, 1)],
        *[(f"{size}-{seed}", None) for size in (64, 16, 4, 1) for seed in (0, 1)],
    ]
    # A single step says nothing of how long it takes.
    assert not [line for line in lines if line.startswith("about")]


def test_all_workers_have_something_to_do_in_the_trial(tmp_path: Path) -> None:
    workers = Here(3)
    run([tiny.job(str(seed), seed=seed) for seed in range(5)], tmp_path, workers)
    assert [name for name, seconds in workers.order if seconds is not None] == ["0", "1", "2"]


def test_another_study_in_the_folder_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    run_job(tiny.job("a"), tmp_path / "runs")
    jobs = [tiny.job("b"), tiny.job("a", training={"steps": 13})]
    with pytest.raises(ValueError, match="another one") as caught:
        run(jobs, tmp_path, record={"seeds": [0]})
    assert str(caught.value) == (
        f"{tmp_path}/runs/a must hold this very run to go on with it; it holds another one: got "
        "training.steps 13 (there: 12). Pass another folder, or the settings of that run."
    )
    assert not (tmp_path / "runs" / "b").exists()
    assert not (tmp_path / "study.json").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(ValueError, match="one command") as caught,
    ):
        run([], tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} must belong to one command at a time; another one is at this study. Wait for "
        "it, or pass another folder."
    )


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="write to") as caught:
        run([], tmp_path / "file")
    assert str(caught.value) == (
        f"{tmp_path}/file must be a folder to write to; it is not (File exists). Pass another one."
    )


def test_runs_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names") as caught:
        run([tiny.job("a"), tiny.job("a", seed=1)], tmp_path)
    assert str(caught.value) == (
        "Runs must have different names, because each has a folder of its own."
    )


def test_a_worker_that_finds_other_code_than_the_command_had_refuses(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(Path(tiny.__file__).read_text())
    job = tiny.job("a", "Line", str(own))
    ((name, spec),) = job.specs.items()
    before = spec.config["sources"]["own.py"]
    own.write_text(own.read_text() + "# edited while the study ran\n")
    failed, lines = run([job], tmp_path / "study", Processes(1))
    assert list(failed) == [name]
    assert lines[-1].startswith(
        f"a: failed, {tmp_path}/study/runs/a must hold this very run to go on with it; it holds "
        "another one: got sources.own.py "
    )
    assert f"(there: '{before}')" in lines[-1]


class TestEnsembles:
    """Jobs of several runs, whose training stands in for that as one network."""

    @pytest.fixture
    def jobs(self) -> list[Job]:
        specs = {f"seed{seed}": tiny.spec(seed=seed) for seed in range(3)}
        return [Job(specs), tiny.job("alone", seed=9)]

    @pytest.fixture(autouse=True)
    def one_after_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run_all(job: Job, runs: Path, report: object, stop: object) -> dict[str, object]:
            results = {}
            for name, spec in job.specs.items():
                if name == self.failing:
                    raise ZeroDivisionError("planted")
                results |= run_job(Job({name: spec}), runs)
            return results

        self.failing = ""
        monkeypatch.setattr(messages, "run_job", run_all)

    def test_all_its_runs_finish(self, jobs: list[Job], tmp_path: Path) -> None:
        failed, lines = run(jobs, tmp_path, Here())
        assert failed == {}
        names = [name for job in jobs for name in job.specs]
        assert lines[1] == "4 runs: 0 finished and 0 failed earlier, 4 to do"
        assert ends(lines[2:]) == sorted(f"{name}: finished" for name in names)
        assert run(jobs, tmp_path)[1][1] == "4 runs: 4 finished and 0 failed earlier, 0 to do"

    def test_all_fail_that_were_not_finished(self, jobs: list[Job], tmp_path: Path) -> None:
        self.failing = "seed0"
        run_job(Job({"seed1": jobs[0].specs["seed1"]}), tmp_path / "runs")
        failed, lines = run(jobs, tmp_path, Here())
        assert sorted(failed) == ["seed0", "seed2"]
        assert lines[1] == "4 runs: 1 finished and 0 failed earlier, 3 to do"
        assert ends(lines[2:]) == [
            "alone: finished",
            *[f"{n}: failed, ZeroDivisionError: planted; see {failed[n]}" for n in sorted(failed)],
        ]
        assert run(jobs, tmp_path, Here())[0] == failed
        self.failing = ""
        failed, lines = run(jobs, tmp_path, Here(), retry=True)
        assert failed == {}
        assert ends(lines[2:]) == ["seed0: finished", "seed2: finished"]

    def test_it_is_called_by_its_first_run(self, jobs: list[Job]) -> None:
        assert [job.label for job in jobs] == ["seed0 and 2 more", "alone"]


def test_series_of_the_helpers_differ_by_seed(tmp_path: Path) -> None:
    """Else that runs are as if alone would say nothing."""
    for seed in (0, 1):
        run_job(tiny.job(str(seed), seed=seed), tmp_path)
    first, second = (np.load(tmp_path / n / "series" / "loss.raw.npy") for n in "01")
    assert (first != second).all()
