"""Scenarios of torch.compile, and of ranks that make no call or end."""

import os
import shutil
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from ranks.streams import CASES, WRITERS, Net, call, error_of, examples, limiter, met, numbers_of
from torch import Tensor

from alrc.torch import ALRC


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
