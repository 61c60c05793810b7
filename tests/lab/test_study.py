"""Studies: which runs a grid gives, and that every one of them ends as if it were alone."""

import io
import signal
from pathlib import Path

import filelock
import numpy as np
import pytest
from mishaps import assert_as_if_alone, noise, planted, run
from rich.console import Console

import alrc.lab
from alrc.lab.engine.grid import Grid, Job
from alrc.lab.engine.training import RunConfig
from alrc.lab.exec.study import run_study
from alrc.lab.exec.workers import Processes, run_one
from alrc.lab.tasks.supersampling.task import Supersampling

PRESETS = Path(alrc.lab.__file__).parent / "presets"
GRID = """\
error = ["squared", "quartic"]
batch_size = [50]
num_stddev = ["off", 1]
optimizer = [["adam", 0.001]]
seeds = [0, 1]
iterations = 12
width = 1
"""


def read(text: str, folder: Path) -> Grid:
    file = folder / "grid.toml"
    file.write_text(text)
    return Grid.read(file)


def test_names_are_readable_unique_and_stable(tmp_path: Path) -> None:
    grid = GRID.replace('"off", 1', '"off", 2.5, 3').replace("[0, 1]", "[7]")
    grid = grid.replace("[50]", "[1, 4]").replace('"squared", "quartic"', '"quartic"')
    jobs = read(grid + "original = true\n", tmp_path).jobs(noise())
    assert list(jobs) == [
        f"quartic-b{batch_size}-adam0.001-{arm}-seed7"
        for batch_size in (1, 4)
        for arm in ("off", "n2.5", "original-n2.5", "n3", "original-n3")
    ]


def test_numbers_alike_in_six_digits_get_different_names(tmp_path: Path) -> None:
    grid = GRID.replace("0.001", "0.00100000001").replace('"off", 1', "2.0")
    assert next(iter(read(grid, tmp_path).jobs(noise()))) == (
        "squared-b50-adam0.00100000001-n2-seed0"
    )


def test_all_keys_reach_the_runs(tmp_path: Path) -> None:
    text = GRID + "original = true\nsqrt_step = false\nevaluate_every = 10\n"
    text = text.replace("adam", "sgd").replace("width = 1", "width = 3")
    images = noise()
    jobs = read(text, tmp_path).jobs(images)
    assert len(jobs) == 12
    for error, power in (("squared", 2), ("quartic", 4)):
        for seed in (0, 1):
            for arm, n, original in (("off", None, False), ("n1", 1, False), ("original-n1", 1, 1)):
                task, config = jobs[f"{error}-b50-sgd0.001-{arm}-seed{seed}"]
                assert config == RunConfig(
                    12, 50, "sgd", 0.001, n, seed, original=bool(original), evaluate_every=10
                )
                assert task.describe() == Supersampling(images, power, 3, False).describe()


@pytest.mark.parametrize(
    ("preset", "count", "iterations", "width"),
    [
        ("smoke", 8, 30, 1),
        ("small", 30, 10_000, 16),
        ("paper", 320, 100_000, 64),
        ("high-learning-rate", 40, 100_000, 64),
    ],
)
def test_presets(preset: str, count: int, iterations: int, width: int) -> None:
    jobs = Grid.read(PRESETS / f"{preset}.toml").jobs(noise())
    assert len(jobs) == count
    assert {job.config.iterations for job in jobs.values()} == {iterations}
    assert {job.task.width for job in jobs.values()} == {width}


def test_every_preset_is_tested() -> None:
    assert len(list(PRESETS.iterdir())) == 4


LISTS = {
    "batch_size": "a list of different whole numbers >= 1",
    "seeds": "a list of different whole numbers >= 0",
    "error": 'a list of "squared" and "quartic", each once',
    "num_stddev": 'a list of different numbers > 0 and "off"',
    "optimizer": 'a list of different pairs such as ["adam", 0.001] or ["sgd", 0.001]',
    "iterations": "a whole number >= 10",
    "width": "a whole number >= 1",
    "evaluate_every": "a whole number >= 1",
    "original": "true or false",
    "sqrt_step": "true or false",
}


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        ("batch_size", "[]", "[]"),
        ("batch_size", "4", "4"),
        ("batch_size", "[0]", "[0]"),
        ("batch_size", "[1, 1]", "[1, 1]"),
        ("batch_size", "[true]", "[True]"),
        ("seeds", "[-1]", "[-1]"),
        ("seeds", "[0.0]", "[0.0]"),
        ("seeds", f"[{2**63}]", f"[{2**63}]"),
        ("error", '["cubic"]', "['cubic']"),
        ("num_stddev", "[2, 2.0]", "[2, 2.0]"),
        ("num_stddev", '["on"]', "['on']"),
        ("num_stddev", "[0]", "[0]"),
        ("num_stddev", "[nan]", "[nan]"),
        ("num_stddev", "[inf]", "[inf]"),
        ("optimizer", '["adam", 0.001]', "['adam', 0.001]"),
        ("optimizer", '[["lion", 0.001]]', "[['lion', 0.001]]"),
        ("optimizer", '[["sgd", 0]]', "[['sgd', 0]]"),
        ("optimizer", '[["sgd"]]', "[['sgd']]"),
        ("iterations", "9", "9"),
        ("width", "0", "0"),
        ("evaluate_every", "0", "0"),
        ("original", "1", "1"),
        ("sqrt_step", '"no"', "'no'"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, key: str, value: str, got: str) -> None:
    lines = [line for line in GRID.splitlines() if not line.startswith(key)]
    with pytest.raises(ValueError, match="must be") as caught:
        read("\n".join([*lines, f"{key} = {value}"]), tmp_path)
    assert str(caught.value) == f"{tmp_path}/grid.toml: {key} must be {LISTS[key]}; got {got}."


def test_unknown_and_missing_keys_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="among") as caught:
        read(GRID + "batchsize = [1]\n", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/grid.toml: keys must be among error, batch_size, num_stddev, optimizer, "
        "seeds, iterations, width, original, sqrt_step, evaluate_every; got batchsize."
    )
    with pytest.raises(ValueError, match="missing") as caught:
        read(GRID.replace("width = 1\n", ""), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/grid.toml: width must be a whole number >= 1; it is missing."
    )
    with pytest.raises(ValueError, match="TOML") as caught:
        read("error: squared", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/grid.toml must be a TOML file; Expected '=' after a key in a key/value pair "
        "(at line 1, column 6)."
    )


def test_a_study_with_mishaps_ends_as_if_each_run_were_alone(tmp_path: Path) -> None:
    jobs = read(GRID.replace("[0, 1]", "[0]"), tmp_path).jobs(noise())
    counters = {name: tmp_path / name for name in ("killed", "always killed", "failing", "hurt")}
    jobs["killed"] = planted(counters["killed"], 1, signal=signal.SIGKILL)
    jobs["always killed"] = planted(counters["always killed"], 9, signal=signal.SIGKILL)
    jobs["failing"] = planted(counters["failing"], 1)
    jobs["diverged"] = planted(counters["hurt"], 0, losses_are=np.nan)
    runs = tmp_path / "study" / "runs"
    good = jobs.keys() - {"always killed", "failing"}

    failed, lines = run(jobs, tmp_path / "study")
    logs = {name: runs / name / "log.txt" for name in ("always killed", "failing")}
    assert failed == logs
    assert lines[0] == "8 runs: 0 finished and 0 failed earlier, 8 to do"
    restart = "its process was ended from outside; starting it again"
    assert sorted(line for line in lines[1:] if "finished" not in line) == [
        f"always killed: failed, see {logs['always killed']}",
        *[f"always killed: {restart}"] * 3,
        f"failing: failed, see {logs['failing']}",
        f"killed: {restart}",
    ]
    assert "diverged: finished, error nan" in lines
    assert sorted(line.split(":")[0] for line in lines if ": finished" in line) == sorted(good)
    log = logs["failing"].read_text().splitlines()
    assert log[0] == "Traceback (most recent call last):"
    assert log[-1] == "ZeroDivisionError: planted"
    assert logs["always killed"].read_text() == (
        "The process was ended from outside 4 times; was there too little memory?\n"
    )
    assert int(counters["always killed"].read_text()) == 9 - 4
    for name in good:
        assert_as_if_alone(runs / name, jobs[name])
    assert np.isnan(np.load(runs / "diverged" / "losses.npy")).all()

    # Typed again: finished runs stay as they are, failed ones stay failed.
    times = {name: (runs / name / "result.json").stat().st_mtime_ns for name in good}
    failed, lines = run(jobs, tmp_path / "study")
    assert failed == logs
    assert lines == ["8 runs: 6 finished and 2 failed earlier, 0 to do"]

    # With retry: failed ones go on from their checkpoints, the others stay as they are.
    counters["always killed"].write_text("0")
    failed, lines = run(jobs, tmp_path / "study", retry=True)
    assert failed == {}
    assert lines[0] == "8 runs: 6 finished and 2 failed earlier, 2 to do"
    for name in logs:
        assert_as_if_alone(runs / name, jobs[name])
        assert not logs[name].exists()
    assert times == {name: (runs / name / "result.json").stat().st_mtime_ns for name in good}


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    job = planted(tmp_path / "counter", 1)
    with pytest.raises(ZeroDivisionError):
        run_one(*job, tmp_path / "run")
    steps: list[int] = []
    run_one(*job, tmp_path / "run", lambda step, _: steps.append(step))
    assert steps[0] == 6  # 250 examples are 5 steps
    assert_as_if_alone(tmp_path / "run", job)


def test_the_longest_runs_come_first(tmp_path: Path) -> None:
    order = []

    class OneAtATime(Processes):
        def start(self, name: str, job: Job, folder: Path) -> None:
            order.append(name)
            super().start(name, job, folder)

    task = Supersampling(noise(), width=1)
    jobs = {str(b): Job(task, RunConfig(10, batch_size=b)) for b in (4, 64, 1, 16)}
    assert run(jobs, tmp_path, OneAtATime(1))[0] == {}
    assert order == ["64", "16", "4", "1"]


def test_another_study_in_the_folder_is_refused(tmp_path: Path) -> None:
    task = Supersampling(noise(), width=1)
    folder = tmp_path / "runs" / "a"
    run_one(task, RunConfig(10), folder)
    with pytest.raises(ValueError, match="another one") as caught:
        run({"a": Job(task, RunConfig(11))}, tmp_path)
    assert str(caught.value) == (
        f"{folder} must hold this very run to go on with it; it holds another one: got iterations "
        "11 (there: 10). Pass another folder, or the settings of that run."
    )


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(ValueError, match="one command") as caught,
    ):
        run({}, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} must belong to one command at a time; another one is at this study. Wait for "
        "it, or pass another folder."
    )


def test_bars_on_a_terminal(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO(), width=200, force_terminal=True)
    jobs = {"a": Job(Supersampling(noise(), width=1), RunConfig(600))}
    assert run_study(jobs, tmp_path, Processes(1), screen) == {}
    shown = screen.file.getvalue()
    assert "1 finished, 0 running, 0 failed, 0 waiting" in shown
    assert "/600 error " in shown
