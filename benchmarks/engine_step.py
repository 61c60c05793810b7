"""What the lab's engine adds to a training step, against the same step in a plain loop.

Both train the same networks on the same batches with ALRC, in turns; the losses have to be the
same, bit for bit. A second plain loop shows what is chance.

Run: python benchmarks/engine_step.py "supersampling width=16"
     python benchmarks/engine_step.py examples/lab/heavy.py:Heavy
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from alrc.lab.api import Outcome, Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.trainer import Trainer
from alrc.torch import ALRC

ROUNDS, STEPS = 21, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", default="supersampling width=16")
    task = Named.parse("task", parser.parse_args().task, Path.cwd())
    torch.set_num_threads(1)
    defaults = {**task_of(task).defaults, "steps": ROUNDS * STEPS}
    spec = Spec(task, Named("arm", "alrc"), Training(**defaults), 0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(spec, Series(Path(folder)))
        plain, control = Plain(spec), Plain(spec)
        batches = trainer.batches()
        ways = {"engine": trainer.advance, "plain": plain.advance, "control": control.advance}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            some = [next(batches) for _ in range(STEPS)]
            order = list(ways)[number % 3 :] + list(ways)[: number % 3]
            for name in order:
                start = time.process_time()
                for batch in some:
                    ways[name](batch)
                times[name].append((time.process_time() - start) / STEPS)
        recorded = torch.stack(trainer.series.files["loss.raw"].waiting)
        assert torch.equal(recorded, torch.stack(plain.losses))
        start = time.process_time()
        trainer.series.commit(trainer.step)
        commit = (time.process_time() - start) / trainer.step
    loop = statistics.median(times["plain"])
    print(f"plain loop {1e3 * loop:.3f} ms a step; microseconds more, and share of 5 ms:")
    for name, add in (("engine", commit), ("control", 0.0)):
        pairs = zip(times[name], times["plain"], strict=True)
        more = statistics.median(one - other for one, other in pairs) + add
        print(f"{name:8} {1e6 * more:+5.0f} {more / 5e-3:+.1%}")


class Plain:
    """The same without an engine, keeping each loss as the paper's code does."""

    def __init__(self, spec: Spec) -> None:
        self.task = task_of(spec.task)
        self.networks = self.task.build(spec.seed)
        (self.optimizer,) = self.task.optimizers(self.networks, spec.training).values()
        self.alrc, self.losses = ALRC(), list[torch.Tensor]()

    def advance(self, batch: Any) -> None:
        outcome = self.task.step(self.networks, batch)
        losses = outcome.losses if isinstance(outcome, Outcome) else outcome
        self.losses.append(losses["loss"].detach())
        loss = self.alrc(losses["loss"]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


if __name__ == "__main__":
    main()
