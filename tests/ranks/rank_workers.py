"""What the ranks of tests/test_ranks.py do. Run by torchrun; writes what each rank saw to a folder.

``python -m torch.distributed.run --nproc-per-node 2 rank_workers.py FOLDER`` runs every scenario in
turn, because starting processes takes longer than all of them. The streams of losses and the model
are imported by the tests as well, which run them in one process.
"""

import copy
import faulthandler
import io
import os
import pickle
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from alrc.torch import ALRC

PATIENCE = 400  # seconds after which a rank that hangs ends itself
STEPS = 24
NAN, INF = float("nan"), float("inf")


# Losses: what each rank's call gets, at every step of every case.


class Case(NamedTuple):
    """Settings of ALRC, and what is special about the losses."""

    settings: dict[str, Any]
    special: str = ""
    dtype: torch.dtype = torch.float32


GIVEN = {"num_stddev": 2.0, "decay": 0.9, "mu1_start": 1.0, "mu2_start": 1.5}
AUTOMATIC = {"num_stddev": 2.0, "decay": 0.9, "warmup": 5}
SIGNED = {"center": "mean", "num_stddev_below": 2.0, "mu1_start": 0.5, "mu2_start": 1.25}
CASES = {
    "given start": Case(GIVEN),
    "automatic start": Case(AUTOMATIC),
    "center mean": Case({**GIVEN, **SIGNED}, "signed"),
    "NaN and inf on one rank": Case(GIVEN, "nan"),
    "masks": Case(GIVEN, "nan mask"),
    "weights": Case(AUTOMATIC, "nan weights"),
    "empty batches": Case(GIVEN, "empty"),
    "groups that one rank sees": Case({**GIVEN, "num_groups": 3}, "groups"),
    "groups, all at once": Case({**AUTOMATIC, "num_groups": 3}, "groups nan weights empty"),
    "bfloat16": Case(GIVEN, dtype=torch.bfloat16),
    "float64": Case(GIVEN, "nan", dtype=torch.float64),
    "one loss per rank": Case(GIVEN, "scalar nan"),
    "one loss per rank, groups": Case({**GIVEN, "num_groups": 3}, "scalar groups"),
    "far from zero": Case(AUTOMATIC, "far"),
}


class Call(NamedTuple):
    loss: Tensor
    mask: Tensor | None = None
    group: Tensor | int | None = None


def call(case: Case, step: int, rank: int, world: int) -> Call:
    """What ALRC is called with; losses as a leaf that requires a gradient."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    special = case.special.split()
    size = int(torch.randint(1, 6, (), generator=generator))
    if "empty" in special and (step % 8 == 5 or (step % 4 == 1 and rank == 0)):
        size = 0  # on all ranks, or on the first alone
    loss = torch.randn(size, generator=generator, dtype=torch.float64)
    loss = loss if "signed" in special else (0.4 * loss).exp()
    # Ranks have losses of different size and spread, and each of them outliers of its own.
    loss = (
        loss * (1 + rank / 2) * torch.where(torch.rand(size, generator=generator) < 0.15, 30.0, 1.0)
    )
    if "far" in special:
        loss = loss + 1000.0
    if "nan" in special and rank == 1 and step % 3 == 1:
        loss[:1] = NAN if step % 2 else INF
    mask = group = None
    if "mask" in special or "weights" in special:
        mask = torch.randint(0, 4, (size,), generator=generator) / 2
        if step % 8 == 6 or (step % 4 == 2 and rank == 1):
            mask = torch.zeros(size)  # on all ranks, or on the second alone
        mask = mask if "weights" in special else mask > 0
    if "groups" in special:
        # The last rank alone sees group 2 and never group 0.
        group = torch.randint(0, 2, (size,), generator=generator) + (rank == world - 1)
    loss = loss.to(case.dtype)
    if "scalar" in special:
        loss, group = loss[0], None if group is None else int(group[0])
    return Call(loss.requires_grad_(), mask, group)


def whole(case: Case, step: int, world: int) -> Call:
    """The calls of all ranks, as the one call of one process."""
    calls = [call(case, step, rank, world) for rank in range(world)]

    def joined(parts: list[Any]) -> Tensor | None:
        if parts[0] is None:
            return None
        return torch.cat([torch.as_tensor(part).detach().reshape(-1) for part in parts])

    loss, mask, group = (joined(list(parts)) for parts in zip(*calls, strict=True))
    assert loss is not None
    return Call(loss.requires_grad_(), mask, group)


def met(alrc: ALRC, given: Call) -> tuple[Tensor, Tensor]:
    """What ALRC returns, and the gradient that each loss gets."""
    limited = alrc(*given)
    limited.sum().backward()
    return limited.detach().clone(), given.loss.grad


# A model: its batches, with outliers on the second rank, and its training.


class Net(nn.Module):
    """Returns its mean loss, limited by an ALRC inside or outside of it; keeps the losses seen."""

    def __init__(self, alrc: ALRC, inside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.alrc = alrc if inside else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = (self.layers(x) - y).square().sum(1)
        self.seen = loss.detach().clone()
        return self.alrc(loss)


def limiter(**settings: Any) -> ALRC:
    return ALRC(num_stddev=1.0, decay=0.9, mu1_start=1.0, mu2_start=1.25, **settings)


def examples(step: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    x, y = torch.randn(6, 4, generator=generator), torch.randn(6, 1, generator=generator)
    return x, y * (5 if rank == 1 and step % 3 == 0 else 1)


def learn(
    net: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    after: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> None:
    """One step of the optimizer on the gradients of these batches, the last of which syncs."""
    optimizer.zero_grad()
    for i, (x, y) in enumerate(batches):
        if i < len(batches) - 1 and isinstance(net, DistributedDataParallel):
            with net.no_sync():
                after(net(x, y)).mean().backward()
        else:
            after(net(x, y)).mean().backward()
    optimizer.step()


def parameters(net: nn.Module) -> list[Tensor]:
    full = [getattr(p, "full_tensor", p.detach)() for p in net.parameters()]
    return [p.detach().clone() for p in full]


class Collectives(TorchDispatchMode):
    """Counts every collective of torch.distributed, whichever function it was asked for with."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


# The scenarios. Each runs on every rank; what it returns is what the tests of that name compare.


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


def numbers_of(module: nn.Module) -> dict[str, float]:
    """The state_dict as numbers; its tensors are the buffers themselves, which go on changing."""
    return {name: value.item() for name, value in module.state_dict().items()}


COUNTS = ("num_updates", "num_losses", "num_clipped", "num_nonfinite")
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


SAVED = {
    "mean": 7.0,
    "variance": 4.0,
    "num_updates": 5,
    "num_losses": 50,
    "num_clipped": 3,
    "num_nonfinite": 2,
}
WRITERS: dict[str, Callable[[ALRC], Any]] = {
    "load_dict": lambda alrc: alrc.load_dict(SAVED),
    "load_state_dict": lambda alrc: alrc.load_state_dict(
        {name: torch.tensor(number) for name, number in SAVED.items()}
    ),
    "load_state_dict, assign": lambda alrc: alrc.load_state_dict(
        {name: torch.tensor(number) for name, number in SAVED.items()}, assign=True
    ),
    "reset_parameters": lambda alrc: alrc.reset_parameters(),
}


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
        without_gradients = count(ALRC(sync=True), given, given[0])
    switched_on = ALRC()
    switched_on.sync = True
    switched_off = ALRC(sync=True)
    switched_off(given)
    switched_off.sync = False
    groups = ALRC(num_groups=3, sync=True)
    return {
        "a vector, a scalar": count(ALRC(sync=True), given, given[0]),
        "nothing that counts": count(ALRC(sync=True), empty, nan, Call(nan, none)),
        "groups": count(
            groups, Call(given, None, 1), Call(given, None, torch.zeros_like(given).long())
        ),
        "blocking": count(ALRC(sync=True, async_op=False), given, given[0], empty),
        "switched on later": count(switched_on, given, given[0]),
        "switched off later": count(switched_off, given, given[0]),
        "not asked for": count(ALRC(), given, given[0], empty, nan),
        "evaluation": count(ALRC(sync=True).eval(), given, given[0]),
        "no_grad": without_gradients,
    }


DDP = {
    "inside, buffers broadcast": {"inside": True, "broadcast": True},
    "inside, buffers not broadcast": {"inside": True, "broadcast": False},
    "outside": {"inside": False, "broadcast": True},
    "inside, accumulating": {"inside": True, "broadcast": True, "batches": 3},
    "outside, accumulating": {"inside": False, "broadcast": True, "batches": 3},
}


def ddp(rank: int, world: int) -> Any:
    """Inside and outside of DistributedDataParallel, accumulating with no_sync() or not."""
    seen: dict[str, Any] = {}
    for name, options in DDP.items():
        for read in (True, False):
            alrc = limiter(sync=True)
            net = Net(alrc, options["inside"])
            with warnings.catch_warnings():  # the only way to turn it off altogether is deprecated
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
                wrapped = DistributedDataParallel(net, broadcast_buffers=options["broadcast"])
            optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
            after = nn.Identity() if options["inside"] else alrc
            count = options.get("batches", 1)
            steps = []
            for step in range(12):
                batches = [examples(count * step + i, rank) for i in range(count)]
                learn(wrapped, batches, optimizer, after)
                state = alrc.to_dict() if read or step == 11 else None
                steps.append((parameters(net), state))
            seen.setdefault(name, {})[read] = steps
    return seen


def ddp_resumed(rank: int, world: int) -> Any:
    """The checkpoint of the first rank, saved while an exchange is under way, on all ranks."""

    def build() -> tuple[Any, ALRC, torch.optim.Optimizer]:
        alrc = limiter(sync=True)
        wrapped = DistributedDataParallel(Net(alrc, inside=False))
        return wrapped, alrc, torch.optim.Adam(wrapped.parameters(), lr=0.02)

    def train(wrapped: Any, alrc: ALRC, optimizer: Any, steps: range) -> list[Any]:
        trace = []
        for step in steps:
            learn(wrapped, [examples(step, rank)], optimizer, alrc)
            trace.append((parameters(wrapped), alrc.to_dict()))
        return trace

    first = build()
    train(*first, range(6))
    learn(first[0], [examples(6, rank)], first[2], first[1])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    bytes_of_rank_0 = [file.getvalue()]
    dist.broadcast_object_list(bytes_of_rank_0)
    later = train(*first, range(7, 12))

    second = build()
    states = torch.load(io.BytesIO(bytes_of_rank_0[0]))
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    return {"later": later, "resumed": train(*second, range(7, 12))}


def ddp_autocast(rank: int, world: int) -> Any:
    """The losses that each rank computed in bfloat16, and the state after each step."""
    alrc = limiter(sync=True)
    net = Net(alrc, inside=False)
    wrapped = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    trace = []
    for step in range(12):
        with torch.autocast("cpu", torch.bfloat16):
            learn(wrapped, [examples(step, rank)], optimizer, alrc)
        kinds = [b.dtype for b in alrc.buffers()]
        trace.append((parameters(net), net.seen, alrc.to_dict(), kinds))
    return trace


def fsdp2_accumulated(rank: int, world: int) -> Any:
    """Three batches for a step, of which the last alone reduces gradients."""
    alrc = limiter(sync=True)
    net: Any = Net(alrc, inside=True)
    fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    trace = []
    for step in range(8):
        optimizer.zero_grad()
        for i in range(3):
            net.set_requires_gradient_sync(i == 2)
            net(*examples(3 * step + i, rank)).mean().backward()
        optimizer.step()
        trace.append((parameters(net), alrc.to_dict()))
    return trace


FSDP = {
    "inside, float32": (True, None),
    "beside, float32": (False, None),
    "inside, bfloat16": (True, torch.bfloat16),
    "beside, bfloat16": (False, torch.bfloat16),
}


def fsdp2(rank: int, world: int) -> Any:
    """FSDP2, and a distributed checkpoint half-way from which a second model goes on."""
    mesh = init_device_mesh("cpu", (world,))
    folders = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(folders)
    seen = {}
    for i, (name, (inside, dtype)) in enumerate(FSDP.items()):
        folder = f"{folders[0]}/{i}"

        def build(inside: bool = inside, dtype: torch.dtype | None = dtype) -> Any:
            alrc = limiter(sync=True)
            net = Net(alrc, inside)
            policy = MixedPrecisionPolicy(param_dtype=dtype)
            for module in (net.layers[0], net.layers[2], net):
                fully_shard(module, mesh=mesh, mp_policy=policy)
            return net, alrc, torch.optim.Adam(net.parameters(), lr=0.02)

        def train(
            net: Net, alrc: ALRC, optimizer: Any, steps: range, inside: bool = inside
        ) -> list[Any]:
            trace = []
            for step in steps:
                learn(net, [examples(step, rank)], optimizer, nn.Identity() if inside else alrc)
                kinds = [(type(b).__name__, b.dtype) for b in alrc.buffers()]
                trace.append((parameters(net), net.seen, alrc.to_dict(), kinds))
            return trace

        def state_of(net: Net, alrc: ALRC, optimizer: Any, inside: bool = inside) -> Any:
            model, optim = get_state_dict(net, optimizer)
            return {"model": model, "optim": optim, **({} if inside else alrc.state_dict())}

        first = build()
        trace = train(*first, range(6))
        learn(first[0], [examples(6, rank)], first[2], nn.Identity() if inside else first[1])
        state = state_of(*first)  # while an exchange is under way
        dcp.save(state, checkpoint_id=folder)
        later = train(*first, range(7, 12))

        second = build()
        state = state_of(*second)
        dcp.load(state, checkpoint_id=folder)
        if not inside:
            second[1].load_state_dict({key: state[key] for key in second[1].state_dict()})
        set_state_dict(
            second[0], second[2], model_state_dict=state["model"], optim_state_dict=state["optim"]
        )
        resumed = train(*second, range(7, 12))
        seen[name] = {"steps": trace, "later": later, "resumed": resumed}
    dist.barrier()
    shutil.rmtree(folders[0], ignore_errors=True)
    return seen


def compiled_steps(alrc: ALRC, rank: int, steps: range, backend: Any) -> list[Any]:
    net = Net(alrc, inside=False)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return alrc((net.layers(x) - y).square().sum(1)).mean()

    function = torch.compile(loss_of, fullgraph=True, backend=backend) if backend else loss_of
    seen = []
    for step in steps:
        net.zero_grad()
        function(*examples(step, rank)).backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        seen.append((gradients, alrc.to_dict()))
    return seen


def compiled(rank: int, world: int) -> Any:
    """Model, loss and ALRC in one graph, which is compiled once."""
    backends = ["aot_eager"]
    if shutil.which("g++") is not None:
        backends.append("inductor")
    seen: dict[str, Any] = {"eager": compiled_steps(limiter(sync=True), rank, range(30), None)}
    with warnings.catch_warnings():
        # Inductor itself calls what torch has deprecated.
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        for backend in backends:
            torch._dynamo.reset()
            with torch._dynamo.config.patch(error_on_recompile=True):
                alrc = limiter(sync=True)
                seen[backend] = compiled_steps(alrc, rank, range(30), backend)
    names: list[str] = []

    def look(graph: Any, example_inputs: Any) -> Any:
        names.extend(str(n.target) for n in graph.graph.nodes if "reduce" in str(n.target))
        return graph.forward

    torch._dynamo.reset()
    compiled_steps(limiter(sync=True), rank, range(1), look)
    return seen, names


def compiled_after_eager(rank: int, world: int) -> Any:
    """Calls outside of a graph, which leave an exchange under way, and inside, by turns."""
    case = CASES["given start"]
    eager = ALRC(sync=True, **case.settings)
    for step in range(8):
        met(eager, call(case, step, rank, world))
    seen: dict[str, Any] = {"eager": eager.to_dict()}

    for kind in ("read before", "with graph breaks", "one graph"):
        torch._dynamo.reset()
        alrc = ALRC(sync=True, **case.settings)
        graph = torch.compile(alrc, fullgraph=kind != "with graph breaks", backend="aot_eager")

        def by_turns(kind: str = kind, alrc: ALRC = alrc, graph: Any = graph) -> Any:
            for step in range(8):
                if kind == "read before":
                    alrc.to_dict()
                met((alrc, graph)[step % 2], call(case, step, rank, world))
            return alrc.to_dict()

        seen[kind] = error_of(by_turns) if kind == "one graph" else by_turns()
    seen["after the error"] = alrc.to_dict()
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
    later = ALRC()
    later.sync = other
    refused = [
        error_of(lambda: ALRC(sync=other)),
        error_of(lambda: later(torch.ones(2, requires_grad=True))),
        error_of(lambda: pickle.dumps(alrc)),
    ]
    return {"steps": steps, "twins": twins, "shared": twin.sync is mine, "refused": refused}


def error_of(function: Callable[[], Any]) -> tuple[str, str]:
    try:
        value = function()
    except Exception as error:
        return type(error).__name__, str(error)
    return "none", repr(value)


def skipped(rank: int, world: int) -> Any:
    """The last rank makes no call, in a group that waits for a second."""
    seen = {}
    case = CASES["given start"]
    for async_op in (True, False):
        # Impatient when all ranks are connected, and for the one call: a machine may be busy.
        impatient = dist.new_group()
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), impatient)
        alrc = ALRC(sync=True, async_op=async_op, **case.settings)
        for step in range(4):
            met(alrc, call(case, step, rank, world))
        before = alrc.to_dict()
        alrc.sync = impatient
        error = None
        if rank < world - 1:
            error = error_of(
                lambda alrc=alrc: (alrc(call(case, 4, rank, world).loss), alrc.threshold)
            )
        saved = numbers_of(alrc)
        seen[async_op] = before, error, alrc.to_dict(), saved
        dist.barrier()
    return seen


def died(rank: int, world: int) -> Any:
    """The last rank ends; this comes last."""
    case = CASES["given start"]
    alrcs = [ALRC(sync=True, **case.settings) for _ in WRITERS]
    for alrc in alrcs:
        for step in range(4):
            met(alrc, call(case, step, rank, world))
        alrc.to_dict()
    if rank == world - 1:
        os._exit(0)
    seen = {}
    for alrc, (name, write) in zip(alrcs, WRITERS.items(), strict=True):
        before = alrc.to_dict()

        def go_on(alrc: ALRC = alrc) -> None:
            for step in range(4, 50):  # the first may still leave, before the end is noticed
                alrc(call(case, step, rank, world).loss)

        error = error_of(go_on)
        after = alrc.to_dict()
        saved = numbers_of(alrc)
        error_of(lambda alrc=alrc: alrc(call(case, 50, rank, world).loss))  # leaves what will fail
        loading = error_of(lambda write=write, alrc=alrc: write(alrc))
        seen[name] = before, error, after, saved, loading, alrc.to_dict()
    return seen


def main(folder: Path) -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, world = dist.get_rank(), dist.get_world_size()
    scenarios = [alone, reading, copies, writing, collectives, ddp, fsdp2]
    scenarios += [ddp_resumed, ddp_autocast, fsdp2_accumulated]
    # A graph is the same for any number of ranks, and takes each of them a while to compile.
    scenarios += [groups_of_two] if world == 4 else [compiled, compiled_after_eager]
    for scenario in [*scenarios, skipped, died]:
        try:
            seen = scenario(rank, world)
        except BaseException:
            (folder / f"{scenario.__name__}.{rank}.error").write_text(traceback.format_exc())
            raise
        torch.save(seen, folder / f"{scenario.__name__}.{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
