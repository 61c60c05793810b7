"""Crops of scans: which, turned how, scaled how; and damaged crops."""

import numpy as np
import pytest

from alrc.lab.data.order import uniforms
from alrc.lab.data.stem.crops import normalise, random_crops, tiles
from alrc.lab.data.stem.damage import KINDS, damage


def numbered(*shapes: tuple[int, int]) -> list[np.ndarray]:
    """Images in which no pixel has the value of any other."""
    first, images = 0, []
    for height, width in shapes:
        images.append(np.arange(first, first + height * width, dtype=np.float32))
        images[-1].shape = (height, width)
        first += height * width
    return images


def eight_ways(square: np.ndarray) -> list[np.ndarray]:
    """A square's eight symmetries, by its indices."""
    last = len(square) - 1
    maps = [
        lambda r, c: (r, c),
        lambda r, c: (c, last - r),
        lambda r, c: (last - r, last - c),
        lambda r, c: (last - c, r),
        lambda r, c: (r, last - c),
        lambda r, c: (last - r, c),
        lambda r, c: (c, r),
        lambda r, c: (last - c, last - r),
    ]
    every = [np.empty_like(square) for _ in maps]
    for turned, place in zip(every, maps, strict=True):
        for row, column in np.ndindex(square.shape):
            turned[row, column] = square[place(row, column)]
    return every


def test_a_crop_is_a_piece_of_one_image_in_one_of_eight_ways() -> None:
    images = numbered((9, 12), (10, 7))
    random = uniforms(3, 0, 400)
    ways = set()
    for crop, (image, row, column, _) in zip(random_crops(images, 5, random), random, strict=True):
        source = images[int(image * 2)]
        height, width = source.shape
        top, left = int(row * (height - 4)), int(column * (width - 4))
        piece = source[top : top + 5, left : left + 5]
        (way,) = [n for n, turned in enumerate(eight_ways(piece)) if (turned == crop).all()]
        ways.add(way)
    assert ways == set(range(8))


def test_all_images_places_and_ways_are_as_likely() -> None:
    images = numbered((6, 7), (5, 5))  # 6 places, and 1
    crops = random_crops(images, 5, uniforms(0, 0, 14_000))
    seen, counts = np.unique(crops.reshape(len(crops), -1), axis=0, return_counts=True)
    assert len(seen) == 8 * 7
    second = seen[:, 0] >= 42
    assert counts[second] == pytest.approx([7000 / 8] * 8, rel=0.12)
    assert counts[~second] == pytest.approx([7000 / 48] * 48, rel=0.4)


def test_a_random_number_that_rounds_to_1_is_still_inside() -> None:
    (image,) = numbered((8, 8))
    (crop,) = random_crops([image], 5, np.ones((1, 4), np.float32))
    assert np.sort(crop.ravel()).tolist() == np.sort(image[3:, 3:].ravel()).tolist()


def test_crops_are_damaged_before_they_are_turned() -> None:
    images = [np.random.default_rng(0).random((40, 40)).astype(np.float32)]
    random = uniforms(1, 0, 64)

    def first_row(crops: np.ndarray) -> np.ndarray:
        crops = crops.copy()
        crops[:, 0] = 5
        return crops

    for crop in random_crops(images, 8, random, first_row):
        edges = [crop[0], crop[-1], crop[:, 0], crop[:, -1]]
        assert sum((edge == 5).all() for edge in edges) == 1
        assert (crop == 5).sum() == 8


def test_each_crop_is_scaled_by_its_own_range() -> None:
    rng = np.random.default_rng(5)
    crops = rng.random((3, 6, 6)).astype(np.float32) * [[[1]], [[1e-7]], [[50]]] - 7
    crops = crops.astype(np.float32)
    crops[1] = 3
    got = normalise(crops)
    assert got.dtype == np.float32
    for number in (0, 2):
        low, high = float(crops[number].min()), float(crops[number].max())
        want = (crops[number] - (low + high) / 2) / ((high - low) / 2)
        np.testing.assert_allclose(got[number], want, atol=1e-5)
        assert (got[number].min(), got[number].max()) == (-1, 1)
    assert (got[1] == 0).all()


def test_tiles_lie_side_by_side_and_show_something() -> None:
    rng = np.random.default_rng(6)
    images = [rng.random((11, 9)).astype(np.float32), rng.random((4, 8)).astype(np.float32)]
    images[0][4:8, 4:8] = 0.5 + 0.0999 * rng.random((4, 4))
    images[0][0:4, 4:8] = 0.5
    images[0][0, 4] = 0.61
    got = tiles(images, 4)
    want = [
        images[0][:4, :4],
        images[0][:4, 4:8],
        images[0][4:8, :4],
        images[1][:4, :4],
        images[1][:4, 4:8],
    ]
    np.testing.assert_array_equal(got, want)


def test_too_small_or_empty_images_are_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        random_crops(numbered((64, 48)), 64, uniforms(0, 0, 1))
    assert str(caught.value) == (
        "training scans must be at least as large as a crop of 64 x 64 pixels; one has 64 x 48, "
        "after averaging and splitting. Pass a smaller side, a smaller average, or larger scans."
    )
    advice = "Pass a smaller side, a smaller average, or other scans."
    for images, found in [
        (numbered((64, 16)), "they are smaller than that"),
        ([np.zeros((128, 64), np.float32)], "none of 2 tiles shows as much"),
    ]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            tiles(images, 64)
        assert str(caught.value) == (
            "held-out scans must have a tile of 64 x 64 pixels that shows at least a tenth of a "
            f"scan's range, because what was learned is measured there; {found}. {advice}"
        )


def damaged_like(kind: str) -> np.ndarray:
    """1,000 crops from 0.2 to 0.8, all damaged in one way."""
    random = uniforms(7, 0, 1000)
    random[:, 1] = (KINDS.index(kind) + random[:, 1]) / len(KINDS)
    return damage(undamaged(), random, 1.0)


def undamaged() -> np.ndarray:
    return np.random.default_rng(8).uniform(0.2, 0.8, (1000, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(("kind", "value"), [("saturated stripe", 2.0), ("dropped lines", 0.0)])
def test_lines_saturate_or_drop_out_together(kind: str, value: float) -> None:
    heights = set()
    for before, after in zip(undamaged(), damaged_like(kind), strict=True):
        rows = np.flatnonzero((after == value).any(1))
        assert (after[rows] == value).all()
        assert rows.tolist() == list(range(rows[0], rows[0] + len(rows)))
        others = np.setdiff1d(range(16), rows)
        np.testing.assert_array_equal(after[others], before[others])
        heights.add(len(rows))
    assert heights == {1, 2, 3, 4}  # up to a quarter


def test_lines_repeat_the_one_above_them() -> None:
    heights = set()
    for before, after in zip(undamaged(), damaged_like("repeated lines"), strict=True):
        rows = np.flatnonzero((after != before).any(1))
        assert rows.tolist() == list(range(rows[0], rows[0] + len(rows)))
        assert (after[rows] == before[rows[0] - 1]).all()
        heights.add(len(rows))
    assert heights == {1, 2, 3, 4}


def test_dead_columns_are_dark_and_apart() -> None:
    counts = set()
    for before, after in zip(undamaged(), damaged_like("dead columns"), strict=True):
        columns = np.flatnonzero((after == 0).any(0))
        assert (after[:, columns] == 0).all()
        others = np.setdiff1d(range(16), columns)
        np.testing.assert_array_equal(after[:, others], before[:, others])
        assert (np.diff(columns) > 1).all()
        counts.add(len(columns))
    assert counts == {1, 2, 3, 4}


def test_as_many_crops_are_damaged_as_asked_for_in_all_ways_and_the_others_untouched() -> None:
    crops = undamaged()
    before = crops.copy()
    random = uniforms(9, 0, 1000)
    after = damage(crops, random, 0.3)
    np.testing.assert_array_equal(crops, before)  # what was passed stays
    changed = (after != crops).any((1, 2))
    np.testing.assert_array_equal(changed, random[:, 0] < 0.3)
    ways = np.floor(random[changed, 1] * 4)
    assert np.bincount(ways.astype(int)).min() > 50
    np.testing.assert_array_equal(damage(crops, random, 0.0), crops)
    np.testing.assert_array_equal(damage(crops, np.ones((1000, 4), np.float32), 1.0), crops)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        damage(undamaged(), uniforms(0, 0, 1000), 2)
    assert str(caught.value) == (
        "damage: share is that of the training scans which are damaged, so it must be from 0 to 1; "
        "got 2. Pass 0.02 for 2 %."
    )
