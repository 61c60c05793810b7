"""How close completed images come to the truth."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from alrc.lab.api import Metric
from alrc.lab.tasks.stem.losses import SCALE

__all__ = ["METRICS", "in_parts", "scores"]

RANGE = 2.0  # of images from -1 to 1
BATCH = 16

METRICS = (
    Metric("held-out error"),
    Metric("held-out PSNR", "dB", better="higher"),
    Metric("held-out SSIM", better="higher"),
)


def in_parts(complete: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device) -> Tensor:
    """What ``complete`` makes of ``(N, ...)`` inputs, a few at a time on a device; on the CPU."""
    return torch.cat([complete(part.to(device)).cpu() for part in torch.split(inputs, BATCH)])


def scores(images: Tensor, truths: Tensor) -> Mapping[str, float]:
    """Means over images: 200 times the mean squared difference, PSNR in dB, and SSIM.

    Args:
        images: Shape ``(N, H, W)``.
        truths: The same, from -1 to 1.
    """
    squares = (images.double() - truths.double()).square().mean((1, 2))
    similar = [
        structural_similarity(image, truth, data_range=RANGE)  # type: ignore[no-untyped-call]
        for image, truth in zip(images.numpy(), truths.numpy(), strict=True)
    ]
    values = (
        SCALE * squares.mean().item(),
        (10 * torch.log10(RANGE**2 / squares)).mean().item(),
        float(np.mean(similar)),
    )
    return dict(zip((metric.name for metric in METRICS), values, strict=True))
