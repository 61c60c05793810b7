"""What one call of ALRC costs, forward and backward, against the same loss without it.

Run: python benchmarks/call_cost.py

All variants take turns in one process, so that a change in the machine's speed meets them alike;
"extra" is the median over the rounds of (variant - plain) within a round. Times are CPU time of
one thread. Read them as ratios to "plain": machines differ.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from alrc.torch import ALRC

ROUNDS, CALLS = 41, 200
NEVER = {"mu1_start": 1e3, "mu2_start": 2e6}  # a limit that no loss here reaches
ALWAYS = {"mu1_start": 1e-3, "mu2_start": 2e-6, "decay": 1 - 1e-12}  # one that all exceed


class Straightforward(nn.Module):
    """What a user would write: raw moments in two buffers, a where, a division."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu1", torch.tensor(1e3))
        self.register_buffer("mu2", torch.tensor(2e6))

    def forward(self, loss: Tensor) -> Tensor:
        with torch.no_grad():
            limit = self.mu1 + 3 * (self.mu2 - self.mu1**2 + 1e-8).sqrt()
            factor = torch.where(loss > limit, limit / loss, 1.0)
            clipped = loss * factor
            self.mu1.mul_(0.999).add_(0.001 * clipped.mean())
            self.mu2.mul_(0.999).add_(0.001 * clipped.square().mean())
        return loss * factor


def clip_grad_norm(num_tensors: int) -> Callable[[], None]:
    parameters = [nn.Parameter(torch.randn(64, 64)) for _ in range(num_tensors)]
    for parameter in parameters:
        parameter.grad = torch.randn(64, 64)
    return lambda: nn.utils.clip_grad_norm_(parameters, 1e9) and None


def loss_and_backward(module: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    weight, data = torch.tensor(1.0, requires_grad=True), torch.rand(shape) + 0.5

    def call() -> None:
        module(weight * data).mean().backward()

    return call


def median_times(variants: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        for _ in range(CALLS):
            call()
    for _ in range(ROUNDS):
        for name, call in variants.items():
            start = time.thread_time()
            for _ in range(CALLS):
                call()
            times[name].append((time.thread_time() - start) / CALLS * 1e6)
    return times


def main() -> None:
    torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)  # backward in the thread that is timed
    for title, shape in (("scalar loss", ()), ("128 losses", (128,))):
        times = median_times(
            {
                "plain": loss_and_backward(nn.Identity(), shape),
                "ALRC, nothing limited": loss_and_backward(ALRC(**NEVER), shape),
                "ALRC, all limited": loss_and_backward(ALRC(**ALWAYS), shape),
                "linear, nothing limited": loss_and_backward(
                    ALRC(3, **NEVER, scale="linear"), shape
                ),
                "linear, all limited": loss_and_backward(ALRC(3, **ALWAYS, scale="linear"), shape),
                "straightforward module": loss_and_backward(Straightforward(), shape),
            }
        )
        print(f"{title:28}{'us':>8}{'extra us':>10}{'extra / plain':>15}")
        for name, values in times.items():
            extra = statistics.median(a - b for a, b in zip(values, times["plain"], strict=True))
            plain = statistics.median(times["plain"])
            print(f"  {name:26}{statistics.median(values):8.1f}{extra:10.1f}{extra / plain:15.2f}")
    times = median_times(
        {f"clip_grad_norm_, {n} tensors": clip_grad_norm(n) for n in (10, 100, 400)}
    )
    for name, values in times.items():
        print(f"  {name:26}{statistics.median(values):8.1f}")


if __name__ == "__main__":
    main()
