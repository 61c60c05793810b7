"""What the JAX front end takes: checks while tracing, which cost a compiled step nothing."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alrc import refusals, rule, state
from alrc.rule import KINDS, Moments
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
        mend = "Pass what the loss function returned, before .astype(int) or the like."
        raise refusals.loss(who, got, mend, name=name)
    return array


def look_at_signs(losses: Array, weights: Array | None, settings: Settings) -> None:
    """Warns of losses that the logarithmic scale has no limit for; in a compiled step, never."""
    is_traced = any(isinstance(x, jax.core.Tracer) for x in (losses, weights))
    if settings.scale == "linear" or is_traced or losses.platform() != "cpu":
        return
    below = (losses < 0) & (losses > -np.inf)  # infinite ones are broken on either scale
    if bool((below if weights is None else below & (weights > 0)).any()):
        refusals.warn_of_signs("clip")


def at_least_float32(loss: Array) -> Array:
    return loss if loss.dtype in (jnp.float32, jnp.float64) else loss.astype(jnp.float32)


def largest_factor(*gradients: ArrayLike) -> float:
    """What gradients of these dtypes may be multiplied by and stay finite."""
    halves = any(jnp.result_type(gradient) == jnp.float16 for gradient in gradients)
    return rule.LARGEST_FACTOR_FLOAT16 if halves else rule.LARGEST_FACTOR


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
    fields = getattr(moments, "_fields", ())
    if other := state.other_scale(fields, settings.scale):
        raise state.scale_refusal(who, f"the state in {name}", settings.scale, other)
    arrays = []
    for field, number in zip(KINDS[settings.scale]._fields, three, strict=True):
        array = _real_array(number)
        if array is None:
            raise TypeError(
                f"{who}: {name} must be the Moments that init or the last call returned, of JAX's "
                f"arrays or numbers; got {number!r} of type {type(number).__name__} as {field}. "
                f"Pass alrc.jax.init(settings, saved={name}.to_dict()), which takes those of any "
                "framework."
            )
        if array.shape != settings.shape:
            raise ValueError(_wrong_shape(who, name, field, array.shape, settings.num_groups))
        if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
            raise TypeError(
                f"{who}: {name} must be float32 or wider, because in less they stand still; got "
                f"{field} as {array.dtype}. Leave them out where you cast the parameters."
            )
        arrays.append(array)
    return in_their_dtypes(Moments(*arrays))


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


def of_scale(moments: Moments, settings: Settings) -> Moments:
    """The moments under the names that tell of which scale they are."""
    named: Moments = KINDS[settings.scale](*moments)
    return named


def in_their_dtypes(moments: Moments) -> Moments:
    """The moments as arrays whose dtypes are not weak, and the same at every call."""
    mean, variance, num_updates = moments
    return Moments(
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(variance, jnp.float32),
        jnp.asarray(num_updates, jnp.int32),
    )


def checked_weights(mask: Any, losses: Array) -> Array:
    """The mask in a dtype that holds its smallest weight, too."""
    try:
        weights = jnp.asarray(_within_float32(mask))
    except (TypeError, ValueError):
        weights = None
    if weights is None or jnp.issubdtype(weights.dtype, jnp.complexfloating):
        mend = "Pass jnp.asarray of numbers or booleans."
        raise refusals.mask_kind("clip", mask, mend)
    if weights.shape != losses.shape:
        mend = (
            "Compute one loss per example, before any mean, or pass "
            "jnp.broadcast_to(mask, loss.shape)."
        )
        raise refusals.mask_shape("clip", weights.shape, losses.shape, mend)
    with jax.numpy_dtype_promotion("standard"):  # which a user may have forbidden
        dtype = jnp.promote_types(weights.dtype, losses.dtype)
    return jax.lax.stop_gradient(weights).astype(dtype)


def _within_float32(mask: Any) -> Any:
    """The mask; NumPy's of 64 bits held where none becomes another as JAX cuts it to 32."""
    numpy = isinstance(mask, np.ndarray | np.number)
    if not numpy or mask.dtype.kind not in "iuf" or mask.dtype.itemsize < 8:
        return mask
    return np.where(mask > 0, np.clip(mask, rule.SMALLEST_WEIGHT, rule.LARGEST_WEIGHT), 0.0)


def checked_group(group: Any, loss: Array, settings: Settings) -> Array | None:
    """The group of each loss, of which ``num_groups`` is none; None if there are no groups."""
    build, needed = "Pass Settings(num_groups=K)", ": one whole number, or one for each loss."
    size = refusals.check_group("clip", group, settings.num_groups, build, needed)
    if size is None:
        return None
    # NumPy's numbers stay so for now: JAX would cut off what int32 cannot hold, and 2**32 be 0.
    xp: Any = np if isinstance(group, int | np.ndarray | np.integer) else jnp
    try:
        index = xp.asarray(group)
    except (TypeError, ValueError):
        raise refusals.group_kind("clip", repr(group), "Pass jnp.asarray(group).") from None
    if not jnp.issubdtype(index.dtype, jnp.integer):
        got = f"{index.dtype} of shape {index.shape}"
        raise refusals.group_kind("clip", got, "Pass group.astype(int).")
    if index.shape not in (loss.shape, ()):
        mend = "Pass jnp.broadcast_to(group, loss.shape)."
        raise refusals.group_shape("clip", index.shape, loss.shape, mend)
    if index.dtype.itemsize < 4:  # which may not hold num_groups
        index = index.astype(xp.int32)
    index = rule.group_index(xp, index, size)
    return jnp.broadcast_to(jnp.asarray(index, jnp.int32), loss.shape)
