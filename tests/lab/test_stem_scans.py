"""Many scans: how they are found, averaged, scaled and split; and the simulated ones."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from real_data import REAL_SCANS, needs_real_scans
from scipy import ndimage

from alrc.lab.data.stem import simulated
from alrc.lab.data.stem.crystals import GOLD_110, MOLYBDENUM_SULPHIDE
from alrc.lab.data.stem.scans import load_scans
from alrc.lab.data.stem.simulated import simulated_scans


def scan(number: int, shape: tuple[int, int] = (70, 66)) -> np.ndarray:
    return np.random.default_rng(number).uniform(-3, 900, shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven scans, of which b comes before c whatever the order of writing, and other files."""
    for number, name in enumerate("gfedcba"):
        tifffile.imwrite(tmp_path / f"{name}.tif", scan(number), imagej=True)
    (tmp_path / "notes.txt").write_text("of the session")
    (tmp_path / "._a.tif").write_text("what another system leaves behind")
    (tmp_path / "more.tif").mkdir()
    return tmp_path


def unit(image: np.ndarray) -> np.ndarray:
    image = image.astype(float)
    return (image - image.min()) / (image.max() - image.min())


def test_the_last_scans_by_name_are_held_out(folder: Path) -> None:
    scans = load_scans(str(folder))
    assert (scans.name, scans.pixel_size) == (folder.name, None)
    for image, number in zip(scans.training + scans.held_out, range(6, -1, -1), strict=True):
        np.testing.assert_allclose(image, unit(scan(number)), atol=1e-7)
        assert (image.dtype, image.min(), image.max()) == (np.float32, 0, 1)
    assert (len(scans.training), len(scans.held_out)) == (6, 1)  # 15 % of 7
    assert load_scans(str(folder)) is scans  # read once


def test_columns_are_held_out_of_every_scan(folder: Path) -> None:
    scans = load_scans(str(folder), split="columns")
    assert len(scans.training) == len(scans.held_out) == 7
    for left, right, number in zip(scans.training, scans.held_out, range(6, -1, -1), strict=True):
        assert (left.shape, right.shape) == ((70, 49), (70, 17))
        np.testing.assert_allclose(np.hstack([left, right]), unit(scan(number)), atol=1e-7)


def test_a_pattern_chooses_among_the_files_of_a_folder(folder: Path) -> None:
    scans = load_scans(str(folder / "[c-g].tif"))
    assert len(scans.training + scans.held_out) == 5
    np.testing.assert_allclose(scans.training[0], unit(scan(4)), atol=1e-7)


def test_averages_are_means_of_squares_and_scaled_after_that(tmp_path: Path) -> None:
    image = scan(0, (200, 131))
    tifffile.imwrite(
        tmp_path / "a.tif", image, imagej=True, resolution=(50, 50), metadata={"unit": "nm"}
    )
    scans = load_scans(str(tmp_path), average=2, split="columns")
    means = np.empty((100, 65))
    for row, column in np.ndindex(100, 65):
        means[row, column] = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
    got = np.hstack([*scans.training, *scans.held_out])
    np.testing.assert_allclose(got, unit(means), atol=1e-6)
    assert scans.pixel_size == pytest.approx(0.04)


def test_pixel_size_is_not_known_where_scans_differ(tmp_path: Path) -> None:
    for name, per_nm in (("a", 50), ("b", 50), ("c", 25)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            scan(0),
            imagej=True,
            resolution=(per_nm, per_nm),
            metadata={"unit": "nm"},
        )
    assert load_scans(str(tmp_path / "[ab].tif")).pixel_size == pytest.approx(0.02)
    assert load_scans(str(tmp_path)).pixel_size is None


def test_a_checksum_tells_scans_and_splits_from_others(folder: Path) -> None:
    scans = [
        load_scans(str(folder)),
        load_scans(str(folder), split="columns"),
        load_scans(str(folder / "[b-g].tif")),
        load_scans("simulated"),
    ]
    assert len({x.sha256() for x in scans}) == 4
    load_scans.cache_clear()
    assert load_scans(str(folder)).sha256() == scans[0].sha256()


@needs_real_scans
def test_ten_real_scans_are_split_as_the_reference_recommends() -> None:
    scans = load_scans(str(REAL_SCANS / "truth-*.tif"), average=2, split="columns")
    assert [x.shape for x in scans.training] == [(256, 192)] * 10
    assert [x.shape for x in scans.held_out] == [(256, 64)] * 10
    assert len(load_scans(str(REAL_SCANS / "truth-*.tif")).held_out) == 2


def test_what_holds_no_scans_is_refused_in_words(tmp_path: Path) -> None:
    def refusal(error: type[Exception], scans: str, **options) -> str:
        with pytest.raises(error) as caught:
            load_scans(scans, **options)
        return str(caught.value).replace(str(tmp_path), "FOLDER")

    def missing(what: str, found: str) -> str:
        return (
            "scans must be simulated, a folder with scans, or a pattern such as folder/*.tif; got "
            f"'{what}', {found}. Type the path of a folder."
        )

    def empty(what: str) -> str:
        return (
            f"{what} must have scans in it, files that end in .tif, .tiff, .npy, .dm3, .dm4; it "
            "has none. Type the path of their own folder; those in folders inside it are not "
            "looked for."
        )

    assert refusal(FileNotFoundError, "simulate") == missing("simulate", "which is not there")
    assert refusal(FileNotFoundError, str(tmp_path)) == empty("FOLDER")
    assert refusal(FileNotFoundError, f"{tmp_path}/*.tif") == empty("FOLDER/*.tif")
    tifffile.imwrite(tmp_path / "a.tif", scan(0, (300, 150)))
    file = str(tmp_path / "a.tif")
    assert refusal(FileNotFoundError, file) == missing("FOLDER/a.tif", "which is a file")
    assert refusal(ValueError, str(tmp_path)) == (
        "FOLDER must hold at least two scans, because one is held out to measure with; it holds 1. "
        "Pass split=columns to hold out a part of each scan, or add scans."
    )
    assert refusal(ValueError, str(tmp_path), average=3) == (
        "a.tif must keep at least 64 x 64 pixels after averaging; with average=3 it keeps 100 x "
        "50. Pass at most 2."
    )
    assert refusal(ValueError, str(tmp_path), average=0) == (
        "average must be at least 1, which leaves scans as they are; got 0. Pass 2 for the mean of "
        "2 x 2 pixels."
    )


def test_simulated_scans_are_counts_and_the_same_at_every_call() -> None:
    first = simulated_scans()
    simulated_scans.cache_clear()
    for scan, again in zip(first, simulated_scans(), strict=True):
        np.testing.assert_array_equal(scan.pixels, again.pixels)
        assert (scan.pixels.shape, scan.pixels.dtype) == ((512, 512), np.float32)
        assert (scan.pixels == np.floor(scan.pixels)).all()
        assert scan.pixels.min() >= 0
        assert np.ptp(scan.pixels) > 20
        assert scan.pixel_size == 0.0125
    assert len({scan.name for scan in first}) == len(first) == 12


@pytest.mark.parametrize(
    ("crystal", "spacings"),
    # Lattice planes: of gold (110) 0.2884/2 beside 0.4078/2, {111} 0.2355; of MoS2 0.316 sqrt(3)/2.
    [(GOLD_110, [0.2355]), (MOLYBDENUM_SULPHIDE, [0.2737])],
)
def test_the_spacing_of_the_planes_is_the_crystals(crystal, spacings: list[float]) -> None:
    """The strongest reflection of a simulated film lies at the reciprocal of a known spacing."""
    specimen = simulated._film(crystal, thin=1.0)
    rng = np.random.default_rng(0)
    image = simulated._imaged(rng, *specimen(rng))
    spectrum = np.abs(np.fft.fft2((image - image.mean()) * np.outer(*[np.hanning(512)] * 2)))
    frequencies = np.hypot(*np.meshgrid(*[np.fft.fftfreq(512, 0.0125)] * 2))
    spectrum[frequencies < 1.5] = 0  # the clouds
    strongest = 1 / frequencies.flat[spectrum.argmax()]
    assert any(strongest == pytest.approx(spacing, rel=0.04) for spacing in spacings)


def test_a_crystal_covers_the_whole_square_at_any_angle() -> None:
    for angle in np.linspace(0, 2 * np.pi, 17):
        places, brightness = GOLD_110.columns_over(10.24, angle, np.array([0.9, 0.9]))
        # Two columns in 0.4078 x 0.2884 nm, over 1.1 times the side.
        expected = 2 * (1.1 * 10.24) ** 2 / (0.4078 * 0.2884)
        assert len(places) == len(brightness) == pytest.approx(expected, rel=0.01)
        counts, *_ = np.histogram2d(*places.T, bins=8, range=[(0, 10.24)] * 2)
        assert counts.min() > 20


def test_lines_are_displaced_as_wholes() -> None:
    """A single column of atoms, so large that each line shows its place."""
    places, brightness = np.array([[3.2, y] for y in np.arange(0, 6.4, 0.0125)]), np.ones(512)
    image = simulated._imaged(np.random.default_rng(3), places, brightness, np.zeros((512, 512)))
    centres = (image * np.arange(512)).sum(1) / image.sum(1)
    assert 0.2 < (centres - ndimage.gaussian_filter1d(centres, 20)).std() < 1.5
    assert abs(centres.mean() - 256) < 1
