"""Time and memory of ``alrc.replay`` on ten million losses.

::

    python benchmarks/replay_cost.py
"""

import resource
import time

import numpy as np

from alrc.replay import replay


def main(size: int = 10**7) -> None:
    rng = np.random.default_rng(0)
    losses = 1 + 5 * np.exp(-np.arange(size) / (size / 25))
    losses *= np.exp(0.2 * rng.normal(size=size))
    losses[size // 2 : size // 2 + size // 100] *= 8
    wall, cpu = time.perf_counter(), time.process_time()
    found = replay(losses)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux
    print(found.verdict.sentence)
    print(f"{size} losses: {wall:.1f} s ({cpu:.1f} s of one core), {memory:.2f} GiB at most")


if __name__ == "__main__":
    main()
