"""Simulated scans of crystals, for machines that have no microscope's.

Not a simulation of electrons: no propagation, no channelling. Each column of atoms is a Gaussian
spot, as bright as the column is long and as its atoms are heavy (Z^1.7), as a high-angle annular
dark-field detector sees it to first order; between them lies a diffuse background. Every line of a
scan is a little displaced, as by a stage that shakes and drifts. What is stored is electrons
counted, with their shot noise: whole numbers, the same on all machines.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy import ndimage  # type: ignore[import-untyped]

from alrc.lab.data.stem.crystals import (
    CERIA_110,
    GALLIUM_NITRIDE,
    GOLD_001,
    GOLD_110,
    MAGNESIUM_0001,
    MOLYBDENUM_SULPHIDE,
    PLATINUM_110,
    SILICON_110,
    STRONTIUM_TITANATE,
    Crystal,
    Field,
)
from alrc.lab.data.stem.reading import Scan

__all__ = ["SIDE", "simulated_scans"]

SIDE = 512  # pixels
PIXEL_SIZE = 0.0125  # nm
EXTENT = SIDE * PIXEL_SIZE
PROBE = 3.2  # pixels: standard deviation of a spot, whose full width at half maximum is 0.09 nm
REACH = 13  # pixels around a column of atoms in which its spot is drawn
TREMBLE = 0.004  # nm, of each column of atoms about its place
GAP = 0.1  # nm: columns of two crystals are no nearer to each other than about that
SHAKE = 0.2  # pixels, of each line by itself
SWAY = 0.7  # pixels, of about ten lines together
DARK = 0.5  # electrons counted in each pixel where there is nothing
SEED = 1

# What a scan shows, from random numbers: places of its columns of atoms in nm, ``(N, 2)`` as x, y;
# how bright each is, ``(N,)``; and the diffuse background, ``(SIDE, SIDE)``. The heaviest columns
# where a crystal is thickest have 1.
Specimen: TypeAlias = Callable[[np.random.Generator], tuple[Field, Field, Field]]


@functools.cache
def simulated_scans() -> tuple[Scan, ...]:
    """Twelve scans of 512 x 512 pixels of 0.0125 nm: the same at every call.

    Films of growing thickness with vacancies and dopants, boundaries of two grains or materials,
    and particles on an amorphous support, of nine crystals, at doses that differ up to sixfold.

    Returns:
        Scans whose values are electrons counted, whole numbers.
    """
    found = []
    for number, (name, specimen, dose) in enumerate(SPECIMENS):
        rng = np.random.default_rng([SEED, number])
        image = _imaged(rng, *specimen(rng))
        counts = rng.poisson(dose * image + DARK).astype(np.float32)
        counts.flags.writeable = False  # all who ask share it
        found.append(Scan(name, counts, PIXEL_SIZE))
    return tuple(found)


def _imaged(rng: np.random.Generator, places: Field, brightness: Field, background: Field) -> Field:
    """What the detector would see on average, line after line; ``(SIDE, SIDE)``."""
    sway = ndimage.gaussian_filter1d(rng.standard_normal(SIDE), 5, mode="wrap")
    drift = np.linspace(-1, 1, SIDE) * rng.normal(0, 2)
    displaced = SWAY * sway / sway.std() + SHAKE * rng.standard_normal(SIDE) + drift
    x, y = ((places + TREMBLE * rng.standard_normal(places.shape)) / PIXEL_SIZE).T
    around = np.arange(-REACH, REACH + 1)
    rows = np.rint(y).astype(int)[:, None] + around
    columns = np.rint(x).astype(int)[:, None] + around
    seen = (rows >= 0) & (rows < SIDE)
    away = displaced[np.clip(rows, 0, SIDE - 1)]  # (columns of atoms, rows)
    across = columns[:, None] - x[:, None, None] - away[..., None]
    squares = (rows - y[:, None])[..., None] ** 2 + across**2
    spots = brightness[:, None, None] * np.exp(-squares / (2 * PROBE**2))
    inside = seen[..., None] & ((columns >= 0) & (columns < SIDE))[:, None]
    pixels = (rows[..., None] * SIDE + columns[:, None])[inside]
    summed = np.bincount(pixels, spots[inside], SIDE * SIDE).reshape(SIDE, SIDE)
    image: Field = background + summed
    return image


def _pixels() -> Field:
    """Places of all pixels in nm, ``(SIDE, SIDE, 2)`` as x, y."""
    along = np.arange(SIDE) * PIXEL_SIZE
    return np.stack(np.meshgrid(along, along), -1)


def _wedge(places: Field, angle: float, thin: float) -> Field:
    """Thickness that grows from ``thin`` to 1 across a scan."""
    centred = (places / EXTENT - 0.5) @ np.array([np.cos(angle), np.sin(angle)])
    thickness: Field = thin + (1 - thin) * np.clip(centred / 1.2 + 0.5, 0, 1)
    return thickness


def _clouds(rng: np.random.Generator, size: float) -> Field:
    """Smooth random brightness from 0 to 1, in clouds of about ``size`` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), size, mode="wrap")
    clouds: Field = (noise - noise.min()) / np.ptp(noise)
    return clouds


def _anywhere(rng: np.random.Generator, crystal: Crystal) -> tuple[Field, Field]:
    """A crystal at any angle."""
    angle, *origin = rng.random(3)
    return crystal.columns_over(EXTENT, 2 * np.pi * angle, np.array(origin))


def _film(crystal: Crystal, thin: float, vacancies: float = 0.0, dopants: float = 0.0) -> Specimen:
    """A crystal of growing thickness, of whose columns some miss atoms and some hold heavier."""

    def specimen(rng: np.random.Generator) -> tuple[Field, Field, Field]:
        places, brightness = _anywhere(rng, crystal)
        way, chance = 2 * np.pi * rng.random(), rng.random(len(places))
        brightness = np.where(chance < vacancies, 0.35 * brightness, brightness)
        brightness = np.where(chance > 1 - dopants, 1.7 * brightness, brightness)
        background = 0.25 * _wedge(_pixels(), way, thin) + 0.06 * _clouds(rng, 50)
        return places, brightness * _wedge(places, way, thin), background

    return specimen


def _boundary(left: Crystal, right: Crystal, thin: float, contrast: float = 1.0) -> Specimen:
    """Two crystals that meet in a line; the right one is so many times as bright."""

    def specimen(rng: np.random.Generator) -> tuple[Field, Field, Field]:
        angle, bow = np.pi * (rng.random() - 0.5), 0.6 * rng.random()
        across = np.array([np.cos(angle), np.sin(angle)])
        along = np.array([-across[1], across[0]])

        def beyond(places: Field) -> Field:
            """How far a place lies to the right of the line, in nm."""
            centred = places - EXTENT / 2
            distance: Field = centred @ across + bow * np.sin(centred @ along)
            return distance

        sides = []
        for crystal, sign, bright in ((left, -1, 1.0), (right, 1, contrast)):
            places, brightness = _anywhere(rng, crystal)
            mine = sign * beyond(places) > GAP / 2
            sides.append((places[mine], bright * brightness[mine]))
        places, brightness = (np.concatenate(part) for part in zip(*sides, strict=True))
        way = 2 * np.pi * rng.random()
        level = 1 + (contrast - 1) / (1 + np.exp(-beyond(_pixels()) / GAP))
        background = 0.25 * level * _wedge(_pixels(), way, thin) + 0.05 * _clouds(rng, 30)
        return places, brightness * _wedge(places, way, thin), background

    return specimen


def _particles(crystal: Crystal, many: int, radius: float) -> Specimen:
    """Particles with facets, of about this radius in nm, on an amorphous support."""

    def specimen(rng: np.random.Generator) -> tuple[Field, Field, Field]:
        centres = EXTENT * (0.15 + 0.7 * rng.random((many, 2)))
        facets = rng.integers(5, 9, many)
        normals = [2 * np.pi * (np.arange(n) / n + rng.random()) for n in facets]
        distances = [radius * (0.8 + 0.4 * rng.random(n)) for n in facets]

        def thicknesses(places: Field) -> Field:
            """Of each particle: 1 in its middle, less towards its facets, 0 beyond them."""
            found = []
            for centre, normal, distance in zip(centres, normals, distances, strict=True):
                faces = np.stack([np.cos(normal), np.sin(normal)])
                depth = (1 - (places - centre) @ faces / distance).min(-1)
                found.append(np.sqrt(np.clip(depth, 0, 1)))
            return np.stack(found)

        parts = []
        for number in range(many):
            places, brightness = _anywhere(rng, crystal)
            heights = thicknesses(places)
            # Where two overlap on the screen, the thicker is seen.
            mine = (heights.argmax(0) == number) & (heights[number] > 0.15)
            parts.append((places[mine], (brightness * heights[number])[mine]))
        places, brightness = (np.concatenate(part) for part in zip(*parts, strict=True))
        support = 0.1 + 0.12 * _clouds(rng, 2.5) + 0.08 * _clouds(rng, 50)
        return places, brightness, support + 0.25 * thicknesses(_pixels()).max(0)

    return specimen


SPECIMENS: tuple[tuple[str, Specimen, float], ...] = (  # with the dose: counts of a pixel at 1
    ("strontium titanate, wedge", _film(STRONTIUM_TITANATE, thin=0.3), 60),
    ("gold, grain boundary", _boundary(GOLD_110, GOLD_001, thin=0.6), 40),
    ("platinum particles on carbon", _particles(PLATINUM_110, many=7, radius=0.9), 50),
    ("molybdenum sulphide, vacancies", _film(MOLYBDENUM_SULPHIDE, 0.8, vacancies=0.04), 30),
    ("silicon, wedge", _film(SILICON_110, thin=0.25), 40),
    (
        "strontium titanate on silicon",
        _boundary(STRONTIUM_TITANATE, SILICON_110, thin=0.7, contrast=0.45),
        80,
    ),
    ("gold particle on carbon", _particles(GOLD_110, many=1, radius=2.4), 60),
    ("magnesium, dopants", _film(MAGNESIUM_0001, thin=0.5, dopants=0.03), 25),
    ("ceria, wedge", _film(CERIA_110, thin=0.2, vacancies=0.01), 100),
    ("gallium nitride, grain boundary", _boundary(GALLIUM_NITRIDE, GALLIUM_NITRIDE, 0.5), 35),
    ("ceria particles on carbon", _particles(CERIA_110, many=4, radius=1.5), 120),
    (
        "molybdenum sulphide on gold",
        _boundary(GOLD_001, MOLYBDENUM_SULPHIDE, thin=0.6, contrast=0.5),
        20,
    ),
)
