"""What a training step takes with each arm that is installed, against plain training.

All train the same small network on the same batches, alone and in turns, with their defaults and
Adam. Prints a table, and writes it as a CSV file: microseconds of a whole step, medians, and the
median of its ratios to plain training.

Run: python benchmarks/arm_step.py docs/benchmark/compact/step_cost.csv
     python benchmarks/arm_step.py step_cost.csv --task "digits"
"""

import argparse
import csv
import statistics
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path

import torch

from alrc.lab.api import Training
from alrc.lab.engine.files import written_whole
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.trainer import Trainer

WARMUP, ROUNDS, STEPS = 200, 41, 20  # arms have begun to act after 200 steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="examples/lab/heavy.py:Heavy")
    arguments = parser.parse_args()
    task = Named.parse("task", arguments.task, Path.cwd())
    torch.set_num_threads(1)
    defaults = {**task_of(task).defaults, "steps": WARMUP + ROUNDS * STEPS}
    training = Training(**defaults)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            name: Trainer(Spec(task, Named("arm", name), training, 0), Series(Path(folder, name)))
            for name in ["off", *sorted(installed() - {"off"})]
        }
        times = measured(trainers)
    rows = [
        (name, 1e6 * statistics.median(mine), statistics.median(ratios(mine, times["off"])))
        for name, mine in times.items()
    ]
    print(f"{'arm':16} {'microseconds':>12} {'ratio':>6}")
    for name, microseconds, ratio in rows:
        print(f"{name:16} {microseconds:12.0f} {ratio:6.2f}")
    with written_whole(arguments.out) as part, part.open("w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["arm", "microseconds", "ratio"])
        table.writerows((name, f"{us:.0f}", f"{ratio:.3f}") for name, us, ratio in rows)


def installed() -> set[str]:
    """The arms whose modules are there."""
    names = set()
    for entry in entry_points(group="alrc.arms"):
        try:
            entry.load()
        except ModuleNotFoundError as error:
            print(f"{entry.name}: left out; {error}")
        else:
            names.add(entry.name)
    return names


def measured(trainers: dict[str, Trainer]) -> dict[str, list[float]]:
    """Seconds of CPU time that a step took in each round."""
    batches = next(iter(trainers.values())).batches()
    for batch in [next(batches) for _ in range(WARMUP)]:
        for trainer in trainers.values():
            trainer.advance(batch)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(ROUNDS):
        some = [next(batches) for _ in range(STEPS)]
        first = number % len(trainers)
        for name in [*list(trainers)[first:], *list(trainers)[:first]]:
            start = time.process_time()
            for batch in some:
                trainers[name].advance(batch)
            times[name].append((time.process_time() - start) / STEPS)
    return times


def ratios(mine: list[float], plain: list[float]) -> list[float]:
    return [one / other for one, other in zip(mine, plain, strict=True)]


if __name__ == "__main__":
    main()
