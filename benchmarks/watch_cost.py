"""What a Watch with a spike log and named examples adds to a training step.

Run: python benchmarks/watch_cost.py [WIDTH]

Steps with and without the Watch in turns; CPU time of one thread, medians over the rounds of
(with - without) within a round, and that as a share of 10 ms. Every round writes the logs as often
as a run does: once in 100 calls. Larger networks (WIDTH) empty the caches, as real ones do, but
what their steps take varies by more than is added here.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from alrc.integrations.loggers import Watch
from alrc.torch import ALRC

ROUNDS, CALLS, BATCH, STEP = 41, 100, 128, 10_000  # microseconds
LOOKS_ON = {"num_stddev": 0.75}


def steps(stack: ExitStack, kind: str, width: int) -> Callable[[], None]:
    """Makes CALLS training steps of a dense network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 1))
    optimizer, alrc, watch = torch.optim.Adam(net.parameters()), ALRC(), None
    look = ALRC(**LOOKS_ON) if kind == "second ALRC that looks on, with Watch" else None
    if kind != "ALRC":
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        watch = stack.enter_context(Watch(look or alrc, spikes=Path(folder) / "spikes.csv"))
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(50_000, 16, generator=random)
    targets = torch.randn(50_000, generator=random)

    def call() -> None:
        for _ in range(CALLS):
            which = torch.randint(0, len(inputs), (BATCH,), generator=random)
            losses = (net(inputs[which]).squeeze(1) - targets[which]).square()
            if watch is not None and kind != "Watch without names":
                watch.name_next(which)
            if look is not None:
                look(losses.detach())
            optimizer.zero_grad()
            alrc(losses).mean().backward()
            optimizer.step()

    return call


def main() -> None:
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)  # backward in the thread that is timed
    kinds = (
        "ALRC",
        "ALRC again",
        "Watch without names",
        "Watch",
        "second ALRC that looks on, with Watch",
    )
    with ExitStack() as stack:
        variants = {kind: steps(stack, kind.removesuffix(" again"), width) for kind in kinds}
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(-1, ROUNDS):
            for kind, call in variants.items():
                start = time.thread_time()
                call()
                if turn >= 0:  # the first warms up
                    times[kind].append((time.thread_time() - start) / CALLS * 1e6)
    plain = statistics.median(times["ALRC"])
    print(f"step with ALRC: {plain:.0f} microseconds")
    for kind in kinds[1:]:
        extra = statistics.median(a - b for a, b in zip(times[kind], times["ALRC"], strict=True))
        print(f"{kind}: {extra:+.0f} microseconds, {extra / STEP:+.2%} of 10 ms")


if __name__ == "__main__":
    main()
