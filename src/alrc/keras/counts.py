"""The counts that ``fit`` reports, and what becomes of them and of the state in Keras on JAX.

On JAX, Keras runs each step as a pure function: what is assigned is kept for those variables that
were handed to the function, and is lost for others. A layer's call is handed the weights of its
model but none of its metrics; ``compute_loss`` is handed both.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any  # of whichever backend is in use


class Count(keras.metrics.Sum):  # type: ignore[misc, unused-ignore]
    """How many losses there were since it was reset, over all batches and replicas."""

    def __init__(self, layer: Any, counted: str) -> None:
        super().__init__(f"{layer.name}_{counted}", dtype="float32")
        self.counted = counted


class CountOnJax(Count):
    """The same, told by the weight that counts for good where metrics are not kept."""

    def __init__(self, layer: Any, counted: str) -> None:
        super().__init__(layer, counted)
        # In a function, since Keras takes a layer among the attributes for a part of the metric.
        self.weight: Callable[[], Tensor] = lambda: ops.sum(
            ops.cast(getattr(layer, counted), "float32")
        )
        self.before = self.add_variable((), "zeros", "float32", name="before")
        self.lost = False  # whether it was updated last where it is not kept

    def update_state(self, values: Tensor) -> None:
        self.lost = not _kept(self.total)
        if not self.lost:
            super().update_state(values)

    def reset_state(self) -> None:
        super().reset_state()
        self.before.assign(self.weight())

    def result(self) -> Tensor:
        if not self.lost:
            return super().result()
        if _scope():  # in a step, which is shown no weights for its logs: unknown, and not 0
            return ops.full((), math.nan)
        return self.weight() - ops.convert_to_tensor(self.before)


def of(layer: Any) -> tuple[Count, Count]:
    """The metrics that count a layer's clipped and its non-finite losses."""
    kind = CountOnJax if keras.backend.backend() == "jax" else Count
    return kind(layer, "num_clipped"), kind(layer, "num_nonfinite")


def loses(weight: Any, losses: Tensor) -> bool:
    """Whether JAX is tracing a step of a model that does not know of this weight."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    traced = isinstance(losses, jax.core.Tracer) and not _symbolic()
    return traced and _scope() is not None and not _kept(weight)


def _kept(variable: Any) -> bool:
    """Whether what is assigned to the variable here is kept."""
    scope = _scope()
    return scope is None or scope.get_current_value(variable) is not None


def _scope() -> Any:
    """The keras.StatelessScope that is open, which has no public way to be asked for."""
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    return get_stateless_scope()


def _symbolic() -> bool:
    """Whether only shapes are being found out."""
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope

    return bool(in_symbolic_scope())
