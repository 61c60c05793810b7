"""The programs in examples/ run as a user would run them, and say what they limited."""

import re
from pathlib import Path

import pytest
from launching import TORCHRUN, succeed

FOLDER = Path(__file__).parents[2] / "examples"
# What starts each, if not Python alone.
LAUNCHERS = {"ddp.py": TORCHRUN, "fsdp2.py": TORCHRUN}


def test_there_are_examples() -> None:
    assert (FOLDER / "plain_loop.py").is_file()


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_an_example_runs_and_says_what_it_limited(file: Path, tmp_path: Path) -> None:
    assert len(file.read_text().splitlines()) < 60
    out = succeed(file, cwd=tmp_path, launcher=LAUNCHERS.get(file.name, ""))
    found = re.findall(r"^(\d+) of (\d+) losses were limited$", out, re.MULTILINE)
    assert found, out
    for limited, seen in found:
        assert 0 < int(limited) < int(seen)
    assert list(tmp_path.iterdir()) == []
