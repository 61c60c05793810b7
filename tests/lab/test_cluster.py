"""Studies on a Ray cluster, here a local one: the same bits, also when workers are killed."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import tiny
from mishaps import assert_as_if_alone, planted, run

from alrc.lab.engine.jobs import Job
from alrc.lab.exec import study
from alrc.lab.exec.cluster import RayWorkers, check_shared
from alrc.lab.exec.messages import Failed, Message
from alrc.lab.exec.stopping import StudyStopped


@pytest.mark.slow
def test_runs_end_as_if_alone_and_mishaps_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "RESTARTS", 1)
    kinds = {"killed": "kill", "always killed": "kill", "failing": "raise"}
    left = {name: tmp_path / name for name in kinds}
    jobs = [planted(n, left[n], 9 if "always" in n else 1, mishap=k) for n, k in kinds.items()]
    jobs.append(tiny.job("calm"))
    out, runs = tmp_path / "study", tmp_path / "study" / "runs"
    failed, lines = run(jobs, out, RayWorkers("auto", 2))
    assert not ray.is_initialized()
    assert failed == {name: runs / name / "log.txt" for name in ("always killed", "failing")}
    restart = "its process was ended from outside; starting it again"
    assert lines.count(f"killed: {restart}") == 1
    assert lines.count(f"always killed: {restart}") == 1
    assert left["always killed"].read_text() == "7"
    log = failed["failing"].read_text().splitlines()
    assert log[0] == "Traceback (most recent call last):"
    assert log[-1] == "ZeroDivisionError: planted"
    for job in jobs:
        if job.name not in failed:
            assert_as_if_alone(runs, job, tmp_path / "alone")


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(study, "ANSWER_SECONDS", 3600.0)
    jobs = [tiny.job(n, seed=s, training={"steps": 1_000_000}) for s, n in enumerate("abc")]

    class Interrupted(RayWorkers):
        interrupted = False

        def wait(self) -> list[tuple[str, Message]]:
            if {"a", "b"} <= self.seen and len(self.names) == 2 and not self.interrupted:
                self.interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
            return super().wait()

        def ask_to_stop(self) -> None:
            super().ask_to_stop()
            ray.kill(self.board, no_restart=False)  # what it was told it has forgotten

    with pytest.raises(StudyStopped) as caught:
        run(jobs, tmp_path, Interrupted("auto", 2))
    assert not ray.is_initialized()
    assert "0 of 3 runs finished, 2 left a checkpoint of all that was done" in str(caught.value)
    assert caught.value.exit_code == 130


def options_for(device: str, **settings: Any) -> list[dict[str, Any]]:
    """What Ray is asked for, when a run on a device is started."""
    asked = []

    class Remote:
        def options(self, **options: Any) -> "Remote":
            asked.append(options)
            return self

        def remote(self, *arguments: Any) -> object:
            return object()

    workers = RayWorkers.__new__(RayWorkers)
    workers.train = Remote()
    workers.board, workers.names = None, {}
    workers.gpus_per_run = settings.get("gpus_per_run", 1.0)
    workers.start(tiny.job("a", training={"device": device}), Path("runs"))
    assert list(workers.names.values()) == ["a"]
    return asked


def test_runs_on_cuda_ask_for_a_gpu_or_a_share_of_one() -> None:
    assert options_for("cpu") == []
    assert options_for("cuda") == [{"num_gpus": 1.0}]
    assert options_for("cuda", gpus_per_run=0.25) == [{"num_gpus": 0.25}]


def test_a_gpu_by_its_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must be cuda") as caught:
        options_for("cuda:1")
    assert str(caught.value) == (
        "training.device must be cuda on a Ray cluster, which chooses a GPU for each run; got "
        "cuda:1."
    )


def test_every_run_asks_for_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remote(**options: Any) -> Any:
        asked.append(options)
        return lambda what: type("Remote", (), {"remote": staticmethod(lambda: None)})

    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "remote", remote)
    RayWorkers("auto")
    assert asked == [
        {"num_cpus": 1, "max_retries": 0},
        {"num_cpus": 0, "max_restarts": -1},
    ]


def refusal(job: Job, runs: Path) -> str:
    with pytest.raises(FileNotFoundError) as caught:
        check_shared(job, runs)
    return str(caught.value)


def test_what_the_machines_do_not_share_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(Path(tiny.__file__).read_text())
    job = tiny.job("a", "Line", str(own))
    here = os.uname().nodename
    assert refusal(job, tmp_path) == (
        f"{tmp_path}/a/config.json must be on storage that all machines of the cluster share; it "
        f"is not on {here}. Pass such a folder as --out."
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").touch()
    check_shared(job, tmp_path)
    own.unlink()
    assert refusal(job, tmp_path) == (
        f"{own} must be on storage that all machines of the cluster share; it is not on {here}. "
        "Move it there."
    )


@pytest.mark.slow
def test_a_folder_that_the_machines_do_not_share_is_told_by_a_worker(tmp_path: Path) -> None:
    workers = RayWorkers("auto", 1)
    try:
        workers.start(tiny.job("a"), tmp_path / "not there")
        messages = []
        while not messages:
            messages = workers.wait()
    finally:
        workers.stop()
    ((name, message),) = messages
    assert name == "a"
    assert isinstance(message, Failed)
    assert "must be on storage that all machines of the cluster share" in message.reason
    assert not (tmp_path / "not there").exists()


def test_no_cluster_at_the_address_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match="running Ray cluster") as caught:
            RayWorkers(address)
    assert str(caught.value) == (
        "--ray must be the address of a running Ray cluster, such as 10.0.0.1:6379, or auto, which "
        f"starts one on this machine; got {address} ([Errno 111] Connection refused)."
    )


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="must find Ray") as caught:
        RayWorkers("auto")
    assert str(caught.value) == (
        '--ray must find Ray, which is not installed here. Install it with: pip install "alrc[ray]"'
    )
