"""The one-stage network of STEM supersampling."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from alrc.lab.tasks.weights import xavier

__all__ = ["Supersampler"]

EPSILON = 0.001  # of batch normalisation
BLOCKS = 6
DOUBLINGS = 4


class Supersampler(nn.Module):
    """Makes an image of a grid of its pixels: smaller first, then doubled four times.

    In each layer come activation, batch normalisation, which learns a shift but no scale, and a
    convolution.

    Args:
        side: Of the image, in pixels, a multiple of 16.
        stride: Pixels from one that is visited to the next.
        width: Features in the middle; the paper's 128.
        decay: Share of the old statistics that batch normalisation keeps at each step.
        seed: Fixes the initial weights: Glorot-uniform, biases zero.

    Shape:
        - inputs: ``(N, 1, s, s)``, s the number of visited pixels in a row.
        - result: ``(N, 1, side, side)``, without bounds.
    """

    def __init__(
        self,
        side: int = 512,
        stride: int = 5,
        width: int = 128,
        decay: float = 0.999,
        seed: int = 0,
    ) -> None:
        super().__init__()
        visited = len(range(side % stride // 2, side, stride))
        middle = side // 2**DOUBLINGS
        quarter = width // 4
        ups = (width, width, 3 * quarter, 2 * quarter, quarter)
        self.layers = nn.Sequential(
            _Shift(1, decay),
            nn.Conv2d(1, quarter, 3, padding=1),
            *_activated(quarter, decay),
            _Resize(round((middle * visited) ** 0.5)),
            nn.Conv2d(quarter, 2 * quarter, 3, padding=1),
            *_activated(2 * quarter, decay),
            _Resize(middle),
            nn.Conv2d(2 * quarter, width, 3, padding=1),
            *(_Residual(width, decay) for _ in range(BLOCKS)),
            *(layer for pair in pairwise(ups) for layer in _doubling(*pair, decay)),
            *_activated(quarter, decay),
            nn.Conv2d(quarter, 1, 3, padding=1, bias=False),
        )
        xavier(self, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layers(inputs)
        return result


class _Shift(nn.BatchNorm2d):
    """Batch normalisation with a learned shift, and no scale."""

    def __init__(self, features: int, decay: float) -> None:
        super().__init__(features, EPSILON, 1 - decay)
        # A scale of 1, not learned: without one, PyTorch has no gradient of a shift on a GPU.
        del self.weight
        self.register_buffer("weight", torch.ones(features), persistent=False)


class _Resize(nn.Module):
    """Bilinear, with the corners where they were."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(x, (self.side, self.side), mode="bilinear", align_corners=True)


class _Residual(nn.Module):
    def __init__(self, width: int, decay: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(2)
                for layer in (*_activated(width, decay), nn.Conv2d(width, width, 3, padding=1))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


class _Cut(nn.Module):
    """Without the last row and column, as TensorFlow cuts a transposed convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :-1, :-1]


def _activated(features: int, decay: float) -> tuple[nn.Module, nn.Module]:
    return nn.ReLU(), _Shift(features, decay)


def _doubling(before: int, after: int, decay: float) -> tuple[nn.Module, ...]:
    return *_activated(before, decay), nn.ConvTranspose2d(before, after, 3, 2), _Cut()
