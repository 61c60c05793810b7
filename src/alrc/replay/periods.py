"""Rows that stand out at equal distances, such as the last, short batch of each epoch."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Numbers = NDArray[np.float64]

LEAST_HITS, LEAST_SHARE, SHORTEST = 4, 0.25, 4
# Logarithm of how much likelier rows are with the period than anywhere.
CERTAIN = 13.0
# Rows that a row may be off, and while the length is not known well.
NEAR, LOOSELY = 0.75, 1.25
ANCHORS, EVENTS, CANDIDATES = 6, 120, 60


@dataclass(frozen=True)
class Period:
    """Rows at equal distances.

    Attributes:
        length: Rows from one to the next; not whole where a row is the mean of several steps.
        first: The first of them that fits.
        hits: Those that stand out, of ``slots`` from there to the end.
        rows: Where they are.
    """

    length: float
    first: int
    hits: int
    slots: int
    rows: tuple[int, ...]


def period(rows: Rows, size: int) -> Period | None:
    """The period that most of these rows come in, if one does.

    Args:
        rows: Rows that stand out, those that do most first.
        size: Number of rows of the curve.

    Example:
        >>> found = period(np.array([99, 199, 250, 299, 499]), 600)
        >>> found.length, found.first, found.hits, found.slots
        (100.0, 99, 4, 6)
    """
    strong = rows[:EVENTS]
    if strong.size < LEAST_HITS:
        return None
    distances = np.abs(strong[:, None] - strong[None, :])[np.triu_indices(strong.size, 1)]
    lengths, counts = np.unique(distances[distances >= SHORTEST], return_counts=True)
    common = lengths[np.argsort(-counts, kind="stable")[:CANDIDATES]]
    candidates = np.unique(np.concatenate([common / part for part in (1, 2, 3)]))
    best, most = None, CERTAIN
    for length in candidates[(candidates >= SHORTEST) & (candidates <= size / LEAST_HITS)]:
        for anchor in strong[:ANCHORS]:
            found, score = _fit(np.sort(rows), float(length), int(anchor), size)
            if found is not None and score > most:
                best, most = found, score
    return best


def _fit(rows: Rows, length: float, anchor: int, size: int) -> tuple[Period | None, float]:
    """The rows that fit a period, which is fitted to them, and how sure that is."""
    start, reach = float(anchor), 2.0
    while True:  # from the anchor outwards, where what the length is off by adds up
        slots = np.round((rows - start) / length)
        fits = np.abs(rows - start - slots * length) <= (
            NEAR if reach * length > 2 * size else LOOSELY
        )
        near = fits & (np.abs(rows - anchor) <= (reach + 0.5) * length)
        if np.unique(slots[near]).size >= 3:
            length, start = _line(slots[near], rows[near])
        if length < SHORTEST or np.unique(slots[fits]).size < min(LEAST_HITS, reach):
            return None, 0.0
        if reach * length > 2 * size:
            break
        reach *= 2
    length = round(length, 6)
    hits = np.unique(slots[fits]).size
    first = int(rows[fits][0])
    last = int(rows[fits][-1])
    slots_all = int((size - 1 - first) / length + 1e-6) + 1
    covers = last - first >= 0.4 * size
    if hits < LEAST_HITS or not covers or hits < LEAST_SHARE * slots_all:
        return None, 0.0
    width = 1 if abs(length - round(length)) < 1e-6 else 2
    expected = slots_all * width * rows.size / size
    if hits <= expected:
        return None, 0.0
    score = hits * math.log(hits / expected) - (hits - expected)
    return Period(length, first, hits, slots_all, tuple(rows[fits].tolist())), score


def _line(x: Numbers, y: Rows) -> tuple[float, float]:
    """Slope, and y where x is 0, of the line of least squares."""
    off = x - x.mean()
    slope = float((off * y).sum() / (off * off).sum())
    return slope, float(y.mean() - slope * x.mean())
