"""Which losses count: zeros, the ends of float32's range, and extreme weights; in every row."""

import math

import numpy as np
import pytest
from table import ROWS, started

HUGE = 2.0**62  # the square of what is larger is lost in float32


@pytest.mark.parametrize("row", ROWS)
def test_losses_of_0_come_back_and_count_nowhere(row) -> None:
    with_zeros, without = started(row, decay=0.9), started(row, decay=0.9)
    for losses in ([0.0, 2.0, -0.0, 9.0], [0.0], [0.0, 0.0], [1.0, 0.0]):
        values, factors = with_zeros(losses)
        expected = without([x for x in losses if x])
        assert [v for v, x in zip(values, losses, strict=True) if x] == expected[0]
        assert [f for f, x in zip(factors, losses, strict=True) if x] == expected[1]
        zeros = [i for i, x in enumerate(losses) if not x]
        assert [math.copysign(1.0, values[i]) for i in zeros] == [
            math.copysign(1.0, losses[i]) for i in zeros
        ]
        assert [factors[i] for i in zeros] == [1.0] * len(zeros)
        assert with_zeros.moments == pytest.approx(without.moments, rel=1e-6)
        assert with_zeros.counts == without.counts
    assert with_zeros.moments[2] == 2


@pytest.mark.parametrize("row", ROWS)
def test_with_center_mean_a_loss_of_0_is_a_loss_like_any_other(row) -> None:
    front_end = started(row, decay=0.0, center="mean")
    front_end([0.0, 1.0])
    assert front_end.moments == (0.5, 0.25, 1)
    assert front_end.counts in (None, (2, 0, 0))


@pytest.mark.parametrize("row", ROWS)
def test_losses_that_teach_keep_their_gradients_where_most_losses_are_0(row) -> None:
    """Hinge and triplet losses: 5 % are above 0. Counted, zeros would take the limit to 0."""
    random, front_end = np.random.default_rng(0), ROWS[row](decay=0.9)
    factors = []
    for _ in range(150):
        losses = np.where(random.random(20) < 0.05, random.random(20), 0.0)
        losses[0] = random.random()
        _, got = front_end(losses.tolist())
        factors += [f for f, x in zip(got, losses, strict=True) if x]
    assert np.mean(factors) > 0.99


@pytest.mark.parametrize("row", ROWS)
def test_a_huge_loss_counts_as_not_finite_and_leaves_the_others_protected(row) -> None:
    front_end, alone = ROWS[row](), ROWS[row]()
    for _ in range(20):
        # No limit yet, or one that this loss has not helped to set.
        values, factors = front_end([1.0, 1.1, 0.9, 1e25][: 4 if front_end.moments[2] < 9 else 3])
        assert factors == [1.0] * len(values)
        alone([1.0, 1.1, 0.9])
        assert front_end.moments == pytest.approx(alone.moments, rel=1e-6)
    assert front_end.counts in (None, (60, 0, 9))
    assert front_end([1.0, 1000.0])[1] == [1.0, pytest.approx(1.24e-3, rel=0.01)]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("loss", [HUGE, -HUGE, 3e38])
def test_a_loss_of_this_size_is_not_held_and_the_next_smaller_is(row, loss) -> None:
    front_end = ROWS[row]()
    assert front_end([loss]) == ([float(np.float32(loss))], [1.0])
    assert (front_end.moments[2], front_end.counts) in ((0, None), (0, (0, 0, 1)))
    front_end([math.copysign(HUGE * (1 - 2.0**-24), loss)])
    assert (front_end.moments[2], front_end.counts) in ((1, None), (1, (1, 0, 1)))


@pytest.mark.parametrize("row", ROWS)
def test_a_huge_loss_meets_a_limit_like_any_other(row) -> None:
    front_end = started(row)
    assert front_end([1.0, 1e30]) == ([1.0, 4.0], [1.0, pytest.approx(4e-30)])
    assert front_end.counts in (None, (2, 1, 0))


@pytest.mark.parametrize("row", ROWS)
def test_an_infinite_weight_is_a_large_one(row) -> None:
    front_end = started(row, decay=0.0)
    assert front_end([3.0, 1.0, 9.0], [math.inf, 1.0, 1.0])[0] == [3.0, 1.0, 4.0]
    assert front_end.moments == pytest.approx((3.0, 0.0, 1), abs=1e-6)
    assert front_end.counts in (None, (3, 1, 0))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.thin("scale", 1e-18, 1e-30)
@pytest.mark.parametrize("scale", [1e-15, 1e-18, 1e-20, 1e-23, 1e-30])
def test_calm_losses_are_never_limited_however_small(row, scale) -> None:
    front_end = ROWS[row]()
    for i in range(60):
        loss = float(np.float32(scale * (1 + 0.1 * math.sin(i))))
        assert front_end([loss]) == ([loss], [1.0])
