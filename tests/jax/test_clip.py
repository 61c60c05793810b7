"""The call: values, gradients, moments and dtypes, for any losses and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alrc import Settings
from alrc.jax import Moments, clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
jitted = jax.jit(clip, static_argnames=("settings", "axis_name"))


def numbers(moments: Moments) -> list[float]:
    return [x.item() for x in moments]


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_shape_dtype_and_gradient_for_any_loss(shape, dtype, masked) -> None:
    settings = Settings(**START)
    mask = jnp.ones(shape, bool) if masked else None
    loss = jnp.full(shape, 8.0, dtype)
    clipped, pull_back = jax.vjp(lambda x: clip(x, init(settings), settings, mask)[0], loss)
    assert (clipped.shape, clipped.dtype) == (shape, dtype)
    assert jnp.array_equal(clipped, jnp.full(shape, 4.0, dtype))
    (gradient,) = pull_back(jnp.ones_like(loss))
    assert jnp.array_equal(gradient, jnp.full(shape, 0.5, dtype))


def test_half_precision_losses_move_the_moments_in_float32() -> None:
    losses = jnp.linspace(0.1, 1.0, 2000).astype(jnp.bfloat16)
    settings = Settings(scale="linear")
    _, moments = clip(losses, init(settings), settings)
    exact = np.asarray(losses, np.float64)
    assert moments.mean.item() == pytest.approx(exact.mean(), rel=2e-6)
    assert moments.variance.item() == pytest.approx(exact.var(), rel=2e-6)


@pytest.mark.parametrize("call", [clip, jitted], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_unclipped_losses_come_back_bit_for_bit(call, dtype) -> None:
    settings = Settings(mu1_start=1e3, mu2_start=2e6, scale="linear")
    losses = np.array([0.1, -0.0, 0.0, 1 / 3, 1e-40, -7.7, 999.9, 0.7], np.float32).astype(dtype)
    clipped, _ = call(losses, init(settings), settings)
    assert np.asarray(clipped).tobytes() == losses.tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_broken_losses_come_back_with_their_gradient_and_move_nothing(bad, wrap) -> None:
    for settings in (Settings(**START), Settings(), Settings(num_stddev_below=1.0, **START)):
        moments = init(settings)

        def call(x, moments=moments, settings=settings):
            return clip(x, moments, settings)

        values, pull_back, after = jax.vjp(wrap(call), jnp.array([bad, bad]), has_aux=True)
        np.testing.assert_array_equal(values, [bad, bad])
        np.testing.assert_array_equal(pull_back(jnp.array([3.0, 5.0]))[0], [3.0, 5.0])
        assert numbers(after) == numbers(moments)


def test_a_broken_loss_does_not_spoil_its_neighbours() -> None:
    settings = Settings(decay=0.5, **START)
    losses = jnp.array([8.0, jnp.nan, 2.0])
    values, pull_back, after = jax.vjp(
        lambda x: clip(x, init(settings), settings), losses, has_aux=True
    )
    np.testing.assert_array_equal(values, [4.0, np.nan, 2.0])
    np.testing.assert_array_equal(pull_back(jnp.ones(3))[0], [0.5, 1.0, 1.0])
    assert numbers(after)[0] == 1 + 0.5 * 2  # the mean of 4 and 2 is 2 above the old mean


def test_gradients_do_not_reach_the_moments_nor_the_mask() -> None:
    def total(moments, mask, wanted):
        clipped, after = clip(jnp.array([8.0, 1.0]), moments, Settings(**START), mask)
        return (clipped.sum(), after.mean, after.variance)[wanted]

    start = Moments(jnp.array(1.0), jnp.array(1.0), jnp.array(0.0))
    for wanted in range(3):
        gradients = jax.grad(total, (0, 1))(start, jnp.array([1.0, 2.0]), wanted)
        assert not any(np.any(g) for g in jax.tree.leaves(gradients))


def test_a_mask_weighs_losses_and_lets_the_others_through() -> None:
    settings = Settings(decay=0.5, **START)
    for mask, losses, values, shift in (
        ([True, False, True], [2.0, 9.0, 9.0], [2.0, 9.0, 4.0], 2.0),
        ([3, 0, 1], [2.0, 9.0, 3.0], [2.0, 9.0, 3.0], 1.25),
    ):
        clipped, after = clip(losses, init(settings), settings, mask)
        assert clipped.tolist() == values
        assert after.mean == 1 + 0.5 * shift


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("options", [{}, {"num_stddev_below": 1.0, "center": "mean", **START}])
def test_structure_and_dtypes_never_change(x64, promotion, options) -> None:
    with (
        jax.enable_x64(x64),
        jax.numpy_dtype_promotion(promotion),
        jax.numpy_rank_promotion("raise"),
    ):
        settings = Settings(**options)
        moments = init(settings)
        avals = [jax.typeof(x) for x in moments]
        assert [str(aval.dtype) for aval in avals] == ["float32", "float32", "int32"]
        for losses in (2.5, np.float32(2.5), jnp.ones(3, jnp.bfloat16), np.ones((2, 2)), [1.0]):
            for mask in (None, np.ones(np.shape(losses), int)):
                clipped, moments = jitted(losses, moments, settings, mask)
                assert clipped.dtype == jnp.asarray(losses).dtype
                assert clipped.shape == np.shape(losses)
                assert [jax.typeof(x) for x in moments] == avals
                assert not any(x.weak_type for x in moments)
        assert moments.num_updates == 10
        # lax.scan and lax.while_loop refuse a carry that changes in anything.
        jax.lax.scan(lambda m, x: clip(x, m, settings)[::-1], moments, jnp.ones(3))


def test_with_x64_losses_are_limited_in_float64() -> None:
    with jax.enable_x64(True):
        settings = Settings(decay=0.5, **START)
        x = jnp.array([1 / 3, 8.0 + 1e-9])
        assert x.dtype == jnp.float64
        values, pull_back, _ = jax.vjp(lambda x: clip(x, init(settings), settings), x, has_aux=True)
        assert values.tolist() == [1 / 3, 4.0]
        np.testing.assert_allclose(pull_back(jnp.ones(2))[0], [1.0, 4 / (8 + 1e-9)], rtol=1e-14)


def test_a_tiny_float16_loss_that_is_raised_has_a_finite_gradient() -> None:
    settings = Settings(num_stddev_below=0.5, **START)  # the lower limit is 0.5
    loss = jnp.array([6e-8, 1.0], jnp.float16)
    values, pull_back, _ = jax.vjp(lambda x: clip(x, init(settings), settings), loss, has_aux=True)
    assert values.tolist() == [0.5, 1.0]
    assert pull_back(jnp.ones_like(loss))[0].tolist() == [2.0**14, 1.0]
