"""The programs in examples/ run as a user would run them, and say what they limited."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
PYTHON = (sys.executable,)
TWO_PROCESSES = (
    *PYTHON,
    *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
)
# How each is started, if not with Python alone.
STARTED_WITH = {"ddp.py": TWO_PROCESSES, "fsdp2.py": TWO_PROCESSES}


def test_there_are_examples() -> None:
    assert (FOLDER / "plain_loop.py").is_file()


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_an_example_runs_and_says_what_it_limited(file: Path, tmp_path: Path) -> None:
    assert len(file.read_text().splitlines()) < 60
    command = STARTED_WITH.get(file.name, PYTHON)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\d+) of (\d+) losses were limited$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    for limited, seen in found:
        assert 0 < int(limited) < int(seen)
    assert list(tmp_path.iterdir()) == []
