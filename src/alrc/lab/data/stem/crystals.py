"""Crystals that are simulated, as they are seen along one of their axes."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CERIA_110",
    "GALLIUM_NITRIDE",
    "GOLD_001",
    "GOLD_110",
    "MAGNESIUM_0001",
    "MOLYBDENUM_SULPHIDE",
    "PLATINUM_110",
    "SILICON_110",
    "STRONTIUM_TITANATE",
    "Crystal",
    "Field",
]

Field: TypeAlias = NDArray[np.float64]  # numbers of places, of columns of atoms or of pixels

EXPONENT = 1.7  # of the atomic number
MAGNESIUM, SILICON, TITANIUM, STRONTIUM = 12, 14, 22, 38
MOLYBDENUM, CERIUM, PLATINUM, GOLD = 42, 58, 78, 79
OXYGEN, SULPHUR, GALLIUM = 8, 16, 31


@dataclass(frozen=True)
class Crystal:
    """A crystal, seen along one of its axes.

    Attributes:
        cell: The two edges of a unit cell, in nm; shape ``(2, 2)``.
        columns: Of atoms in a cell: place along each edge, from 0 to 1, and the atomic numbers of
            the atoms in it.
    """

    cell: tuple[tuple[float, float], tuple[float, float]]
    columns: tuple[tuple[float, float, tuple[int, ...]], ...]

    def columns_over(self, extent: float, angle: float, origin: Field) -> tuple[Field, Field]:
        """Columns of atoms over a square and a little around it.

        Args:
            extent: Side of the square, in nm.
            angle: By which the crystal is turned, in radians.
            origin: Of a unit cell, in nm; shape ``(2,)``, not far outside of the square.

        Returns:
            Their places in nm, ``(N, 2)`` as x, y; and their brightness, ``(N,)``, where the
            brightest column of the crystal has 1.
        """
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        cell = np.array(self.cell) @ turn
        # Rows of cells are at least so far apart, and the far corner of the square is 1.42 away.
        apart = abs(np.linalg.det(cell)) / np.linalg.norm(cell, axis=1).max()
        many = int(1.6 * extent / apart) + 1
        cells = np.stack(np.meshgrid(*[np.arange(-many, many + 1)] * 2), -1).reshape(-1, 2)
        weights = np.array([sum(z**EXPONENT for z in atoms) for _, _, atoms in self.columns])
        inside = np.array([place for *place, _ in self.columns])
        places = ((cells[:, None] + inside) @ cell).reshape(-1, 2) + origin
        brightness = np.tile(weights / weights.max(), len(cells))
        near = (np.abs(places - extent / 2) < 0.55 * extent).all(1)
        return places[near], brightness[near]


def _rectangle(a: float, b: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (a, 0.0), (0.0, b)


def _rhombus(a: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (a, 0.0), (-a / 2, a * 0.75**0.5)


# Lattice constants in nm.
STRONTIUM_TITANATE = Crystal(
    _rectangle(0.3905, 0.3905),
    (
        (0.0, 0.0, (STRONTIUM,)),
        (0.5, 0.5, (TITANIUM, OXYGEN)),
        (0.5, 0.0, (OXYGEN,)),
        (0.0, 0.5, (OXYGEN,)),
    ),
)
GOLD_001 = Crystal(_rectangle(0.2039, 0.2039), ((0.0, 0.0, (GOLD,)),))
GOLD_110 = Crystal(_rectangle(0.4078, 0.2884), ((0.0, 0.0, (GOLD,)), (0.5, 0.5, (GOLD,))))
PLATINUM_110 = Crystal(
    _rectangle(0.3924, 0.2775), ((0.0, 0.0, (PLATINUM,)), (0.5, 0.5, (PLATINUM,)))
)
SILICON_110 = Crystal(
    _rectangle(0.5431, 0.3840),
    tuple((u, v, (SILICON,)) for u, v in ((0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.75, 0.5))),
)
MOLYBDENUM_SULPHIDE = Crystal(
    _rhombus(0.316), ((1 / 3, 2 / 3, (MOLYBDENUM,)), (2 / 3, 1 / 3, (SULPHUR, SULPHUR)))
)
MAGNESIUM_0001 = Crystal(_rhombus(0.321), ((0.0, 0.0, (MAGNESIUM,)), (1 / 3, 2 / 3, (MAGNESIUM,))))
GALLIUM_NITRIDE = Crystal(_rhombus(0.319), ((0.0, 0.0, (GALLIUM,)), (1 / 3, 2 / 3, (GALLIUM,))))
CERIA_110 = Crystal(
    _rectangle(0.5411, 0.3826),
    (
        (0.0, 0.0, (CERIUM,)),
        (0.5, 0.5, (CERIUM,)),
        (0.25, 0.5, (OXYGEN, OXYGEN)),
        (0.75, 0.5, (OXYGEN, OXYGEN)),
    ),
)
