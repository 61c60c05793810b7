"""From stored images to training examples, as in the paper's CIFAR-10 experiment."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["augment", "halve_resolution"]

MAX_BRIGHTNESS = 63.0  # grey levels, of 0 to 255
MIN_CONTRAST, MAX_CONTRAST = 0.2, 1.8


def augment(images: Tensor, random: Tensor) -> Tensor:
    """Flips, brightens and stretches images at random, then standardises each.

    Left-right flip with probability 1/2; brightness shift uniform in +-63 grey levels; contrast
    factor uniform in 0.2 to 1.8 about the mean of each channel. Last, each image gets mean 0, which
    takes the brightness shift out again, and standard deviation 1 over all its N = 3 H W values;
    the deviation counts as at least 1/sqrt(N), which keeps images of a single colour finite.

    Args:
        images: Shape ``(B, 3, H, W)``, uint8.
        random: Shape ``(B, 3)`` or wider, uniform from 0 to 1; later columns are not used.

    Returns:
        Shape ``(B, 3, H, W)``, float32.
    """
    flip, brightness, contrast = random[:, :3, None, None, None].unbind(1)
    x = images.float()
    x = torch.where(flip < 0.5, x.flip(-1), x)
    x = x + MAX_BRIGHTNESS * (2 * brightness - 1)
    means = x.mean((2, 3), keepdim=True)
    x = means + (MIN_CONTRAST + (MAX_CONTRAST - MIN_CONTRAST) * contrast) * (x - means)
    variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
    return (x - mean) / variance.sqrt().clamp(min=x[0].numel() ** -0.5)


def halve_resolution(images: Tensor) -> Tensor:
    """Resizes images to half their size and back, bilinearly, corners on corners.

    Without antialiasing, as TensorFlow 1 did.

    Args:
        images: Shape ``(B, C, H, W)``, floating, H and W even.

    Returns:
        The same shape.
    """
    height, width = images.shape[-2:]
    small = interpolate(images, (height // 2, width // 2), mode="bilinear", align_corners=True)
    return interpolate(small, (height, width), mode="bilinear", align_corners=True)
