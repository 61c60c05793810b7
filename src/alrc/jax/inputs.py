"""What the JAX front end takes: checks while tracing, which cost a compiled step nothing."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alrc.rule import Moments
from alrc.settings import Settings

# What JAX makes arrays of; PyTorch's tensors, which it would copy to the host, are not among them.
_NUMBERS = (jax.Array, np.ndarray, np.number, int, float)


def checked_loss(who: str, name: str, loss: Any) -> Array:
    try:
        array = jnp.asarray(loss)
    except (TypeError, ValueError):
        array = None
    if array is None or not jnp.issubdtype(array.dtype, jnp.floating):
        got = repr(loss) if array is None else f"{array.dtype} of shape {array.shape}"
        raise TypeError(
            f"{who}: {name} must be a floating array, because it is scaled to its limit; got "
            f"{got}. Pass what the loss function returned, before .astype(int) or the like."
        )
    return array


def checked_moments(who: str, name: str, moments: Any, settings: Settings) -> Moments:
    """The moments of these settings, in the dtypes that they have from the first call to the last.

    Only what is known while tracing is checked: their form, shapes and dtypes, not their numbers.
    """
    if isinstance(moments, Mapping):
        raise TypeError(
            f"{who}: {name} must be the Moments that init or the last call returned; got a dict "
            f"of {', '.join(map(str, moments))}. Pass alrc.jax.init(settings, saved={name}), "
            "which checks them."
        )
    try:
        # An array of three numbers could be unpacked as well.
        three = () if hasattr(moments, "shape") else tuple(moments)
    except TypeError:
        three = ()
    if len(three) != len(Moments._fields):
        raise TypeError(
            f"{who}: {name} must be the Moments that init or the last call returned; got "
            f"{moments!r}. Start from init, and hand on what each call returns."
        )
    shape = () if settings.num_groups is None else (settings.num_groups,)
    arrays = {}
    for field, number in zip(Moments._fields, three, strict=True):
        array = _real_array(number)
        if array is None:
            raise TypeError(
                f"{who}: {name} must be the Moments that init or the last call returned, of JAX's "
                f"arrays or numbers; got {number!r} of type {type(number).__name__} as {field}. "
                f"Pass alrc.jax.init(settings, saved={name}.to_dict()), which takes those of any "
                "framework."
            )
        if array.shape != shape:
            raise ValueError(_wrong_shape(who, name, field, array.shape, settings.num_groups))
        if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
            raise TypeError(
                f"{who}: {name} must be float32 or wider, because in less they stand still; got "
                f"{field} as {array.dtype}. Leave them out where you cast the parameters."
            )
        arrays[field] = array
    return in_their_dtypes(Moments(**arrays))


def _real_array(number: Any) -> Array | None:
    if not isinstance(number, _NUMBERS) and not hasattr(number, "__jax_array__"):
        return None
    try:
        array = jnp.asarray(number)
    except (TypeError, ValueError):  # of strings, or of objects
        return None
    kinds = (jnp.floating, jnp.integer)
    return array if any(jnp.issubdtype(array.dtype, kind) for kind in kinds) else None


def _wrong_shape(
    who: str, name: str, field: str, shape: tuple[int, ...], num_groups: int | None
) -> str:
    got = f"got a {field} of shape {shape}"
    if num_groups is not None:
        return (
            f"{who}: {name} must be of shape ({num_groups},), one of each for each of the "
            f"{num_groups} groups; {got}. Start from init(settings) with the same settings, or "
            "pass the num_groups that the moments were made with."
        )
    return (
        f"{who}: {name} must be of shape (), because the settings have no groups; {got}. Pass "
        "the Settings that the moments were made with; or, if they are those of several models, "
        "jax.vmap over them."
    )


def in_their_dtypes(moments: Moments) -> Moments:
    """The moments as arrays whose dtypes are not weak, and the same at every call."""
    mean, variance, num_updates = moments
    return Moments(
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(variance, jnp.float32),
        jnp.asarray(num_updates, jnp.int32),
    )


def checked_weights(mask: Any, losses: Array) -> Array:
    try:
        weights = jax.lax.stop_gradient(jnp.asarray(mask))
    except (TypeError, ValueError):
        raise TypeError(
            "clip: mask must be an array, True or positive where a loss counts; got "
            f"{mask!r}. Pass jnp.asarray of numbers or booleans."
        ) from None
    if weights.shape != losses.shape:
        raise ValueError(
            "clip: mask must have the shape of loss, because it says which losses count; got a "
            f"mask of shape {weights.shape} and losses of shape {losses.shape}. Compute one loss "
            "per example, before any mean, or pass jnp.broadcast_to(mask, loss.shape)."
        )
    return weights.astype(losses.dtype)


def checked_group(group: Any, loss: Array, settings: Settings) -> Array | None:
    """The group of each loss, of which ``num_groups`` is none; None if there are no groups."""
    size = settings.num_groups
    if size is None and group is None:
        return None
    if size is None:
        raise ValueError(
            "clip: group must be left out, because the moments are shared by all losses; got "
            f"{group!r}. Pass Settings(num_groups=K), or call it without group."
        )
    if group is None:
        raise ValueError(
            f"clip: group must say which of the {size} groups the losses are in; got None. Pass "
            "group=index: one whole number, or one for each loss."
        )
    # NumPy's numbers stay so for now: JAX would cut off what int32 cannot hold, and 2**32 be 0.
    xp: Any = np if isinstance(group, int | np.ndarray | np.integer) else jnp
    index = xp.asarray(group)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(
            f"clip: group must hold whole numbers; got {index.dtype} of shape {index.shape}. Pass "
            "group.astype(int)."
        )
    if index.shape not in (loss.shape, ()):
        raise ValueError(
            f"clip: group must be one number or have the shape of loss; got a group of shape "
            f"{index.shape} and losses of shape {loss.shape}. Pass "
            "jnp.broadcast_to(group, loss.shape)."
        )
    if index.dtype.itemsize < 4:  # which may not hold num_groups
        index = index.astype(xp.int32)
    index = xp.where((index < 0) | (index >= size), size, index)
    return jnp.broadcast_to(jnp.asarray(index, jnp.int32), loss.shape)
