"""How jobs end that nobody asked to end, and what waits for those of others."""

import signal
import sys
from pathlib import Path

import filelock
import pytest
import tiny
from mishaps import Here, assert_as_if_alone, planted, run

from alrc.lab.engine.jobs import Job
from alrc.lab.exec import study
from alrc.lab.exec.cluster import RayWorkers, _check_reachable
from alrc.lab.exec.messages import Gone, Message
from alrc.lab.exec.workers import Processes


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (None, "was ended from outside"),
        (-9, "was ended from outside"),
        (0, "was ended from outside"),
        (-signal.SIGSEGV, "was ended by signal 11 (Segmentation fault)"),
        (3, "ended with exit code 3"),
    ],
)
def test_how_a_process_ended_is_told(code: int | None, how: str, tmp_path: Path) -> None:
    class Ending(Here):
        def wait(self) -> list[tuple[str, Message]]:
            self.given.pop(0)
            return [("run", Gone.by(code))]

    failed, lines = run([tiny.job("run")], tmp_path, Ending())
    log = tmp_path / "runs" / "run" / "log.txt"
    assert failed == {"run": log}
    why = ", perhaps for lack of memory" if code in (None, -9, 0) else ""
    assert lines[2:] == [
        *[f"run: its process {how}; starting it again"] * 3,
        f"run: failed, its process {how} 4 times{why}; see {log}",
    ]


@pytest.mark.slow
def test_a_crash_of_a_process_is_no_lack_of_memory(tmp_path: Path) -> None:
    job = planted("run", tmp_path / "left", 1, mishap="crash")
    failed, lines = run([job], tmp_path / "study", Processes(1))
    assert not failed
    words = "run: its process was ended by signal 11 (Segmentation fault); starting it again"
    assert words in lines


def test_a_run_that_another_process_trains_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [tiny.job("taken"), tiny.job("free", seed=1)]
    folder = tmp_path / "runs" / "taken"
    folder.mkdir(parents=True)
    lock = filelock.FileLock(folder / ".lock")
    slept = []

    def sleep(seconds: float) -> None:
        assert seconds > 0
        slept.append((tmp_path / "runs" / "free" / "result.json").exists())
        if len(slept) == 3:
            lock.release()

    monkeypatch.setattr(study, "HELD_SECONDS", 1e-9)
    monkeypatch.setattr(study.time, "sleep", sleep)
    with lock:
        failed, lines = run(jobs, tmp_path, Here(), retry=True)
    assert failed == {}
    assert not (tmp_path / "damaged").exists()
    assert slept == [True] * 3  # what can be done is done
    assert lines.count("taken: another process is training it; waiting for its end") == 1
    assert_as_if_alone(tmp_path / "runs", Job(jobs[0].specs), tmp_path / "alone")


def test_what_is_waited_for_is_left_when_the_study_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "taken"
    folder.mkdir(parents=True)
    monkeypatch.setattr(study.time, "sleep", lambda _: signal.raise_signal(signal.SIGINT))
    with (
        filelock.FileLock(folder / ".lock"),
        pytest.raises(study.StudyStopped) as stopped,
    ):
        run([tiny.job("taken")], tmp_path, Here())
    assert str(stopped.value) == "stopped; 0 of 1 run finished; the same command goes on."


def test_what_ray_itself_lacks_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("import no_such_module_of_ray")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="Ray") as caught:
        RayWorkers("auto")
    assert str(caught.value) == (
        "--ray must find Ray, which lacks no_such_module_of_ray here. Install it with: "
        'pip install "alrc[ray]"'
    )


def test_addresses_of_ipv6_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket:
        def close(self) -> None:
            pass

    asked = []
    connect = lambda address, timeout: asked.append(address) or Socket()  # noqa: E731
    monkeypatch.setattr("socket.create_connection", connect)
    for address in ("[::1]:6379", "ray://10.0.0.1:10001"):
        _check_reachable(address)
    assert asked == [("::1", 6379), ("10.0.0.1", 10001)]
