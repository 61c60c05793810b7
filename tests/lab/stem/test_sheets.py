"""Sheets of examples: what is drawn where, in which colours, and how long the scale bar is."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.typing import NDArray

from alrc.lab.tasks.stem.sheets import scale_bar, sheet

SIDE, GAP, TOP = 240, 6, 30  # of an image, between two, above them: in pixels


def example(side: int = 60) -> tuple[NDArray[np.float64], ...]:
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (side, side))
    truth[:2] = [[-1.0], [1.0]]
    return rng.uniform(0, 5, (side, side)), truth, truth.copy()


def panel(drawn: NDArray[np.float32], row: int, column: int) -> NDArray[np.float32]:
    top, left = TOP + row * (SIDE + GAP), column * (SIDE + GAP)
    return drawn[top : top + SIDE, left : left + SIDE]


def test_images_stand_in_their_places_in_grey() -> None:
    given, truth, completion = example()
    given[10, 20] = 5.0
    drawn = sheet([(given, truth, completion), (given, truth, -completion)])
    assert drawn.dtype == np.float32
    assert drawn.shape == (TOP + 2 * SIDE + GAP, 4 * SIDE + 3 * GAP + 70, 3)
    assert (drawn.min(), drawn.max()) == (0.0, 1.0)
    scales = (
        (0, 0, (given - given.min()) / np.ptp(given)),
        (0, 1, (truth + 1) / 2),
        (1, 2, (1 - truth) / 2),
    )
    for row, column, expected in scales:
        middles = panel(drawn, row, column)[2::4, 2::4]  # each pixel is 4 wide
        for channel in range(3):
            np.testing.assert_allclose(middles[..., channel], expected, atol=0.008)


def test_errors_have_one_range_for_the_whole_sheet() -> None:
    given, truth, completion = example()
    over, under = completion.copy(), completion.copy()
    over[30, 40], under[20, 10], under[50, 50] = truth[30, 40] + 2, truth[20, 10] - 4, np.nan
    drawn = sheet([(given, truth, over), (given, truth, under)])
    colours = matplotlib.colormaps["RdBu_r"]
    first, second = (panel(drawn, row, 3)[2::4, 2::4] for row in (0, 1))
    np.testing.assert_allclose(first[30, 40], colours(0.75)[:3], atol=0.02)
    np.testing.assert_allclose(second[20, 10], colours(0.0)[:3], atol=0.02)
    np.testing.assert_allclose(first[0, 0], colours(0.5)[:3], atol=0.02)
    pink = np.array([0xCC, 0x79, 0xA7]) / 255
    np.testing.assert_allclose(second[50, 50], pink, atol=0.01)
    np.testing.assert_allclose(panel(drawn, 1, 2)[202, 202], pink, atol=0.01)


def test_a_few_large_errors_do_not_hide_the_others() -> None:
    given, truth, completion = example()
    error = np.where(np.arange(60) % 2, 0.1, -0.1) * np.ones((60, 1))
    error[30, 30] = 50
    drawn = panel(sheet([(given, truth, completion + error)]), 0, 3)[2::4, 2::4]
    colours = matplotlib.colormaps["RdBu_r"]
    np.testing.assert_allclose(drawn[5, 5], colours(1.0)[:3], atol=0.01)
    np.testing.assert_allclose(drawn[5, 6], colours(0.0)[:3], atol=0.01)
    np.testing.assert_allclose(drawn[30, 30], colours(1.0)[:3], atol=0.01)


def test_nothing_but_nan_is_drawn_too() -> None:
    given, truth, completion = example()
    drawn = sheet([(given, truth, completion * np.nan)])
    pink = np.array([0xCC, 0x79, 0xA7]) / 255
    np.testing.assert_allclose(panel(drawn, 0, 2).mean((0, 1)), pink, atol=0.01)


@pytest.mark.parametrize(
    ("width", "length", "words"),
    [
        (12.8, 5.0, "5 nm"),
        (12.4, 2.0, "2 nm"),
        (12.5, 5.0, "5 nm"),
        (2.5, 1.0, "1 nm"),
        (2.4, 0.5, "500 pm"),
        (0.5, 0.2, "200 pm"),
        (2500.0, 1000.0, "1 µm"),
        (2499.0, 500.0, "500 nm"),
        (6e6, 2e6, "2 mm"),
        (1e-3, 2e-4, "0.2 pm"),
    ],
)
def test_the_scale_bar_is_round_and_takes_at_most_two_fifths(
    width: float, length: float, words: str
) -> None:
    found, said = scale_bar(width)
    assert (found, said) == (pytest.approx(length), words)
    assert found <= 0.4 * width * (1 + 1e-6)
    assert found > 0.4 * width / 2.5 * (1 - 1e-6)


def test_the_scale_bar_is_as_long_as_it_says_and_only_there_if_the_size_is_known() -> None:
    black = np.zeros((60, 60))
    black[0, 0] = 1.0  # which fixes the range
    row = (black, black, black)
    with_bar, without = sheet([row, row], pixel_size=0.2), sheet([row, row])
    for i in (0, 1):
        differing = (panel(with_bar, i, 1) != panel(without, i, 1)).any(2)
        lines = panel(with_bar, i, 1)[224:228].min(0).max(1)  # within the bar
        assert (lines > 0.99).sum() == pytest.approx(2 / 0.2 * 4, abs=3)  # 2 nm of 12, 4 to a pixel
        assert differing[:180].sum() == 0
        for column in (0, 2, 3):
            np.testing.assert_array_equal(panel(with_bar, i, column), panel(without, i, column))


def test_it_leaves_no_figure_and_no_setting_behind() -> None:
    before, figures = dict(matplotlib.rcParams), plt.get_fignums()
    bad = matplotlib.colormaps["gray"].get_bad().copy()
    sheet([example()], pixel_size=1.0)
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == figures
    np.testing.assert_array_equal(matplotlib.colormaps["gray"].get_bad(), bad)


def test_what_can_not_be_drawn_is_refused() -> None:
    given, truth, completion = example()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        sheet([])
    assert str(caught.value) == (
        "sheet: rows must hold at least one example, to have something to draw."
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        sheet([(given, truth, completion), (given, truth, completion[1:])])
    assert str(caught.value) == (
        "sheet: each row must be three images, the last two of one shape, because their difference "
        "is drawn; row 1 has (60, 60), (60, 60) and (59, 60)."
    )
