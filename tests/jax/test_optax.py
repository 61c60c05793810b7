"""The transformation for optax: equal to clip, and inside optax's own wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax_regression import OPTIONS, mean_squared, regression

from alrc import Settings
from alrc.jax import Moments, clip, init, scale_by_alrc
from alrc.rule import KINDS

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


def numbers(moments: Moments) -> list[float]:
    return [x.item() for x in moments]


@pytest.mark.parametrize("rest", [optax.sgd(0.02), optax.adam(0.05)], ids=["sgd", "adam"])
@pytest.mark.parametrize("recency", [1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_scaling_updates_equals_clipping_the_loss(rest, recency, scale) -> None:
    options = {**OPTIONS, "recency": recency, "scale": scale}
    settings, scaling = Settings(**options), optax.chain(scale_by_alrc(**options), rest)
    traces = []

    def clipped_loss(w, moments, x, y):
        return clip(mean_squared(w, x, y), moments, settings)

    @jax.jit
    def by_clip(w, moments, state, x, y):
        gradient, moments = jax.grad(clipped_loss, has_aux=True)(w, moments, x, y)
        updates, state = rest.update(gradient, state, w)
        return optax.apply_updates(w, updates), moments, state

    @jax.jit
    def by_scale(w, state, x, y):
        traces.append(1)
        value, gradient = jax.value_and_grad(mean_squared)(w, x, y)
        updates, state = scaling.update(gradient, state, w, value=value)
        return optax.apply_updates(w, updates), state

    @jax.jit
    def unscaled(w, state, x, y):
        updates, state = rest.update(jax.grad(mean_squared)(w, x, y), state, w)
        return optax.apply_updates(w, updates), state

    ours = theirs = plain = jnp.zeros(3)
    moments, state, scaling_state = init(settings), rest.init(ours), scaling.init(ours)
    plain_state = state
    for x, y in zip(*regression(), strict=True):
        ours, moments, state = by_clip(ours, moments, state, x, y)
        theirs, scaling_state = by_scale(theirs, scaling_state, x, y)
        plain, plain_state = unscaled(plain, plain_state, x, y)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scaling_state[0], moments, rtol=1e-5)
    assert type(scaling_state[0]) is type(moments) is KINDS[scale]
    assert traces == [1]
    assert np.max(np.abs(plain - ours)) > 0.05  # so that it mattered


def test_scaling_keeps_the_dtypes_of_updates_under_strict_promotion() -> None:
    transform = scale_by_alrc(**START)
    updates = {"a": jnp.ones(2, jnp.bfloat16), "b": (jnp.ones(()), None)}
    with jax.numpy_dtype_promotion("strict"):
        scaled, state = transform.update(updates, transform.init(None), value=jnp.bfloat16(8))
    assert jax.tree.structure(scaled) == jax.tree.structure(updates)
    assert scaled["a"].dtype == jnp.bfloat16
    assert jax.tree.leaves(jax.tree.map(lambda x: x.tolist(), scaled)) == [0.5, 0.5, 0.5]
    assert state.num_updates == 1
    with jax.enable_x64(True):
        _, state = transform.update(1.0, state, value=np.float64(8))
        assert [str(x.dtype) for x in state] == ["float32", "float32", "int32"]


@pytest.mark.parametrize("half", ["value", "updates"])
def test_gradients_in_float16_that_are_scaled_up_stay_finite(half) -> None:
    transform = scale_by_alrc(num_stddev_below=0.5, **START)  # the lower limit is 0.5
    state = transform.init(None)
    dtype = jnp.float16 if half == "updates" else jnp.float32
    value = jnp.float16(6e-8) if half == "value" else jnp.float32(1e-30)
    updates = {"a": jnp.ones(2, dtype), "b": jnp.ones(2)}
    scaled, _ = transform.update(updates, state, value=value)
    assert scaled["a"].dtype == dtype
    assert scaled["a"].tolist() == [2.0**14, 2.0**14]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_value_leaves_updates_and_moments_alone(bad) -> None:
    transform = scale_by_alrc(**START)
    state = transform.init(None)
    updates = jnp.array([0.1, -3.0, jnp.nan])
    scaled, after = transform.update(updates, state, value=bad)
    np.testing.assert_array_equal(scaled, updates)
    assert numbers(after) == numbers(state)


def test_multi_steps_inside_moves_the_moments_on_each_micro_batch() -> None:
    outside = optax.MultiSteps(optax.chain(scale_by_alrc(**START), optax.sgd(1.0)), 2)
    inside = optax.chain(
        scale_by_alrc(**START), optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    )
    w = jnp.zeros(())
    first, second = outside.init(w), inside.init(w)
    for value in (2.0, 8.0):
        ours, first = outside.update(jnp.ones(()), first, w, value=value)
        theirs, second = inside.update(jnp.ones(()), second, w, value=value)
    assert first.inner_opt_state[0].num_updates == 1
    assert ours == -0.5  # both gradients scaled by the last value
    assert second[0].num_updates == 2
    assert theirs == pytest.approx(-(1.0 + 4.005 / 8.0) / 2, abs=2e-3)  # the second alone


def test_inject_hyperparams_passes_the_value() -> None:
    @optax.inject_hyperparams
    def build(learning_rate):
        return optax.chain(scale_by_alrc(**START), optax.sgd(learning_rate))

    static = ("num_stddev_below", "warmup", "recency", "center", "scale", "axis_name")
    static += ("num_stddev", "decay", "mu1_start", "mu2_start")
    static_only = optax.inject_hyperparams(scale_by_alrc, static_args=static)(**START)
    for optimizer, expected in ((build(learning_rate=0.1), -0.05), (static_only, 0.5)):
        state = optimizer.init(jnp.ones(()))
        update = jax.jit(lambda g, s, v, o=optimizer: o.update(g, s, value=v))
        updates, state = update(jnp.ones(()), state, 8.0)
        assert updates == pytest.approx(expected)


def test_apply_if_finite_passes_the_value_and_undoes_a_broken_step() -> None:
    optimizer = optax.apply_if_finite(optax.chain(scale_by_alrc(**START), optax.sgd(1.0)), 5)
    state = optimizer.init(jnp.ones(()))
    updates, state = optimizer.update(jnp.ones(()), state, value=8.0)
    assert updates == -0.5
    before = numbers(state.inner_state[0])
    updates, state = optimizer.update(jnp.array(jnp.nan), state, value=2.0)
    assert updates == 0.0
    assert numbers(state.inner_state[0]) == before
    assert before[2] == 1
