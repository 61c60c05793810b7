"""How close completed images come to the truth."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

__all__ = ["METRICS", "judge", "scores"]

SCALE = 200.0  # of the paper's losses, and of the error here
RANGE = 2.0  # of images from -1 to 1
BATCH = 16

METRICS = ("held-out error", "held-out PSNR", "held-out SSIM")


def judge(
    complete: Callable[[Tensor], Tensor], inputs: Tensor, truths: Tensor, device: torch.device
) -> Mapping[str, float]:
    """Means over images: 200 times the mean squared difference, PSNR in dB, and SSIM.

    Args:
        complete: Makes images ``(B, H, W)`` of inputs ``(B, ...)``.
        inputs: Shape ``(N, ...)``.
        truths: Shape ``(N, H, W)``, from -1 to 1.
        device: Where inputs are to be.
    """
    parts = [complete(part.to(device)).cpu() for part in torch.split(inputs, BATCH)]
    return scores(torch.cat(parts), truths)


def scores(images: Tensor, truths: Tensor) -> Mapping[str, float]:
    """The same of images that are there already, both ``(N, H, W)``."""
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
    return dict(zip(METRICS, values, strict=True))
