"""Rows for the table of front ends: the layer of alrc.keras, in a process for each backend."""

import functools
import itertools
import shutil
from collections.abc import Sequence
from typing import Any

from frontends import FrontEnd, Mask, Result, Structure
from keras_workers import BACKENDS, run


class Keras(FrontEnd):
    """The layer as users call it in a training step of their own, operation by operation."""

    who = "ALRC"
    backend: str
    examples = 20
    numbers = itertools.count()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.number = next(self.numbers)
        self._run(_make, {**self.defaults, **settings})

    def _run(self, function: Any, *args: Any) -> Any:
        return run(self.backend, function, self.number, *args)

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        return self._run(_call, losses, mask, dtype, True, self.hurry)

    def feed(self, losses: Sequence[float]) -> list[float]:
        return self._run(_feed, losses)

    def evaluate(self, losses: Sequence[float]) -> Result:
        return self._run(_call, losses, None, "float32", False, False)

    def save(self) -> dict[str, float]:
        return self._run(_save)

    def load(self, saved: dict[str, float]) -> None:
        self._run(_load, saved)

    @property
    def structure(self) -> Structure:
        return self._run(_structure)


ROWS: dict[str, type[FrontEnd]] = {
    f"keras-{backend}": type(f"Keras_{backend}", (Keras,), {"backend": backend})
    for backend in BACKENDS
}

# What follows runs in the workers, which have a layer for each row that was made.

_layers: dict[int, Any] = {}
_compiled: dict[Any, Any] = {}


def _make(number: int, settings: dict[str, Any]) -> None:
    import alrc.keras

    _layers[number] = alrc.keras.ALRC(**settings)


def _call(
    number: int, losses: Sequence[float], mask: Mask, dtype: str, training: bool, hurry: bool
) -> Result:
    """Values, and gradients for an upstream gradient of 3, divided by 3."""
    import keras
    from keras import ops

    x = ops.cast(ops.convert_to_tensor(losses, "float32"), dtype)
    mask = None if mask is None else ops.convert_to_tensor(mask, "float32")
    differentiate = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    y, gradients = differentiate[keras.backend.backend()](_layers[number], x, mask, training, hurry)
    assert (tuple(y.shape), y.dtype) == (tuple(x.shape), x.dtype)
    return _floats(y), [g / 3.0 for g in _floats(gradients)]


def _floats(x: Any) -> list[float]:
    from keras import ops

    return ops.convert_to_numpy(ops.cast(x, "float32")).tolist()


def _tensorflow(layer: Any, x: Any, mask: Any, training: bool, hurry: bool) -> tuple[Any, Any]:
    import tensorflow as tf

    def call(x: Any, mask: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=training)
        return y, tape.gradient(y, x, 3 * tf.ones_like(y))

    if hurry:
        call = _once(tf.function, call, id(layer), x.shape[0], x.dtype, mask is None, training)
    return call(x, mask)


def _jax(layer: Any, x: Any, mask: Any, training: bool, hurry: bool) -> tuple[Any, Any]:
    import jax

    def call(variables: Any, x: Any, mask: Any) -> tuple[Any, Any, Any]:
        def forward(x: Any) -> Any:
            return layer.stateless_call([], variables, x, mask=mask, training=training)

        y, pull_back, variables = jax.vjp(forward, x, has_aux=True)
        return y, pull_back(3 * jax.numpy.ones_like(y))[0], variables

    if hurry:
        call = _once(jax.jit, call, layer.settings, x.shape, x.dtype, mask is None, training)
    y, gradients, variables = call([v.value for v in layer.non_trainable_variables], x, mask)
    _take(layer, variables)
    return y, gradients


def _torch(layer: Any, x: Any, mask: Any, training: bool, hurry: bool) -> tuple[Any, Any]:
    import torch

    x.requires_grad_()
    y = layer(x, mask=mask, training=training)
    return y, torch.autograd.grad(y, x, torch.full_like(y, 3.0))[0]


def _once(compiler: Any, function: Any, *key: Any) -> Any:
    """The function compiled, once for each key."""
    if key not in _compiled:
        _compiled[key] = compiler(function)
    return _compiled[key]


def _take(layer: Any, variables: Any) -> None:
    for variable, value in zip(layer.non_trainable_variables, variables, strict=True):
        variable.assign(value)


def _feed(number: int, losses: Sequence[float]) -> list[float]:
    """Single losses one after another, in a compiled loop if the backend has one."""
    import keras

    layer, backend = _layers[number], keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([None])])
        def feed(losses: Any) -> Any:
            return tf.map_fn(layer, losses, parallel_iterations=1)

        return _once(lambda f: f, feed, id(layer))(tf.constant(losses)).numpy().tolist()
    if backend == "jax":
        import jax

        def step(variables: Any, loss: Any) -> Any:
            return layer.stateless_call([], variables, loss)[::-1]

        variables = [v.value for v in layer.non_trainable_variables]
        scan = _once(jax.jit, functools.partial(jax.lax.scan, step), layer.settings)
        variables, values = scan(variables, jax.numpy.asarray(losses, "float32"))
        _take(layer, variables)
        return values.tolist()
    import torch

    # Inductor takes seconds to compile, and then a tenth of the time for a call.
    compiler = "inductor" if shutil.which("g++") else "aot_eager"
    compiled = functools.partial(torch.compile, fullgraph=True, backend=compiler)
    call = _once(compiled, lambda layer, loss: layer.call(loss), "feed")
    with torch.no_grad():
        return [call(layer, torch.tensor(loss)).item() for loss in losses]


def _save(number: int) -> dict[str, float]:
    return _layers[number].to_dict()


def _load(number: int, saved: dict[str, float]) -> None:
    _layers[number].load_dict(saved)


def _structure(number: int) -> Structure:
    from keras.backend import standardize_dtype

    weights = _layers[number].weights
    return [(w.name, tuple(w.shape), standardize_dtype(w.dtype)) for w in weights]
