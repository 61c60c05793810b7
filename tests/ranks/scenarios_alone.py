"""Scenarios of ALRC by itself: its losses, its state while an exchange is under way, its calls.

Each runs on every rank; what it returns is what tests compare.
"""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ranks.streams import CASES, COUNTS, NAN, STEPS, WRITERS, Call, call, error_of, met, numbers_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from alrc.torch import ALRC


def alone(rank: int, world: int) -> Any:
    """ALRC by itself: asked for its state at every step, or at the last alone; and blocking."""
    seen: dict[str, Any] = {}
    for name, case in CASES.items():
        for mode in ("read", "silent", "blocking"):
            alrc = ALRC(sync=True, async_op=mode != "blocking", **case.settings)
            steps = []
            for step in range(STEPS):
                limited, gradient = met(alrc, call(case, step, rank, world))
                last = step == STEPS - 1
                state = None if mode == "silent" and not last else alrc.to_dict()
                steps.append((limited, gradient, state))
            seen.setdefault(name, {})[mode] = steps
    return seen


def groups_of_two(rank: int, world: int) -> Any:
    """Two groups of two ranks, each with a limit of its own; and a rank that is in none."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    mine, other = groups[rank // 2], groups[1 - rank // 2]
    case = CASES["given start"]
    alrc = ALRC(sync=mine, **case.settings)
    steps = [(*met(alrc, call(case, step, rank, world)), alrc.to_dict()) for step in range(STEPS)]
    met(alrc, call(case, STEPS, rank, world))
    twin = copy.deepcopy(alrc)
    twins = []
    for each in (alrc, twin):
        met(each, call(case, STEPS + 1, rank, world))
        twins.append(each.to_dict())
    later = ALRC(num_stddev=3, scale="linear")
    later.sync = other
    refused = [
        error_of(lambda: ALRC(sync=other, num_stddev=3, scale="linear")),
        error_of(lambda: later(torch.ones(2, requires_grad=True))),
        error_of(lambda: pickle.dumps(alrc)),
    ]
    return {"steps": steps, "twins": twins, "shared": twin.sync is mine, "refused": refused}


def pickled(alrc: ALRC) -> ALRC:
    return pickle.loads(pickle.dumps(alrc))


def saved_whole(alrc: ALRC) -> ALRC:
    file = io.BytesIO()
    torch.save(alrc, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def in_inference_mode(alrc: ALRC) -> Any:
    with torch.inference_mode():
        return alrc.to_dict()


READERS: dict[str, Callable[[ALRC], Any]] = {
    "state_dict": numbers_of,
    "state_dict of a model": lambda alrc: numbers_of(nn.ModuleList([alrc])),
    "to_dict": lambda alrc: alrc.to_dict(),
    "deepcopy": lambda alrc: copy.deepcopy(alrc).to_dict(),
    "copy": lambda alrc: copy.copy(alrc).to_dict(),
    "pickle": lambda alrc: pickled(alrc).to_dict(),
    "torch.save": lambda alrc: saved_whole(alrc).to_dict(),
    "another dtype": lambda alrc: alrc.to(torch.float64).to_dict(),
    "inference mode": in_inference_mode,
    "repr": repr,
    **{
        name: lambda alrc, name=name: getattr(alrc, name).clone()
        for name in ("mean", "variance", "mu1", "mu2", "threshold", "threshold_below", *COUNTS)
    },
}


def reading(rank: int, world: int) -> Any:
    """Each way to read the state while an exchange is under way, and what comes after it."""
    seen = {}
    case = CASES["given start"]
    for name, read in READERS.items():
        for async_op in (True, False):
            alrc = ALRC(sync=True, async_op=async_op, **case.settings)
            for step in range(8):
                met(alrc, call(case, step, rank, world))
            value = read(alrc)
            later = met(alrc, call(case, 8, rank, world)), alrc.to_dict()
            seen[name, async_op] = value, later
    return seen


def copies(rank: int, world: int) -> Any:
    """A copy made while an exchange is under way, beside its original."""
    case = CASES["groups that one rank sees"]
    seen = {}
    for name, twin in (("deepcopy", copy.deepcopy), ("pickle", pickled)):
        first = ALRC(sync=True, **case.settings)
        for step in range(8):
            met(first, call(case, step, rank, world))
        second = twin(first)
        after = []
        for alrc in (first, second):
            for step in range(8, 12):
                met(alrc, call(case, step, rank, world))
            after.append((alrc.to_dict(), alrc.sync, alrc.async_op))
        seen[name] = after
    return seen


def writing(rank: int, world: int) -> Any:
    """Each way to set the state, while an exchange is under way and while none is."""
    case = CASES["given start"]
    seen = {}
    for name, write in WRITERS.items():
        for under_way in (True, False):
            alrc = ALRC(sync=True, **case.settings)
            for step in range(8 if under_way else 0):
                met(alrc, call(case, step, rank, world))
            write(alrc)
            state = alrc.to_dict()
            met(alrc, call(case, 8, rank, world))
            seen[name, under_way] = state, alrc.to_dict()
    return seen


class Collectives(TorchDispatchMode):
    """Counts every collective of torch.distributed, whichever function it was asked for with."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def collectives(rank: int, world: int) -> Any:
    """How many collectives a few calls are worth."""
    given = call(CASES["given start"], 0, rank, world).loss
    empty, nan = torch.empty(0), torch.tensor([NAN, 1.0])
    none = torch.zeros(2)

    def count(alrc: ALRC, *calls: Any) -> list[str]:
        with Collectives() as counted:
            for each in calls:
                alrc(*each if isinstance(each, Call) else (each,))
            alrc.to_dict()
            alrc.state_dict()
        return counted.names

    with torch.no_grad():
        without_gradients = count(ALRC(sync=True, num_stddev=3, scale="linear"), given, given[0])
    switched_on = ALRC(num_stddev=3, scale="linear")
    switched_on.sync = True
    switched_off = ALRC(sync=True, num_stddev=3, scale="linear")
    switched_off(given)
    switched_off.sync = False
    groups = ALRC(num_groups=3, sync=True, num_stddev=3, scale="linear")
    return {
        "a vector, a scalar": count(ALRC(sync=True, num_stddev=3, scale="linear"), given, given[0]),
        "nothing that counts": count(
            ALRC(sync=True, num_stddev=3, scale="linear"), empty, nan, Call(nan, none)
        ),
        "groups": count(
            groups, Call(given, None, 1), Call(given, None, torch.zeros_like(given).long())
        ),
        "blocking": count(
            ALRC(sync=True, async_op=False, num_stddev=3, scale="linear"), given, given[0], empty
        ),
        "switched on later": count(switched_on, given, given[0]),
        "switched off later": count(switched_off, given, given[0]),
        "not asked for": count(ALRC(num_stddev=3, scale="linear"), given, given[0], empty, nan),
        "evaluation": count(ALRC(sync=True, num_stddev=3, scale="linear").eval(), given, given[0]),
        "no_grad": without_gradients,
    }
