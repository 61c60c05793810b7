"""Recipes: each trains the same model, which a loop by hand trains too."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax_regression import OPTIONS, mean_squared, regression
from reference import Reference

from alrc import Settings
from alrc.jax import clip, init, scale_by_alrc


@pytest.fixture(scope="module")
def trained_by_hand() -> np.ndarray:
    """Gradient descent in NumPy, its gradients scaled as the reference says."""
    reference, w = Reference(**OPTIONS), np.zeros(3)
    for x, y in zip(*regression(), strict=True):
        residual = x @ w - y
        (clipped,) = reference([float(np.mean(residual**2))])
        w = w - 0.02 * clipped.factor * 2 * x.T @ residual / len(y)
    assert reference.num_clipped >= 3
    return w


def test_recipe_for_plain_jax(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    def loss_fn(w, moments, x, y):
        return clip(mean_squared(w, x, y), moments, settings)

    @jax.jit
    def step(w, moments, x, y):
        (_, moments), gradient = jax.value_and_grad(loss_fn, has_aux=True)(w, moments, x, y)
        return w - 0.02 * gradient, moments

    w, moments = jnp.zeros(3), init(settings)
    for x, y in zip(*regression(), strict=True):
        w, moments = step(w, moments, x, y)
    np.testing.assert_allclose(w, trained_by_hand, rtol=1e-4)


def test_recipe_for_nnx_with_clip(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    class Running(nnx.Variable):
        """Moments of the losses: a kind of its own, so that no optimizer touches it."""

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros(3))
            self.moments = Running(init(settings))

        def loss(self, x, y):
            loss, moments = clip(
                mean_squared(self.w[...], x, y), self.moments.get_value(), settings
            )
            self.moments.set_value(moments)
            return loss

    @nnx.jit
    def step(model, optimizer, x, y):
        optimizer.update(model, nnx.grad(lambda model: model.loss(x, y))(model))

    model = Model()
    optimizer = nnx.Optimizer(model, optax.sgd(0.02), wrt=nnx.Param)
    for x, y in zip(*regression(), strict=True):
        step(model, optimizer, x, y)
    np.testing.assert_allclose(model.w[...], trained_by_hand, rtol=1e-4)
    assert model.moments.get_value().num_updates == 40


def test_recipe_for_nnx_with_scale_by_alrc(trained_by_hand) -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros(3))

    @nnx.jit
    def step(model, optimizer, x, y):
        loss_fn = nnx.value_and_grad(lambda model: mean_squared(model.w[...], x, y))
        value, gradients = loss_fn(model)
        optimizer.update(model, gradients, value=value)

    model = Model()
    chain = optax.chain(scale_by_alrc(**OPTIONS), optax.sgd(0.02))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    for x, y in zip(*regression(), strict=True):
        step(model, optimizer, x, y)
    np.testing.assert_allclose(model.w[...], trained_by_hand, rtol=1e-4)


def test_recipe_for_linen(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x, y):
            w = self.param("w", linen.initializers.zeros, (3,))
            moments = self.variable("alrc", "moments", init, settings)
            loss, after = clip(mean_squared(w, x, y), moments.value, settings)
            if not self.is_initializing():
                moments.value = after
            return loss

    @jax.jit
    def step(state, moments, x, y):
        def loss_fn(params):
            return state.apply_fn({"params": params, "alrc": moments}, x, y, mutable="alrc")

        gradients, variables = jax.grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients), variables["alrc"]

    xs, ys = regression()
    model = Model()
    variables = model.init(jax.random.key(0), xs[0], ys[0])
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optax.sgd(0.02))
    moments = variables["alrc"]
    for x, y in zip(xs, ys, strict=True):
        state, moments = step(state, moments, x, y)
    np.testing.assert_allclose(state.params["w"], trained_by_hand, rtol=1e-4)
    # It does not hand value= on, as the docstring of scale_by_alrc says.
    with pytest.raises(TypeError, match="value"):
        state.apply_gradients(grads=state.params, value=1.0)


def test_recipe_for_equinox(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    class Model(eqx.Module):
        w: jax.Array
        moments: eqx.nn.StateIndex

        def __init__(self) -> None:
            self.w = jnp.zeros(3)
            self.moments = eqx.nn.StateIndex(init(settings))

        def loss(self, state, x, y):
            loss, moments = clip(mean_squared(self.w, x, y), state.get(self.moments), settings)
            return loss, state.set(self.moments, moments)

    @eqx.filter_jit
    def step(model, state, x, y):
        gradients, state = eqx.filter_grad(Model.loss, has_aux=True)(model, state, x, y)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.02 * g, gradients)), state

    model, state = eqx.nn.make_with_state(Model)()
    for x, y in zip(*regression(), strict=True):
        model, state = step(model, state, x, y)
    np.testing.assert_allclose(model.w, trained_by_hand, rtol=1e-4)
    assert state.get(model.moments).num_updates == 40
