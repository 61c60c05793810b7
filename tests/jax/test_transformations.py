"""Under JAX's transformations: jit, vmap, grad, scan, donation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import stream
from jax.experimental import checkify

from alrc import Settings
from alrc.jax import Moments, clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
jitted = jax.jit(clip, static_argnames=("settings", "axis_name"))


def numbers(moments: Moments) -> list[float]:
    return [x.item() for x in moments]


def test_the_second_call_compiles_nothing() -> None:
    settings, traces = Settings(num_stddev=3, scale="linear"), []

    @jax.jit
    def call(x, moments):
        traces.append(x.shape)
        return clip(x, moments, settings)

    moments = init(settings)
    for losses in np.random.default_rng(0).exponential(size=(20, 4)).astype(np.float32):
        _, moments = call(losses, moments)
    assert traces == [(4,)]
    assert moments.num_updates == 20


def test_vmap_over_an_ensemble_equals_a_loop() -> None:
    settings = Settings(warmup=3, num_stddev=1.0, scale="linear")
    losses = np.random.default_rng(0).lognormal(size=(30, 5, 4)).astype(np.float32)
    together = jax.vmap(lambda _: init(settings))(jnp.arange(5))
    apart = [init(settings) for _ in range(5)]
    call = jax.jit(jax.vmap(partial(clip, settings=settings)))
    num_clipped = 0
    for batch in losses:
        clipped, together = call(batch, together)
        for i in range(5):
            expected, apart[i] = jitted(batch[i], apart[i], settings)
            np.testing.assert_allclose(clipped[i], expected, rtol=1e-6)
            for ours, theirs in zip(together, apart[i], strict=True):
                np.testing.assert_allclose(ours[i], theirs, rtol=1e-5)
        num_clipped += np.sum(clipped != batch)
    assert 30 < num_clipped < 300


def test_models_with_settings_of_their_own_are_limited_in_one_call_by_a_switch() -> None:
    several = [Settings(**{**START, "num_stddev": n}, decay=0.5) for n in (1.0, 2.0, 3.0)]

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, 0))
    def call(index, loss, moments):
        branches = [partial(clip, settings=settings) for settings in several]
        return jax.vjp(
            lambda loss: jax.lax.switch(index, branches, loss, moments), loss, has_aux=True
        )

    together = jax.vmap(lambda _: init(several[0]))(jnp.arange(3))
    apart = [init(settings) for settings in several]
    for loss in (jnp.float32(8.0), jnp.float32(2.5)):
        values, pull_back, together = call(jnp.arange(3), loss, together)
        (gradients,) = jax.vmap(lambda pull_back: pull_back(jnp.float32(1.0)))(pull_back)
        for i, settings in enumerate(several):
            expected, theirs, apart[i] = jax.vjp(
                lambda x: clip(x, apart[i], settings),  # noqa: B023
                loss,
                has_aux=True,
            )
            np.testing.assert_allclose(values[i], expected, rtol=1e-6)
            np.testing.assert_allclose(gradients[i], theirs(jnp.float32(1.0))[0], rtol=1e-6)
            np.testing.assert_allclose([x[i] for x in together], apart[i], rtol=1e-6)


def test_gradients_per_example_equal_those_of_the_batch() -> None:
    settings = Settings(**START)
    losses = jnp.array([0.5, 8.0, 16.0])
    alone = jax.vmap(jax.grad(lambda x: clip(x, init(settings), settings)[0]))(losses)
    assert alone.tolist() == [1.0, 0.5, 0.25]
    together = jax.grad(lambda x: clip(x, init(settings), settings)[0].sum())(losses)
    assert together.tolist() == alone.tolist()


def test_scan_equals_a_loop_at_every_step() -> None:
    settings = Settings(num_stddev=1.0, decay=0.9, scale="linear")
    losses = np.asarray([batch for batch, _ in stream(calls=60, masked=False)], np.float32)

    @jax.jit
    def scan(moments, losses):
        def body(moments, x):
            clipped, moments = clip(x, moments, settings)
            return moments, (clipped, moments)

        return jax.lax.scan(body, moments, losses)

    last, (clipped, moments) = scan(init(settings), losses)
    state = init(settings)
    for i, x in enumerate(losses):
        expected, state = jitted(x, state, settings)
        np.testing.assert_allclose(clipped[i], expected, rtol=1e-6)
        for ours, theirs in zip(moments, state, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-5)
    assert numbers(last) == [x[-1].item() for x in moments]
    assert np.sum((clipped != losses) & np.isfinite(losses)) >= 5


def test_donated_moments_are_reused() -> None:
    settings = Settings(decay=0.5, **START)
    call = jax.jit(partial(clip, settings=settings), donate_argnames="moments")
    first = init(settings)
    clipped, second = call(jnp.array([3.0, 8.0]), first)
    assert all(x.is_deleted() for x in first)
    assert clipped.tolist() == [3.0, 4.0]
    assert second.mean == 1 + 0.5 * 2.5
    _, third = call(jnp.array([3.0, 8.0]), second)
    assert third.num_updates == 2


@pytest.mark.parametrize(
    "options",
    [
        START,
        {"center": "mean", "mu1_start": 0.0, "mu2_start": 0.0, "scale": "linear"},
        {"center": "mean", "num_stddev_below": 2.0, "num_groups": 2, **START},
        {"num_stddev_below": 2.0, "num_groups": 2, "warmup": 1, "scale": "linear"},
    ],
    ids=str,
)
def test_tools_that_look_for_nan_find_none_in_branches_not_taken(options) -> None:
    settings = Settings(**options)
    group = {"group": jnp.array([0, 1, 1, -1, 2])} if "num_groups" in options else {}

    def gradients(losses, moments):
        values, pull_back, moments = jax.vjp(
            lambda x: clip(x, moments, settings, **group), losses, has_aux=True
        )
        return values, pull_back(jnp.ones_like(losses))[0], moments

    checked = jax.jit(checkify.checkify(gradients, errors=checkify.all_checks))
    moments = init(settings)
    for losses in (
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 2.0, 1.0, 1.0, 1.0],
        [100.0, 2.0, -100.0, 0.0, 1e-30],
        [jnp.inf, -jnp.inf, 1e30, 3.0, jnp.inf],
    ):
        error, (values, factors, after) = checked(jnp.array(losses), moments)
        assert error.get() is None
        with jax.debug_nans(True):
            eager = gradients(jnp.array(losses), moments)
            compiled = jax.jit(gradients)(jnp.array(losses), moments)
        for other in (eager, compiled):
            np.testing.assert_allclose(other[0], values, rtol=1e-6)
            np.testing.assert_allclose(other[1], factors, rtol=1e-6)
            for one, another in zip(other[2], after, strict=True):
                np.testing.assert_allclose(one, another, rtol=1e-6)
        moments = after
