"""The discriminators of partial-STEM's second stage."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, normalize, pad

__all__ = ["Adversary", "Discriminator", "SpectralConvolution"]

SLOPE = 0.2
SPREAD = 0.03  # standard deviation of the first singular vectors
# The paper's, and what fits smaller images: side of what a discriminator sees, and its features.
LARGE, SMALL = (70, (64, 128, 256, 512)), (22, (16, 32, 64))
LARGE_FROM = 256  # pixels a side
NUMBERS = 6  # random ones, for where three discriminators look


class Adversary(nn.Module):
    """Three discriminators, two for small images; each sees a piece of another size.

    All pieces are scaled down to one size, by leaving out rows and columns. The second piece is
    twice as large as the first, and the third twice as large again.

    Args:
        side: Of images, in pixels.
        seed: Fixes the initial weights.

    Shape:
        - images: ``(N, S, S)``.
        - random: ``(N, 6)``, uniform from 0 to 1: where the pieces are, the row and column of each.
        - result: ``(discriminators, N)``.
    """

    def __init__(self, side: int, seed: int = 0) -> None:
        super().__init__()
        self.piece, features = LARGE if side >= LARGE_FROM else SMALL
        count = 3 if side >= LARGE_FROM else 2
        generator = torch.Generator().manual_seed(seed)
        self.discriminators = nn.ModuleList(
            Discriminator((1, *features), generator) for _ in range(count)
        )

    def forward(self, images: Tensor, random: Tensor) -> Tensor:
        margin = min(2 * self.piece, images.shape[-1] - 1)
        padded = pad(images[:, None], (margin,) * 4, mode="reflect")
        scores = []
        for number, discriminator in enumerate(self.discriminators):
            stride = 2**number
            side = stride * self.piece
            room = padded.shape[-1] - side + 1
            places = (random[:, 2 * number : 2 * number + 2] * room).long().clamp(max=room - 1)
            pieces = [
                image[:, top : top + side : stride, left : left + side : stride]
                for image, (top, left) in zip(padded, places.tolist(), strict=True)
            ]
            scores.append(discriminator(torch.stack(pieces)))
        return torch.stack(scores)


class Discriminator(nn.Module):
    """Convolutions of stride 2 without padding, whose last outputs are added up.

    Shape:
        - images: ``(N, features[0], S, S)``.
        - result: ``(N,)``.
    """

    def __init__(self, features: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(SpectralConvolution(pair, generator) for pair in pairwise(features))
        )

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layers(images).flatten(1).sum(1)
        return result


class SpectralConvolution(nn.Module):
    """A 4x4 convolution of stride 2, whose weights are divided by their largest singular value.

    That is followed by a power iteration in each call of training. In the singular vectors no
    gradient flows.
    """

    u: Tensor

    def __init__(self, features: tuple[int, int], generator: torch.Generator) -> None:
        super().__init__()
        before, after = features
        self.weight = nn.Parameter(torch.empty(after, before, 4, 4))
        self.bias = nn.Parameter(torch.zeros(after))
        nn.init.xavier_uniform_(self.weight, generator=generator)
        self.register_buffer("u", torch.empty(after).normal_(0, SPREAD, generator=generator))

    def largest(self) -> Tensor:
        """The largest singular value of the weights as a matrix of output channels, as known."""
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = normalize(self.u @ matrix, dim=0)
            u = normalize(matrix @ v, dim=0)
            if self.training:
                self.u.copy_(u)
        return u @ (matrix @ v)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(conv2d(x, self.weight / self.largest(), self.bias, 2), SLOPE)
