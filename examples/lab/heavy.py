"""A task of one's own: regression in one dimension with heavy-tailed noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from alrc.lab.api import Ge, Gt, Metric, Networks, Task


@dataclass(frozen=True)
class Heavy(Task):
    """Learns sin(3x) from points with the noise of Student's t."""

    freedom: Annotated[float, Gt(0), "Degrees of freedom; smaller has larger outliers."] = 1.5
    power: Annotated[int, Ge(1), "Power of the error: 2 is squared, 4 quartic."] = 2
    width: Annotated[int, Ge(1), "Units of the hidden layer."] = 32

    metrics: ClassVar = (Metric("held-out error"),)
    defaults: ClassVar = {"steps": 2000, "batch_size": 16, "learning_rate": 3e-3}
    stackable: ClassVar = True

    def build(self, seed: int) -> Networks:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return {
                "net": nn.Sequential(nn.Linear(1, self.width), nn.Tanh(), nn.Linear(self.width, 1))
            }

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in count(start):
            random = np.random.default_rng([seed, step])
            x = random.uniform(-1, 1, (batch_size, 1))
            noise = 0.3 * random.standard_t(self.freedom, x.shape)
            yield _tensor(x), _tensor(np.sin(3 * x) + noise)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": (networks["net"](x) - y).abs().pow(self.power)[:, 0]}

    def evaluate(self, networks: Networks) -> dict[str, float]:
        device = next(networks["net"].parameters()).device
        x = np.linspace(-1, 1, 501)[:, None]
        error = networks["net"](_tensor(x).to(device)).cpu() - _tensor(np.sin(3 * x))
        return {"held-out error": error.square().mean().item()}


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
