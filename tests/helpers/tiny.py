"""A task that trains in no time, from a file as a user would write it: a line through noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from alrc.lab.api import Ge, Metric, Networks, Outcome, Picture, Task, Training
from alrc.lab.engine.jobs import Job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec

ALRC = Named("arm", "alrc", (("num_stddev", 1.0),))
OFF = Named("arm", "off")


@dataclass(frozen=True)
class Line(Task):
    """A slope and a height from points with heavy-tailed noise."""

    noise: Annotated[float, Ge(0), "Size of the noise."] = 0.1

    metrics: ClassVar = (Metric("slope error"), Metric("sureness", "dB", better="higher"))

    def build(self, seed: int) -> Networks:
        torch.manual_seed(seed)
        return {"line": nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.1))}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in count(start):
            rng = np.random.default_rng([seed, step])
            x = rng.standard_normal((batch_size, 1))
            y = 2 * x + 1 + self.noise * rng.standard_t(2, (batch_size, 1))
            yield torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Outcome:
        x, y = batch
        losses = (networks["line"](x) - y).square().flatten()
        return Outcome({"loss": losses}, {"slope": networks["line"][0].weight.detach().clone()})

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        error = abs(float(networks["line"][0].weight) - 2)
        return {"slope error": error, "sureness": -10 * float(np.log10(error))}

    def pictures(self, networks: Networks) -> Iterator[Picture]:
        heights = networks["line"](torch.linspace(-1, 1, 8)[:, None]).flatten()
        yield Picture("line", "The line, as grey levels.", heights.expand(4, 8).sigmoid().numpy())

    def describe(self) -> dict[str, Any]:
        return {"points": "generated"}


def spec(
    name: str = "Line",
    file: str = __file__,
    arm: Named = ALRC,
    seed: int = 0,
    training: Mapping[str, Any] = {},
    **options: Any,
) -> Spec:
    """A run of this task, or of one in another file."""
    settings = {"steps": 12, "batch_size": 4, "learning_rate": 0.05, **training}
    task = Named("task", f"{Path(file).resolve()}:{name}", tuple(options.items()))
    return Spec(task, arm, Training(**settings), seed)


def job(name: str, *args: Any, **settings: Any) -> Job:
    """The run of that name alone."""
    return Job({name: spec(*args, **settings)})
