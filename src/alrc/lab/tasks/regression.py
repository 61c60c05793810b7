"""Regression on real tables, some of whose targets are wrong."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from alrc.lab.api import Ge, Gt, Le, Networks, Task
from alrc.lab.data.order import batches_of, example_order
from alrc.lab.data.tables import load_table, some, split
from alrc.lab.tasks.dense import (
    REGRESSION_METRICS,
    DenseNetwork,
    Precision,
    power_of,
    regression_metrics,
)

__all__ = ["Regression"]

HELD_OUT = 1 / 3


@dataclass(frozen=True)
class Regression(Task):
    """Predicts a number from ten others: diabetes, or the size of cell nuclei.

    A third of the examples is held out, another third for each seed, and is always clean. Inputs
    and targets are standardised with the statistics of the clean training examples, so an error
    of 1 is that of the mean.
    """

    data: Annotated[Literal["diabetes", "breast-cancer"], "Which table of scikit-learn's."] = (
        "diabetes"
    )
    broken: Annotated[
        float,
        Ge(0),
        Le(1),
        "Share of the training targets that are wrong, rounded up to whole examples: the same few "
        "in each pass, whose errors rule the gradient.",
    ] = 0.02
    shift: Annotated[
        float, Gt(0), "How far wrong targets are off, up or down, in standard deviations."
    ] = 30.0
    power: Annotated[
        Literal[2, 4], "Of the error: 4 makes an error 30 times as large count 810,000 times."
    ] = 2
    precision: Annotated[
        Precision,
        "What errors are computed in: bfloat16 keeps 3 digits; in float16, the fourth power of an "
        "error of 16 is infinite.",
    ] = "float32"

    metrics: ClassVar = REGRESSION_METRICS
    defaults: ClassVar = {"steps": 1500, "batch_size": 16, "learning_rate": 3e-4}
    stackable: ClassVar = True

    def build(self, seed: int) -> Networks:
        return {"network": DenseNetwork((10, 16, 16, 1), seed)}

    def describe(self) -> Mapping[str, Any]:
        """The table by checksum."""
        return {"data_sha256": load_table(self.data).sha256()}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Inputs ``(batch_size, 10)`` and targets ``(batch_size,)``, some of them wrong."""
        inputs, targets = self.training(seed)

        def examples(first: int, last: int) -> tuple[Tensor, ...]:
            order = torch.from_numpy(example_order(len(targets), seed, first, last))
            return inputs[order], targets[order]

        return batches_of(examples, batch_size, start)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """A loss for each example."""
        inputs, targets = batch
        outputs = networks["network"](inputs).squeeze(1)
        return {"loss": power_of(outputs, targets, self.power, self.precision)}

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Over the held-out examples of the network's seed."""
        network: Any = networks["network"]
        _, (inputs, targets) = _parts(self.data, int(network.seed))
        return regression_metrics(network(inputs.to(network.seed.device)).squeeze(1).cpu(), targets)

    def training(self, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets to train with, the wrong ones among them."""
        (inputs, targets), _ = _parts(self.data, seed)
        which = torch.from_numpy(some(len(targets), seed, self.broken))
        signs = torch.where(which % 2 == 0, 1.0, -1.0)  # random, as they are
        return inputs, targets.index_add(0, which, self.shift * signs)


@functools.lru_cache(64)
def _parts(data: str, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Standardised inputs and clean targets, to train with and held out."""
    table = load_table(data)
    training, held_out = split(len(table.targets), seed, HELD_OUT)

    def standardised(values: Any) -> list[Tensor]:
        mean, deviation = values[training].mean(0), values[training].std(0)
        parts = ((values[part] - mean) / deviation for part in (training, held_out))
        return [torch.from_numpy(part.astype(np.float32)) for part in parts]

    inputs, targets = standardised(table.inputs), standardised(table.targets)
    return (inputs[0], targets[0]), (inputs[1], targets[1])
