"""The generators that a task or an arm may draw from: torch's, NumPy's and Python's."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from alrc.lab.api import Networks, Task

__all__ = ["build", "kept", "random_state", "seed_all", "set_random_state"]


def seed_all(seed: int) -> None:
    """Lets all that is drawn follow from a seed."""
    # Not torch.manual_seed, which takes milliseconds to note who called it.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    np.random.seed([seed % 2**32, seed // 2**32])
    random.seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Where the generators are, as a checkpoint holds it."""
    numpy: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
        "python": random.getstate(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Goes on drawing from where the generators were."""
    numpy = state["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    torch.set_rng_state(state["torch"])
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    random.setstate(state["python"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """What is drawn within it is not missed after it."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


def build(task: Task, seed: int) -> Networks:
    """The networks of a task, whatever their weights are drawn from."""
    seed_all(seed)
    return task.build(seed)
