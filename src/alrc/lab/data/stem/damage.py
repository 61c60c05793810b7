"""What instruments do to some scans: saturated stripes, dead columns, dropped lines."""

import numpy as np
from numpy.typing import NDArray

from alrc.lab.data.stem.crops import Crops

__all__ = ["KINDS", "damage"]

KINDS = ("saturated stripe", "dead columns", "dropped lines", "repeated lines")
# Detectors are set so that a scan takes about half of the range that can be stored.
SATURATED = 2.0
DEAD = 0.0
WIDEST = 4  # at most a side's fourth is damaged
GOLDEN = (5**0.5 - 1) / 2  # multiples of it, without their whole parts, lie apart from each other


def damage(crops: Crops, random: NDArray[np.float32], share: float) -> Crops:
    """Damages some crops as instruments do, each in one of four ways, as likely as each other.

    - A *saturated stripe*: lines in which the detector gives as much as it can, twice the range of
      the scan.
    - *Dead columns*, spread over the crop, and *dropped lines*, one below the other, are as dark as
      the darkest pixel of the scan.
    - *Repeated lines* all show the line above them.

    Args:
        crops: Shape ``(N, S, S)``, not turned, of scans whose values go from 0 to 1.
        random: Shape ``(N, 4)``, uniform from 0 to 1: whether a crop is damaged, how, where, and
            how much of it, up to a quarter.
        share: Of the crops to damage, on average; from 0 to 1.

    Returns:
        The same shape; the crops that are not damaged are as they were, bit for bit.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            "damage: share is that of the training scans which are damaged, so it must be from 0 "
            f"to 1; got {share:g}. Pass 0.02 for 2 %."
        )
    damaged = crops.copy()
    side = crops.shape[-1]
    for number in np.flatnonzero(random[:, 0] < share).tolist():
        _, kind, place, extent = random[number].tolist()
        many = 1 + min(int(extent * (side // WIDEST)), side // WIDEST - 1)
        first = 1 + min(int(place * (side - many)), side - many - 1)  # there is a line above
        lines = slice(first, first + many)
        crop = damaged[number]
        match KINDS[min(int(kind * len(KINDS)), len(KINDS) - 1)]:
            case "saturated stripe":
                crop[lines] = SATURATED
            case "dead columns":
                crop[:, _spread(place, many, side)] = DEAD
            case "dropped lines":
                crop[lines] = DEAD
            case "repeated lines":
                crop[lines] = crop[first - 1]
    return damaged


def _spread(place: float, many: int, side: int) -> NDArray[np.int64]:
    """So many columns, or fewer where two fall together, the first of them at ``place``."""
    places = (place + GOLDEN * np.arange(many)) % 1
    return (places * side).astype(np.int64)
