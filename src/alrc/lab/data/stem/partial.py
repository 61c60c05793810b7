"""Partial scans from files, and completed ones into files that ImageJ opens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alrc.lab.data.stem.reading import DIGITAL_MICROGRAPH, read_image

__all__ = ["ENDINGS", "Partial", "read_mask", "read_partial", "write_completed"]

ENDINGS = (".tif", ".tiff", ".npy", *DIGITAL_MICROGRAPH)
# What ImageJ notes of the shape and the look of one file, and not of what was recorded.
OF_ONE_FILE = {"ImageJ", "images", "channels", "slices", "frames", "hyperstack", "mode", "loop"}
OF_ONE_FILE |= {"min", "max", "Ranges", "LUTs"}
TEXTS = (271, 272, 315, 316, 33432)  # make, model, artist, computer, copyright
DATE = 306
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
            those that are neither exactly 0 nor NaN.

    Raises:
        ValueError: If it can't be read, is of another shape than its mask, has infinite pixels, or
            NaN where it was visited, was visited nowhere or everywhere, or shows nothing.
        OSError: If the system does not let it be read.
    """
    pixels, metadata = _read(path, "a partial scan")
    pixels = pixels.astype(np.float32)
    if np.isinf(pixels).any():
        raise _refusal(path, "have finite pixels", f"{np.isinf(pixels).sum():,} are infinite")
    if mask is None:
        mask = ((pixels != 0) & ~np.isnan(pixels)).astype(np.float32)
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
    return Partial(np.where(visited, pixels, 0).astype(np.float32), mask, metadata)


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
        **{name: known[name] for name in ("resolution", "datetime", "extratags") if name in known},
    )


def _read(path: Path, what: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """The one image of a file, and its metadata."""
    if path.suffix.lower() not in ENDINGS:
        raise _refusal(path, f"end in {', '.join(ENDINGS)} to be read as {what}", "it does not")
    metadata: dict[str, Any] = {}
    suffix = path.suffix.lower()
    if suffix in DIGITAL_MICROGRAPH:  # whose reader has its own words
        array, size = read_image(path)
        return _image(path, array, what), {} if size is None else _resolution(size)
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            array, metadata = _read_tiff(path)
    except OSError:
        raise
    except Exception as error:  # whatever the bytes happen to spell
        words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{path} must be a whole file to be read as {what}; it can't be read: {words}. Save it "
            "again, for example as TIFF with ImageJ."
        ) from None
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


def _read_tiff(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        array = file.asarray()
        tags: Any = file.pages[0].tags  # type: ignore[union-attr]
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
        if DATE in tags:
            found["datetime"] = str(tags[DATE].value)
        found["extratags"] = [(c, 2, 0, str(tags[c].value), True) for c in TEXTS if c in tags]
    return array, found


def _ascii(name: str, value: Any) -> Any:
    """Units are kept in a text of ASCII, in which ImageJ spells other letters out."""
    if isinstance(value, str) and name != "Info":
        return "".join(c if ord(c) < 128 else f"\\u{ord(c):04X}" for c in value)
    return value


def _refusal(path: Path, what: str, words: str) -> ValueError:
    return ValueError(f"{path} must {what}; {words}.")
