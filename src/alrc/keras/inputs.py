"""What a call of :mod:`alrc.keras` may be given: the checks, and what is made of it."""

import math
from typing import Any

import keras
from keras import ops

from alrc import refusals, rule
from alrc.rule import Reduction
from alrc.settings import Settings

Tensor = Any  # of whichever backend is in use


def check(loss: Any, mask: Any) -> None:
    if not keras.backend.is_float_dtype(dtype(loss)):
        mend = "Pass what the loss function returned, before any cast."
        raise refusals.loss("ALRC", f"a {dtype(loss)} tensor", mend, kind="tensor")
    if mask is None:
        return
    if not hasattr(mask, "shape"):
        raise refusals.mask_kind("ALRC", mask, "Pass ops.convert_to_tensor(mask).", kind="a tensor")
    given, wanted = tuple(mask.shape), tuple(loss.shape)
    known = [pair for pair in zip(given, wanted, strict=False) if None not in pair]
    if len(given) != len(wanted) or any(a != b for a, b in known):
        mend = "Compute one loss per example, or pass ops.broadcast_to(mask, ops.shape(loss))."
        raise refusals.mask_shape("ALRC", given, wanted, mend)


def groups(loss: Tensor, group: Any, settings: Settings) -> Reduction | None:
    """How losses in these groups meet the moments of all groups; None if there are no groups."""
    build = "Build it with num_groups=K"
    needed = " in a training step of your own; fit() has no place for it."
    size = refusals.check_group("ALRC", group, settings.num_groups, build, needed)
    if size is None:
        return None
    if isinstance(group, int) and not 0 <= group < size:
        raise refusals.group_range("ALRC", size, group, group)
    index = rule.group_index(ops, _index(loss, group), size)
    index = ops.broadcast_to(ops.cast(index, "int32"), ops.shape(loss))

    def take(moment: Tensor) -> Tensor:
        none = ops.full((1,), math.nan, dtype(moment))  # what a loss of no group meets
        return ops.take(ops.concatenate([moment, none]), index)

    def add(values: Tensor) -> Tensor:
        values = ops.cast(values, "int32") if dtype(values) == "bool" else values
        # The shape as a tuple: Keras 3.12 on TensorFlow takes no number where it finds out shapes.
        flat, where = ops.reshape(values, (-1,)), ops.reshape(index, (-1,))
        return ops.segment_sum(flat, where, size + 1)[:size]

    return Reduction(take, add)


def _index(loss: Tensor, group: Any) -> Tensor:
    """The group, or groups, as a tensor in which each number of groups has room."""
    index = ops.convert_to_tensor(group)
    if "int" not in dtype(index):
        mend = "Pass ops.cast(group, 'int32')."
        raise refusals.group_kind("ALRC", f"a {dtype(index)} tensor", mend)
    if len(index.shape) not in (0, len(loss.shape)):
        mend = "Pass ops.broadcast_to(group, ops.shape(loss))."
        raise refusals.group_shape("ALRC", tuple(index.shape), tuple(loss.shape), mend)
    return ops.cast(index, "int64" if "64" in dtype(index) else "int32")


def detached(loss: Tensor) -> tuple[Tensor, Tensor]:
    """The losses in float32 at least, with their gradients and without."""
    wide = loss if dtype(loss) == "float64" else ops.cast(loss, "float32")
    return wide, ops.stop_gradient(wide)


def weights(mask: Tensor, losses: Tensor) -> Tensor:
    """The mask in the dtype of the losses, in which its smallest weight is not 0 either."""
    mask = ops.stop_gradient(mask)
    if dtype(mask) != "float64":
        return ops.cast(mask, dtype(losses))
    held = ops.clip(mask, rule.SMALLEST_WEIGHT, rule.LARGEST_WEIGHT)
    return ops.cast(ops.where(mask > 0, held, ops.zeros_like(mask)), dtype(losses))


def largest_factor(loss: Tensor) -> float:
    """What the gradient of a loss may be multiplied by and stay finite in its dtype."""
    return rule.LARGEST_FACTOR_FLOAT16 if dtype(loss) == "float16" else rule.LARGEST_FACTOR


class _Ones(keras.losses.Loss):  # type: ignore[misc, unused-ignore]
    """A loss of 1 for each example, in order to see what Keras multiplies losses by."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.ones_like(y_pred[..., 0])


def mask(losses: Tensor, y_pred: Any, sample_weight: Any) -> Tensor | None:
    """Which examples' losses count: not those masked, nor those with a weight of 0."""
    if keras.tree.is_nested(y_pred) or keras.tree.is_nested(sample_weight):
        return None  # several outputs, whose losses have been added up
    weights = _Ones("ones", "none")(y_pred, y_pred, sample_weight)
    return weights > 0 if len(weights.shape) == len(losses.shape) else None


def dtype(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def stored(value: Any) -> Any:
    """The number or numbers in a stored array, or what else is there, for the check to refuse."""
    return value[()] if len(getattr(value, "shape", (0, 0))) < 2 else value
