"""The paths of partial scans, and what a microscope that takes them would give.

Images are scaled to the range from -1 to 1 before they are scanned; what is scanned is scaled to
the range from 0 to 1, where 0 is a pixel that was not visited.

References:
    J. M. Ede and R. Beanland, "Partial scanning transmission electron microscopy with deep
    learning", Sci. Rep. 10 (2020) 8332, https://doi.org/10.1038/s41598-020-65261-0
"""

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import pad

__all__ = [
    "blur",
    "dwell",
    "dwell_scan",
    "grid",
    "infill",
    "infilled_scan",
    "spiral",
    "subsample",
    "visited_range",
]

Mask = NDArray[np.float32]
Visited = NDArray[np.bool_]

LEAST_RANGE = 0.05  # of the range of an image, as which that of its visited pixels counts at least
FLAT = 1e-6  # range of an image below which it counts as constant
BINOMIAL = np.array([0.25, 0.5, 0.25], np.float32)
# The paper draws its spirals of 512 pixels and coverage 1/20 through so many points.
PAPER_POINTS, PAPER_SIDE, PAPER_COVERAGE = 10_000, 512, 1 / 20


def spiral(side: int, coverage: float, points: int | None = None) -> Mask:
    """Pixels that an Archimedean spiral visits: 1 on the path, 0 elsewhere.

    Its turns are ``1 / coverage`` pixels apart, out to the corners. The coverage is nominal: at 512
    pixels and 1/20, the path visits 1/22.1 of them.

    Args:
        side: Of the image, in pixels, at least 2.
        coverage: Share of the pixels to visit, above 0 and at most 1.
        points: Through which the path is drawn in straight lines, at least 2. More give corners
            like a staircase's, which cover more. By default as many as the paper's 10,000 for 512
            pixels and 1/20, in proportion to the length of the path.

    Returns:
        Shape ``(side, side)``, 0 or 1.
    """
    if side < 2:
        raise ValueError(
            f"spiral: side must be at least 2, because a path has to go somewhere; got {side}. "
            "Pass the side of the images in pixels, such as 64."
        )
    if not 0 < coverage <= 1:
        raise ValueError(
            "spiral: coverage is the share of the pixels that are visited, so it must be above 0 "
            f"and at most 1; got {coverage:g}. Pass 0.05 for a twentieth."
        )
    radius = _canvas(side) / 2
    if points is None:
        length = (radius / (_canvas(PAPER_SIDE) / 2)) ** 2 * coverage / PAPER_COVERAGE
        points = max(round(PAPER_POINTS * length), 2)
    elif points < 2:
        raise ValueError(
            "spiral: points must be at least 2, because lines are drawn between them; got "
            f"{points}. Leave it out to have them set by the length of the path."
        )
    step_out = 1 / (2 * math.pi * coverage)  # pixels away from the centre for each radian
    farthest = radius / step_out
    angles = np.arange(0, farthest, farthest / points)
    x, y = (step_out * angles * turn(angles) + radius for turn in (np.cos, np.sin))
    canvas = Image.new("F", (_canvas(side), _canvas(side)))
    ImageDraw.Draw(canvas).line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=1)
    first = _canvas(side) // 2 - side // 2
    return np.array(canvas)[first : first + side, first : first + side]


def _canvas(side: int) -> int:
    """Side of a square in which a circle goes round an image of this side."""
    return math.ceil(math.sqrt(2) * side)


def dwell(mask: Mask) -> Mask:
    """The time that a blurred beam spends at each pixel: a mask smoothed over 3x3 pixels.

    With the binomial kernel ``[1, 2, 1] x [1, 2, 1] / 16``, reflected at the pixels of the edge.

    Args:
        mask: Shape ``(H, W)``, 1 on the path and 0 elsewhere.

    Returns:
        Shape ``(H, W)``, multiples of 1/16.
    """
    rows = ndimage.convolve1d(mask, BINOMIAL, axis=0, mode="mirror")
    smooth: Mask = ndimage.convolve1d(rows, BINOMIAL, axis=1, mode="mirror")
    return smooth


def grid(side: int, stride: int) -> Visited:
    """Pixels that a regular grid visits: every ``stride``-th of every ``stride``-th row.

    The rest of the division of ``side`` by ``stride`` is left half before the first and half
    behind the last.

    Returns:
        Shape ``(side, side)``.
    """
    visited = np.zeros((side, side), np.bool_)
    offset = _offset(side, stride)
    visited[offset::stride, offset::stride] = True
    return visited


def _offset(side: int, stride: int) -> int:
    if not 1 <= stride <= side:
        raise ValueError(
            "a grid's stride must be from 1 to the side of the image, so that it visits a pixel; "
            f"got {stride}, and a side of {side}. Pass 5 to visit every fifth pixel."
        )
    return side % stride // 2


def subsample(images: Tensor, stride: int) -> Tensor:
    """What :func:`grid` visits, as smaller images.

    Args:
        images: Shape ``(..., S, S)``.
        stride: Pixels from one that is visited to the next.

    Returns:
        Shape ``(..., s, s)``, where s is the number of visited pixels in a row.
    """
    offset = _offset(images.shape[-1], stride)
    return images[..., offset::stride, offset::stride]


def infill(values: Tensor, visited: Visited) -> Tensor:
    """Gives each pixel the value of the nearest that was visited.

    By straight distance; of several as near, always the same one is taken.

    Args:
        values: Shape ``(..., H, W)``; those of pixels that were not visited are not used.
        visited: Shape ``(H, W)``, the same for all images, at least one pixel of it.

    Returns:
        The same shape as ``values``.
    """
    nearest = _nearest(visited.tobytes(), visited.shape).to(values.device)
    return values.flatten(-2)[..., nearest].view(values.shape)


@functools.lru_cache(maxsize=16)
def _nearest(content: bytes, shape: tuple[int, int]) -> Tensor:
    """For each pixel, the number of the visited one that is nearest to it; ``(H * W,)``."""
    visited = np.frombuffer(content, np.bool_).reshape(shape)
    if not visited.any():
        raise ValueError(
            "infill: at least one pixel must be visited, because the others take their values "
            "from it; none is. Pass a mask that is true where the image was scanned."
        )
    rows, columns = ndimage.distance_transform_edt(
        ~visited, return_distances=False, return_indices=True
    )
    return torch.from_numpy((rows * shape[1] + columns).ravel().astype(np.int64))


def blur(images: Tensor, size: int = 5, sigma: float = 2.5) -> Tensor:
    """Takes out the noise that no network can predict: a Gaussian blur.

    The kernel of ``size`` x ``size`` pixels has sum 1; images are reflected at the pixels of their
    edge, which are not repeated. Training targets are blurred with the default, those of
    supersampling with ``size=3, sigma=1.5``.

    Args:
        images: Shape ``(..., H, W)``, floating; gradients go through.
        size: Of the kernel, odd, in pixels.
        sigma: Standard deviation of the Gaussian, in pixels.

    Returns:
        The same shape.
    """
    weights = _gaussian(size, sigma)
    stack = pad(images.reshape(-1, 1, *images.shape[-2:]), (size // 2,) * 4, mode="reflect")
    return _weighted(_weighted(stack, weights, -2), weights, -1).view(images.shape)


def _weighted(images: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    """Weighted sums of neighbours, in a fraction of the time of a convolution of one channel."""
    length = images.shape[dim] - len(weights) + 1
    total = weights[0] * images.narrow(dim, 0, length)
    for place, weight in enumerate(weights[1:], start=1):
        total = total.add(images.narrow(dim, place, length), alpha=weight)
    return total


@functools.cache
def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    weights = [math.exp(-0.5 * ((place - size // 2) / sigma) ** 2) for place in range(size)]
    return tuple(weight / sum(weights) for weight in weights)


def dwell_scan(target: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    r"""A partial scan by a blurred beam, which is noisier where it stays for a shorter time.

    .. math::
        d &= m\,(m x + 2 (1 - m) u b) \\
        y &= d \text{ where } m > 0 \text{, else} -1 \text{; then scaled to the range 0 to 1}

    with the target x, its blurred copy b scaled to the range -1 to 1, the mask m and noise u.

    Args:
        target: Shape ``(..., H, W)``, values from -1 to 1.
        mask: Shape ``(H, W)``, from :func:`dwell`.
        noise: The shape of ``target``, uniform from 0 to 1.

    Returns:
        The shape of ``target``, values from 0 to 1; exactly 0 where the beam never is.
    """
    smooth = 2 * _unit(blur(target)) - 1
    scan = mask * (mask * target + 2 * (1 - mask) * noise * smooth)
    return _unit(torch.where(mask > 0, scan, -1.0))


def infilled_scan(target: Tensor, mask: Mask) -> Tensor:
    """A partial scan by a sharp beam, without noise, in which no gaps are left.

    The visited pixels are scaled so that -1 becomes 0, and the brightest of them 1; the others
    take the value of the nearest visited one.

    Args:
        target: Shape ``(..., H, W)``, values from -1 to 1.
        mask: Shape ``(H, W)``, 1 on the path and 0 elsewhere: from :func:`spiral`.

    Returns:
        The shape of ``target``, values from 0 to 1.
    """
    visited = mask > 0
    on_path = torch.from_numpy(visited).to(target.device)
    return infill(_unit(torch.where(on_path, target, -1.0)), visited)


def visited_range(targets: Tensor, visited: Tensor) -> tuple[Tensor, Tensor]:
    """Middle, and half of the range, of the visited pixels of each image.

    Where that is less than a twentieth of the range from -1 to 1, it is taken for as much, so that
    what was not visited does not become huge.

    Args:
        targets: Shape ``(N, H, W)``, values from -1 to 1.
        visited: The same.

    Returns:
        Each ``(N, 1, 1)``.
    """
    least = targets.masked_fill(~visited, torch.inf).amin((1, 2), keepdim=True)
    most = targets.masked_fill(~visited, -torch.inf).amax((1, 2), keepdim=True)
    return (least + most) / 2, ((most - least) / 2).clamp(min=LEAST_RANGE)


def _unit(images: Tensor) -> Tensor:
    """Scales each image to the range from 0 to 1; constant ones become 0."""
    least, most = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    extent = most - least
    scaled = (images - least) / extent.clamp(min=FLAT)
    return torch.where(extent < FLAT, 0.0, scaled)
