"""Whether a task of one's own keeps what the engine relies on."""

import copy
import pickle
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from alrc.lab.api import Networks, Task, Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.outcome import evaluate
from alrc.lab.engine.randomness import build
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Stopped, train

__all__ = ["check_task"]

STEPS = 20


def check_task(name: str, steps: int = STEPS) -> None:
    """Trains a task for a few steps, and sees whether it keeps what is asked of it.

    Args:
        name: ``path/to/file.py:Class``, or the name of an installed one; with options.
        steps: To train, >= 10.

    Raises:
        AssertionError: If the same seed gives other batches or weights, or another seed the same,
            a later start gives other batches, evaluation changes the networks, it can't be pickled,
            losses or metrics are not finite, or a run that was stopped goes on otherwise.
    """
    named = Named.parse("task", name, Path.cwd())
    task = task_of(named)
    training = Training(**{**task.defaults, "steps": steps})
    _check_pickle(task)
    _check_seeds(task, training.batch_size)
    _check_evaluation(task)
    spec = Spec(named, Named("arm", "alrc"), training, 0)
    with tempfile.TemporaryDirectory() as folder:
        whole = _train(spec, Path(folder, "whole"), None)
        halves = _train(spec, Path(folder, "halves"), steps // 3)
    for loss, numbers in whole["losses"].items():
        assert numbers["nonfinite"] == 0, f"losses must be finite; {loss} is not"
    for metric, value in whole["metrics"].items():
        assert value is not None, f"metrics must be finite; {metric} is not"
    assert whole["series"] == halves["series"], (
        "a run that was stopped must go on to the same losses; it does not. All that changes in "
        "training must be in the networks, or follow from seed and step."
    )


def _check_pickle(task: Task) -> None:
    assert pickle.loads(pickle.dumps(task)) == task, (
        "a task must be the same after pickling; it is not. Is it a dataclass?"
    )


def _check_seeds(task: Task, batch_size: int) -> None:
    weights = _weights(build(task, 0))
    assert _same(weights, _weights(build(task, 0))), (
        "build must give the same weights for the same seed; it does not. Draw them with a "
        "generator that is made from the seed."
    )
    first, again, later = (
        list(islice(task.batches(0, batch_size, start), 5 - start)) for start in (0, 0, 2)
    )
    assert _same(first, again), "batches must be the same for the same seed; they are not"
    assert _same(first[2:], later), (
        "the batch of a step must be the same whatever the start was; it is not"
    )
    other = list(islice(task.batches(1, batch_size, 0), 5))
    assert not (_same(first, other) and _same(weights, _weights(build(task, 1)))), (
        "another seed must give other batches or weights, because runs of several seeds are "
        "compared; it does not"
    )


def _check_evaluation(task: Task) -> None:
    networks = build(task, 0)
    before = copy.deepcopy(_weights(networks))
    evaluate(task, networks)
    assert _same(before, _weights(networks)), (
        "evaluate must leave the networks as they are, because how often it is called must change "
        "nothing in training; it does not"
    )


def _weights(networks: Networks) -> Any:
    return {name: network.state_dict() for name, network in networks.items()}


def _same(one: Any, other: Any) -> bool:
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _train(spec: Spec, path: Path, stop_at: int | None) -> dict[str, Any]:
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == stop_at

    while True:
        with RunFolder(path, spec.config) as folder:
            try:
                return train(spec, folder, stop=stop)
            except Stopped:
                continue
