"""Runs that come to grief; in a module of their own, which spawned processes can import."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from alrc.lab.data import Images
from alrc.lab.tasks import Supersampling


def noise() -> Images:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), np.uint8)
    return Images("noise", images, images[:2])


@dataclass(frozen=True, eq=False)
class Planted(Supersampling):
    """A task whose run comes to grief in step 8, while ``counter`` has a number above 0."""

    counter: Path = Path()
    signal: int | None = None  # None for an exception, 0 for an hour's sleep
    losses_are: float = 1.0

    def batches(
        self, seed: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        batches = super().batches(seed, batch_size, start)
        for step, (inputs, targets) in enumerate(batches, start):
            if step == 7 and (left := int(self.counter.read_text())) > 0:
                self.counter.write_text(str(left - 1))
                if self.signal is None:
                    raise ZeroDivisionError("planted")
                if self.signal == 0:
                    time.sleep(3600)
                os.kill(os.getpid(), self.signal)
            yield inputs, targets * self.losses_are
