"""What the small tasks share: a network that knows its seed, errors in half precision, metrics."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from alrc.lab.api import Metric

__all__ = [
    "REGRESSION_METRICS",
    "DenseNetwork",
    "Precision",
    "power_of",
    "regression_metrics",
    "rounded",
]

Precision = Literal["float32", "bfloat16", "float16"]
REGRESSION_METRICS = (Metric("held-out error"), Metric("held-out median absolute error"))


class DenseNetwork(nn.Module):
    """Dense layers with a ReLU after each but the last; weights Glorot-uniform, biases zero.

    Args:
        sizes: Of the input, of each layer, and of the output.
        seed: Fixes the initial weights. It is kept in a buffer, because it fixes also which
            examples are held out, and an evaluation is given nothing but networks.

    Shape:
        - inputs: ``(N, sizes[0])``.
        - result: ``(N, sizes[-1])``.
    """

    seed: Tensor

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__()
        self.register_buffer("seed", torch.tensor(seed))
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for one, other in itertools.pairwise(sizes):
            layers += [nn.ReLU()] * bool(layers) + [nn.Linear(one, other)]
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layers(inputs)
        return result


def rounded(outputs: Tensor, precision: Precision) -> Tensor:
    """What a network gives under autocast or in half precision; so are its gradients."""
    return outputs.to(getattr(torch, precision))


def power_of(
    outputs: Tensor, targets: Tensor, power: int, precision: Precision = "float32"
) -> Tensor:
    """The error to its power, computed in a precision, as float32.

    In float16, which ends at 65,504, the fourth power of an error of 16 is infinite, and the
    gradient of one of 25.4. A library's loss would compute it in float32 even under autocast; one
    that somebody wrote, in a network in half precision, does not.
    """
    differences = rounded(outputs, precision) - rounded(targets, precision)
    return differences.pow(power).float()


def regression_metrics(outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
    """Mean squared and median absolute difference from clean targets."""
    differences = (outputs - targets).double()
    values = (differences.square().mean(), differences.abs().median())
    return {m.name: x.item() for m, x in zip(REGRESSION_METRICS, values, strict=True)}
