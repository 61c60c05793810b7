"""Convolutions of the partial-STEM networks: weight-normalised, some with a mean of zero.

All pad with zeros so that the size stays, or is halved or doubled; as TensorFlow's "SAME" does, one
of stride 2 pads an even size by a pixel at the right and below alone.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, pad

__all__ = ["Convolution", "Normalisation", "ResidualBlock", "Transposed"]

SPREAD = 0.05  # standard deviation of the first weights
SLOPE = 0.01  # of most activations below zero

Normalisation = Literal["none", "weight", "mean"]
"""``weight``: the weights of an output channel have norm g. ``mean``: and its outputs mean 0."""


class Convolution(nn.Module):
    """A convolution and its activation.

    Args:
        features: Into it and out of it.
        size: Of the kernel, 3 or 5.
        stride: 1 or 2.
        normalisation: Of weights, or of weights and outputs. Means of outputs are those of each
            image, in training and ever after: the original's batches have one image.
        slope: Of the activation below zero; 1 for none.

    Shape:
        - x: ``(N, features[0], H, W)``.
        - result: ``(N, features[1], H / stride, W / stride)``.
    """

    def __init__(
        self,
        features: tuple[int, int],
        size: int = 3,
        stride: int = 1,
        normalisation: Normalisation = "weight",
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        self.stride, self.normalisation, self.slope = stride, normalisation, slope
        before, after = features
        self.v = nn.Parameter(torch.empty(after, before, size, size))
        self.g = nn.Parameter(torch.ones(after)) if normalisation != "none" else None
        self.bias = nn.Parameter(torch.zeros(after))
        rest = size - stride  # padding of both sides together, for even sizes
        self.padding = (rest // 2, rest - rest // 2)

    def weight(self) -> Tensor:
        """``(out, in, size, size)``; the norm over all but the first is g."""
        if self.g is None:
            return self.v
        norms = torch.linalg.vector_norm(self.v, dim=(1, 2, 3))
        scaled: Tensor = self.v * (self.g / norms)[:, None, None, None]
        return scaled

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.padding
        if first != last:
            x, first = pad(x, (first, last, first, last)), 0
        bias = None if self.normalisation == "mean" else self.bias
        return self.activated(conv2d(x, self.weight(), bias, self.stride, first))

    def activated(self, x: Tensor) -> Tensor:
        if self.normalisation == "mean":
            x = x + (self.bias[:, None, None] - x.mean((2, 3), keepdim=True))
        return x if self.slope == 1 else leaky_relu(x, self.slope)


class Transposed(Convolution):
    """A transposed convolution that doubles the size.

    The norm of weights is taken for each *input* channel and g for each output channel, as the
    original has it.

    Shape:
        - x: ``(N, features[0], H, W)``.
        - result: ``(N, features[1], 2 H, 2 W)``.
    """

    def __init__(self, features: tuple[int, int], normalisation: Normalisation = "mean") -> None:
        super().__init__(features, 3, 2, normalisation)
        self.v = nn.Parameter(torch.empty(*features, 3, 3))

    def weight(self) -> Tensor:
        """``(in, out, 3, 3)``."""
        if self.g is None:
            return self.v
        norms = torch.linalg.vector_norm(self.v, dim=(1, 2, 3), keepdim=True)
        scaled: Tensor = self.v * (self.g[:, None, None] / norms)
        return scaled

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.normalisation == "mean" else self.bias
        whole = conv_transpose2d(x, self.weight(), bias, self.stride)
        return self.activated(whole[..., :-1, :-1])


class ResidualBlock(nn.Module):
    """Adds to its input what three convolutions make of it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Convolution((features, features)) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Normal weights; g stays 1 and biases 0, because the original never set them by data."""
    for module in network.modules():
        if isinstance(module, Convolution):
            nn.init.normal_(module.v, std=SPREAD, generator=generator)
