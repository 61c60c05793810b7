"""Partial scans from files, and what of their metadata a completed one keeps."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile

from alrc.lab.data.stem.partial import read_mask, read_partial, write_completed

SCAN = np.array([[0.0, 2.0, 0.0], [4.0, 0.0, -1.0]], np.float32)


def saved(path: Path, array: Any, **how: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        tifffile.imwrite(path, array, **how)
    return path


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.npy"])
def test_pixels_that_are_not_0_were_visited(name: str, tmp_path: Path) -> None:
    partial = read_partial(saved(tmp_path / name, SCAN))
    np.testing.assert_array_equal(partial.mask, [[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(partial.pixels, [[0, 2, 0], [4, 0, -1]])
    assert partial.pixels.dtype == partial.mask.dtype == np.float32


def test_where_there_is_nan_only_pixels_that_are_nan_were_not_visited(tmp_path: Path) -> None:
    counts = np.array([[0, 2, np.nan], [np.nan, 0, 1]])
    partial = read_partial(saved(tmp_path / "a.npy", counts))
    np.testing.assert_array_equal(partial.mask, [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(partial.pixels, [[0, 2, 0], [0, 0, 1]])


def test_a_file_of_gatan_is_read_and_its_pixel_size_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = [{"scale": 0.02, "units": "nm"}] * 2
    module = ModuleType("rsciio.digitalmicrograph")
    module.file_reader = lambda name: [{"data": SCAN, "axes": axes}]
    monkeypatch.setitem(sys.modules, "rsciio", ModuleType("rsciio"))
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", module)
    path = tmp_path / "scan.DM4"
    path.touch()
    partial = read_partial(path)
    np.testing.assert_array_equal(partial.mask, [[0, 1, 0], [1, 0, 1]])
    imagej, tags = completed(path)
    assert imagej["unit"] == "nm"
    pixels, nanometres = tags[282]
    assert nanometres / pixels == pytest.approx(0.02)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float64", ">f4"])
def test_counts_and_numbers_of_any_size_are_read(dtype: str, tmp_path: Path) -> None:
    array = np.array([[[0, 200], [3, 0]]], dtype)  # with an axis of one frame
    np.testing.assert_array_equal(
        read_partial(saved(tmp_path / "a.npy", array)).pixels, [[0, 200], [3, 0]]
    )


def test_a_mask_says_what_was_visited_and_for_how_long(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.tif", np.array([[0, 255], [7, 0]], np.uint8))
    shares = saved(tmp_path / "shares.tif", np.array([[0.0, 0.625], [0.0625, 0.0]], np.float32))
    np.testing.assert_array_equal(read_mask(whole), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(read_mask(shares), [[0, 0.625], [0.0625, 0]])
    scan = saved(tmp_path / "scan.tif", np.array([[9.0, 0.0], [5.0, 9.0]], np.float32))
    partial = read_partial(scan, read_mask(shares))  # 0 is a value like others then
    np.testing.assert_array_equal(partial.pixels, [[0, 0], [5, 0]])
    np.testing.assert_array_equal(partial.mask, [[0, 0.625], [0.0625, 0]])


def completed(path: Path) -> tuple[dict[str, Any], dict[int, Any]]:
    """What ImageJ and what any reader of TIFF knows of a completed scan."""
    whole = np.linspace(-3, 5, 6).reshape(2, 3)
    write_completed(path.with_name("whole.tif"), whole, read_partial(path))
    with tifffile.TiffFile(path.with_name("whole.tif")) as file:
        assert file.is_imagej
        array = file.asarray()
        known: Any = file.imagej_metadata
        tags: Any = file.pages[0].tags
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, whole, rtol=1e-6)
        assert (known["min"], known["max"]) == (-3, 5)
        return dict(known), {tag.code: tag.value for tag in tags}


def test_what_imagej_knows_of_a_scan_stays(tmp_path: Path) -> None:
    said = {"unit": "nm", "Info": "HAADF, 200 kV, 5 µs", "spacing": 2.0, "min": 0.0, "max": 1.0}
    scale = ((1_000_000, 23_437), (1_000_000, 23_439))
    path = saved(
        tmp_path / "a.tif", SCAN, imagej=True, resolution=scale, metadata=said,
        datetime="2019:05:17 10:20:30", extratags=[(315, 2, 0, "A. Microscopist", True)],
    )  # fmt: skip
    known, tags = completed(path)
    assert {n: known[n] for n in ("unit", "Info", "spacing")} == {
        n: said[n] for n in ("unit", "Info", "spacing")
    }
    assert (tags[282], tags[283]) == scale
    assert tags[306] == "2019:05:17 10:20:30"
    assert tags[315] == "A. Microscopist"


def test_what_other_tiff_files_say_stays_too(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.tif", SCAN, description="dwell 10 us", metadata=None,
        resolution=(4e8, 4e8), resolutionunit="CENTIMETER",
    )  # fmt: skip
    known, tags = completed(path)
    assert known["Info"] == "dwell 10 us"
    assert known["unit"] == "cm"
    assert tags[282][0] / tags[282][1] == pytest.approx(4e8)


def test_pixel_sizes_of_ome_stay_and_so_do_texts_and_dates_in_any_form(tmp_path: Path) -> None:
    said = {"axes": "YX", "PhysicalSizeX": 20.0, "PhysicalSizeXUnit": "pm"}
    said |= {"PhysicalSizeY": 20.0, "PhysicalSizeYUnit": "pm"}
    path = saved(tmp_path / "a.ome.tif", SCAN, ome=True, metadata=said)
    known, tags = completed(path)
    assert known["unit"] == "nm"
    assert tags[282][1] / tags[282][0] == pytest.approx(0.02)
    texts = {315: "Jürgen Müller", 33432: "© Uni", 306: "17/05/2019 10:20"}
    path = saved(
        tmp_path / "b.tif", SCAN, metadata=None,
        extratags=[(code, 2, 0, text.encode(), True) for code, text in texts.items()],
    )  # fmt: skip
    _, tags = completed(path)
    assert {code: tags[code] for code in texts} == texts


def test_what_fiji_notes_of_the_shape_of_a_file_is_not_taken_over(tmp_path: Path) -> None:
    said = "SCIFIO=0.42.0\naxes=X,Y\nlengths=3,2\nscales=0.02,0.02\nunits=nm,nm\nbitsPerPixel=32\n"
    path = saved(
        tmp_path / "a.tif", SCAN, metadata=None, description=f"ImageJ=1.53\n{said}unit=nm\n"
    )
    known, _ = completed(path)
    assert known["unit"] == "nm"
    assert "axes" not in known


def test_a_unit_in_other_letters_is_spelt_as_imagej_spells_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", SCAN, imagej=True, metadata={"unit": r"\u00B5m"})
    known, _ = completed(path)
    assert known["unit"] in (r"\u00B5m", "µm")


def test_arrays_know_nothing_and_are_completed_all_the_same(tmp_path: Path) -> None:
    known, _ = completed(saved(tmp_path / "a.npy", SCAN))
    assert "unit" not in known


BROKEN: dict[str, tuple[Any, str]] = {
    "full.tif": (
        np.ones((2, 2), np.float32),
        "have pixels that were not visited, which are 0 or NaN, or 0 in a --mask; it has none, so "
        "nothing is left to complete.",
    ),
    "empty.tif": (
        np.zeros((2, 2), np.float32),
        "have visited pixels of different values to be completed from; there are none.",
    ),
    "flat.npy": (
        np.array([[0.0, 7.5], [7.5, 0.0]]),
        "have visited pixels of different values to be completed from; all are 7.5.",
    ),
    "infinite.npy": (np.array([[0.0, np.inf]]), "have finite pixels; 1 are infinite."),
    "offset.npy": (
        np.array([[0, 2**30, 2**30 + 1, 2**30 + 99]]),
        "have pixels that are the same as 32-bit real numbers, with which networks compute; those "
        "from 1073741824 to 1073741923 are not. Subtract the smallest of them, or divide them by "
        "the largest.",
    ),
    "huge.npy": (
        np.array([[0, 1e300, 2e300, 0]]),
        "have pixels that are the same as 32-bit real numbers, with which networks compute; those "
        "from 1e+300 to 2e+300 are not. Subtract the smallest of them, or divide them by the "
        "largest.",
    ),
    "frames.tif": (
        np.zeros((3, 4, 4), np.uint8),
        "hold one image of one channel to be read as a partial scan; it has the shape (3, 4, 4). "
        "Save each in a file of its own.",
    ),
    "complex.npy": (
        np.array([[0.0, 1j]]),
        "hold real numbers to be read as a partial scan; it has complex128.",
    ),
    "scan.png": (
        b"",
        "end in .tif, .tiff, .npy, .dm3, .dm4 to be read as a partial scan; it does not.",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_can_not_be_completed_is_refused(name: str, tmp_path: Path) -> None:
    content, words = BROKEN[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        saved(path, content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        read_partial(path)
    assert str(caught.value) == f"{path} must {words}"


@pytest.mark.parametrize("end", [0, 60, 400])
def test_a_file_that_breaks_off_or_is_no_image_is_refused(end: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = saved(tmp_path / "a.tif", rng.random((64, 64), np.float32))
    path.write_bytes(path.read_bytes()[:end] if end else b"This is no image.")
    with pytest.raises(ValueError, match="must be a whole file to be read as a partial scan"):
        read_partial(path)


def test_what_is_not_one_grey_image_with_black_as_0_is_refused(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            read_partial(path)
        return str(caught.value)

    two = tmp_path / "two.tif"
    with tifffile.TiffWriter(two) as file:
        for array in (SCAN, SCAN[:, :2]):
            file.write(array, metadata=None)
    assert refusal(two) == f"{two} must hold one image to be read as a partial scan; it holds 2."
    counts = np.array([[0, 2, 0], [4, 0, 1]], np.uint8)
    colours = np.zeros((3, 256), np.uint16)
    palette = {"photometric": "palette", "colormap": colours}
    for how in ({"photometric": "miniswhite"}, palette):
        path = saved(tmp_path / "a.tif", counts, **how)
        assert refusal(path) == (
            f"{path} must show more electrons as larger numbers, black as 0, to be read as a "
            f"partial scan; it is stored as {how['photometric'].upper()}. Save it again as a grey "
            "image, in ImageJ with Image > Lookup Tables > Invert LUT or Image > Type > 32-bit."
        )
    inverted = saved(tmp_path / "mask.tif", counts * 255, photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(inverted), counts > 0)


def test_masks_of_other_shapes_or_values_and_what_they_do_not_fit_are_refused(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "a.tif", SCAN)
    cases = [
        (
            np.ones((3, 2), np.float32),
            "have the shape of its mask; it has (2, 3), the mask (3, 2).",
        ),
        (
            np.array([[0, 0, 1], [1, 1, 0]], np.float32),
            "be known where its mask says it was visited; 1 are NaN.",
        ),
    ]
    tifffile.imwrite(path, np.where([[0, 0, 1], [0, 0, 0]], np.nan, SCAN))
    for mask, words in cases:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            read_partial(path, mask)
        assert str(caught.value) == f"{path} must {words}"
    odd = saved(tmp_path / "odd.tif", np.array([[0.0, 2.5]], np.float32))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        read_mask(odd)
    assert str(caught.value) == (
        f"{odd} must hold whole numbers, or numbers from 0 to 1, as a mask; it has 0 to 2.5."
    )
