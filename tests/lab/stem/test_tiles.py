"""Scans of any size, completed by tiles of one size and blended."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alrc.lab.data.stem.tiles import complete_by_tiles, tile_starts

Floats = NDArray[np.float32]


def plane(values: Floats, mask: Floats) -> Floats:
    """The plane through the visited pixels, for a tile from 0 to 1; the completion of a ramp."""
    rows, columns = np.indices(values.shape)
    terms = np.stack([np.ones_like(rows), rows, columns], -1).astype(np.float64)
    there = mask > 0
    fit, *_ = np.linalg.lstsq(terms[there], values[there].astype(np.float64), rcond=None)
    return (2 * terms @ fit - 1).astype(np.float32)


def scattered(shape: tuple[int, int], share: float = 0.2) -> Floats:
    return (np.random.default_rng(4).random(shape) < share).astype(np.float32)


def ramp(shape: tuple[int, int]) -> Floats:
    rows, columns = np.indices(shape)
    return (1000 + 3.0 * rows - 1.5 * columns).astype(np.float32)


@pytest.mark.parametrize("side", [2, 5, 8, 64])
def test_tiles_cover_every_length_and_overlap_by_half(side: int) -> None:
    for length in range(side, 5 * side):
        starts = tile_starts(length, side)
        assert starts[0] == 0
        assert starts[-1] == length - side
        gaps = np.diff(starts)
        assert (gaps > 0).all()
        assert (gaps <= side // 2 + side % 2).all()
        assert len(starts) <= 2 * length / side + 2


@pytest.mark.parametrize("shape", [(16, 16), (16, 41), (57, 33)])
def test_what_tiles_complete_rightly_is_right_as_a_whole(shape: tuple[int, int]) -> None:
    truth, mask = ramp(shape), scattered(shape)
    given = np.where(mask > 0, truth, -1e6).astype(np.float32)  # which nothing must look at
    whole = complete_by_tiles(given, mask, 16, plane)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, truth, rtol=1e-5)


def test_tiles_are_given_as_in_training() -> None:
    truth, mask = ramp((24, 24)), 0.5 * scattered((24, 24))
    seen = []

    def complete(values: Floats, given: Floats) -> Floats:
        seen.append((values.copy(), given.copy()))
        return np.zeros_like(values)

    complete_by_tiles(truth, mask, 16, complete)
    assert len(seen) == 4
    for (values, given), (top, left) in zip(seen, [(0, 0), (0, 8), (8, 0), (8, 8)], strict=True):
        np.testing.assert_array_equal(given, mask[top : top + 16, left : left + 16])
        assert values.shape == (16, 16)
        assert values.dtype == np.float32
        assert (values[given == 0] == 0).all()
        assert (values[given > 0].min(), values[given > 0].max()) == (0, 1)


def blended(constants: list[float], shape: tuple[int, int], side: int, weigh: Any) -> Any:
    """Tiles of these values, added up pixel by pixel with the weights of a function."""
    total, weights, rest = np.zeros(shape), np.zeros(shape), iter(constants)
    for top in tile_starts(shape[0], side):
        for left in tile_starts(shape[1], side):
            value = next(rest)
            for i in range(side):
                for j in range(side):
                    weight = weigh(i) * weigh(j)
                    total[top + i, left + j] += weight * value
                    weights[top + i, left + j] += weight
    return total / weights


def test_tiles_are_blended_with_the_weights_of_a_hann_window() -> None:
    shape, side = (20, 29), 8
    constants = np.random.default_rng(1).uniform(-1, 1, 100).tolist()
    rest = iter(constants)
    pixels = np.indices(shape).sum(0).astype(np.float32) % 2  # 0 and 1 in every tile
    whole = complete_by_tiles(
        pixels, np.ones(shape, np.float32), side, lambda values, _: np.full_like(values, next(rest))
    )

    def hann(i: int) -> float:
        return (1 - np.cos(2 * np.pi * (i + 0.5) / side)) / 2

    expected = (blended(constants, shape, side, hann) + 1) / 2
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    flat = (blended(constants, shape, side, lambda i: 1.0) + 1) / 2

    assert np.abs(expected - flat).max() > 0.1


def test_tiles_that_differ_leave_no_edge() -> None:
    pixels = np.indices((32, 48)).sum(0).astype(np.float32) % 2
    signs = iter([-1, 1, -1, 1, -1] * 3)
    whole = complete_by_tiles(
        pixels, np.ones_like(pixels), 16, lambda values, _: np.full_like(values, next(signs))
    )
    assert np.ptp(whole[16]) > 0.8  # each is seen
    assert np.abs(np.diff(whole, axis=1)).max() < 0.2  # where a plain mean has steps of a half


def test_a_tile_without_visited_pixels_leaves_it_to_those_beside_it() -> None:
    truth, mask = ramp((16, 32)), scattered((16, 32))
    mask[:, 8:24] = 0  # all of the middle tile
    whole = complete_by_tiles(truth, mask, 16, plane)
    np.testing.assert_allclose(whole, truth, rtol=1e-5)


def test_what_is_too_far_from_all_visited_pixels_is_refused() -> None:
    mask = scattered((16, 40))
    mask[:, 8:] = 0
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        complete_by_tiles(ramp((16, 40)), mask, 16, plane)
    assert str(caught.value) == (
        "every part of a scan must have visited pixels within the 16 x 16 pixels of a tile, "
        "because it is completed from them; 384 pixels have none. Cut the scan to where it was "
        "visited."
    )


def test_a_tile_that_shows_nothing_stays_what_it_is() -> None:
    pixels, mask = np.full((16, 24), 7.0, np.float32), scattered((16, 24))
    whole = complete_by_tiles(pixels, mask, 16, lambda values, _: values * np.nan)
    np.testing.assert_array_equal(whole, pixels)


def test_each_tile_is_reported() -> None:
    told: list[tuple[int, int]] = []
    mask = scattered((16, 40))
    complete_by_tiles(ramp((16, 40)), mask, 16, plane, lambda *numbers: told.append(numbers))
    assert told == [(i, 4) for i in range(1, 5)]
