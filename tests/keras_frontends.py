"""Rows for the table of front ends: the layer of alrc.keras, in a process for each backend."""

import itertools
from collections import Counter
from typing import Any

from frontends import FrontEnd, Mask, Result
from keras_workers import BACKENDS, run

# In each worker:
_layers: dict[int, Any] = {}
_calls: Counter[Any] = Counter()
_compiled: dict[Any, Any] = {}
_numbers = itertools.count()


def _make(number: int, settings: dict[str, Any]) -> None:
    import alrc.keras

    _layers[number] = alrc.keras.ALRC(**settings)


def _call(number: int, losses: list[float], mask: Mask, dtype: str, training: bool) -> Result:
    """Values, and gradients for an upstream gradient of 3, divided by 3."""
    import keras
    from keras import ops

    layer = _layers[number]
    x = ops.cast(ops.convert_to_tensor(losses, "float32"), dtype)
    mask = None if mask is None else ops.convert_to_tensor(mask, "float32")
    y, gradients = _DIFFERENTIATE[keras.backend.backend()](layer, x, mask, training)
    assert (tuple(y.shape), y.dtype) == (tuple(x.shape), x.dtype)
    return _floats(y), [g / 3.0 for g in _floats(gradients)]


def _floats(x: Any) -> list[float]:
    from keras import ops

    return ops.convert_to_numpy(ops.cast(x, "float32")).tolist()


def _tensorflow(layer: Any, x: Any, mask: Any, training: bool) -> tuple[Any, Any]:
    import tensorflow as tf

    def call(x: Any, mask: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=training)
        return y, tape.gradient(y, x, 3 * tf.ones_like(y))

    key = id(layer), x.shape[0], x.dtype, mask is None, training
    return _often(layer, key, call, tf.function)(x, mask)


def _jax(layer: Any, x: Any, mask: Any, training: bool) -> tuple[Any, Any]:
    import jax

    def call(variables: Any, x: Any, mask: Any) -> tuple[Any, Any, Any]:
        def forward(x: Any) -> Any:
            return layer.stateless_call([], variables, x, mask=mask, training=training)

        y, pull_back, variables = jax.vjp(forward, x, has_aux=True)
        return y, pull_back(3 * jax.numpy.ones_like(y))[0], variables

    key = layer.settings, x.shape, x.dtype, mask is None, training
    variables = [v.value for v in layer.non_trainable_variables]
    y, gradients, variables = _often(layer, key, call, jax.jit)(variables, x, mask)
    for variable, value in zip(layer.non_trainable_variables, variables, strict=True):
        variable.assign(value)
    return y, gradients


def _torch(layer: Any, x: Any, mask: Any, training: bool) -> tuple[Any, Any]:
    import torch

    x.requires_grad_()
    y = layer(x, mask=mask, training=training)
    return y, torch.autograd.grad(y, x, torch.full_like(y, 3.0))[0]


def _often(layer: Any, key: Any, function: Any, compiler: Any) -> Any:
    """The function itself for a layer's first calls, then compiled, which takes a while."""
    _calls[id(layer)] += 1
    if _calls[id(layer)] <= 40:
        return function
    if key not in _compiled:
        _compiled[key] = compiler(function)
    return _compiled[key]


_DIFFERENTIATE = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _get(number: int) -> dict[str, float]:
    return _layers[number].to_dict()


class Keras(FrontEnd):
    """The layer as users call it in a training step of their own."""

    backend: str

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.number = next(_numbers)
        run(self.backend, _make, self.number, settings)

    def __call__(self, losses: list[float], mask: Mask = None, dtype: str = "float32") -> Result:
        return run(self.backend, _call, self.number, losses, mask, dtype, True)

    def evaluate(self, losses: list[float]) -> Result:
        return run(self.backend, _call, self.number, losses, None, "float32", False)

    @property
    def moments(self) -> tuple[float, float, int]:
        state = run(self.backend, _get, self.number)
        return state["mean"], state["variance"], state["num_updates"]

    @property
    def counts(self) -> tuple[int, int, int]:
        state = run(self.backend, _get, self.number)
        return state["num_losses"], state["num_clipped"], state["num_nonfinite"]


ROWS: dict[str, type[FrontEnd]] = {
    f"keras-{backend}": type(f"Keras_{backend}", (Keras,), {"backend": backend})
    for backend in BACKENDS
}
