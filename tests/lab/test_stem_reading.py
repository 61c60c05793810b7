"""Scans from files: which numbers, how large a pixel, and what is refused."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from real_data import REAL_SCANS, needs_real_scans

from alrc.lab.data.stem.reading import check_pixels, read_image
from alrc.lab.data.stem.scans import read_scan

AGAIN = "Copy it again, or save it anew"
FRAMES = (
    "Save each frame or channel to a file of its own; in ImageJ with Image > Stacks > Stack to "
    "Images, or Image > Color > Split Channels."
)


def image(dtype: Any = np.float32, shape: tuple[int, ...] = (70, 64)) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 200, shape).astype(dtype)


def refusal(path: Path, error: type[Exception] = ValueError) -> str:
    """What is said of a file, with FILE for its path."""
    with pytest.raises(error) as caught:
        read_scan(path)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["scan.tif", "SCAN.TIFF", "scan.npy"])
def test_pixels_come_as_they_are_stored(tmp_path: Path, name: str, dtype: Any) -> None:
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, image(dtype))
    else:
        tifffile.imwrite(path, image(dtype))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.pixels, image(dtype))
    assert (scan.name, scan.pixels.dtype, scan.pixel_size) == (name, np.float32, None)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(tmp_path: Path, order: str) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", image(), byteorder=order)
    np.save(tmp_path / "scan.npy", image().astype(f"{order}f4"))
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_scan(path).pixels, image())


def test_files_of_another_program_are_read(tmp_path: Path) -> None:
    Image.fromarray(image(np.uint8)).save(tmp_path / "scan.tif", dpi=(72, 72))
    scan = read_scan(tmp_path / "scan.tif")
    np.testing.assert_array_equal(scan.pixels, image(np.uint8))
    assert scan.pixel_size is None  # 72 dots per inch are a screen's


@needs_real_scans
def test_real_scans_are_read() -> None:
    path = REAL_SCANS / "truth-03.tif"
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.pixels, tifffile.imread(path))
    assert scan.pixels.shape == (512, 512)


@pytest.mark.parametrize(
    ("unit", "per_unit", "nanometres"),
    [
        ("nm", (50, 50), 0.02),
        ("\\u00B5m", (2e3, 2e3), 0.5),
        ("micron", (2e3, 2e3), 0.5),
        ("Angstrom", (5, 5), 0.02),
        ("pm", (0.05, 0.05), 0.02),
        ("nm", (50, 25), None),  # not square
        ("pixel", (1, 1), None),
        ("", (50, 50), None),
    ],
)
def test_pixel_size_is_what_imagej_says(
    tmp_path: Path, unit: str, per_unit: tuple[float, float], nanometres: float | None
) -> None:
    path = tmp_path / "scan.tif"
    metadata = {"unit": unit} if unit else {}
    tifffile.imwrite(path, image(), imagej=True, resolution=per_unit, metadata=metadata)
    assert read_scan(path).pixel_size == (nanometres and pytest.approx(nanometres, rel=1e-5))


@pytest.mark.parametrize(
    ("metadata", "nanometres"),
    [
        ({"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}, 250),  # OME's default are micrometres
        (
            {
                "PhysicalSizeX": 0.2,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 2.0,
                "PhysicalSizeYUnit": "Å",
            },
            0.2,
        ),
        ({"PhysicalSizeX": 0.25}, None),
        ({}, None),
    ],
)
def test_pixel_size_is_what_ome_says(
    tmp_path: Path, metadata: dict[str, Any], nanometres: float | None
) -> None:
    path = tmp_path / "scan.ome.tif"
    tifffile.imwrite(path, image(), ome=True, metadata={"axes": "YX", **metadata})
    assert read_scan(path).pixel_size == (nanometres and pytest.approx(nanometres))


def test_hot_pixels_partial_scans_and_large_offsets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    hot, part, mask = image(), image(), image(np.uint8)
    hot[3, 5] = 1e4
    part[np.random.default_rng(1).random(part.shape) < 0.9] = 0
    mask[:] = mask > 160
    share = [f"{(pixels == 0).mean():.0%}" for pixels in (part, mask)]
    whole = (
        "FILE must be a whole scan; {} of its pixels are 0, as in a partial scan or a mask. Move "
        "it elsewhere, or pass a pattern of names, such as 'folder/whole-*.tif'."
    )
    for pixels, words in (
        (part, whole.format(share[0])),
        (mask, whole.format(share[1])),
        (
            hot,
            "FILE must have no single pixels far beyond all others, because scans are scaled by "
            "their range; it goes to 50 times the range of nearly all. Take them out, in ImageJ "
            "with Process > Noise > Remove Outliers.",
        ),
    ):
        np.save(path, pixels)
        assert refusal(path) == words
    hot[3, 5] = 600  # bright, and no more
    np.save(path, hot)
    assert read_scan(path).pixels.max() == 600
    for far in (1e9 + image(np.float64), 1e298 * image(np.float64)):
        with pytest.raises(ValueError, match="must have pixels that are the same as 32-bit real"):
            check_pixels(path, far)


@pytest.fixture
def digital_micrograph(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts something in the place of rosettasciio that reads these images from any file."""

    def install(*images: dict[str, Any] | Exception) -> None:
        def file_reader(name: str) -> list[dict[str, Any]]:
            assert Path(name).is_file()
            for found in images:
                if isinstance(found, Exception):
                    raise found
            return list(images)

        module = SimpleNamespace(file_reader=file_reader)
        monkeypatch.setitem(sys.modules, "rsciio", ModuleType("rsciio"))
        monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", module)

    return install


def axes(scale: float, unit: str, other: float | None = None) -> list[dict[str, Any]]:
    return [
        {"name": name, "size": 64, "offset": 0.0, "scale": size, "units": unit}
        for name, size in (("y", scale), ("x", scale if other is None else other))
    ]


@pytest.mark.parametrize("suffix", [".dm3", ".DM4"])
@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.uint32, np.float32])
def test_files_of_gatan_are_read_with_their_pixel_size(
    tmp_path: Path, digital_micrograph: Callable[..., None], suffix: str, dtype: Any
) -> None:
    path = tmp_path / f"scan{suffix}"
    path.touch()
    digital_micrograph({"data": image(dtype), "axes": axes(2e-5, "µm")})
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.pixels, image(dtype).astype(np.float32))
    assert scan.pixels.dtype == np.float32
    assert scan.pixel_size == pytest.approx(0.02)
    for uncalibrated in (axes(1.0, ""), axes(1.0, "nm", 2.0), axes(0.0, "nm"), axes(1.0, "1/nm")):
        digital_micrograph({"data": image(dtype), "axes": uncalibrated})
        assert read_scan(path).pixel_size is None


def test_files_of_gatan_that_are_no_single_image_are_refused(
    tmp_path: Path, digital_micrograph: Callable[..., None]
) -> None:
    path = tmp_path / "scan.dm4"
    path.touch()
    one = {"data": image(), "axes": axes(1, "nm")}
    digital_micrograph(one, one)
    assert refusal(path) == (
        "FILE must hold one image; it holds 2. Save each to a file of its own."
    )
    digital_micrograph({"data": image(np.complex64), "axes": axes(1, "nm")})
    assert refusal(path) == (
        "FILE must hold real numbers; they are of type complex64. Export the scan as a TIFF of "
        "32-bit real numbers."
    )
    digital_micrograph({"data": image(shape=(3, 64, 64)), "axes": [*axes(1, "nm"), *axes(1, "nm")]})
    assert refusal(path) == (
        "FILE must hold one image of one channel, rows and columns; its shape is 3 x 64 x 64. Save "
        "each frame or channel to a file of its own."
    )
    digital_micrograph(NotImplementedError("not a DM3/DM4 file."))
    assert refusal(path) == (
        "FILE must be a whole DM3 or DM4 file that can be read; it could not be: not a DM3/DM4 "
        f"file. {AGAIN}."
    )


def test_without_rosettasciio_a_file_of_gatan_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rsciio", None)
    monkeypatch.delitem(sys.modules, "rsciio.digitalmicrograph", raising=False)
    path = tmp_path / "scan.dm3"
    path.touch()
    assert refusal(path) == (
        "FILE is a file of Gatan's, for which rosettasciio is needed; it is not installed here. "
        'Install it with: pip install "alrc[stem]"'
    )


def with_pixel(value: float) -> np.ndarray:
    pixels = image()
    pixels[3, 4:6] = value
    return pixels


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            with_pixel(np.nan),
            "FILE must hold a finite number in every pixel, because NaN and infinity spread to all "
            "that is computed with them; 2 of 4,480 pixels do not. Put numbers there, in ImageJ "
            "with Process > Noise > Remove NaNs, or leave it out.",
        ),
        (
            with_pixel(-np.inf),
            "FILE must hold a finite number in every pixel, because NaN and infinity spread to all "
            "that is computed with them; 2 of 4,480 pixels do not. Put numbers there, in ImageJ "
            "with Process > Noise > Remove NaNs, or leave it out.",
        ),
        (
            np.full((64, 64), 7, np.uint8),
            "FILE must show something, because scans are scaled by their range; all of its pixels "
            "are 7. Leave it out.",
        ),
        (
            image(shape=(100, 63)),
            "FILE must have at least 64 x 64 pixels, the least that is trained with; it has "
            "100 x 63. Leave it out.",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_what_cannot_be_trained_with_is_refused(
    tmp_path: Path, suffix: str, pixels: np.ndarray, message: str
) -> None:
    path = tmp_path / f"scan.{suffix}"
    tifffile.imwrite(path, pixels) if suffix == "tif" else np.save(path, pixels)
    assert refusal(path) == message


def test_an_image_can_be_read_whatever_its_values(tmp_path: Path) -> None:
    path = tmp_path / "partial.tif"
    resolution = {"imagej": True, "resolution": (50, 50), "metadata": {"unit": "nm"}}
    tifffile.imwrite(path, with_pixel(np.nan), **resolution)
    pixels, pixel_size = read_image(path)
    np.testing.assert_array_equal(pixels, with_pixel(np.nan))
    assert pixel_size == pytest.approx(0.02)


def test_other_types_of_numbers_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", image(np.int16))
    assert refusal(tmp_path / "scan.tif") == (
        "FILE must hold numbers of type float32, uint8 or uint16, because others cannot be taken "
        "over as they are; they are of type int16. Open it in ImageJ, choose Image > Type > "
        "32-bit, and save it as TIFF."
    )
    np.save(tmp_path / "scan.npy", image(np.float64))
    assert refusal(tmp_path / "scan.npy") == (
        "FILE must hold numbers of type float32, uint8 or uint16, because others cannot be taken "
        "over as they are; they are of type float64. Save it again after .astype(numpy.float32)."
    )


@pytest.mark.parametrize(
    ("pixels", "options", "found"),
    [
        (image(shape=(3, 64, 64)), {"imagej": True}, "it has 3 frames"),
        (image(shape=(5, 64, 64)), {"photometric": "minisblack"}, "it has 5 frames"),
        (image(np.uint8, (64, 64, 3)), {"photometric": "rgb"}, "it is in colour"),
        (
            image(np.uint8),
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "it is in colour",
        ),
    ],
)
def test_several_frames_and_colours_are_refused(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], found: str
) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, pixels, **options)
    assert refusal(path) == (
        f"FILE must hold one image of one channel, rows and columns; {found}. {FRAMES}"
    )


def test_images_of_different_sizes_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(image())
        writer.write(image(shape=(90, 90)))
    assert refusal(path) == (
        f"FILE must hold one image of one channel, rows and columns; it has 2 frames. {FRAMES}"
    )


def test_an_image_that_is_stored_inverted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, image(np.uint8), photometric="miniswhite")
    assert refusal(path) == (
        "FILE must show more electrons as larger numbers, black as 0; it is stored with white as "
        "0. Open it in ImageJ, choose Image > Lookup Tables > Invert LUT and, if it then looks "
        "inverted, Edit > Invert; and save it as TIFF."
    )


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 8}, {"tile": (32, 32)}])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.995])
def test_a_truncated_tiff_is_refused(tmp_path: Path, options: dict[str, Any], kept: float) -> None:
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, image(), **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert re.fullmatch(
        r"FILE must be a whole TIFF file that can be read; it could not be: [^\n]+\. "
        + re.escape(f"{AGAIN} without compression."),
        refusal(path),
    )


def test_damaged_numpy_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, image())
    content = path.read_bytes()
    for damaged in (b"", content[:50], content[:-1], b"text" * 99):
        path.write_bytes(damaged)
        assert re.fullmatch(
            r"FILE must be a whole NumPy file that can be read; it could not be: [\s\S]+\. "
            + re.escape(f"{AGAIN}."),
            refusal(path),
        )
    np.save(path, np.array([{"an": "object"}]), allow_pickle=True)
    assert refusal(path).startswith("FILE must be a whole NumPy file that can be read; it could")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.ser"
    path.touch()
    assert refusal(path) == (
        "FILE must be one of .tif, .tiff, .npy, .dm3, .dm4, because other files of microscopes are "
        "not read; its name ends in '.ser'. Save the scan as TIFF, in ImageJ for example."
    )
    assert refusal(tmp_path / "no.tif", FileNotFoundError) == (
        "FILE must be a file with a scan; it is not there. Pass another path."
    )
    assert refusal(tmp_path, FileNotFoundError) == (
        "FILE must be a file with a scan; it is a folder. Pass another path."
    )
