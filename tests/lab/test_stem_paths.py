"""The paths of partial scans, and scans along them, against loops and the original's files."""

import math

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageDraw
from real_data import REAL_SCANS, needs_real_scans
from scipy import ndimage

from alrc.lab.data.stem.paths import (
    blur,
    dwell,
    dwell_scan,
    grid,
    infill,
    infilled_scan,
    spiral,
    subsample,
)


def written_out_spiral(side: int, coverage: float, points: int) -> np.ndarray:
    big = math.ceil(math.sqrt(2) * side)
    canvas = Image.new("F", (big, big), 0.0)
    path = []
    for number in range(points):
        theta = number * (big / 2) * 2 * math.pi * coverage / points
        r = theta / (2 * math.pi * coverage)
        path.append((r * math.cos(theta) + big / 2, r * math.sin(theta) + big / 2))
    ImageDraw.Draw(canvas).line(path)
    start = big // 2 - side // 2
    return np.asarray(canvas.crop((start, start, start + side, start + side))) > 0


def gaussian_5x5(image: np.ndarray) -> np.ndarray:
    """Standard deviation 2.5; what lies beyond an edge is its mirror image, without the edge."""
    weights = np.array(
        [[math.exp(-(a * a + b * b) / 12.5) for b in range(-2, 3)] for a in range(-2, 3)]
    )
    return ndimage.correlate(image.astype(float), weights / weights.sum(), mode="mirror")


def unit(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (image.max() - image.min())


@needs_real_scans
def test_the_original_mask_comes_out_bit_for_bit() -> None:
    mask = dwell(spiral(512, 1 / 20))
    np.testing.assert_array_equal(mask, tifffile.imread(REAL_SCANS / "spiral-mask-1-20.tif"))
    assert mask.dtype == np.float32


@pytest.mark.parametrize(("side", "coverage", "points"), [(64, 1 / 20, 158), (35, 1 / 6, 399)])
def test_a_spiral_is_drawn_through_the_points_of_its_formula(
    side: int, coverage: float, points: int
) -> None:
    got = spiral(side, coverage, points)
    np.testing.assert_array_equal(got, written_out_spiral(side, coverage, points))
    assert got.dtype == np.float32


def test_points_go_with_the_length_of_the_path() -> None:
    # pi R^2 c, for 45.5 pixels: 0.01575 of that for 362.5; and half as long for half the coverage.
    np.testing.assert_array_equal(spiral(64, 1 / 20), spiral(64, 1 / 20, 158))
    np.testing.assert_array_equal(spiral(512, 1 / 20), spiral(512, 1 / 20, 10_000))
    np.testing.assert_array_equal(spiral(512, 1 / 40), spiral(512, 1 / 40, 5_000))


@pytest.mark.parametrize(
    ("one_in", "visited", "dwelt"), [(10, 11.3, 0.348), (20, 22.1, 0.175), (100, 87.0, 0.038)]
)
def test_coverage_is_that_of_the_original(one_in: int, visited: float, dwelt: float) -> None:
    mask = spiral(512, 1 / one_in, 10_000)
    assert 1 / mask.mean() == pytest.approx(visited, abs=0.06)
    assert (dwell(mask) > 0).mean() == pytest.approx(dwelt, abs=0.0006)


def test_dwell_times_are_binomial_and_mirrored_at_the_edge() -> None:
    mask = (np.random.default_rng(0).random((9, 13)) < 0.3).astype(np.float32)
    expected = np.zeros((9, 13))
    for row in range(9):
        for column in range(13):
            for a, b in np.ndindex(3, 3):
                y, x = abs(row + a - 1), abs(column + b - 1)
                y, x = 8 - abs(8 - y), 12 - abs(12 - x)
                expected[row, column] += (1, 2, 1)[a] * (1, 2, 1)[b] / 16 * mask[y, x]
    np.testing.assert_array_equal(dwell(mask), expected)


@pytest.mark.parametrize(("side", "stride", "first", "count"), [(512, 5, 1, 103), (64, 4, 0, 16)])
def test_a_grid_leaves_as_much_before_it_as_behind(
    side: int, stride: int, first: int, count: int
) -> None:
    rows, columns = np.nonzero(grid(side, stride))
    assert set(rows) == set(columns) == set(range(first, side, stride))
    assert len(rows) == count**2
    images = torch.rand(2, side, side)
    want = images[:, torch.from_numpy(grid(side, stride))].view(2, count, count)
    assert torch.equal(subsample(images, stride), want)


def test_infill_takes_a_nearest_pixel_that_was_visited() -> None:
    rng = np.random.default_rng(1)
    visited = rng.random((11, 17)) < 0.1
    values = np.where(visited, np.arange(187.0).reshape(11, 17), math.nan)
    filled = infill(torch.from_numpy(np.stack([values, -values])[:, None]), visited)
    assert torch.equal(filled[0], -filled[1])
    places = np.argwhere(visited)
    for place in np.ndindex(11, 17):
        taken = divmod(int(filled[0, 0][place]), 17)  # NaN would not be a number of a pixel
        assert visited[taken]
        distances = ((places - place) ** 2).sum(1)
        assert ((np.array(taken) - place) ** 2).sum() == distances.min()


def test_another_mask_of_the_same_shape_gives_another_infill() -> None:
    values = torch.arange(16.0).view(4, 4)
    for number in (0, 15):
        visited = np.zeros((4, 4), bool)
        visited.flat[number] = True
        assert (infill(values, visited) == number).all()


def test_blur_is_the_gaussian_of_the_formula_on_batches() -> None:
    images = np.random.default_rng(2).normal(size=(3, 2, 12, 9))
    got = blur(torch.from_numpy(images))
    for index in np.ndindex(3, 2):
        np.testing.assert_allclose(got[index], gaussian_5x5(images[index]), atol=1e-12)
    narrow = blur(torch.from_numpy(images), size=3, sigma=1.5)
    edge, middle = (math.exp(-x / 4.5) for x in (1, 0))
    kernel = np.outer([edge, middle, edge], [edge, middle, edge])
    want = ndimage.correlate(images[2, 1], kernel / kernel.sum(), mode="mirror")
    np.testing.assert_allclose(narrow[2, 1], want, atol=1e-12)


def test_gradients_go_through_the_blur() -> None:
    image = torch.rand(1, 8, 8, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(blur, image)


def test_a_scan_by_a_blurred_beam_follows_its_formula() -> None:
    rng = np.random.default_rng(3)
    targets = rng.uniform(-1, 1, (2, 24, 24))
    noise = rng.random((2, 24, 24))
    mask = dwell(spiral(24, 1 / 6)).astype(np.float64)
    got = dwell_scan(*map(torch.from_numpy, (targets, mask, noise))).numpy()
    for x, u, scan in zip(targets, noise, got, strict=True):
        b = 2 * unit(gaussian_5x5(x)) - 1
        want = np.full((24, 24), -1.0)
        for place in np.argwhere(mask > 0).tolist():
            m = mask[*place]
            want[*place] = m * (m * x[*place] + 2 * (1 - m) * u[*place] * b[*place])
        np.testing.assert_allclose(scan, unit(want), atol=1e-12)
        assert ((scan == 0) == (mask == 0)).all()
        assert scan.max() == 1


@needs_real_scans
@pytest.mark.parametrize("number", ["01", "02"])
def test_the_partial_scans_of_the_original_can_come_out(number: str) -> None:
    """For noise from 0 to 1, d lies between two values; some scale puts all pixels between them."""
    scan = tifffile.imread(REAL_SCANS / f"partial-scan-{number}.tif").astype(float)
    target = 2.0 * tifffile.imread(REAL_SCANS / f"truth-{number}.tif") - 1
    mask = dwell(spiral(512, 1 / 20))
    shifted = []  # d + 1 without noise, and with as much as there can be
    for u in (0.0, 1.0):
        noise = torch.full((512, 512), u, dtype=torch.float64)
        ours = dwell_scan(torch.from_numpy(target), torch.from_numpy(mask).double(), noise)
        shifted.append(ours.numpy() * _most(target, mask, u))
    visited = mask > 0
    bounds = np.sort([ends[visited] / scan[visited] for ends in shifted], axis=0)
    least, most = bounds[0].max(), bounds[1].min()
    assert least <= most * (1 + 1e-5)
    noisy = np.abs(shifted[1] - shifted[0]) > 0.05
    none, all_of_it = (ends[noisy] for ends in shifted)
    noise = ((least + most) / 2 * scan[noisy] - none) / (all_of_it - none)
    assert noise.mean() == pytest.approx(0.5, abs=0.01)
    assert noise.std() == pytest.approx(12**-0.5, abs=0.01)


def _most(target: np.ndarray, mask: np.ndarray, u: float) -> float:
    """The greatest d + 1, by which a scan is divided."""
    b = 2 * unit(gaussian_5x5(target)) - 1
    d = mask * (mask * target + 2 * (1 - mask) * u * b)
    return float(np.where(mask > 0, d, -1).max()) + 1


def test_a_scan_by_a_sharp_beam_is_scaled_and_infilled() -> None:
    rng = np.random.default_rng(4)
    targets = rng.uniform(-1, 1, (2, 32, 32)).astype(np.float32)
    mask = spiral(32, 1 / 8)
    got = infilled_scan(torch.from_numpy(targets), mask).numpy()
    visited = mask > 0
    for x, scan in zip(targets, got, strict=True):
        np.testing.assert_allclose(scan[visited], (x[visited] + 1) / (x[visited].max() + 1), 1e-5)
        assert set(scan[~visited]) <= set(scan[visited])  # each from some pixel of the path


def test_a_scan_of_nothing_stays_finite() -> None:
    nothing = torch.full((1, 16, 16), -1.0)
    mask = dwell(spiral(16, 1 / 4))
    for scan in (
        dwell_scan(torch.zeros(1, 16, 16), torch.from_numpy(mask), torch.rand(1, 16, 16)),
        infilled_scan(nothing, spiral(16, 1 / 4)),
    ):
        assert scan.isfinite().all()
    assert (infilled_scan(nothing, np.ones((16, 16), np.float32)) == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: spiral(1, 0.05),
            "spiral: side must be at least 2, because a path has to go somewhere; got 1. Pass the "
            "side of the images in pixels, such as 64.",
        ),
        (
            lambda: spiral(64, 20),
            "spiral: coverage is the share of the pixels that are visited, so it must be above 0 "
            "and at most 1; got 20. Pass 0.05 for a twentieth.",
        ),
        (
            lambda: spiral(64, 0.05, 1),
            "spiral: points must be at least 2, because lines are drawn between them; got 1. Leave "
            "it out to have them set by the length of the path.",
        ),
        (
            lambda: grid(64, 0),
            "a grid's stride must be from 1 to the side of the image, so that it visits a pixel; "
            "got 0, and a side of 64. Pass 5 to visit every fifth pixel.",
        ),
        (
            lambda: infill(torch.zeros(4, 4), np.zeros((4, 4), bool)),
            "infill: at least one pixel must be visited, because the others take their values from "
            "it; none is. Pass a mask that is true where the image was scanned.",
        ),
    ],
)
def test_what_is_no_path_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        call()
    assert str(caught.value) == message
