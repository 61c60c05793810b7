"""Thinned curves: what stands out is never lost. The oracle goes through the rows one by one."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alrc.replay.thinning import thinned

numbers = st.one_of(
    st.floats(-1e3, 1e3), st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 0.0, -0.0])
)


@st.composite
def curves(draw):
    """Rows with a loss, a limit on either side, and places where something was found."""
    size = draw(st.integers(20, 150))
    losses = np.array(draw(st.lists(numbers, min_size=size, max_size=size)))
    upper = np.array(draw(st.lists(numbers, min_size=size, max_size=size)))
    lower = upper - 10
    above = np.isfinite(losses) & (losses > upper)
    below = np.isfinite(losses) & (losses < lower)
    ends = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 30)), max_size=5))
    spans = [SimpleNamespace(first=a, end=min(a + b, size)) for a, b in ends]
    finding = SimpleNamespace(spans=spans)
    return SimpleNamespace(
        losses=losses,
        limits=(lower, upper),
        limited=above | below,
        verdict=SimpleNamespace(findings=[finding]),
    )


def blocks_of(size, blocks):
    width = math.ceil(size / blocks)
    return [range(first, min(first + width, size)) for first in range(0, size, width)]


@given(curves(), st.integers(3, 12))
def test_in_each_block_the_extremes_survive(found, blocks):
    rows = thinned(found, blocks).tolist()
    losses, size = found.losses, found.losses.size
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] == size - 1
    for block in blocks_of(size, blocks):
        kept = [row for row in rows if row in block]
        for numbers_of in (losses, *found.limits):
            finite = [numbers_of[row] for row in block if math.isfinite(numbers_of[row])]
            shown = [numbers_of[row] for row in kept if math.isfinite(numbers_of[row])]
            if finite:
                assert (min(shown), max(shown)) == (min(finite), max(finite))
        above = [losses[r] for r in block if found.limited[r] and losses[r] > found.limits[1][r]]
        if above:
            assert any(found.limited[r] and losses[r] == max(above) for r in kept)
        below = [losses[r] for r in block if found.limited[r] and losses[r] < found.limits[0][r]]
        if below:
            assert any(found.limited[r] and losses[r] == min(below) for r in kept)


@given(curves(), st.integers(3, 12))
def test_no_row_without_a_number_is_lost(found, blocks):
    """Each lies among kept rows that have none either, but where there are more than blocks."""
    rows = thinned(found, blocks).tolist()
    losses, size = found.losses, found.losses.size
    bad = [row for row in range(size) if not math.isfinite(losses[row])]
    runs = sum(row - 1 not in bad for row in bad)
    for row in bad:
        before = max(r for r in rows if r <= row)
        after = min(r for r in rows if r >= row)
        if runs <= blocks:
            assert not math.isfinite(losses[before])
            assert not math.isfinite(losses[after])
        block = next(block for block in blocks_of(size, blocks) if row in block)
        # Or, in the middle of a long run, its ends are in other blocks.
        assert (
            any(r in block and not math.isfinite(losses[r]) for r in rows)
            or not np.isfinite(losses[before : after + 1]).any()
        )


def test_of_very_many_rows_without_a_number_each_block_keeps_the_first_and_the_last():
    losses = np.tile([1.0, math.nan, 2.0, math.inf, 3.0], 20)
    found = SimpleNamespace(
        losses=losses,
        limits=(np.full(100, -math.inf), np.full(100, math.inf)),
        limited=np.zeros(100, dtype=bool),
        verdict=SimpleNamespace(findings=[]),
    )
    rows = thinned(found, 4).tolist()
    assert [row for row in rows if not math.isfinite(losses[row])] == [
        1,
        23,
        26,
        48,
        51,
        73,
        76,
        98,
    ]


@given(curves(), st.integers(3, 12))
def test_what_was_found_is_kept_from_its_first_to_its_last_row(found, blocks):
    rows = set(thinned(found, blocks).tolist())
    for span in found.verdict.findings[0].spans:
        assert {span.first, span.end - 1} <= rows


@pytest.mark.parametrize(("size", "kept"), [(40, 40), (41, None)])
def test_a_short_curve_is_kept_whole(size, kept):
    found = SimpleNamespace(
        losses=np.zeros(size),
        limits=(np.full(size, -math.inf), np.full(size, math.inf)),
        limited=np.zeros(size, dtype=bool),
        verdict=SimpleNamespace(findings=[]),
    )
    rows = thinned(found, 10)
    assert (rows.size == size) == (kept is not None)


def test_a_million_rows_become_few_and_the_one_spike_is_among_them():
    losses = 2 + 0.1 * np.random.default_rng(0).normal(size=1_000_000)
    losses[654_321] = 9.0
    upper = np.full(losses.size, 2.2)
    found = SimpleNamespace(
        losses=losses,
        limits=(np.broadcast_to(-math.inf, losses.shape), upper),
        limited=losses > upper,
        verdict=SimpleNamespace(findings=[]),
    )
    rows = thinned(found, 900)
    assert rows.size <= 5 * 900
    assert 654_321 in rows
