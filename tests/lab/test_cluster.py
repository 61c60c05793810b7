"""Studies on a Ray cluster, here a local one: the same bits, also when workers are killed."""

import signal
import socket
import sys
from pathlib import Path

import mishaps
import pytest
import ray
from mishaps import assert_as_if_alone, noise, planted, run
from typer.testing import CliRunner

from alrc.lab.cli.study import app
from alrc.lab.engine.grid import Job
from alrc.lab.engine.training import RunConfig
from alrc.lab.exec.cluster import RayWorkers
from alrc.lab.tasks.supersampling.task import Supersampling


@pytest.fixture(autouse=True)
def workers_find_mishaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(mishaps.__file__).parent))


@pytest.mark.slow
def test_runs_end_as_if_alone_and_mishaps_are_told(tmp_path: Path) -> None:
    names = ("killed", "always killed", "failing")
    counters = {name: tmp_path / name for name in names}
    jobs = {
        "calm": Job(Supersampling(noise(), width=1), RunConfig(12, batch_size=50)),
        "killed": planted(counters["killed"], 1, signal=signal.SIGKILL),
        "always killed": planted(counters["always killed"], 9, signal=signal.SIGKILL),
        "failing": planted(counters["failing"], 1),
    }
    out = tmp_path / "study"
    failed, lines = run(jobs, out, RayWorkers("auto", 2))
    assert not ray.is_initialized()
    runs = out / "runs"
    assert failed == {name: runs / name / "log.txt" for name in ("always killed", "failing")}
    restart = "its process was ended from outside; starting it again"
    assert lines.count(f"killed: {restart}") == 1
    assert lines.count(f"always killed: {restart}") == 3
    assert int(counters["always killed"].read_text()) == 9 - 4
    log = failed["failing"].read_text().splitlines()
    assert log[0] == "Traceback (most recent call last):"
    assert log[-1] == "ZeroDivisionError: planted"
    for name in ("calm", "killed"):
        assert_as_if_alone(runs / name, jobs[name])

    # Typed again on this machine alone: what failed goes on, to the same numbers.
    counters["always killed"].write_text("0")
    failed, lines = run(jobs, out, retry=True)
    assert failed == {}
    assert lines[0] == "4 runs: 2 finished and 2 failed earlier, 2 to do"
    for name in jobs:
        assert_as_if_alone(runs / name, jobs[name])


@pytest.mark.slow
def test_a_folder_that_the_machines_do_not_share_is_told(tmp_path: Path) -> None:
    workers = RayWorkers("auto", 1)
    try:
        job = Job(Supersampling(noise(), width=1), RunConfig(12, batch_size=50))
        workers.start("a", job, tmp_path / "not there")
        messages = []
        while not messages:
            messages = workers.wait()
    finally:
        workers.stop()
    ((name, message),) = messages
    assert name == "a"
    assert isinstance(message, str)
    assert "must be on storage that all machines of the cluster share" in message
    assert not (tmp_path / "not there").exists()


def test_no_cluster_at_the_address_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["cifar10", "--preset", "smoke", "--out", str(tmp_path), "--ray", address]
        result = CliRunner().invoke(app, words, env={"NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 2
    assert result.output == (
        "alrc: --ray must be the address of a running Ray cluster, such as 10.0.0.1:6379, or "
        f"auto, which starts one on this machine; got {address} ([Errno 111] Connection refused)."
        "\n"
    )
    assert not list(tmp_path.iterdir())


def test_without_ray_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="must find Ray") as caught:
        RayWorkers("auto")
    assert str(caught.value) == (
        '--ray must find Ray, which is not installed here. Install it with: pip install "alrc[ray]"'
    )
