"""A linear regression whose training by Keras is compared with an oracle in NumPy."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from reference import Reference

from alrc.keras import ALRC, ALRCMixin, ALRCModel

backend = keras.backend.backend
SETTINGS = {"scale": "linear", "num_stddev": 1.0, "decay": 0.9, "warmup": 3}
START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
RATE, BATCH = 0.01, 8


def needs_keras_3_15(reason: str) -> pytest.MarkDecorator:
    old = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15)
    return pytest.mark.skipif(old, reason=reason)


def data(batches: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a linear regression; every tenth target is far off."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batches * BATCH, 3))
    y = x.sum(1, keepdims=True) + rng.normal(size=(len(x), 1))
    y[::10] *= 20
    return x.astype("float32"), y.astype("float32")


def oracle(
    x: Any, y: Any, per_example: bool, devices: int = 1, accumulate: int = 1
) -> Iterator[tuple[np.ndarray, Reference, float]]:
    """Trains by hand, in NumPy: parameters, moments and the batch's loss after each step."""
    theta, moments, gradients = np.zeros(4), Reference(**SETTINGS), []
    design = np.hstack([x, np.ones((len(x), 1))]).astype(float)
    for step in range(len(x) // BATCH):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        error = design[batch] @ theta - y[batch, 0]
        losses, slopes = error**2, 2 * error[:, None] * design[batch]
        if not per_example:  # one loss on each device
            losses = losses.reshape(devices, -1).mean(1)
            slopes = slopes.reshape(devices, -1, 4).mean(1)
        factors = [result.factor for result in moments(losses, None)]
        gradients.append(np.mean(np.array(factors)[:, None] * slopes, axis=0))
        if len(gradients) == accumulate:
            theta = theta - RATE * np.mean(gradients, axis=0)
            gradients = []
        yield theta, moments, losses.mean()


def network() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])


def compiled(per_example: bool, optimizer: Any = None, **options: Any) -> ALRCModel:
    model = ALRCModel(network(), ALRC(**SETTINGS))
    reduction = "none" if per_example else "sum_over_batch_size"
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model.compile(optimizer or keras.optimizers.SGD(RATE), loss, **options)
    return model


class Regression(ALRCMixin, keras.Model):
    """A model of a user's own, with its own loss after the mixin."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, kernel_initializer="zeros")
        self.alrc = ALRC(**SETTINGS)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


def parameters(model: keras.Model) -> np.ndarray:
    return np.concatenate([ops.convert_to_numpy(w).ravel() for w in model.trainable_weights])


def assert_as(model: ALRCModel, theta: np.ndarray, moments: Reference, rtol: float = 2e-5) -> None:
    np.testing.assert_allclose(parameters(model), theta, rtol=rtol, atol=rtol)
    got = model.alrc.to_dict()
    np.testing.assert_allclose(got["mean"], moments.mean, rtol=rtol)
    np.testing.assert_allclose(got["variance"], moments.variance, rtol=10 * rtol)
    for name in ("num_updates", "num_losses", "num_clipped", "num_nonfinite"):
        assert got[name] == getattr(moments, name), f"{name}: {got}"


def last(iterator: Iterator[Any]) -> Any:
    *_, end = iterator
    return end


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def refusal(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def differentiated(layer: ALRC, losses: Any, **kwargs: Any) -> tuple[list[float], list[float]]:
    """What the layer makes of losses in training, and the gradient of its sum."""
    x = ops.convert_to_tensor(losses, "float32")
    if backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **kwargs)
        gradient = tape.gradient(y, x)
    elif backend() == "torch":
        x.requires_grad_()
        y = layer(x, **kwargs)
        y.sum().backward()
        y, gradient = y.detach(), x.grad
    else:
        import jax

        def summed(x: Any, variables: Any) -> Any:
            y, after = layer.stateless_call([], variables, x, **kwargs)
            return ops.sum(y), (y, after)

        variables = layer.non_trainable_variables
        now = [variable.value for variable in variables]
        gradient, (y, after) = jax.grad(summed, has_aux=True)(x, now)
        for variable, value in zip(variables, after, strict=True):
            variable.assign(value)
    return ops.convert_to_numpy(y).tolist(), ops.convert_to_numpy(gradient).tolist()
