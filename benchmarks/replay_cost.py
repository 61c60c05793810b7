"""Time and memory of ``alrc replay`` on ten million losses, one per line.

::

    python benchmarks/replay_cost.py
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from alrc.replay import read_log, replay

COMMAND = [sys.executable, "-c", "from alrc.cli import main; main()", "replay"]


def main(size: int = 10**7) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "loss.txt"
        write(log, size)
        wall = time.perf_counter()
        ended = subprocess.run([*COMMAND, log], check=True, capture_output=True, text=True)
        wall = time.perf_counter() - wall
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(ended.stdout.splitlines()[0])
        cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20  # in KiB on Linux
        print(f"{size:,} losses, {log.stat().st_size / 1e6:.0f} MB")
        print(f"alrc replay: {wall:.1f} s ({cpu:.1f} s of a core), {memory:.2f} GiB at most")
        before = time.process_time()
        curve = read_log(log)
        read = time.process_time() - before
        replay(curve)
        replayed = time.process_time() - before - read
        print(f"of a core: read_log {read:.1f} s, replay {replayed:.1f} s")


def write(log: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    losses = 1 + 5 * np.exp(-np.arange(size) / (size / 25))
    losses *= np.exp(0.2 * rng.normal(size=size))
    losses[size // 2 : size // 2 + size // 100] *= 8
    with log.open("w") as file:
        for piece in np.split(losses, 100):
            file.write("".join(f"{loss:.6g}\n" for loss in piece.tolist()))


if __name__ == "__main__":
    main()
