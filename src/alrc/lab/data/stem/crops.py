"""Square pieces of scans: at random for training, side by side for evaluation."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Crops", "normalise", "random_crops", "tiles"]

Pixels = NDArray[np.float32]
Crops = NDArray[np.float32]

FLAT = 1e-6  # range below which a crop counts as constant
LEAST_RANGE = 0.1  # of the range of its scan, for a tile to show something


def random_crops(
    images: Sequence[Pixels],
    side: int,
    random: NDArray[np.float32],
    damage: Callable[[Crops], Crops] | None = None,
) -> Crops:
    """A crop for each row of random numbers, turned and mirrored at random.

    Args:
        images: Each ``(H, W)``, no side shorter than ``side``.
        side: Of a crop, in pixels.
        random: Shape ``(N, 4)``, uniform from 0 to 1: which image, which rows, which columns, and
            which of the eight ways to turn and mirror a square, each as likely as any other.
        damage: What is done to crops before they are turned, so that it knows rows from columns.

    Returns:
        Shape ``(N, side, side)``, in the units of the images.
    """
    for image in images:
        if min(image.shape) < side:
            height, width = image.shape
            raise ValueError(
                f"training scans must be at least as large as a crop of {side} x {side} pixels; "
                f"one has {height} x {width}, after averaging and splitting. Pass a smaller side, "
                "a smaller average, or larger scans."
            )
    crops = np.empty((len(random), side, side), np.float32)
    number = _choice(random[:, 0], len(images))
    heights, widths = np.array([image.shape for image in images])[number].T
    tops = _choice(random[:, 1], heights - side + 1)
    lefts = _choice(random[:, 2], widths - side + 1)
    for crop, image, top, left in zip(
        crops, number.tolist(), tops.tolist(), lefts.tolist(), strict=True
    ):
        crop[:] = images[image][top : top + side, left : left + side]
    return _turned(damage(crops) if damage else crops, _choice(random[:, 3], 8))


def _choice(random: NDArray[np.float32], count: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from 0 to below ``count``, each as likely; a 32-bit uniform number can be 1."""
    chosen = (random.astype(np.float64) * count).astype(np.int64)
    inside: NDArray[np.int64] = np.minimum(chosen, np.asarray(count) - 1)
    return inside


def _turned(crops: Crops, ways: NDArray[np.int64]) -> Crops:
    """Turned by ``ways % 4`` right angles and, from 4 on, mirrored; each crop its own way."""
    turned = np.empty_like(crops)
    for way in range(8):
        mine = ways == way
        group = np.rot90(crops[mine], way % 4, axes=(1, 2))
        turned[mine] = group[:, :, ::-1] if way >= 4 else group
    return turned


def normalise(crops: Crops) -> Crops:
    """Scales each crop to the range from -1 to 1; one of constant brightness becomes 0.

    Args:
        crops: Shape ``(N, H, W)``, finite, in units in which a range below 1e-6 means nothing.

    Returns:
        The same shape.
    """
    least, most = crops.min((1, 2), keepdims=True), crops.max((1, 2), keepdims=True)
    half = (most - least) / 2
    scaled = (crops - (least + most) / 2) / np.maximum(half, FLAT / 2)
    return np.where(most - least < FLAT, np.float32(0), scaled)


def tiles(images: Sequence[Pixels], side: int) -> Crops:
    """All crops that lie side by side from the top left of each image, but for those of nothing.

    Those whose range is below a tenth of a whole scan's, which is 1, are left out: they are empty
    support, or vacuum.

    Args:
        images: Each ``(H, W)``, of scans whose values go from 0 to 1.
        side: Of a tile, in pixels; what is left of an image at the right and below is not used.

    Returns:
        Shape ``(N, side, side)``, in the units of the images, image by image and row by row.
    """
    cut = [
        image[top : top + side, left : left + side]
        for image in images
        for top in range(0, image.shape[0] - side + 1, side)
        for left in range(0, image.shape[1] - side + 1, side)
    ]
    kept = [tile for tile in cut if np.ptp(tile) >= LEAST_RANGE]
    if not kept:
        found = f"none of {len(cut)} tiles shows as much" if cut else "they are smaller than that"
        raise ValueError(
            f"held-out scans must have a tile of {side} x {side} pixels that shows at least a "
            f"tenth of a scan's range, because what was learned is measured there; {found}. Pass a "
            "smaller side, a smaller average, or other scans."
        )
    return np.stack(kept)
