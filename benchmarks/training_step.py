"""Where the time of a training step of the supersampling task goes, on one CPU thread.

Run: python benchmarks/training_step.py

Prints the share of convolutions, forward and backward, in the operators' own time; the share of a
step that is not spent in operators at all; and what preparing the data takes of a step.
"""

import time
from itertools import islice

import torch
from torch.profiler import ProfilerActivity, profile

from alrc.lab.data.images import load_images
from alrc.lab.engine.training import Run, RunConfig, Trainer
from alrc.lab.tasks.supersampling.task import Supersampling

STEPS = 256


def main() -> None:
    torch.set_num_threads(1)
    images = load_images("photographs")
    print(f"{'width':>5}{'batch':>7}{'step ms':>9}{'convolutions':>14}{'other ops':>11}{'data':>7}")
    for width, batch_size in ((16, 1), (64, 1), (64, 4)):
        steps = STEPS if width == 16 else STEPS // 8
        task = Supersampling(images, 4, width)
        config = RunConfig(3 * steps, batch_size, num_stddev=3.0)
        trainer, run = Trainer(task, config), Run.empty(config)
        batches = task.batches(0, batch_size)
        for batch in islice(batches, steps):
            trainer.advance(*batch, run)

        blocks = max(STEPS // batch_size, 1)  # batches that are prepared at once
        start = time.perf_counter()
        for _ in islice(task.batches(1, batch_size), blocks):
            pass
        data = (time.perf_counter() - start) / blocks
        prepared = list(islice(batches, steps))
        start = time.perf_counter()
        for batch in prepared:
            trainer.advance(*batch, run)
        step = (time.perf_counter() - start) / steps

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for batch in prepared:
                trainer.advance(*batch, run)
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
