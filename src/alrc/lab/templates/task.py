"""A task of your own: a line through points whose noise now and then is very large."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from alrc.lab.api import Gt, Metric, Networks, Task


@dataclass(frozen=True)
class Example(Task):
    """Learns a curve from points with heavy-tailed noise.

    The options become those of `alrc lab run` and keys of a study's file.
    """

    freedom: Annotated[float, Gt(0), "Of Student's t; smaller has larger outliers."] = 1.5

    metrics: ClassVar = (Metric("held-out error"),)  # the first is what verdicts are about
    defaults: ClassVar = {"steps": 2000, "batch_size": 16, "learning_rate": 1e-3}
    stackable: ClassVar = True  # runs may be trained together, as one network

    def build(self, seed: int) -> Networks:
        with torch.random.fork_rng():  # all that is random follows from the seed
            torch.manual_seed(seed)
            return {"net": nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in count(start):
            random = np.random.default_rng([seed, step])  # the same, wherever a run begins
            x = random.uniform(-1, 1, (batch_size, 1))
            y = curve(x) + 0.3 * random.standard_t(self.freedom, x.shape)
            yield tensor(x), tensor(y)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": (networks["net"](x) - y).square().flatten(1).mean(1)}  # one per example

    def evaluate(self, networks: Networks) -> dict[str, float]:
        device = next(networks["net"].parameters()).device
        x = np.linspace(-1, 1, 1001)[:, None]
        error = networks["net"](tensor(x).to(device)) - tensor(curve(x)).to(device)
        return {"held-out error": error.square().mean().item()}


def curve(x: np.ndarray) -> Any:
    return np.sin(3 * x)


def tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
