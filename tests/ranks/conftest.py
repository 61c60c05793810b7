"""Starts the ranks when a test asks for what they saw."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from launching import TORCHRUN, run

SMOKE = ["alone", "groups_of_two"]  # what four ranks do in the short tier


@pytest.fixture(scope="session")
def seen(tmp_path_factory, everything):
    """What each rank saw of a scenario, by number of ranks and name; starts them when asked."""

    @functools.cache
    def launched(world: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("ranks")
        options = {"launcher": TORCHRUN, "ranks": world, "PYTHONWARNINGS": "error"}
        names = [] if everything or world == 2 else SMOKE
        script = Path(__file__).parent / "run_scenarios.py"
        done = run(script, folder, *names, cwd=folder, **options)
        return folder, done.stderr

    @functools.cache
    def load(world: int, scenario: str) -> list[Any]:
        folder, stderr = launched(world)
        errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
        survivors = world - (scenario == "died")
        paths = [folder / f"{scenario}.{rank}.pt" for rank in range(survivors)]
        assert all(path.exists() for path in paths), "\n".join([*errors, stderr[-3000:]])
        return [torch.load(path, weights_only=False) for path in paths]

    return load


@pytest.fixture
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
