"""What ALRC adds to a training step on a GPU, beside clipping the norm of the gradient.

Run on a machine with one: python benchmarks/gpu_step.py --out docs/gpu_step.csv

Ways take turns; "more" is the median over rounds of a way's step less the plain one's, a step being
the mean of many on the clock, up to the end of the GPU's work. "graph" is the same step captured in
a CUDA graph: there the host has no part in it.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from alrc.torch import ALRC

ROUNDS, STEPS = 11, 20
WAYS = ("plain", "ALRC, the batch", "ALRC, each example", "ALRC, compiled", "norm clip")
Step = Callable[[], None]


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, its inputs, and what each example is to give."""
    torch.manual_seed(0)
    if name == "small network":
        net: nn.Module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        return net, torch.randn(128, 64), torch.randint(10, (128,))
    layer = nn.TransformerEncoderLayer(512, 8, 2048, 0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    net = nn.Sequential(nn.Linear(64, 512), body, nn.Flatten(), nn.Linear(128 * 512, 10))
    return net, torch.randn(32, 128, 64), torch.randint(10, (32,))


def step(name: str, way: str) -> Step:
    net, inputs, labels = (x.to("cuda") for x in network(name))
    optimizer = torch.optim.Adam(net.parameters(), 1e-5, fused=True, capturable=True)
    alrc = ALRC(device="cuda")
    if way == "ALRC, compiled":
        alrc.compile(fullgraph=True)

    def run() -> None:
        optimizer.zero_grad(set_to_none=False)
        losses = nn.functional.cross_entropy(net(inputs), labels, reduction="none")
        if way in ("ALRC, each example", "ALRC, compiled"):
            losses = alrc(losses)
        loss = losses.mean()
        if way == "ALRC, the batch":
            loss = alrc(loss)
        loss.backward()
        if way == "norm clip":
            nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=True)
        optimizer.step()

    return run


def graph(run: Step) -> Step:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        run()
    return captured.replay


def kernels(run: Step) -> int:
    """How many a step starts."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    return sum(event.count for event in profiler.key_averages() if event.device_type == on_gpu)


def seconds(run: Step) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="CSV file of the numbers")
    out = parser.parse_args().out
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    rows = []
    for name in ("small network", "transformer"):
        eager = {way: step(name, way) for way in WAYS}
        for kind, runs in (("eager", eager), ("graph", {w: graph(r) for w, r in eager.items()})):
            for run in runs.values():
                seconds(run)
            times = [{way: seconds(run) for way, run in runs.items()} for _ in range(ROUNDS)]
            for way in WAYS:
                more = statistics.median(t[way] - t["plain"] for t in times)
                plain = statistics.median(t["plain"] for t in times)
                row = {"network": name, "kind": kind, "way": way}
                row |= {"plain_ms": f"{1e3 * plain:.3f}", "more_us": f"{1e6 * more:.1f}"}
                row["kernels"] = str(kernels(eager[way])) if kind == "eager" else ""
                rows.append(row)
                print(*row.values(), sep="\t")
    if out:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
