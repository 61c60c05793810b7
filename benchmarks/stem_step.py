"""What a training step of partial-STEM takes, beside what this machine's convolutions reach.

A step is that of the task: forward, backward and Adam of all its networks on one example, without
preparing it. A large convolution, forward and backward, takes turns with it.

Run: python benchmarks/stem_step.py
     python benchmarks/stem_step.py "partial-stem size=M side=96" --threads 2
     python benchmarks/stem_step.py "partial-stem size=full side=256 average=1" --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from alrc.lab.api import Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import task_of

WARMUP, ROUNDS, STEPS = 3, 15, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", default="partial-stem")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    step = training_step(arguments.task, device)
    ways = {"training step": step, "large convolution": convolution(device)}
    times = measured(ways, device)
    print(f"{arguments.task}, {arguments.threads} threads, {arguments.device}")
    print(f"{'':18} {'ms, median':>10} {'ms, least':>10} {'GFLOP':>6} {'GFLOP/s':>8}")
    for name, run in ways.items():
        with FlopCounterMode(display=False) as counter:
            run()
        gflop = counter.get_total_flops() / 1e9
        median, least = 1e3 * statistics.median(times[name]), 1e3 * min(times[name])
        print(f"{name:18} {median:10.2f} {least:10.2f} {gflop:6.3f} {1e3 * gflop / least:8.1f}")


def training_step(name: str, device: torch.device) -> Callable[[], None]:
    task = task_of(Named.parse("task", name, Path.cwd()))
    networks = {name: network.to(device) for name, network in task.build(0).items()}
    optimizer = task.optimizers(networks, Training(**task.defaults))["step"]
    batch = [x.to(device) for x in next(iter(task.batches(0, 1, 0)))]

    def run() -> None:
        optimizer.zero_grad()
        losses = task.step(networks, batch).losses
        task.combine("step", losses).backward()
        optimizer.step()

    return run


def convolution(device: torch.device) -> Callable[[], None]:
    """64 channels to 64 on 64 x 64 pixels of four images: large enough to be efficient."""

    def fresh(*shape: int) -> Tensor:
        made = torch.rand(shape, device=device)
        return made.contiguous(memory_format=torch.channels_last).requires_grad_()

    images, weight = fresh(4, 64, 64, 64), fresh(64, 64, 3, 3)

    def run() -> None:
        result = conv2d(images, weight, padding=1)
        torch.autograd.grad(result, [images, weight], torch.ones_like(result))

    return run


def measured(ways: dict[str, Callable[[], None]], device: torch.device) -> dict[str, list[float]]:
    """Seconds on the clock, as the mean of a few steps in each round."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        for _ in range(WARMUP):
            run()
    for _ in range(ROUNDS):
        for name, run in ways.items():
            wait()
            start = time.perf_counter()
            for _ in range(STEPS):
                run()
            wait()
            times[name].append((time.perf_counter() - start) / STEPS)
    return times


if __name__ == "__main__":
    main()
