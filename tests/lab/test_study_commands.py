"""``alrc lab study`` from the outside: killed, stopped, typed again; no process is left over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mishaps
import numpy as np
import pytest
from typer.testing import CliRunner

from alrc.lab.cli.study import app
from alrc.lab.data.images import read_cifar10
from alrc.lab.engine.grid import Grid
from alrc.lab.engine.training import Run, train

HELPERS = str(Path(mishaps.__file__).parent)
GRID = """\
error = ["squared", "quartic"]
batch_size = [50]
num_stddev = ["off", 1]
optimizer = [["adam", 0.001], ["sgd", 0.001]]
seeds = [0]
iterations = 14
width = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a grid, and noise as if it were CIFAR-10."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "grid.toml").write_text(GRID)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (6, 3073), np.uint8)
        records[:, 0] = 0
        records.tofile(folder / f"{name}.bin")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    paths = {"--grid": folder / "grid.toml", "--cifar10": folder, "--out": out}
    return ["cifar10", *(str(word) for pair in paths.items() for word in pair), *more]


def command(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*words], env={"NO_COLOR": "1", "TERM": "dumb"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


HELD = """
import pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
from mishaps import hold
from alrc.lab.cli.study import app
hold(12, pathlib.Path(sys.argv.pop(1)), int(sys.argv.pop(1)))
app()
"""


@contextmanager
def started(folder: Path, out: Path, finished: int) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, of which nothing is left over.

    It finishes that many runs, or one more for the second worker; then the others wait.
    """
    words = (HELPERS, str(out / "runs"), str(finished))
    with python(HELD, *words, *arguments(folder, out, "--workers", "2")) as process:
        yield process


@contextmanager
def python(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    words = (sys.executable, "-c", code, *words)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_checkpoints(count: int, out: Path, process: subprocess.Popen[str]) -> None:
    while len(list(out.glob("runs/*/checkpoint.pt"))) < count:
        assert process.poll() is None
        time.sleep(0.002)


def rest_of(process: subprocess.Popen[str]) -> str:
    """What was said until the last process ended: all inherit the other end of the pipe."""
    return process.communicate(timeout=300)[1]


def assert_finished_as_if_alone(folder: Path, out: Path) -> None:
    jobs = Grid.read(folder / "grid.toml").jobs(read_cifar10(folder))
    assert {path.name for path in (out / "runs").iterdir()} == jobs.keys()
    for name, job in jobs.items():
        alone = train(*job)
        for array in Run.shapes(job.config):
            stored = np.load(out / "runs" / name / f"{array}.npy")
            np.testing.assert_array_equal(stored, getattr(alone, array))
        result = json.loads((out / "runs" / name / "result.json").read_text())
        assert result["final_error"] == alone.final_error


def results(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}


@pytest.mark.slow
def test_a_study_that_was_stopped_and_killed_ends_as_if_it_were_not(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(folder, out, finished=2) as process:
        wait_for_checkpoints(1, out, process)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C on a terminal
        said = rest_of(process).splitlines()
        assert process.returncode == 130
    first = results(out)
    assert len(first) < 8
    assert said[0] == "8 runs: 0 finished and 0 failed earlier, 8 to do"
    assert all(": finished, error" in line for line in said[1:-1])
    assert said[-1] == "alrc: stopped; the same command goes on from the last checkpoints."

    with started(folder, out, finished=5) as process:
        wait_for_checkpoints(len(first) + 3, out, process)
        process.kill()
        said = rest_of(process).splitlines()  # the workers notice, and end
    second = results(out)
    assert len(second) < 8
    assert said[0] == going_on(first)
    assert all(": finished, error" in line for line in said[1:])

    assert command(*arguments(folder, out))[0] == 0
    assert first.items() <= second.items() <= results(out).items()
    assert_finished_as_if_alone(folder, out)

    assert command(*arguments(folder, out)) == (
        0,
        f"8 runs: 8 finished and 0 failed earlier, 0 to do\nAll 8 runs are finished: {out}/runs\n",
    )


@pytest.mark.slow
def test_40_runs_survive_kills_of_the_command_and_of_its_workers(
    folder: Path, tmp_path: Path
) -> None:
    grid = GRID.replace("[0]", "[0, 1, 2, 3, 4]")
    (tmp_path / "grid.toml").write_text(grid)
    for file in folder.glob("*.bin"):
        (tmp_path / file.name).symlink_to(file)
    out = tmp_path / "out"
    rng = np.random.default_rng(0)
    for finished in (10, 20, 30):
        before = len(list(out.glob("runs/*/checkpoint.pt")))  # 3 more than runs finished, at most
        with started(tmp_path, out, finished) as process:
            for more in (int(rng.integers(1, 4)), 5):
                wait_for_checkpoints(before + more, out, process)
                os.kill(rng.choice(workers_of(process)), signal.SIGKILL)
            wait_for_checkpoints(before + 8, out, process)
            killed = 0
            while killed < 2:
                line = process.stderr.readline()
                assert line, "ended before it noticed"
                killed += line.endswith(": its process was ended from outside; starting it again\n")
            process.kill()
            rest_of(process)
        assert len(results(out)) < 40
    assert command(*arguments(tmp_path, out))[0] == 0
    assert_finished_as_if_alone(tmp_path, out)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    lines = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,args="], text=True)
    rows = [line.split(maxsplit=2) for line in lines.splitlines()]
    return [int(p) for p, parent, what in rows if int(parent) == process.pid and "spawn" in what]


def going_on(finished: dict[str, int]) -> str:
    count = len(finished)
    return f"8 runs: {count} finished and 0 failed earlier, {8 - count} to do"


HANGING = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from mishaps import Planted, noise
from rich.console import Console
from alrc.lab.engine.grid import Job
from alrc.lab.exec.study import run_study
from alrc.lab.exec.workers import Processes
from alrc.lab.engine.training import RunConfig
out = pathlib.Path(sys.argv[2])
task = Planted(noise(), width=1, counter=out / "counter", signal=0)
run_study({"hangs": Job(task, RunConfig(10))}, out, Processes(1), Console(stderr=True))
"""


def test_a_worker_ends_with_the_command_whatever_it_is_at(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("1")
    with python(HANGING, HELPERS, str(tmp_path)) as process:
        while (tmp_path / "counter").read_text() != "0":
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        assert rest_of(process) == "1 runs: 0 finished and 0 failed earlier, 1 to do\n"


def test_failed_runs_are_listed_with_their_logs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID.replace("14", "10").replace(', ["sgd", 0.001]', ""))
    words = ["cifar10", "--grid", str(tmp_path / "grid.toml"), "--cifar10", str(folder)]
    words += ["--out", str(tmp_path / "out"), "--workers", "1"]
    name = "squared-b50-adam0.001-n1-seed0"
    run = tmp_path / "out" / "runs" / name
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_bytes(b"")
    failed = (
        f"{name}: {run}/log.txt\n"
        "alrc: 1 of 4 runs failed, with the logs above; --retry runs them again.\n"
    )
    code, said = command(*words)
    assert code == 1
    assert said.endswith(failed)
    assert said.count(": finished") == 3
    assert (run / "log.txt").read_text().splitlines()[-1].startswith("EOFError")

    first = "4 runs: 3 finished and 1 failed earlier, 0 to do\n"
    assert command(*words) == (1, first + failed)

    (run / "checkpoint.pt").unlink()
    code, said = command(*words, "--retry")
    assert code == 0
    assert said.startswith("4 runs: 3 finished and 1 failed earlier, 1 to do\n")
    assert said.endswith(f"All 4 runs are finished: {tmp_path}/out/runs\n")
    assert not (run / "log.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either --preset or --grid must be given, to say what to run."),
        (
            ["--preset", "smoke", "--grid", "grid.toml"],
            "either --preset or --grid must be given, to say what to run.",
        ),
        (
            ["--preset", "smoke", "--workers", "0"],
            "--workers must be at least 1, because each trains a run; got 0.",
        ),
        (["--grid", "none.toml"], "[Errno 2] No such file or directory: 'none.toml'"),
    ],
)
def test_refusals(tmp_path: Path, words: list[str], message: str) -> None:
    assert command("cifar10", "--out", str(tmp_path), *words) == (2, f"alrc: {message}\n")
    assert not list(tmp_path.iterdir())


def test_presets_are_offered() -> None:
    from alrc.lab.cli.study import PRESETS, Preset

    assert {preset.value for preset in Preset} == {path.stem for path in PRESETS.glob("*.toml")}
