"""What a call may be given: the checks of :mod:`alrc.keras`, and their words; Keras only."""

from typing import Any

import keras
from keras import ops

from alrc.rule import Groups
from alrc.settings import Settings

Tensor = Any  # of whichever backend is in use


def check(loss: Any, mask: Any) -> None:
    if not keras.backend.is_float_dtype(dtype(loss)):
        raise TypeError(
            "ALRC: loss must be a floating tensor, because it is scaled to its limit; got a "
            f"{dtype(loss)} tensor. Pass what the loss function returned, before any cast."
        )
    if mask is None:
        return
    given, wanted = tuple(mask.shape), tuple(loss.shape)
    known = [pair for pair in zip(given, wanted, strict=False) if None not in pair]
    if len(given) != len(wanted) or any(a != b for a, b in known):
        raise ValueError(
            "ALRC: mask must have the shape of loss, because it says which losses count; got a "
            f"mask of shape {given} and losses of shape {wanted}. Compute one loss per example, "
            "or pass ops.broadcast_to(mask, ops.shape(loss))."
        )


def groups(loss: Tensor, group: Any, settings: Settings) -> Groups | None:
    """How losses in these groups meet the moments of all groups; None if there are no groups."""
    size = settings.num_groups
    if size is None and group is None:
        return None
    if size is None:
        raise ValueError(
            "ALRC: group must be left out, because the moments are shared by all losses; got "
            f"{group!r}. Build it with num_groups=K, or call it without group."
        )
    if group is None:
        raise ValueError(
            f"ALRC: group must say which of the {size} groups the losses are in; got None. Pass "
            "group=index in a training step of your own; fit() has no place for it."
        )
    index = ops.convert_to_tensor(group)
    if "int" not in dtype(index):
        raise TypeError(
            f"ALRC: group must hold whole numbers; got a {dtype(index)} tensor. Pass "
            "ops.cast(group, 'int32')."
        )
    if len(index.shape) not in (0, len(loss.shape)):
        raise ValueError(
            "ALRC: group must be one number or have the shape of loss; got a group of shape "
            f"{tuple(index.shape)} and losses of shape {tuple(loss.shape)}. Pass "
            "ops.broadcast_to(group, ops.shape(loss))."
        )
    index = ops.broadcast_to(ops.cast(index, "int32"), ops.shape(loss))

    def add(values: Tensor) -> Tensor:
        values = ops.cast(values, "int32") if dtype(values) == "bool" else values
        return ops.segment_sum(ops.reshape(values, -1), ops.reshape(index, -1), size)

    return Groups(take=lambda moment: ops.take(moment, index), add=add)


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


def number(value: Any) -> Any:
    """The number or numbers in a stored array, or what else is there, for the check to refuse."""
    return value[()].tolist() if len(getattr(value, "shape", (0, 0))) < 2 else value
