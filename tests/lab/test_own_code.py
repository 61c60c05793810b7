"""A task and an arm of one's own, in a file each outside the package: studied, killed, reported."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from launching import process_group

from alrc.lab.engine.grid import Grid
from alrc.lab.engine.jobs import Job, run_job

EXAMPLES = Path(__file__).parents[2] / "examples/lab"
CHANGES = {"seeds": [0, 1], "training.steps": 300, "task.power": [4]}
ARMS = {"off", "alrc", "clip-grad-norm", "zscore.py:ZScore"}


def study(out: Path, *more: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """The command, of whose processes nothing is left over."""
    changes = [f"--set={key}={json.dumps(value)}" for key, value in CHANGES.items()]
    arguments = ["lab", "study", str(EXAMPLES / "heavy.toml"), "--out", str(out), *changes, *more]
    command = [sys.executable, "-c", "from alrc.cli import main; main()", *arguments]
    return process_group(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_killed_twice_it_ends_as_if_it_were_not_and_is_in_the_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # kill -9, after a checkpoint
        with study(out, "--set=training.checkpoint_seconds=0") as process:
            before = checkpoints(out)
            while checkpoints(out) == before:
                assert process.poll() is None, process.communicate()
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)
    with study(out) as process:
        said, error = process.communicate(timeout=3600)
    assert process.returncode == 0, error

    specs = Grid.read(EXAMPLES / "heavy.toml", CHANGES).named_specs()
    for name, result in run_job(Job(specs), tmp_path / "whole" / "runs").items():
        stored = json.loads((out / "runs" / name / "result.json").read_text())
        assert {**stored, "seconds": 0} == {**result, "seconds": 0}
    assert f"{out}/report.html" in said.splitlines()
    rows = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert len(rows) == len(specs) == 8
    assert {row["arm"] for row in rows} == ARMS
    page = (out / "report.html").read_text()
    assert all(arm in page for arm in ARMS)


def checkpoints(out: Path) -> dict[Path, int]:
    """Those that are there, and when they were written."""
    times = {}
    for file in (*out.glob("runs/*/checkpoint.pt"), *out.glob("ensembles/*/checkpoint.pt")):
        with suppress(FileNotFoundError):
            times[file] = file.stat().st_mtime_ns
    return times
