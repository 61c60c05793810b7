"""The pure functions: the moments before the first call, and one call on losses and moments."""

import contextlib
import functools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from alrc import rule, state
from alrc.jax import inputs
from alrc.rule import Limited, Moments, Reduction, Summary
from alrc.settings import Settings

_LARGEST_COUNT = 2**31 - 1


def init(settings: Settings, saved: Mapping[str, Any] | None = None) -> Moments:
    """The moments before the first call of :func:`clip`.

    Args:
        settings: The hyperparameters.
        saved: Where to go on from: what ``to_dict()`` returned, in any framework, or the dict of
            arrays as which Orbax, Flax and ``numpy.load`` restore moments. Counts of losses
            beside the moments are left out. None: a fresh start.

    Returns:
        Mean and variance, float32, and the number of updates, int32; each of shape ``()``, or
        ``(num_groups,)`` if the settings have groups. A saved number of updates that int32 cannot
        hold is held at its largest. With scale ``"log"``, :class:`alrc.rule.LogMoments`, whose
        mean is the geometric one.

    Raises:
        TypeError: If ``saved`` is not a dict.
        ValueError: If ``saved`` lacks a moment, holds an impossible one, or is of another scale.

    Example:
        >>> from alrc import Settings
        >>> from alrc.jax import init
        >>> init(Settings(mu1_start=2.0, mu2_start=5.0, scale="linear")).variance
        Array(1., dtype=float32)
        >>> saved = {"geometric_mean": 1.5, "log_variance": 0.25, "num_updates": 3}
        >>> init(Settings(), saved=saved).num_updates
        Array(3, dtype=int32)
    """
    mean, variance, num_updates = map(np.asarray, state.start(settings, saved))
    moments = Moments(mean, variance, np.minimum(num_updates, _LARGEST_COUNT))
    return inputs.of_scale(inputs.in_their_dtypes(moments), settings)


def clip(
    loss: ArrayLike,
    moments: Moments,
    settings: Settings,
    mask: ArrayLike | None = None,
    axis_name: Hashable | None = None,
    group: ArrayLike | None = None,
) -> tuple[Array, Moments]:
    r"""Limits losses and returns them with the next moments.

    A loss whose logarithm is more than ``num_stddev`` running standard deviations above the
    running mean is lowered to that limit, and its gradient is scaled by limit / loss. Every other
    loss comes back as it is, bit for bit; so does a NaN or infinite loss, which never enters the
    moments. With ``scale="linear"``, as in the paper, losses are taken without logarithm.

    Pure, so it can stand in ``jit``, ``grad(has_aux=True)``, ``vmap`` (over models or examples),
    ``lax.scan``, ``pmap`` and ``shard_map``. Carry the moments along as you carry the optimizer's
    state, and do not call it in evaluation.

    Args:
        loss: Losses of any shape, floating.
        moments: What :func:`init` or the call before returned; what was restored from a file as
            a dict goes through :func:`init` first.
        settings: The hyperparameters; hashable, and to be static under ``jit``.
        mask: Which losses count: shape of ``loss``, True or a positive weight; None: all count.
        axis_name: Axis, or tuple of axes, of ``pmap``, ``shard_map`` or ``vmap`` that the losses
            are spread over: the moments then move as if one device had seen all of them, by one
            ``psum`` of three numbers per device. None: the losses given here are all there are,
            as under ``jit`` with sharded arrays.
        group: Which group the losses are in, from 0 to ``num_groups - 1``: whole numbers in the
            shape of ``loss``, or one for all; given if and only if the settings have groups. The
            numbers are not checked: losses of a group that does not exist are never limited and
            move nothing.

    Returns:
        The losses, same shape and dtype, limited; and the next moments, float32, float32 and
        int32, whatever the dtype of the losses. Save the moments as ``moments.to_dict()``, and go
        on from them with ``init(settings, saved=...)``; or as any other pytree.

    Raises:
        TypeError: If ``loss`` is not floating, ``mask`` not an array, ``moments`` not
            ``Moments`` in float32 or wider, ``settings`` not ``Settings``, or ``group`` not whole
            numbers.
        ValueError: If ``mask`` or ``group`` has another shape than ``loss``, ``moments`` are
            those of another number of groups or scale, or ``group`` is missing or needless.

    Note:
        Settings are plain numbers, which are compiled in, and cannot be traced: ``vmap`` over an
        index instead, to have a model for each of several settings in one call, with
        ``lax.switch(index, [partial(clip, settings=s) for s in several], loss, moments)``.

        In ``shard_map``, differentiate the ``pmean`` of the clipped losses over the axis. The
        gradient of a local loss with respect to parameters that all devices share is already
        summed over the devices there (unless ``check_vma=False``), so a ``pmean`` afterwards
        leaves it too large by the number of devices.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from alrc import Settings
        >>> from alrc.jax import clip, init
        >>> settings = Settings(3, 0.999, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
        >>> def total(losses, moments):
        ...     clipped, moments = clip(losses, moments, settings)
        ...     return clipped.sum(), moments
        >>> losses = jnp.array([0.5, 8.0])
        >>> (value, moments), gradient = jax.value_and_grad(total, has_aux=True)(
        ...     losses, init(settings)
        ... )
        >>> value.tolist(), gradient.tolist()
        (4.5, [1.0, 0.5])

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """
    loss = inputs.checked_loss("clip", "loss", loss)
    if not isinstance(settings, Settings):
        raise TypeError(
            "clip: settings must be alrc.Settings, which has checked its numbers; got "
            f"{settings!r}. Call clip(loss, moments, settings), with settings=Settings()."
        )
    moments = inputs.checked_moments("clip", "moments", moments, settings)
    losses = jax.lax.stop_gradient(inputs.at_least_float32(loss))
    weights = None if mask is None else inputs.checked_weights(mask, losses)
    inputs.look_at_signs(losses, weights, settings)
    index = inputs.checked_group(group, loss, settings)
    largest = inputs.largest_factor(loss)
    limited, moments = limit_and_advance(
        losses, weights, moments, settings, axis_name, index, largest
    )
    return _attach(loss, limited), inputs.of_scale(moments, settings)


# Both compiled by themselves, or a call would take 40 ms where nothing around it is compiled.
@functools.partial(
    jax.jit, static_argnames=("settings", "axis_name", "largest_factor"), inline=True
)
def limit_and_advance(
    losses: Array,
    weights: Array | None,
    moments: Moments,
    settings: Settings,
    axis_name: Hashable | None,
    index: Array | None,
    largest_factor: float,
) -> tuple[Limited, Moments]:
    """One call of the rule on detached losses."""
    moments = jax.lax.stop_gradient(moments)
    pool = None if axis_name is None else functools.partial(_summary_of_all_devices, axis_name)
    groups = None
    if index is not None:
        (num_groups,) = moments.mean.shape
        groups = _sums_over_groups(index, losses, num_groups)
        weights = jnp.ones_like(losses) if weights is None else weights
        weights = jnp.where(index < num_groups, weights, 0)  # those of no group do not count
    with _any_promotion():
        step, new = rule.step(jnp, losses, weights, moments, settings, pool, groups, largest_factor)
    new = inputs.in_their_dtypes(new)
    # A count that has reached its largest number stays there.
    count = jnp.maximum(new.num_updates, moments.num_updates)
    return step.losses, new._replace(num_updates=count)


@functools.partial(jax.jit, inline=True)
def _attach(loss: Array, limited: Limited) -> Array:
    """The limited losses, with their factors as derivatives towards ``loss``."""
    wide = inputs.at_least_float32(loss)
    detached = jax.lax.stop_gradient(wide)
    with _any_promotion():
        attached: Array = rule.attach(
            jnp, loss, wide, detached, limited, lambda x: x.astype(loss.dtype)
        )
    return attached


@contextlib.contextmanager
def _any_promotion() -> Iterator[None]:
    """The rule mixes dtypes and ranks where that is harmless, which a user may have forbidden."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _summary_of_all_devices(axis_name: Hashable, here: Summary) -> Summary:
    """The summary of the losses of all devices, by one collective."""
    # Each in a row of its own; a sum, unlike a gather, is known to be the same on all devices.
    psum: Any = jax.lax.psum
    own = jnp.arange(psum(1, axis_name)) == jax.lax.axis_index(axis_name)
    numbers = jnp.stack(here)[:, None]
    rows = jnp.where(own.reshape(-1, *[1] * here.total.ndim), numbers, 0.0)
    return rule.combine(jnp, Summary(*psum(rows, axis_name)))


def _sums_over_groups(index: Array, losses: Array, num_groups: int) -> Reduction:
    """How losses in these groups meet the moments of all groups."""
    # A loss of no group does not count, so that it may read the last, and add its 0 to it.
    index = jnp.minimum(index, num_groups - 1)
    each: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    spec: Any = PartitionSpec
    sharding: Any = jax.typeof(losses).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:  # then JAX is to be told how results are
        each["out_sharding"] = sharding
        whole["out_sharding"] = NamedSharding(sharding.mesh, spec())

    def take(moment: Array) -> Array:
        return moment.at[index].get(mode="promise_in_bounds", **each)

    def add(values: Array) -> Array:
        values = values.astype(jnp.int32) if values.dtype == bool else values
        sums = jnp.zeros(num_groups, values.dtype)
        return sums.at[index].add(values, mode="promise_in_bounds", **whole)

    return Reduction(take, add)
