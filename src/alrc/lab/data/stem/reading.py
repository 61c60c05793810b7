"""One scan from one file, checked: TIFF, NumPy, or Gatan's DM3 and DM4."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

__all__ = [
    "SUFFIXES",
    "Pixels",
    "Scan",
    "as_float32",
    "check_pixels",
    "outermost",
    "read_image",
    "read_scan",
    "scans_among",
    "tiff_pixel_size",
]

Pixels = NDArray[np.float32]

TIFF, DIGITAL_MICROGRAPH = (".tif", ".tiff"), (".dm3", ".dm4")
SUFFIXES = (*TIFF, ".npy", *DIGITAL_MICROGRAPH)
DTYPES = (np.float32, np.uint8, np.uint16)
LEAST_SIDE = 64
SAME = 1e-3  # relative difference up to which two pixel sizes are one
ROUNDED = 1e-3  # share of the range of pixels that float32 may take from them
OUTERMOST = 1e-4  # share of the pixels, of the darkest and of the brightest, that may be hot ones
BEYOND = 10.0  # ranges of all others, as far as which no pixel may be
ALIKE = 0.75  # share of pixels with one number from which on a scan is not whole

NANOMETRES = {
    "pm": 1e-3,
    "angstrom": 0.1,
    "å": 0.1,
    "a": 0.1,
    "nm": 1.0,
    "µm": 1e3,
    "um": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "m": 1e9,
}
AS_FLOAT = "Open it in ImageJ, choose Image > Type > 32-bit, and save it as TIFF."


@dataclass(frozen=True, eq=False)
class Scan:
    """One image of a microscope.

    Attributes:
        name: Of its file, without the folder.
        pixels: Shape ``(H, W)``, float32, finite, in the units of the file.
        pixel_size: Side of a pixel in nanometres; None if the file does not say, or if its pixels
            are not square.
    """

    name: str
    pixels: Pixels
    pixel_size: float | None


def read_scan(path: Path) -> Scan:
    """Reads a scan, and refuses in words what is none.

    Args:
        path: Of a ``.tif``, ``.tiff`` or ``.npy`` with numbers of type float32, uint8 or uint16, or
            of a ``.dm3`` or ``.dm4`` (any real numbers), for which rosettasciio must be installed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, holds more or less than one image of one channel, numbers
            of another type, NaN or infinity, the same number in all pixels, or fewer than 64 pixels
            in a row or column; or if rosettasciio is needed, and is not there.
    """
    image, pixel_size = read_image(path)
    return Scan(path.name, check_pixels(path, image), pixel_size)


def scans_among(paths: Iterable[Path]) -> list[Path]:
    """The files that end as scans do, but for hidden ones, such as those of a Mac."""
    return [
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]


def read_image(path: Path) -> tuple[NDArray[Any], float | None]:
    """What :func:`read_scan` reads, before it looks at shape and values.

    Returns:
        The image as it is stored, and the side of a pixel in nanometres, if it is known.
    """
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "it is not there"
        raise FileNotFoundError(f"{path} must be a file with a scan; {found}. Pass another path.")
    suffix = path.suffix.lower()
    if suffix in TIFF:
        return _read_tiff(path)
    if suffix == ".npy":
        return _read_npy(path), None
    if suffix in DIGITAL_MICROGRAPH:
        return _read_digital_micrograph(path)
    raise ValueError(
        f"{path} must be one of {', '.join(SUFFIXES)}, because other files of microscopes are not "
        f"read; its name ends in {suffix or 'nothing'!r}. Save the scan as TIFF, in ImageJ for "
        "example."
    )


def check_pixels(path: Path, image: NDArray[Any]) -> Pixels:
    """One image as float32, or a refusal that names its file.

    Raises:
        ValueError: If it is not finite, constant, or too small.
    """
    if image.ndim != 2:
        shape = " x ".join(map(str, image.shape)) or "a single number"
        raise ValueError(
            f"{path} must hold one image of one channel, rows and columns; its shape is {shape}. "
            "Save each frame or channel to a file of its own."
        )
    height, width = image.shape
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"{path} must have at least {LEAST_SIDE} x {LEAST_SIDE} pixels, the least that is "
            f"trained with; it has {height} x {width}. Leave it out."
        )
    if wrong := int((~np.isfinite(image)).sum()):
        raise ValueError(
            f"{path} must hold a finite number in every pixel, because NaN and infinity spread to "
            f"all that is computed with them; {wrong:,} of {image.size:,} pixels do not. Put "
            "numbers there, in ImageJ with Process > Noise > Remove NaNs, or leave it out."
        )
    numbers, counts = np.unique(image, return_counts=True)
    if len(numbers) == 1:
        raise ValueError(
            f"{path} must show something, because scans are scaled by their range; all of its "
            f"pixels are {numbers[0]:g}. Leave it out."
        )
    if (share := counts.max() / image.size) > ALIKE:
        raise ValueError(
            f"{path} must be a whole scan; {share:.0%} of its pixels are "
            f"{numbers[counts.argmax()]:g}, as in a partial scan or a mask. Move it elsewhere, or "
            "pass a pattern of names, such as 'folder/whole-*.tif'."
        )
    if (far := outermost(image)) > BEYOND:
        raise ValueError(
            f"{path} must have no single pixels far beyond all others, because scans are scaled by "
            f"their range; it goes to {far:,.0f} times the range of nearly all. Take them out, in "
            "ImageJ with Process > Noise > Remove Outliers."
        )
    return as_float32(path, image)


def outermost(pixels: NDArray[Any]) -> float:
    """Range of pixels, in that of all but the lowest and the highest, one in 10,000 of each.

    It is large where there are hot pixels, or those that an X-ray hit.
    """
    left_out = max(int(pixels.size * OUTERMOST), 1)
    places = (left_out, pixels.size - 1 - left_out)
    low, high = np.partition(pixels, places, axis=None)[list(places)].astype(np.float64)
    extent = np.float64(pixels.max()) - np.float64(pixels.min())
    return float(extent / (high - low)) if high > low else 1.0


def as_float32(path: Path, pixels: NDArray[Any]) -> Pixels:
    """Finite pixels as networks compute with them.

    Raises:
        ValueError: If little would be left of their differences.
    """
    with np.errstate(over="ignore"):  # then nothing is left
        rounded = pixels.astype(np.float32)
    exact = pixels.astype(np.float64)
    if np.abs(rounded - exact).max() > ROUNDED * np.ptp(exact):
        raise ValueError(
            f"{path} must have pixels that are the same as 32-bit real numbers, with which "
            f"networks compute; those from {exact.min():.10g} to {exact.max():.10g} are not. "
            "Subtract the smallest of them, or divide them by the largest."
        )
    return rounded


def _check_type(path: Path, image: NDArray[Any], mend: str) -> NDArray[Any]:
    if image.dtype.newbyteorder("=") not in DTYPES:
        raise ValueError(
            f"{path} must hold numbers of type float32, uint8 or uint16, because others cannot be "
            f"taken over as they are; they are of type {image.dtype}. {mend}"
        )
    return image


def _unreadable(path: Path, kind: str, error: object) -> ValueError:
    reason = str(error).strip().rstrip(".") or type(error).__name__
    return ValueError(
        f"{path} must be a whole {kind} file that can be read; it could not be: {reason}. Copy "
        f"it again, or save it anew{' without compression' if kind == 'TIFF' else ''}."
    )


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        image = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _unreadable(path, "NumPy", error) from error
    return _check_type(path, image, "Save it again after .astype(numpy.float32).")


def _read_tiff(path: Path) -> tuple[NDArray[Any], float | None]:
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            frames = (
                math.prod(file.series[0].shape[:-2]) if len(file.pages) == 1 else len(file.pages)
            )
            meaning = getattr(page.photometric, "name", str(page.photometric))
            samples = page.samplesperpixel
            image = page.asarray() if frames == samples == 1 else None
            pixel_size = tiff_pixel_size(file)
    # Beside its own error, tifffile lets through whatever a damaged file makes it run into.
    except Exception as error:
        raise _unreadable(path, "TIFF", error) from error
    if image is None or meaning not in ("MINISBLACK", "MINISWHITE"):
        found = f"it has {frames} frames" if samples == 1 and frames > 1 else "it is in colour"
        raise ValueError(
            f"{path} must hold one image of one channel, rows and columns; {found}. Save each "
            "frame or channel to a file of its own; in ImageJ with Image > Stacks > Stack to "
            "Images, or Image > Color > Split Channels."
        )
    if meaning == "MINISWHITE":
        raise ValueError(
            f"{path} must show more electrons as larger numbers, black as 0; it is stored with "
            "white as 0. Open it in ImageJ, choose Image > Lookup Tables > Invert LUT and, if it "
            "then looks inverted, Edit > Invert; and save it as TIFF."
        )
    return _check_type(path, image, AS_FLOAT), pixel_size


def tiff_pixel_size(file: tifffile.TiffFile) -> float | None:
    """Side of a pixel in nanometres, if ImageJ or OME say it.

    The resolution of any other file is that of a screen or a printer.
    """
    tags = file.pages.first.tags
    if file.imagej_metadata:
        factor = _nanometres(str(file.imagej_metadata.get("unit", "")))
        sizes = [
            tag.value[1] / tag.value[0]
            for tag in (tags.get("XResolution"), tags.get("YResolution"))
            if tag is not None and tag.value[0]
        ]
        return _square([factor * size for size in sizes]) if factor and len(sizes) == 2 else None
    if file.ome_metadata:
        for element in ElementTree.fromstring(file.ome_metadata).iter():
            if element.tag.endswith("}Pixels"):
                sides = [
                    (_nanometres(element.get(f"PhysicalSize{axis}Unit", "µm")) or math.nan)
                    * float(element.get(f"PhysicalSize{axis}", "nan"))
                    for axis in "XY"
                ]
                return _square(sides)
    return None


def _square(sides: list[float]) -> float | None:
    """The side of a pixel, if both are positive and the same."""
    x, y = sides
    known = math.isfinite(x) and x > 0 and math.isclose(x, y, rel_tol=SAME)
    return x if known else None


def _nanometres(unit: str) -> float | None:
    """How long a unit is, by the name that a program gives it."""
    # ImageJ writes characters beyond ASCII as \u00B5; there are two letters for micro and Angstrom.
    name = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), unit).strip()
    name = name.replace("\u03bc", "\u00b5").replace("\u212b", "\u00e5").lower()
    return NANOMETRES.get(name)


def _read_digital_micrograph(path: Path) -> tuple[NDArray[Any], float | None]:
    try:
        from rsciio.digitalmicrograph import file_reader
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is a file of Gatan's, for which rosettasciio is needed; it is not installed "
            'here. Install it with: pip install "alrc[stem]"'
        ) from error
    try:
        images = file_reader(str(path))
    # It has no error of its own: a damaged file makes it run into anything.
    except Exception as error:
        raise _unreadable(path, "DM3 or DM4", error) from error
    if len(images) != 1:
        raise ValueError(
            f"{path} must hold one image; it holds {len(images)}. Save each to a file of its own."
        )
    image = np.asarray(images[0]["data"])
    if image.dtype.kind not in "iuf":  # colours are a structured type
        raise ValueError(
            f"{path} must hold real numbers; they are of type {image.dtype}. Export the scan as a "
            "TIFF of 32-bit real numbers."
        )
    axes = images[0]["axes"]
    sides = [(_nanometres(str(x.get("units"))) or math.nan) * float(x["scale"]) for x in axes]
    return image, _square(sides) if len(sides) == 2 else None
