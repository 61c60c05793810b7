"""What the lab's engine adds to a training step, against the same step in a plain loop.

Both train the same network on the same batches with ALRC, in turns; the losses have to be the
same, bit for bit. ``python benchmarks/engine_step.py``
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from alrc.lab.api import Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.trainer import Trainer
from alrc.torch import ALRC

ROUNDS, STEPS = 21, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=8, help="of the supersampling network")
    width = parser.parse_args().width
    torch.set_num_threads(1)
    task = Named("task", "supersampling", (("width", width),))
    spec = Spec(task, Named("arm", "alrc"), Training(100_000, learning_rate=1e-3), 0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(spec, Series(Path(folder)))
        batches = task_of(task).batches(0, 1, 0)
        network = task_of(task).build(0)["network"]
        optimizer = spec.training.make_optimizer(network.parameters())
        plain = Plain(network, optimizer)
        times: dict[str, list[float]] = {"engine": [], "plain loop": []}
        ways = [("engine", trainer.advance), ("plain loop", plain.advance)]
        for _ in range(ROUNDS):
            some = [next(batches) for _ in range(STEPS)]
            ways.reverse()
            for name, advance in ways:
                start = time.process_time()
                for batch in some:
                    advance(batch)
                times[name].append((time.process_time() - start) / STEPS)
            recorded = torch.stack(trainer.series.files["loss.raw"].waiting[-STEPS:])
            assert torch.equal(recorded, torch.stack(plain.losses[-STEPS:]))
        start = time.process_time()
        trainer.series.commit(trainer.step)
        commit = (time.process_time() - start) / trainer.step
    medians = {name: statistics.median(values) for name, values in times.items()}
    engine, loop = medians["engine"] + commit, medians["plain loop"]
    print(f"plain loop {1e3 * loop:.3f} ms a step, engine {1e3 * engine:.3f} ms,", end=" ")
    print(
        f"{1e6 * (engine - loop):.0f} us more, {engine / loop - 1:.1%}; of these {1e6 * commit:.0f}"
    )
    print("us a step are for bringing the series to the disk")


class Plain:
    """The same without an engine, keeping each loss as the paper's code does."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer = network, optimizer
        self.alrc, self.losses = ALRC(), list[torch.Tensor]()

    def advance(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        inputs, targets = batch
        errors = 25 * (self.network(inputs) - targets).pow(4).flatten(1).mean(1)
        losses = torch.where(errors < 50, errors, errors.clamp(min=50).sqrt())
        self.losses.append(losses.detach())
        losses = self.alrc(losses)
        self.optimizer.zero_grad()
        losses.mean().backward()
        self.optimizer.step()


if __name__ == "__main__":
    main()
