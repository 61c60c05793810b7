"""The networks of partial-STEM: one at half the size, one at the whole size that builds on it."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from alrc.lab.tasks.stem.layers import Convolution, ResidualBlock, Transposed, initialise

__all__ = ["SIZES", "Generator", "Size"]

STEEP = 0.1  # slope below zero of the first activations
MOST_TRAINER_FEATURES = 64


@dataclass(frozen=True)
class Size:
    """How large the networks are.

    Attributes:
        inner: Features of the first layer of the inner network, and after each halving.
        blocks: Residual blocks in its middle.
        outer: Features of the outer network at the whole size, at half of it, and at the whole
            size again.
        outer_blocks: Residual blocks in its middle.
    """

    inner: tuple[int, ...]
    blocks: int
    outer: tuple[int, int, int]
    outer_blocks: int

    @property
    def stride(self) -> int:
        """Pixels of the inner network's input to one in its middle."""
        return int(2 ** (len(self.inner) - 1))


SIZES = {
    "XS": Size((8, 16, 24, 32), 2, (8, 16, 8), 1),
    "S": Size((16, 32, 48, 64), 2, (16, 32, 16), 1),
    "M": Size((24, 32, 64, 96, 128), 3, (16, 32, 16), 2),
    "full": Size((64, 128, 256, 512, 768), 6, (32, 64, 32), 3),
}


class Generator(nn.Module):
    """Completes partial scans: at half the size for features, then at the whole size.

    Args:
        size: A key of ``SIZES``; ``"full"`` is the paper's, with 106,180,900 parameters.
        channels: 2 for a scan and the time the beam was at each pixel; 1 for a scan without gaps,
            with which first layers normalise their means too.
        seed: Fixes the initial weights.

    Shape:
        - inputs: ``(N, channels, S, S)``, S a multiple of twice the size's stride.
        - result: ``(N, S / 2, S / 2)`` and ``(N, S, S)``, without bounds.
    """

    def __init__(self, size: str = "S", channels: int = 2, seed: int = 0) -> None:
        super().__init__()
        of = SIZES[size]
        full, half, last = of.outer
        is_filled = channels == 1
        down = [Convolution(pair, stride=2) for pair in pairwise(of.inner)]
        # The last one gives as many features as the outer network adds them to.
        up = [Transposed(pair) for pair in pairwise((*of.inner[:0:-1], half))]
        self.inner = nn.Sequential(
            Convolution((channels, of.inner[0]), 5, 1, "mean" if is_filled else "none", STEEP),
            *down,
            *(ResidualBlock(of.inner[-1]) for _ in range(of.blocks)),
            *up,
        )
        trained = min(MOST_TRAINER_FEATURES, half)
        self.trainer = nn.Sequential(
            Convolution((half, trained)), Convolution((trained, 1), slope=1)
        )
        self.enter = nn.Sequential(
            Convolution((channels, full), 5, 1, "mean" if is_filled else "weight", STEEP),
            Convolution((full, half), stride=2, slope=STEEP),
        )
        self.leave = nn.Sequential(
            *(ResidualBlock(half) for _ in range(of.outer_blocks)),
            Transposed((half, last)),
            Convolution((last, last)),
            Convolution((last, 1), slope=1),
        )
        initialise(self, torch.Generator().manual_seed(seed))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.inner(inputs[..., ::2, ::2])
        whole = self.leave(self.enter(inputs) + features)
        return self.trainer(features)[:, 0], whole[:, 0]
