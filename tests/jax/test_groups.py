"""Groups: how the index is given; the promises run as a row of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alrc import Settings
from alrc.jax import clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


@pytest.mark.parametrize("num_groups", [100, 128, 300])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
@pytest.mark.parametrize("on_host", [False, True], ids=["jax", "numpy"])
def test_a_loss_of_a_group_that_does_not_exist_moves_nothing_whatever_the_dtype(
    num_groups, dtype, on_host
) -> None:
    with jax.enable_x64(dtype == "int64"):
        settings = Settings(num_groups=num_groups, **START)
        last, signed = np.iinfo(dtype).max, dtype[0] == "i"
        index = np.array([5, -1 if signed else last, min(num_groups, last)], dtype)
        real = index.astype(object) >= 0
        real &= index.astype(object) < num_groups
        before = init(settings)

        @jax.jit
        def call(index):
            return clip(jnp.full(3, 20.0), before, settings, group=index)

        group = index if on_host else jnp.asarray(index)
        results = [clip(jnp.full(3, 20.0), before, settings, group=group)]
        results += [] if on_host else [call(group)]
        for values, moments in results:
            assert values.tolist() == np.where(real, 4.0, 20.0).tolist()
            moved = np.flatnonzero(moments.num_updates)
            assert moved.tolist() == sorted(set(index[real].tolist()))


def test_numbers_that_int32_cannot_hold_are_no_group_either() -> None:
    settings = Settings(num_groups=2, **START)
    before = init(settings)
    for wide in (2**32, -(2**32), 2**32 + 1, 2**63 - 1):
        for group in (wide, np.int64(wide), np.array([wide, wide]), np.uint64(wide % 2**64)):
            values, moments = clip(jnp.array([99.0, 99.0]), before, settings, group=group)
            assert values.tolist() == [99.0, 99.0]
            assert moments.to_dict() == before.to_dict()


def test_a_missing_group_does_not_spoil_its_neighbours() -> None:
    settings = Settings(num_groups=2, decay=0.5, **START)
    losses = jnp.array([99.0, 8.0, jnp.nan, 2.0])
    values, pull_back, after = jax.vjp(
        lambda x: clip(x, init(settings), settings, group=jnp.array([-1, 1, 2, 1])),
        losses,
        has_aux=True,
    )
    np.testing.assert_array_equal(values, [99.0, 4.0, np.nan, 2.0])
    np.testing.assert_array_equal(pull_back(jnp.ones(4))[0], [1.0, 0.5, 1.0, 1.0])
    assert after.mean.tolist() == [1.0, 1 + 0.5 * 2]
    assert after.num_updates.tolist() == [0, 1]


# NumPy arrays: a JAX array here would start JAX before any test runs.
REFUSED = {
    "no groups": (
        None,
        1,
        ValueError,
        "clip: group must be left out, because the moments are shared by all losses; got 1. Pass "
        "Settings(num_groups=K), or call it without group.",
    ),
    "no group": (
        3,
        None,
        ValueError,
        "clip: group must say which of the 3 groups the losses are in; got None. Pass "
        "group=index: one whole number, or one for each loss.",
    ),
    "floats": (
        3,
        np.zeros(2, np.float32),
        TypeError,
        "clip: group must hold whole numbers; got float32 of shape (2,). Pass group.astype(int).",
    ),
    "a boolean": (
        3,
        True,
        TypeError,
        "clip: group must hold whole numbers; got bool of shape (). Pass group.astype(int).",
    ),
    "no array": (
        3,
        "left",
        TypeError,
        "clip: group must hold whole numbers; got 'left'. Pass jnp.asarray(group).",
    ),
    "another shape": (
        3,
        np.arange(3),
        ValueError,
        "clip: group must be one number or have the shape of loss; got a group of shape (3,) and "
        "losses of shape (2,). Pass jnp.broadcast_to(group, loss.shape).",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_group_is_refused_in_words(case) -> None:
    num_groups, group, kind, words = REFUSED[case]
    settings = Settings(num_groups=num_groups, num_stddev=3, scale="linear")
    with pytest.raises(kind) as error:
        clip(jnp.ones(2), init(settings), settings, group=group)
    assert str(error.value) == words
