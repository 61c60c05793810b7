"""Regression with fresh data at each step, whose noise has heavy tails."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alrc.lab.api import Ge, Gt, Le, Networks, Task
from alrc.lab.data.order import batches_of
from alrc.lab.tasks.dense import (
    REGRESSION_METRICS,
    DenseNetwork,
    power_of,
    regression_metrics,
)

__all__ = ["HeavyTails"]

CHUNK = 1024  # examples that are drawn together, whatever the batch size
HELD_OUT = 1000
HELD_OUT_SEED = 20_200_421
SHIFT = 30.0
# Of Friedman's function, over uniform inputs.
MEAN, DEVIATION = 14.414, 4.882


@dataclass(frozen=True)
class HeavyTails(Task):
    """Learns Friedman's function of ten numbers from fresh noisy examples at each step.

    The function 10 sin(pi a b) + 20 (c - 1/2)^2 + 10 d + 5 e, of inputs uniform from 0 to 1 of
    which five mean nothing, is standardised. Errors are those against the function without noise.

    References:
        J. H. Friedman, "Multivariate adaptive regression splines", Ann. Statist. 19 (1991) 1.
    """

    df: Annotated[
        float,
        Gt(0),
        "Degrees of freedom of the noise's t distribution; inf is normal. Up to 2 its variance is "
        "infinite, up to 4 that of its square, up to 8 that of its fourth power.",
    ] = 1.5
    noise: Annotated[
        float, Ge(0), "Scale of the noise, in standard deviations of the function."
    ] = 0.5
    broken: Annotated[
        float, Ge(0), Le(1), "Chance of a target to be wrong by 30 standard deviations, up or down."
    ] = 0.0
    error: Annotated[
        Literal["squared", "quartic", "gaussian"],
        "Loss: the error to the power of 2 or 4, or the negative log-likelihood of a normal "
        "distribution whose mean and variance are both predicted, which has both signs.",
    ] = "squared"

    metrics: ClassVar = REGRESSION_METRICS
    defaults: ClassVar = {"steps": 2000, "batch_size": 16, "learning_rate": 3e-3}
    stackable: ClassVar = True

    def build(self, seed: int) -> Networks:
        return {"network": DenseNetwork((10, 32, 32, 1 + (self.error == "gaussian")), seed)}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Inputs ``(batch_size, 10)`` and noisy targets ``(batch_size,)``."""

        def examples(first: int, last: int) -> list[Tensor]:
            numbers = range(first // CHUNK, (last - 1) // CHUNK + 1)
            chunks = [self._chunk(seed, number) for number in numbers]
            offset = numbers.start * CHUNK
            parts = (np.concatenate(x) for x in zip(*chunks, strict=True))
            return [torch.from_numpy(x[first - offset : last - offset]) for x in parts]

        return batches_of(examples, batch_size, start)

    def _chunk(self, seed: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([seed, number])
        inputs = rng.random((CHUNK, 10))
        wrong = rng.random(CHUNK) < self.broken
        shifts = SHIFT * rng.choice([-1.0, 1.0], CHUNK)
        normal = math.isinf(self.df)
        noise = rng.standard_normal(CHUNK) if normal else rng.standard_t(self.df, CHUNK)
        targets = friedman(inputs) + self.noise * noise + wrong * shifts
        return centred(inputs), targets.astype(np.float32)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """A loss for each example."""
        inputs, targets = batch
        outputs = networks["network"](inputs)
        if self.error == "gaussian":
            mean, log_variance = outputs.unbind(1)
            squares = (targets - mean).square() * torch.exp(-log_variance)
            return {"loss": 0.5 * (log_variance + squares)}
        return {
            "loss": power_of(outputs.squeeze(1), targets, {"squared": 2, "quartic": 4}[self.error])
        }

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Against the function without noise, over inputs that are the same for all seeds."""
        network: Any = networks["network"]
        inputs, targets = _held_out()
        return regression_metrics(network(inputs.to(network.seed.device))[:, 0].cpu(), targets)


def friedman(inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standardised function of inputs ``(N, 10)``, uniform from 0 to 1; shape ``(N,)``."""
    a, b, c, d, e = inputs.T[:5]
    values = 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
    return np.asarray((values - MEAN) / DEVIATION)


def centred(inputs: NDArray[np.float64]) -> NDArray[np.float32]:
    """Inputs with mean 0 and variance 1, as the network gets them."""
    return ((inputs - 0.5) * math.sqrt(12)).astype(np.float32)


@functools.cache
def _held_out() -> tuple[Tensor, Tensor]:
    inputs = np.random.default_rng(HELD_OUT_SEED).random((HELD_OUT, 10))
    return torch.from_numpy(centred(inputs)), torch.from_numpy(friedman(inputs)).float()
