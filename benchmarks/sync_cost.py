"""What ``ALRC(sync=True)`` costs of a training step of about 10 ms, on two ranks of one machine.

Run: torchrun --standalone --nproc-per-node 2 benchmarks/sync_cost.py

Blocks of steps of each kind take turns, in another order each round, and each round compares its
own blocks: what else the machine does then meets all kinds alike. Prints the median over rounds of
the step's time relative to the step without sync, with an interval that holds the median of further
rounds in 95 of 100 cases, first for ranks that exchange nothing else and then for
DistributedDataParallel. "Nothing, again" shows what such a comparison is worth here, and "bare
all_reduce" what remains if all that ALRC itself does with the numbers takes no time.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alrc.torch import ALRC

BATCH, WIDTH, TARGET = 64, 128, 10e-3


def network(depth: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(*layers)


def stepper(net: nn.Module, limit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    x, y = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)

    def step() -> None:
        optimizer.zero_grad()
        limit((net(x) - y).square().mean(1)).mean().backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """Per step: seconds on the clock of the slower rank, and CPU seconds of all of them, averaged.

    The clock also shows what else the machine does while one rank waits for the other.
    """
    dist.barrier()
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    taken = torch.tensor([time.perf_counter() - start, time.process_time() - cpu]) / steps
    dist.all_reduce(slowest := taken[:1].clone(), dist.ReduceOp.MAX)
    dist.all_reduce(work := taken[1:].clone())
    return slowest.item(), work.item() / dist.get_world_size()


class Bare:
    """ALRC without sync, and one asynchronous all_reduce per call that is of no use."""

    def __init__(self) -> None:
        self.alrc, self.work = ALRC(), None

    def __call__(self, loss: Tensor) -> Tensor:
        if self.work is not None:
            self.work.wait()
        self.work = dist.all_reduce(torch.zeros(12, dtype=torch.float64), async_op=True)
        return self.alrc(loss)


def interval(ratios: list[float]) -> tuple[float, float]:
    """The order statistics that hold the median with a probability of 95 %."""
    n = len(ratios)
    k = max(int(n / 2 - 0.98 * math.sqrt(n)), 0)
    return sorted(ratios)[k], sorted(ratios)[n - 1 - k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=10, help="steps of each block")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    first = dist.get_rank() == 0

    seconds(stepper(network(16), ALRC()), 20)
    depth = round(16 * TARGET / seconds(stepper(network(16), ALRC()), 40)[1])
    dist.all_reduce(chosen := torch.tensor(depth), dist.ReduceOp.MAX)
    for name, wrap in (("alone", lambda net: net), ("DDP", DistributedDataParallel)):
        limits = {
            "nothing": ALRC(),
            "nothing, again": ALRC(),
            "sync": ALRC(sync=True),
            "sync, blocking": ALRC(sync=True, async_op=False),
            "bare all_reduce": Bare(),
        }
        kinds = {kind: stepper(wrap(network(int(chosen))), limit) for kind, limit in limits.items()}
        order = random.Random(0)
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for step in kinds.values():
            seconds(step, options.steps)
        for _ in range(options.rounds):
            for kind in order.sample(list(kinds), len(kinds)):
                times[kind].append(seconds(kinds[kind], options.steps))
        if not first:
            continue
        clock, cpu = (median(both[i] for both in times["nothing"]) * 1e3 for i in range(2))
        print(f"{name}: {clock:.2f} ms per step, {cpu:.2f} ms of CPU time, {chosen} layers")
        print(f"{'':18}{'clock':24}CPU time")
        for kind in list(kinds)[1:]:
            for i in range(2):
                pairs = zip(times[kind], times["nothing"], strict=True)
                ratios = [one[i] / other[i] for one, other in pairs]
                low, high = interval(ratios)
                cell = f"{median(ratios):.3f}  [{low:.3f}, {high:.3f}]"
                print(cell if i else f"  {kind:16}{cell:24}", end="\n" if i else "")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
