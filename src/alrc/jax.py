"""Adaptive learning rate clipping for JAX: pure functions, and a transformation for optax."""

import functools
import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal

try:
    import jax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'alrc.jax needs JAX, which is not installed here. Install it with: pip install "alrc[jax]"',
        name=error.name,
    ) from error
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from alrc import rule, state
from alrc.rule import Groups, Moments
from alrc.settings import Settings

if TYPE_CHECKING:
    import optax  # type: ignore[import-untyped, unused-ignore]

__all__ = ["Moments", "clip", "init", "scale_by_alrc"]

_LARGEST_COUNT = 2**31 - 1


def init(settings: Settings, saved: Mapping[str, Any] | None = None) -> Moments:
    """The moments before the first call of :func:`clip`.

    Args:
        settings: The hyperparameters.
        saved: Where to go on from: what ``to_dict()`` returned, in any framework. Counts of losses
            beside the moments are left out. None: a fresh start.

    Returns:
        Mean and variance, float32, and the number of updates, int32; each of shape ``()``, or
        ``(num_groups,)`` if the settings have groups. A saved number of updates that int32 cannot
        hold is held at its largest.

    Raises:
        TypeError: If ``saved`` is not a dict.
        ValueError: If ``saved`` lacks a moment or holds an impossible one.

    Example:
        >>> from alrc import Settings
        >>> from alrc.jax import init
        >>> init(Settings(mu1_start=2.0, mu2_start=5.0)).variance
        Array(1., dtype=float32)
        >>> init(Settings(), saved={"mean": 1.5, "variance": 0.25, "num_updates": 3}).num_updates
        Array(3, dtype=int32)
    """
    mean, variance, num_updates = map(np.asarray, state.start(settings, saved))
    return _strong(Moments(mean, variance, np.minimum(num_updates, _LARGEST_COUNT)))


def clip(
    loss: ArrayLike,
    moments: Moments,
    settings: Settings,
    mask: ArrayLike | None = None,
    axis_name: Hashable | None = None,
    group: ArrayLike | None = None,
) -> tuple[Array, Moments]:
    r"""Limits losses and returns them with the next moments.

    A loss more than ``num_stddev`` running standard deviations above the running mean is lowered
    to that limit, and its gradient is scaled by limit / loss. Every other loss comes back as it
    is, bit for bit; so does a NaN or infinite loss, which never enters the moments.

    Pure, so it can stand in ``jit``, ``grad(has_aux=True)``, ``vmap`` (over models or examples),
    ``lax.scan``, ``pmap`` and ``shard_map``. Carry the moments along as you carry the optimizer's
    state, and do not call it in evaluation.

    Args:
        loss: Losses of any shape, floating.
        moments: What :func:`init` or the call before returned.
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
        TypeError: If ``loss`` is not floating, ``mask`` not an array, ``settings`` not
            ``Settings``, or ``group`` not whole numbers.
        ValueError: If ``mask`` or ``group`` has another shape than ``loss``, or ``group`` is
            missing or needless.

    Note:
        In ``shard_map``, differentiate the ``pmean`` of the clipped losses over the axis. The
        gradient of a local loss with respect to parameters that all devices share is already
        summed over the devices there (unless ``check_vma=False``), so a ``pmean`` afterwards
        leaves it too large by the number of devices.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from alrc import Settings
        >>> from alrc.jax import clip, init
        >>> settings = Settings(mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * 1
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
    loss = _floating("clip", "loss", loss)
    if not isinstance(settings, Settings):
        raise TypeError(
            "clip: settings must be alrc.Settings, which has checked its numbers; got "
            f"{settings!r}. Call clip(loss, moments, settings), with settings=Settings()."
        )
    wide = loss if loss.dtype in (jnp.float32, jnp.float64) else loss.astype(jnp.float32)
    losses = jax.lax.stop_gradient(wide)
    weights = None if mask is None else _weights(mask, losses)
    index = _index(group, loss, settings)
    step = _step(losses, weights, _strong(moments), settings, axis_name, index)
    limited = rule.attach(wide, losses, step.losses).astype(loss.dtype)
    # Others are taken untouched, so that neither NaN nor rounding can reach their gradients.
    return jnp.where(step.losses.limited, limited, loss), step.moments


def scale_by_alrc(
    num_stddev: float = 3.0,
    decay: float = 0.999,
    mu1_start: float | None = None,
    mu2_start: float | None = None,
    *,
    num_stddev_below: float | None = None,
    warmup: int = 10,
    center: Literal["zero", "mean"] = "zero",
    axis_name: Hashable | None = None,
) -> "optax.GradientTransformationExtraArgs":
    """An optax transformation that scales the gradients of a loss as :func:`clip` would.

    Its ``update`` takes the loss as ``value=``, which ``optax.chain`` hands on; the state is
    ``Moments``. It equals clipping the loss exactly when the whole gradient comes from this one
    scalar loss and nothing has changed the gradient before: put it first, before ``adam`` or
    ``add_decayed_weights``. With one loss per example, several losses, or a regulariser that is
    not to be scaled, use :func:`clip`.

    Args:
        num_stddev, decay, mu1_start, mu2_start, num_stddev_below, warmup, center: As in
            :class:`alrc.Settings`.
        axis_name: Axis over which devices differ in ``value`` and in their gradients, which are
            to be averaged after this transformation. None: ``value`` is the loss of the whole
            batch, and the gradients are its gradients.

    Returns:
        The transformation. A NaN or infinite ``value`` leaves updates and moments alone.

    Note:
        * ``optax.MultiSteps`` around it hands on the last micro-batch's value only; put
          ``MultiSteps`` around what follows instead: ``chain(scale_by_alrc(),
          MultiSteps(adam(1e-3), 4).gradient_transformation())``.
        * ``optax.inject_hyperparams`` makes arrays of numbers, and the settings are to be
          numbers: inject into a function that builds the chain, not into ``scale_by_alrc``; or
          name them all, with ``"axis_name"``, in ``static_args``.
        * ``optax.apply_if_finite`` hands the value on, and drops the new moments together with
          an update that is not finite.
        * ``flax.training.TrainState.apply_gradients(grads=..., value=...)`` does not hand it on
          and raises a TypeError: use :func:`clip`. ``flax.nnx.Optimizer.update(model, grads,
          value=...)`` does.

    Raises:
        TypeError: If a setting is of the wrong type; from ``update``, if ``value`` is missing or
            not floating.
        ValueError: If a setting is out of range; from ``update``, if ``value`` is not of shape
            ``()``.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from alrc.jax import scale_by_alrc
        >>> optimizer = optax.chain(scale_by_alrc(mu1_start=1.0, mu2_start=2.0), optax.sgd(1.0))
        >>> params = jnp.array([2.0, 4.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params, value=8.0)  # the limit is 4
        >>> updates.tolist()
        [-1.0, -2.0]
    """
    try:
        import optax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "alrc.jax.scale_by_alrc needs optax, which is not installed here. Install it with: "
            'pip install "alrc[jax]"',
            name=error.name,
        ) from error
    settings = Settings(
        num_stddev,
        decay,
        mu1_start,
        mu2_start,
        num_stddev_below=num_stddev_below,
        warmup=warmup,
        center=center,
    )

    def init_fn(params: Any) -> Moments:
        del params
        return init(settings)

    def update_fn(
        updates: Any, state: Moments, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, Moments]:
        del params, extra
        if value is None:
            raise TypeError(
                "scale_by_alrc: update must be given the loss as value=, because the loss and "
                "its limit set the scale; got none. Call "
                "update(gradients, state, params, value=loss)."
            )
        loss = jax.lax.stop_gradient(_floating("scale_by_alrc", "value", value))
        if loss.shape != ():
            raise ValueError(
                "scale_by_alrc: value must be one loss, of shape (), because all updates are "
                f"scaled alike; got shape {loss.shape}. Pass the scalar that was differentiated, "
                "or limit each loss with alrc.jax.clip."
            )
        loss = loss if loss.dtype == jnp.float64 else loss.astype(jnp.float32)
        step = _step(loss, None, _strong(state), settings, axis_name)
        factor = step.losses.factor
        with jax.numpy_dtype_promotion("standard"):  # half-precision gradients, in float32
            scaled = jax.tree.map(lambda g: (g * factor).astype(jnp.asarray(g).dtype), updates)
        return scaled, step.moments

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# Compiled by itself, or it would take 40 ms where nothing around it is compiled.
@functools.partial(jax.jit, static_argnames=("settings", "axis_name"), inline=True)
def _step(
    losses: Array,
    weights: Array | None,
    moments: Moments,
    settings: Settings,
    axis_name: Hashable | None,
    index: Array | None = None,
) -> rule.Step:
    """One call of the rule on detached losses."""
    groups = None if index is None else _groups(index, settings)
    moments = jax.lax.stop_gradient(moments)
    # The rule mixes dtypes where that is harmless, which a user may have forbidden.
    with jax.numpy_dtype_promotion("standard"):
        pool = None if axis_name is None else functools.partial(_pool, axis_name)
        step = rule.step(jnp, losses, weights, moments, settings, pool, groups)
    new = _strong(step.moments)
    # A count that has reached its largest number stays there.
    count = jnp.maximum(new.num_updates, moments.num_updates)
    return step._replace(moments=new._replace(num_updates=count))


def _pool(axis_name: Hashable, total: Array, shift: Array, spread: Array) -> rule.Summary:
    """Total, shift and spread of the losses of all devices, by one collective."""
    # Each in a row of its own; a sum, unlike a gather, is known to be the same on all devices.
    psum: Any = jax.lax.psum
    here = jnp.arange(psum(1, axis_name)) == jax.lax.axis_index(axis_name)
    numbers = jnp.stack([total, shift, spread])[:, None]
    rows = jnp.where(here.reshape(-1, *[1] * total.ndim), numbers, 0.0)
    return rule.combine(jnp, *psum(rows, axis_name))


def _groups(index: Array, settings: Settings) -> Groups:
    """How losses in these groups meet the moments of all groups."""

    def take(moment: Array) -> Array:
        return jnp.take(moment, index, mode="fill", fill_value=math.nan)

    def add(values: Array) -> Array:
        values = values.astype(jnp.int32) if values.dtype == bool else values
        return jax.ops.segment_sum(values.ravel(), index.ravel(), settings.num_groups)

    return Groups(take, add)


def _strong(moments: Moments) -> Moments:
    """The moments in the dtypes that they have from the first call to the last."""
    mean, variance, num_updates = moments
    return Moments(
        jnp.asarray(mean, jnp.float32),
        jnp.asarray(variance, jnp.float32),
        jnp.asarray(num_updates, jnp.int32),
    )


def _floating(who: str, name: str, loss: Any) -> Array:
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


def _weights(mask: Any, losses: Array) -> Array:
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


def _index(group: Any, loss: Array, settings: Settings) -> Array | None:
    """The group of each loss; None if there are no groups."""
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
    index = jnp.asarray(group)
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
    return jnp.broadcast_to(jnp.where(index < 0, size, index), loss.shape)  # -1 is no group
