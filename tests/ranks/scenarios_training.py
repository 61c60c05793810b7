"""Scenarios of training: inside of DistributedDataParallel and FSDP2, and beside them."""

import io
import shutil
import tempfile
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks.streams import Net, examples, learn, limiter, parameters
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from alrc.torch import ALRC

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
