"""Partial scans of any size, completed by what completes tiles of one size."""

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["complete_by_tiles", "tile_starts"]

Floats = NDArray[np.float32]
Complete = Callable[[Floats, Floats], Floats]


def tile_starts(length: int, side: int) -> list[int]:
    """Where tiles begin that cover a length, each overlapping the next by at least half.

    Example:
        >>> tile_starts(10, 4)
        [0, 2, 4, 6]
        >>> tile_starts(7, 4)
        [0, 2, 3]
    """
    count = 1 + math.ceil((length - side) / max(side // 2, 1))
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]


def complete_by_tiles(
    pixels: Floats,
    mask: Floats,
    side: int,
    complete: Complete,
    report: Callable[[int, int], object] = lambda done, total: None,
) -> Floats:
    """Completes a partial scan tile by tile, and blends the tiles smoothly.

    Each tile is normalised by its own visited pixels, as crops are in training, and brought back to
    the units of the scan. Where tiles overlap, each has the weight of a Hann window, which falls to
    almost 0 at its edges, so that no edge is seen.

    Args:
        pixels: The scan ``(H, W)``; what stands in unvisited pixels is not looked at.
        mask: ``(H, W)``: 0 in pixels that were not visited, else how long they were, up to 1.
        side: Of a tile; ``H`` and ``W`` are at least as large.
        complete: Given a tile from 0 to 1 on visited pixels and 0 elsewhere, and its mask, both
            ``(side, side)``, gives the whole tile from -1 to 1.
        report: Is told after each tile how many are done, and of how many.

    Returns:
        The whole scan ``(H, W)`` in the units of the partial one.

    Raises:
        ValueError: If a part of the scan is too far from all visited pixels.
    """
    height, width = pixels.shape
    profile = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    window = np.outer(profile, profile)
    total, weights = np.zeros((2, height, width))
    corners = list(itertools.product(tile_starts(height, side), tile_starts(width, side)))
    for done, (top, left) in enumerate(corners, 1):
        place = np.s_[top : top + side, left : left + side]
        if (made := _complete(pixels[place], mask[place], complete)) is not None:
            total[place] += window * made
            weights[place] += window
        report(done, len(corners))
    if empty := int((weights == 0).sum()):
        raise ValueError(
            f"every part of a scan must have visited pixels within the {side} x {side} pixels of a "
            f"tile, because it is completed from them; {empty:,} pixels have none. Cut the scan to "
            "where it was visited."
        )
    whole: Floats = (total / weights).astype(np.float32)
    return whole


def _complete(pixels: Floats, mask: Floats, complete: Complete) -> Floats | None:
    """A tile in the units of the scan; None if nothing of it was visited."""
    visited = mask > 0
    there = pixels[visited]
    if not there.size:
        return None
    least, largest = there.min(), there.max()
    if not largest > least:
        return np.full_like(pixels, least)  # nothing to see, nor to normalise by
    values = np.where(visited, (pixels - least) / (largest - least), 0).astype(np.float32)
    whole: Floats = least + (complete(values, mask) + 1) / 2 * (largest - least)
    return whole
