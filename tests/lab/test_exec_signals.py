"""Ctrl-C, SIGTERM, kills and full disks: what was done is kept, and no process is left."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mishaps
import numpy as np
import pytest
import tiny
import torch
from launching import process_group
from mishaps import Here, Signalled, assert_as_if_alone, planted, run
from rich.console import Console

from alrc.lab.engine.jobs import Job
from alrc.lab.exec import stopping, study
from alrc.lab.exec.messages import Gone, Message
from alrc.lab.exec.stopping import StudyStopped
from alrc.lab.exec.study import run_study

WAITING = "waiting for {} to leave a checkpoint (Ctrl-C: do not wait)"
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(study, "ANSWER_SECONDS", 3600.0)
    monkeypatch.setattr(stopping, "SOON", 3600.0)


def three() -> list[Job]:
    return [tiny.job(name, seed=seed) for seed, name in enumerate("abc")]


def stopped(jobs: list[Job], out: Path, workers: Here) -> tuple[StudyStopped, list[str]]:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(StudyStopped) as caught:
        run(jobs, out, workers)
    assert before == [signal.getsignal(number) for number in SIGNALS]
    return caught.value, [line for line in run.said[2:] if not line.startswith("about")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_makes_runs_leave_checkpoints(number: int, code: int, tmp_path: Path) -> None:
    error, lines = stopped(three(), tmp_path, Signalled("b", number))
    assert error.exit_code == code
    assert str(error) == (
        "stopped; 1 of 3 runs finished, 1 left a checkpoint of all that was done; the same command "
        "goes on."
    )
    assert [line.split(",")[0] for line in lines] == [
        "a: finished",
        f"stopped; {WAITING.format('1 job')}",
    ]
    assert torch.load(tmp_path / "runs" / "b" / "checkpoint.pt")["step"] == 1
    assert run(three(), tmp_path, Here())[0] == {}
    for job in three():
        assert_as_if_alone(tmp_path / "runs", job, tmp_path / "alone")


def test_signals_are_heard_once_a_study_says_what_is_to_do(tmp_path: Path) -> None:
    missed = list[int]()

    class Reader(io.StringIO):
        def write(self, text: str) -> int:
            if "to do" in text:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().write(text)

    before = signal.signal(signal.SIGTERM, lambda number, _: missed.append(number))
    try:
        with pytest.raises(StudyStopped) as caught:
            run_study(three(), tmp_path, Here(), Console(file=Reader(), width=80))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert missed == []
    assert caught.value.exit_code == 143
    assert str(caught.value) == "stopped; 0 of 3 runs finished; the same command goes on."


def test_a_worker_that_ends_before_it_goes_on_has_lost_nothing(tmp_path: Path) -> None:
    class Ended(Here):
        def wait(self) -> list[tuple[str, Message]]:
            if self.given[0][2] is not None:
                return super().wait()  # the trial, at whose end there is a checkpoint
            if not self.asked:
                os.kill(os.getpid(), signal.SIGTERM)
                return []
            return [(self.given.pop()[0].name, Gone())]

    error, _ = stopped(three(), tmp_path, Ended())
    assert torch.load(tmp_path / "runs" / "a" / "checkpoint.pt")["step"] == 1
    assert str(error) == "stopped; 0 of 3 runs finished; the same command goes on."


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SOON", -1.0)
    error, _ = stopped(three(), tmp_path, Signalled("b", signal.SIGINT, answers=False))
    assert str(error) == (
        "stopped; 1 of 3 runs finished, 1 ended without, to go on from an earlier one; the same "
        "command goes on."
    )


def test_the_same_signal_twice_at_once_is_one(tmp_path: Path) -> None:
    workers = Signalled("b", signal.SIGINT)
    error, _ = stopped(three(), tmp_path, workers)
    assert workers.times == 2
    assert "1 left a checkpoint" in str(error)


def test_a_worker_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "ANSWER_SECONDS", 0.0)
    error, _ = stopped(three(), tmp_path, Signalled("b", signal.SIGTERM, answers=False))
    assert "1 ended without, to go on from an earlier one" in str(error)


def test_a_signal_after_the_last_result_changes_nothing(tmp_path: Path) -> None:
    class Late(Here):
        def wait(self) -> list[tuple[str, Message]]:
            messages = super().wait()
            if not self.given and self.order[-1] == ("c", None):
                os.kill(os.getpid(), signal.SIGINT)
            return messages

        def stop(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run(three(), tmp_path, Late())[0] == {}


def test_a_signal_that_the_last_run_did_not_hear_changes_nothing(tmp_path: Path) -> None:
    class Deaf(Signalled):
        def ask_to_stop(self) -> None:
            pass

    workers = Deaf("c", signal.SIGINT)
    assert run(three(), tmp_path, workers)[0] == {}
    assert workers.times == 2


def test_a_full_disk_stops_the_study_and_is_no_failure_of_the_run(tmp_path: Path) -> None:
    jobs = [planted("full", tmp_path / "left", 1, mishap="full disk"), *three()]
    out = tmp_path / "study"
    error, _ = stopped(jobs, out, Here())
    assert error.exit_code == 1
    assert str(error) == (
        "the disk is full (OSError: [Errno 28] No space left on device: 'series/loss.raw.npy'); 0 "
        "of 4 runs finished; free some space, and the same command goes on."
    )
    assert run(jobs, out, Here())[0] == {}
    assert_as_if_alone(out / "runs", jobs[0], tmp_path / "alone")


def test_a_signal_does_not_wait_for_a_full_disk(tmp_path: Path) -> None:
    class Both(Signalled):
        given_up = False

        def stop(self) -> None:
            self.given_up = bool(self.given)

    jobs = [planted("full", tmp_path / "left", 1, mishap="full disk"), *three()]
    workers = Both("a", signal.SIGINT, answers=False, count=2)
    error, _ = stopped(jobs, tmp_path / "study", workers)
    assert workers.given_up
    assert error.exit_code == 1


def test_a_full_disk_is_told_when_a_log_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(study, "written_whole", full)
    jobs = [planted("failing", tmp_path / "left", 1), *three()]
    error, lines = stopped(jobs, tmp_path / "study", Here())
    assert str(error) == (
        "the disk is full; 0 of 4 runs finished; free some space, and the same command goes on."
    )
    said = "\n".join(lines)
    assert (
        "failing: failed, ZeroDivisionError: planted; and its log can't be written (No space"
        in (said)
    )
    assert "Traceback (most recent call last):" in said


HELD = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib, tiny
from rich.console import Console
from alrc.lab.exec import study, workers
from alrc.lab.exec.stopping import StudyStopped
study.ANSWER_SECONDS = study.TRIAL_SECONDS = 3600.0
out = pathlib.Path(sys.argv[2])
jobs = [
    tiny.job(name, "Held", sys.argv[1] + "/mishaps.py", seed=seed, gate=str(out / "gate"))
    for seed, name in enumerate(sys.argv[3])
]
try:
    study.run_study(jobs, out, workers.Processes(2), Console(stderr=True))
except StudyStopped as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
"""


@contextmanager
def held(out: Path, names: str = "abc", finished: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A study in a process group of its own, of which nothing is left over.

    Its runs are held as soon as so many are finished.
    """
    words = (sys.executable, "-c", HELD, str(Path(mishaps.__file__).parent), str(out), names)
    out.mkdir(exist_ok=True)
    (out / "gate").write_text(str(finished))
    for marker in out.glob("gate.*"):
        marker.unlink()
    with process_group(words, stderr=subprocess.PIPE) as process:
        yield process


def wait_until(state: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not state():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def workers_at(out: Path) -> list[int]:
    """Those that wait."""
    return [int(path.suffix[1:]) for path in out.glob("gate.*")]


def rest_of(process: subprocess.Popen[str]) -> list[str]:
    """What was said until the last process ended: all inherit the other end of the pipe."""
    return process.communicate(timeout=300)[1].splitlines()


def test_ctrl_c_on_a_terminal_leaves_checkpoints_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "study"
    with held(out) as process:
        wait_until(lambda: len(workers_at(out)) == 2, process)
        os.killpg(process.pid, signal.SIGINT)
        while "stopped" not in (line := process.stderr.readline()):
            assert line
        (out / "gate").unlink()
        said = rest_of(process)
        assert process.returncode == 130
    assert said == [
        "stopped; 0 of 3 runs finished, 2 left a checkpoint of all that was done; the same command "
        "goes on."
    ]
    steps = [torch.load(path)["step"] for path in out.glob("runs/*/checkpoint.pt")]
    assert steps == [8, 8]
    gate = str(tmp_path / "no gate")
    jobs = [tiny.job(n, "Held", mishaps.__file__, seed=s, gate=gate) for s, n in enumerate("abc")]
    assert run(jobs, out, Here())[0] == {}
    for job in jobs:
        assert_as_if_alone(out / "runs", job, tmp_path / "alone")


def test_workers_end_with_the_command_whatever_they_are_at(tmp_path: Path) -> None:
    with held(tmp_path, "ab") as process:
        wait_until(lambda: len(workers_at(tmp_path)) == 2, process)
        process.kill()
        assert rest_of(process) == [
            "mishaps.py:Held: points generated",
            "2 runs: 0 finished and 0 failed earlier, 2 to do",
        ]


@pytest.mark.slow
def test_runs_survive_kills_of_the_command_and_of_its_workers(tmp_path: Path) -> None:
    out, rng = tmp_path / "study", np.random.default_rng(0)
    names = "abcdefghijklmn"  # more than are let through, with those that were at their last step
    ends = [
        lambda process: process.kill(),
        lambda process: os.killpg(process.pid, signal.SIGKILL),
        lambda process: process.terminate(),
    ]
    for finished, end in zip((2, 5, 8), ends, strict=True):
        with held(out, names, finished) as process:
            wait_until(lambda: len(workers_at(out)) >= 2, process)
            os.kill(int(rng.choice(workers_at(out))), signal.SIGKILL)
            wait_until(lambda: len(workers_at(out)) >= 3, process)
            end(process)
            (out / "gate").unlink()
            rest_of(process)
        assert finished <= len(list(out.glob("runs/*/result.json"))) < len(names)
    jobs = [
        tiny.job(n, "Held", mishaps.__file__, seed=s, gate=str(out / "no gate"))
        for s, n in enumerate(names)
    ]
    assert run(jobs, out)[0] == {}
    for job in jobs:
        assert_as_if_alone(out / "runs", job, tmp_path / "alone")
