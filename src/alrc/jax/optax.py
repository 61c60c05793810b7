"""The transformation of gradients for optax, which is imported when it is first made."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from alrc.jax import inputs
from alrc.jax.clipping import init, limit_and_advance
from alrc.rule import Moments
from alrc.settings import Settings

if TYPE_CHECKING:
    import optax  # type: ignore[import-untyped, unused-ignore]


def scale_by_alrc(
    num_stddev: float = 2.0,
    decay: float = 0.999,
    mu1_start: float | None = None,
    mu2_start: float | None = None,
    *,
    num_stddev_below: float | None = None,
    warmup: int = 10,
    recency: float = 1.0,
    center: Literal["zero", "mean"] = "zero",
    scale: Literal["log", "linear"] = "log",
    axis_name: Hashable | None = None,
) -> "optax.GradientTransformationExtraArgs":
    """An optax transformation that scales the gradients of a loss as :func:`clip` would.

    Its ``update`` takes the loss as ``value=``, which ``optax.chain`` hands on; the state is
    ``Moments``, or ``LogMoments`` with scale ``"log"``. It equals clipping the loss exactly when
    the whole gradient comes from this one scalar loss and nothing has changed the gradient
    before: put it first, before ``adam`` or ``add_decayed_weights``. With one loss per example,
    several losses, or a regulariser that is not to be scaled, use :func:`clip`.

    Args:
        num_stddev, decay, mu1_start, mu2_start, num_stddev_below, warmup, recency, center, scale:
            As in :class:`alrc.Settings`.
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
        >>> first = scale_by_alrc(3.0, mu1_start=1.0, mu2_start=2.0, scale="linear")
        >>> optimizer = optax.chain(first, optax.sgd(1.0))
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
        recency=recency,
        center=center,
        scale=scale,
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
        loss = inputs.checked_loss("scale_by_alrc", "value", value)
        if loss.shape != ():
            raise ValueError(
                "scale_by_alrc: value must be one loss, of shape (), because all updates are "
                f"scaled alike; got shape {loss.shape}. Pass the scalar that was differentiated, "
                "or limit each loss with alrc.jax.clip."
            )
        moments = inputs.checked_moments("scale_by_alrc", "state", state, settings)
        losses = jax.lax.stop_gradient(inputs.at_least_float32(loss))
        largest = inputs.largest_factor(loss, *jax.tree.leaves(updates))
        limited, moments = limit_and_advance(
            losses, None, moments, settings, axis_name, None, largest
        )
        factor = limited.factor
        with jax.numpy_dtype_promotion("standard"):  # half-precision gradients, in float32
            scaled = jax.tree.map(lambda g: (g * factor).astype(jnp.asarray(g).dtype), updates)
        return scaled, inputs.of_scale(moments, settings)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
