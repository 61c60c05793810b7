"""Partial scans from files, and completed ones into files that ImageJ opens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alrc.lab.data.stem.reading import (
    DIGITAL_MICROGRAPH,
    SUFFIXES,
    as_float32,
    read_image,
    tiff_pixel_size,
)

__all__ = ["Partial", "read_mask", "read_partial", "write_completed"]

# What ImageJ notes of the shape and the look of one file, and not of what was recorded.
OF_ONE_FILE = {"ImageJ", "images", "channels", "slices", "frames", "hyperstack", "mode", "loop"}
OF_ONE_FILE |= {"min", "max", "Ranges", "LUTs"}
# The same of Fiji's own writer.
OF_ONE_FILE |= {"SCIFIO", "axes", "lengths", "scales", "units", "bitsPerPixel"}
TEXTS = (271, 272, 306, 315, 316, 33432)  # make, model, date, artist, computer, copyright
UNITS = {2: "inch", 3: "cm"}  # of resolutions; in others only ImageJ's own words say it


@dataclass(frozen=True)
class Partial:
    """A partial scan.

    Attributes:
        pixels: ``(H, W)``, in the units of its file; 0 where it was not visited.
        mask: ``(H, W)``: 0 in pixels that were not visited, else how long they were, up to 1.
        metadata: What :func:`write_completed` writes beside the pixels.
    """

    pixels: NDArray[np.float32]
    mask: NDArray[np.float32]
    metadata: dict[str, Any] = field(default_factory=dict)


def read_partial(path: Path, mask: NDArray[np.float32] | None = None) -> Partial:
    """Reads a partial scan.

    Args:
        path: A TIFF, ``.npy``, ``.dm3`` or ``.dm4`` file with one image of real numbers.
        mask: Which pixels were visited, as :func:`read_mask` gives it. Without one, these are
            those that are not NaN or, where there is no NaN, not exactly 0.

    Raises:
        ValueError: If it can't be read, is of another shape than its mask, has infinite pixels, or
            NaN where it was visited, was visited nowhere or everywhere, or shows nothing.
        OSError: If the system does not let it be read.
    """
    pixels, metadata = _read(path, "a partial scan")
    if np.isinf(pixels).any():
        raise _refusal(path, "have finite pixels", f"{np.isinf(pixels).sum():,} are infinite")
    if mask is None:
        nowhere = np.isnan(pixels) if np.isnan(pixels).any() else pixels == 0
        mask = (~nowhere).astype(np.float32)
    if mask.shape != pixels.shape:
        raise _refusal(
            path, "have the shape of its mask", f"it has {pixels.shape}, the mask {mask.shape}"
        )
    visited = mask > 0
    if lost := int(np.isnan(pixels[visited]).sum()):
        raise _refusal(path, "be known where its mask says it was visited", f"{lost:,} are NaN")
    if visited.all():
        raise _refusal(
            path,
            "have pixels that were not visited, which are 0 or NaN, or 0 in a --mask",
            "it has none, so nothing is left to complete",
        )
    if not visited.any() or np.ptp(pixels[visited]) == 0:
        words = f"all are {pixels[visited][0]:g}" if visited.any() else "there are none"
        raise _refusal(path, "have visited pixels of different values to be completed from", words)
    known = np.zeros(pixels.shape, np.float32)
    known[visited] = as_float32(path, pixels[visited])
    return Partial(known, mask, metadata)


def read_mask(path: Path) -> NDArray[np.float32]:
    """Reads which pixels were visited: those that are not 0.

    Of whole numbers, all of these become 1; other numbers are how long each pixel was visited, as a
    share of the longest possible, and stay what they are.

    Raises:
        ValueError: If it can't be read, or holds numbers below 0 or above 1, or NaN.
        OSError: If the system does not let it be read.
    """
    values, _ = _read(path, "a mask")
    if values.dtype.kind != "f":
        values = values != 0
    if not ((values >= 0) & (values <= 1)).all():
        raise _refusal(
            path,
            "hold whole numbers, or numbers from 0 to 1, as a mask",
            f"it has {values.min():g} to {values.max():g}",
        )
    return values.astype(np.float32)


def write_completed(path: Path, pixels: NDArray[np.float32], like: Partial) -> None:
    """Writes float32 pixels as a TIFF file that ImageJ opens, with what the partial scan's said:
    pixel size, description, notes, date.

    Args:
        path: The file.
        pixels: ``(H, W)``.
        like: What was completed.
    """
    import tifffile

    known = like.metadata
    shown = {"min": float(pixels.min()), "max": float(pixels.max())}
    tifffile.imwrite(
        path,
        np.ascontiguousarray(pixels, np.float32),
        imagej=True,
        metadata={**known.get("imagej", {}), **shown},
        software="alrc",
        **{name: known[name] for name in ("resolution", "extratags") if name in known},
    )


def _read(path: Path, what: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """The one image of a file, and its metadata."""
    if path.suffix.lower() not in SUFFIXES:
        raise _refusal(path, f"end in {', '.join(SUFFIXES)} to be read as {what}", "it does not")
    metadata: dict[str, Any] = {}
    images, meaning = 1, "MINISBLACK"
    suffix = path.suffix.lower()
    if suffix in DIGITAL_MICROGRAPH:  # whose reader has its own words
        array, size = read_image(path)
        return _image(path, array, what), {} if size is None else _resolution(size)
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            array, metadata, images, meaning = _read_tiff(path)
    except OSError:
        raise
    except Exception as error:  # whatever the bytes happen to spell
        words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{path} must be a whole file to be read as {what}; it can't be read: {words}. Save it "
            "again, for example as TIFF with ImageJ."
        ) from None
    if images > 1:
        raise _refusal(path, f"hold one image to be read as {what}", f"it holds {images}")
    # Of a mask only 0 counts, and ImageJ stores those it makes with white as 0.
    if what == "a partial scan" and meaning not in ("MINISBLACK", "RGB"):
        raise _refusal(
            path,
            f"show more electrons as larger numbers, black as 0, to be read as {what}",
            f"it is stored as {meaning}. Save it again as a grey image, in ImageJ with Image > "
            "Lookup Tables > Invert LUT or Image > Type > 32-bit",
        )
    return _image(path, array, what), metadata


def _resolution(nanometres: float) -> dict[str, Any]:
    """How ImageJ is told the size of a pixel."""
    return {"imagej": {"unit": "nm"}, "resolution": (1 / nanometres, 1 / nanometres)}


def _image(path: Path, array: NDArray[Any], what: str) -> NDArray[Any]:
    """The one image of what a file holds."""
    shape = array.shape
    while array.ndim > 2 and 1 in (array.shape[0], array.shape[-1]):  # one frame, or one channel
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2:
        raise ValueError(
            f"{path} must hold one image of one channel to be read as {what}; it has the shape "
            f"{shape}. Save each in a file of its own."
        )
    if array.dtype.kind not in "buif":
        raise _refusal(path, f"hold real numbers to be read as {what}", f"it has {array.dtype}")
    return array


def _read_tiff(path: Path) -> tuple[NDArray[Any], dict[str, Any], int, str]:
    """The first image, its metadata, how many there are, and what its numbers stand for."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        array = file.asarray()
        page = file.pages.first
        tags: Any = page.tags
        said = file.imagej_metadata
        imagej = {n: _ascii(n, x) for n, x in (said or {}).items() if n not in OF_ONE_FILE}
        description = str(tags[270].value) if 270 in tags else ""
        if said is None and description:
            imagej["Info"] = description  # which Image > Show Info shows
        found: dict[str, Any] = {"imagej": imagej}
        if 282 in tags and 283 in tags and all(tags[code].value[0] for code in (282, 283)):
            unit = UNITS.get(int(tags[296].value)) if 296 in tags else None
            found["resolution"] = (tags[282].value, tags[283].value)
            if said is None and unit is not None:
                imagej["unit"] = unit
        if said is None and (size := tiff_pixel_size(file)) is not None:  # as OME says it
            imagej["unit"] = "nm"
            found["resolution"] = (1 / size, 1 / size)
        texts = {code: str(tags[code].value).encode() for code in TEXTS if code in tags}
        found["extratags"] = [(code, 2, 0, text, True) for code, text in texts.items()]
        meaning = getattr(page.photometric, "name", str(page.photometric))
        return array, found, len(file.series), meaning


def _ascii(name: str, value: Any) -> Any:
    """Units are kept in a text of ASCII, in which ImageJ spells other letters out."""
    if isinstance(value, str) and name != "Info":
        return "".join(c if ord(c) < 128 else f"\\u{ord(c):04X}" for c in value)
    return value


def _refusal(path: Path, what: str, words: str) -> ValueError:
    return ValueError(f"{path} must {what}; {words}.")
