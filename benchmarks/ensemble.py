"""How long runs take that are trained together, and the same one by one.

17 arms and 12 seeds of a network of 10, 64, 64 and 1 units, batch size 16, 3,000 steps, on one
thread. Five runs are trained alone; the time of all is taken from theirs.

Run: python benchmarks/ensemble.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from alrc.lab.api import Training
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
ARMS = (
    "off",
    *(f"alrc num_stddev={n}" for n in (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10)),
    *(f"clip-grad-norm max_norm={n}" for n in (0.1, 0.3, 1, 3)),
    "original num_stddev=2",
)
STEPS, SEEDS, ALONE = 3000, 12, 5


def main() -> None:
    torch.set_num_threads(1)
    sys.path.append(str(HELPERS))
    task = Named.parse("task", "stackable.py:Dense", HELPERS)
    training = Training(STEPS, 16)
    specs = {
        f"{number}-{seed}": Spec(task, Named.parse("arm", arm, HELPERS), training, seed)
        for number, arm in enumerate(ARMS)
        for seed in range(SEEDS)
    }
    with tempfile.TemporaryDirectory() as folder:
        together = seconds(Job(specs), Path(folder, "together", "runs"))
        some = list(specs.items())[:: len(specs) // ALONE][:ALONE]
        alone = [seconds(Job({n: s}), Path(folder, "alone", "runs")) for n, s in some]
    print(f"{len(specs)} runs together: {together:.0f} s, {1e3 * together / STEPS:.1f} ms a step")
    one = statistics.median(alone)
    print(f"one alone: {one:.2f} s, so all of them {one * len(specs):.0f} s")


def seconds(job: Job, runs: Path) -> float:
    start = time.perf_counter()
    run_job(job, runs)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
