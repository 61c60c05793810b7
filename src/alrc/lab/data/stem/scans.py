"""Many scans, split into those to train with and those to measure with."""

import functools
import glob
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alrc.lab.data.stem.reading import (
    LEAST_SIDE,
    SAME,
    SUFFIXES,
    Pixels,
    Scan,
    read_scan,
    scans_among,
)
from alrc.lab.data.stem.simulated import simulated_scans

__all__ = ["Scan", "Scans", "load_scans", "read_scan"]

HELD_OUT_SCANS = 0.15
HELD_OUT_COLUMNS = 0.25


@dataclass(frozen=True, eq=False)
class Scans:
    """Named scans, split into a training and a held-out part.

    Attributes:
        name: What the scans are, for titles.
        training: Each ``(H, W)``, float32; a whole scan goes from 0 to 1.
        held_out: The same for images that share no pixel with ``training``.
        pixel_size: Side of a pixel in nanometres; None if a file does not say, or they differ.
    """

    name: str
    training: tuple[Pixels, ...]
    held_out: tuple[Pixels, ...]
    pixel_size: float | None

    def sha256(self) -> str:
        """Checksum of all pixels and shapes, by which other scans are told from these."""
        checksum = hashlib.sha256()
        for part in (self.training, self.held_out):
            checksum.update(repr([image.shape for image in part]).encode())
            for image in part:
                checksum.update(np.ascontiguousarray(image, "<f4").tobytes())
        return checksum.hexdigest()


@functools.cache
def load_scans(scans: str, average: int = 1, split: Literal["scans", "columns"] = "scans") -> Scans:
    """The scans that an option names, loaded once in each process.

    Each is averaged, and then scaled so that its darkest pixel is 0 and its brightest 1.

    Args:
        scans: ``"simulated"``; or a folder, in which all scans are read; or a pattern with ``*``,
            such as ``folder/*.dm4``.
        average: Over squares of so many pixels in each direction; what is left over at the right
            and below is dropped. Averaged scans are less noisy, and a crop shows more of them.
        split: ``"scans"`` holds out the last 15 % of them, by name, at least one: it measures what
            was learned for specimens never seen. ``"columns"`` holds out the last quarter of the
            columns of each: for few scans, and an easier question.

    Raises:
        FileNotFoundError: If there are no scans.
        ValueError: If a scan is refused by :func:`read_scan`, has fewer than 64 pixels in a row or
            column after averaging, or if there is only one and whole scans are to be held out.
    """
    if average < 1:
        raise ValueError(
            f"average must be at least 1, which leaves scans as they are; got {average}. Pass 2 "
            "for the mean of 2 x 2 pixels."
        )
    if scans == "simulated":
        name, found = scans, list(simulated_scans())
    else:
        name, found = Path(scans).name, [read_scan(path) for path in _files(scans)]
    images = [_scaled(_averaged(scan, average)) for scan in found]
    training, held_out = _by_columns(images) if split == "columns" else _by_scans(images, scans)
    sizes = [scan.pixel_size for scan in found]
    pixel_size = None
    if sizes[0] and all(size and math.isclose(size, sizes[0], rel_tol=SAME) for size in sizes):
        pixel_size = sizes[0] * average
    return Scans(name, tuple(training), tuple(held_out), pixel_size)


def _files(scans: str) -> list[Path]:
    path = Path(scans)
    if glob.has_magic(path.name) and not path.exists():
        found = sorted(path.parent.glob(path.name))
    elif path.is_dir():
        found = sorted(path.iterdir())
    else:
        what = "which is a file" if path.exists() else "which is not there"
        raise FileNotFoundError(
            "scans must be simulated, a folder with scans, or a pattern such as folder/*.tif; got "
            f"{scans!r}, {what}. Type the path of a folder."
        )
    files = scans_among(found)
    if not files:
        raise FileNotFoundError(
            f"{scans} must have scans in it, files that end in {', '.join(SUFFIXES)}; it has none. "
            "Type the path of their own folder; those in folders inside it are not looked for."
        )
    return files


def _averaged(scan: Scan, average: int) -> Pixels:
    """Means of squares, ``(H // average, W // average)``, rounded to float32 once."""
    height, width = (side // average for side in scan.pixels.shape)
    if min(height, width) < LEAST_SIDE:
        largest = min(scan.pixels.shape) // LEAST_SIDE
        raise ValueError(
            f"{scan.name} must keep at least {LEAST_SIDE} x {LEAST_SIDE} pixels after averaging; "
            f"with average={average} it keeps {height} x {width}. Pass at most {largest}."
        )
    squares = scan.pixels[: height * average, : width * average]
    squares = squares.reshape(height, average, width, average)
    means: Pixels = squares.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return means


def _scaled(image: Pixels) -> Pixels:
    """From 0 to 1; a scan whose range is lost in averaging becomes 0."""
    least, extent = np.float64(image.min()), np.float64(image.max()) - np.float64(image.min())
    scaled: Pixels = ((image - least) / (extent or 1)).astype(np.float32)
    return scaled


def _by_columns(images: Sequence[Pixels]) -> tuple[list[Pixels], list[Pixels]]:
    firsts = [int(image.shape[1] * (1 - HELD_OUT_COLUMNS)) for image in images]
    pairs = list(zip(images, firsts, strict=True))
    return [x[:, :first] for x, first in pairs], [x[:, first:] for x, first in pairs]


def _by_scans(images: list[Pixels], scans: str) -> tuple[list[Pixels], list[Pixels]]:
    if len(images) < 2:
        raise ValueError(
            f"{scans} must hold at least two scans, because one is held out to measure with; it "
            "holds 1. Pass split=columns to hold out a part of each scan, or add scans."
        )
    held_out = max(round(len(images) * HELD_OUT_SCANS), 1)
    return images[:-held_out], images[-held_out:]
