"""Where the time of a training step of the supersampling task goes, on one CPU thread.

Run: python benchmarks/training_step.py

Prints the share of convolutions, forward and backward, in the operators' own time; the share of a
step that is not spent in operators at all; and what preparing the data takes of a step.
"""

import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

from alrc.lab.api import Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.trainer import Trainer

STEPS = 256


def main() -> None:
    with TemporaryDirectory() as folder:
        measure(Path(folder))


def measure(folder: Path) -> None:
    torch.set_num_threads(1)
    print(f"{'width':>5}{'batch':>7}{'step ms':>9}{'convolutions':>14}{'other ops':>11}{'data':>7}")
    for width, batch_size in ((16, 1), (64, 1), (64, 4)):
        steps = STEPS if width == 16 else STEPS // 8
        named = Named("task", "supersampling", (("width", width),))
        task, training = task_of(named), Training(3 * steps, batch_size)
        spec = Spec(named, Named("arm", "alrc"), training, 0)
        trainer = Trainer(spec, Series(folder / f"{width}-{batch_size}"))
        batches = task.batches(0, batch_size, 0)
        for batch in islice(batches, steps):
            trainer.advance(batch)

        blocks = max(STEPS // batch_size, 1)  # batches that are prepared at once
        start = time.perf_counter()
        for _ in islice(task.batches(1, batch_size, 0), blocks):
            pass
        data = (time.perf_counter() - start) / blocks
        prepared = list(islice(batches, steps))
        start = time.perf_counter()
        for batch in prepared:
            trainer.advance(batch)
        step = (time.perf_counter() - start) / steps

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for batch in prepared:
                trainer.advance(batch)
        events = profiler.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        inside = sum(
            event.self_cpu_time_total
            for event in events
            if "conv" in event.key.lower() and "Backward" not in event.key
        )
        print(
            f"{width:5}{batch_size:7}{step * 1e3:9.2f}{inside / total:14.1%}"
            f"{1 - inside / total:11.1%}{data / (step + data):7.1%}"
        )
        others = sorted(events, key=lambda event: -event.self_cpu_time_total)
        for event in [e for e in others if "conv" not in e.key.lower()][:5]:
            print(f"        {event.key:45}{event.self_cpu_time_total / total:7.1%}")


if __name__ == "__main__":
    main()
