"""Adaptive learning rate clipping for Keras 3, on TensorFlow, JAX and PyTorch."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.keras needs Keras, which is not installed here. Install it with: "
        'pip install "alrc[keras]"'
        if error.name == "keras"
        else f"alrc.keras needs a backend for Keras, and {error.name} is not installed here. "
        "Install it, or set KERAS_BACKEND to one of tensorflow, jax and torch that is, before "
        "Python starts.",
        name=error.name,
    ) from error
from keras import ops

from alrc import keras_inputs as inputs
from alrc import rule, state
from alrc.rule import Groups, Moments
from alrc.settings import Settings

__all__ = ["ALRC", "ALRCMixin", "ALRCModel"]

Tensor = Any  # of whichever backend is in use
_LARGEST = {"int32": 2**31 - 1, "int64": 2**63 - 1}


@keras.saving.register_keras_serializable("alrc")
class ALRC(state.Readings, keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    """Keeps outlier losses from wrecking training, without silencing them.

    A loss more than ``num_stddev`` running standard deviations above the running mean is lowered
    to that limit, and its gradient is scaled by limit / loss. Every other loss comes back as it
    is, bit for bit; so does a NaN or infinite loss, which never enters the moments.

    With ``fit``, hand it to :class:`ALRCModel` or :class:`ALRCMixin`; in a training step of your
    own, call it on the loss. A Keras ``Loss`` is no place for it: on JAX its state would not move.

    Args:
        num_stddev, decay, mu1_start, mu2_start, num_stddev_below, warmup, center, num_groups: As
            in :class:`alrc.Settings`.
        **kwargs: Of ``keras.layers.Layer``, such as ``name``.

    Call arguments:
        loss: Losses of any shape, floating: one per example, before any mean, or one per batch.
        mask: The shape of ``loss``: True or a positive weight for losses that count.
        training: False makes it the identity. Inside another layer's ``call``, that layer's
            ``training`` is the default; elsewhere True is.
        group: Which group the losses are in, from 0 to ``num_groups - 1``: whole numbers in the
            shape of ``loss``, or one for all; given if and only if there are groups. The numbers
            are not checked. ``fit`` has no place for it.

    Returns:
        The losses, same shape and dtype, limited.

    State:
        Weights of shape ``()``, or ``(num_groups,)``, that are never trained, in ``.keras`` and
        ``.weights.h5`` files: ``mean`` and ``variance``, float32 whatever the dtype policy, and
        the counts ``num_updates``, ``num_losses``, ``num_clipped`` and ``num_nonfinite``, integers
        that stay at their largest once they have reached it. Two metrics count clipped and
        non-finite losses since they were reset, which ``fit`` does each epoch.

    Note:
        Under ``tf.distribute`` all replicas share one limit and the same moments, by one
        collective; under ``keras.distribution.DataParallel`` the losses are those of all devices.

    Raises:
        TypeError: If a setting is of the wrong type, or ``loss`` is not floating.
        ValueError: If a setting is out of range, ``mask`` has another shape than ``loss``, or a
            file's state is damaged.

    Example:
        >>> from keras import ops
        >>> from alrc.keras import ALRC
        >>> alrc = ALRC(mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * sqrt(2 - 1**2) = 4
        >>> ops.convert_to_numpy(alrc(ops.array([0.5, 8.0]))).tolist()
        [0.5, 4.0]
        >>> int(alrc.num_clipped)
        1

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """

    _refusal: ValueError | None = None

    def __init__(
        self,
        num_stddev: float = 3.0,
        decay: float = 0.999,
        mu1_start: float | None = None,
        mu2_start: float | None = None,
        *,
        num_stddev_below: float | None = None,
        warmup: int = 10,
        center: Literal["zero", "mean"] = "zero",
        num_groups: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Without autocast: losses come back in the dtype they have, whatever the dtype policy.
        super().__init__(**{"name": "alrc", "trainable": False, "autocast": False, **kwargs})
        self.settings = Settings(
            num_stddev,
            decay,
            mu1_start,
            mu2_start,
            num_stddev_below=num_stddev_below,
            warmup=warmup,
            center=center,
            num_groups=num_groups,
        )
        for name in state.NAMES:
            weight = self.add_weight(
                name=name,
                shape=self.settings.shape,
                dtype="int" if name in state.WHOLE else "float32",
                initializer="zeros",
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",  # each computes the same
            )
            setattr(self, name, weight)
        for weight, number in zip((self.mean, self.variance), self.settings.start, strict=True):
            weight.assign(ops.full(self.settings.shape, number))
        self.clipped = keras.metrics.Sum(f"{self.name}_num_clipped", dtype="float32")
        self.nonfinite = keras.metrics.Sum(f"{self.name}_num_nonfinite", dtype="float32")
        self.supports_masking = True  # a mask says which losses count, and goes no further
        self.built = True

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        return None

    def call(
        self,
        loss: Tensor,
        mask: Tensor | None = None,
        training: bool = True,
        group: Tensor | None = None,
    ) -> Tensor:
        inputs.check(loss, mask)
        groups = inputs.groups(loss, group, self.settings)
        return self._limited(loss, mask, groups) if training else loss

    def _limited(
        self,
        loss: Tensor,
        mask: Tensor | None,
        groups: Groups | None = None,
        keep_values: bool = False,
    ) -> Tensor:
        """The losses limited, in value and gradient or in their gradients only."""
        wide = loss if inputs.dtype(loss) == "float64" else ops.cast(loss, "float32")
        losses = ops.stop_gradient(wide)
        weights = None if mask is None else ops.cast(ops.stop_gradient(mask), losses.dtype)
        moments = Moments(
            ops.cast(self.mean, losses.dtype),
            ops.cast(self.variance, losses.dtype),
            ops.convert_to_tensor(self.num_updates),
        )
        pool = _pool if _replicas() else None
        step = rule.step(ops, losses, weights, _opaque(moments), self.settings, pool, groups)
        self._update(step)
        result = step.losses._replace(value=losses) if keep_values else step.losses
        limited = ops.cast(rule.attach(wide, losses, result), loss.dtype)
        # Others are taken untouched, so that neither NaN nor rounding can reach their gradients.
        return ops.where(result.limited, limited, loss)

    def _update(self, step: rule.Step) -> None:
        """Takes over all new numbers; each was computed before any is assigned."""
        counts = ops.stack([step.num_losses, step.num_clipped, step.num_nonfinite])
        if replicas := _replicas():
            counts = replicas.all_reduce("SUM", counts)
        self.mean.assign(step.moments.mean)
        self.variance.assign(step.moments.variance)
        new = [step.moments.num_updates]
        for name, count in zip(state.COUNTS, ops.unstack(counts, 3), strict=True):
            old = getattr(self, name)
            new.append(old + ops.cast(count, old.dtype))
        for name, count in zip(state.WHOLE, new, strict=True):
            old = getattr(self, name)
            old.assign(ops.maximum(old, count))  # one that overflows stays as it is
        self.clipped.update_state(step.num_clipped)
        self.nonfinite.update_state(step.num_nonfinite)

    @property
    def mu1(self) -> Tensor:
        """Running mean of the limited losses, the paper's first moment; of the state's shape."""
        return ops.copy(self.mean)

    def _thresholds(self) -> tuple[Tensor, Tensor]:
        moments = (ops.convert_to_tensor(getattr(self, name)) for name in state.MOMENTS)
        return rule.limits(ops, Moments(*moments), self.settings)

    def to_dict(self) -> dict[str, Any]:
        """The state as plain numbers by name, which any front end can go on from."""
        return {name: array.tolist() for name, array in self._arrays().items()}

    def load_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what ``to_dict`` of any front end returned; counts left out are 0.

        Raises:
            TypeError: If ``saved`` is not a dict.
            ValueError: If something in it is missing, unknown or impossible; nothing is taken over.
        """
        for name, value in state.checked("ALRC", saved, self.settings.num_groups).items():
            # A count too large for the weight is held at its largest.
            weight = getattr(self, name)
            largest = _LARGEST[inputs.dtype(weight)] if name in state.WHOLE else math.inf
            groups = isinstance(value, list)
            weight.assign([min(x, largest) for x in value] if groups else min(value, largest))

    def save_own_variables(self, store: Any) -> None:
        for name, array in self._arrays().items():
            store[name] = array

    def _arrays(self) -> dict[str, Any]:
        """The state as NumPy arrays."""
        tensors = ((name, ops.convert_to_tensor(getattr(self, name))) for name in state.NAMES)
        return {name: ops.convert_to_numpy(tensor) for name, tensor in tensors}

    def load_own_variables(self, store: Any) -> None:
        saved = {name: inputs.number(store[name]) for name in store.keys()}  # noqa: SIM118 - it is no dict
        # After a refusal Keras tries another place, where there is nothing, and tells of that one.
        before, self._refusal = self._refusal, None
        if before and not saved:
            raise before
        try:
            self.load_dict(saved)
        except ValueError as error:
            self._refusal = error
            raise

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **dataclasses.asdict(self.settings)}


class ALRCMixin:
    """Makes the ``fit`` of a model of your own limit its losses: put it before ``keras.Model``.

    The model needs an attribute ``alrc``, an :class:`ALRC`. Each training step's loss then gets
    the gradient of the limited loss. The loss that ``fit`` reports stays the one before limiting,
    so that it can be compared with other runs; next to it stand two counts, of the losses
    that were clipped and of those that were NaN or infinite, in the epoch so far. ``evaluate`` and
    ``predict`` move and add nothing.

    Note:
        * With ``loss=keras.losses.MeanSquaredError(reduction="none")`` or the like, each example
          is limited by itself, before the mean; those with a sample weight of 0 or masked do not
          count. Keras can then add no regularisation losses; use the optimizer's weight decay.
        * Otherwise the loss is the batch's, including regularisation losses.
        * A ``compute_loss`` of your own gets the limit if it stands in a class after the mixin.
        * A ``train_step`` of your own has to call ``compute_loss``, or ``self.alrc(loss)`` itself.

    Example:
        >>> import keras
        >>> from alrc.keras import ALRC, ALRCMixin
        >>> class Regression(ALRCMixin, keras.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(1)
        ...         self.alrc = ALRC(num_stddev=2.0)
        ...
        ...     def call(self, inputs):
        ...         return self.dense(inputs)
        >>> model = Regression()
        >>> model.compile(loss="mse")
        >>> x = keras.ops.ones((8, 3))
        >>> history = model.fit(x, x[:, :1], verbose=0)
        >>> sorted(history.history)
        ['alrc_num_clipped', 'alrc_num_nonfinite', 'loss']
    """

    alrc: ALRC
    _evaluating = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__
        if keras.Model in bases and bases.index(keras.Model) < bases.index(ALRCMixin):
            raise TypeError(
                "ALRCMixin: must come before keras.Model among the bases, or nothing would be "
                f"limited; got class {cls.__name__}({_names(cls.__bases__)}). Write "
                f"class {cls.__name__}(ALRCMixin, ...)."
            )

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        base: Any = super()
        loss = base.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )
        replicas = _replicas()
        share = 1 / replicas.num_replicas_in_sync if replicas else 1
        if len(loss.shape) == 0:
            # Keras has multiplied this mean by the replica's share in the batch.
            return self._limited(loss / share, None) * share if training else loss
        if training:
            loss = self._limited(loss, inputs.mask(loss, y_pred, sample_weight))
        return ops.mean(loss) * share

    def _limited(self, loss: Tensor, mask: Tensor | None) -> Tensor:
        alrc = getattr(self, "alrc", None)
        if not isinstance(alrc, ALRC):
            raise TypeError(
                "ALRCMixin: the model must have an attribute alrc that is an alrc.keras.ALRC, "
                f"which keeps the moments; got {alrc!r}. In __init__, after super().__init__(), "
                "write self.alrc = ALRC()."
            )
        groups = inputs.groups(loss, None, alrc.settings)
        return alrc._limited(loss, mask, groups, keep_values=True)

    @property
    def metrics(self) -> list[Any]:
        metrics: list[Any] = super().metrics  # type: ignore[misc]
        alrc = getattr(self, "alrc", None)
        if not (self._evaluating and isinstance(alrc, ALRC)):
            return metrics
        hidden = [id(metric) for metric in alrc.metrics]
        return [metric for metric in metrics if id(metric) not in hidden]

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate(super().evaluate, *args, **kwargs)  # type: ignore[misc]

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate(super().test_on_batch, *args, **kwargs)  # type: ignore[misc]

    def _evaluate(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls it while the counts, which are of training only, are no metrics."""
        self._evaluating = True
        try:
            return function(*args, **kwargs)
        finally:
            self._evaluating = False


@keras.saving.register_keras_serializable("alrc")
class ALRCModel(ALRCMixin, keras.Model):  # type: ignore[misc, unused-ignore]
    """Any Keras model, with a ``fit`` that limits outlier losses.

    Compile and fit it as you would the model itself; what is reported is told at
    :class:`ALRCMixin`. The model inside is trained in place, and ``.model`` is it.

    Args:
        model: Any Keras model that leaves ``compute_loss``, ``train_step`` and ``test_step`` to
            Keras; one with its own needs :class:`ALRCMixin`.
        alrc: An :class:`ALRC`; None: one with its defaults.
        **kwargs: Of ``keras.Model``, such as ``name``.

    Raises:
        TypeError: If ``model`` or ``alrc`` is something else.

    Example:
        >>> import keras
        >>> from alrc.keras import ALRC, ALRCModel
        >>> net = keras.Sequential([keras.layers.Dense(1)])
        >>> model = ALRCModel(net, ALRC(num_stddev=2.0))
        >>> model.compile(optimizer="adam", loss="mse")
        >>> x = keras.ops.ones((8, 3))
        >>> history = model.fit(x, x[:, :1], verbose=0)
        >>> int(model.alrc.num_losses)  # one loss per batch
        1
    """

    def __init__(self, model: Any, alrc: ALRC | None = None, **kwargs: Any) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"ALRCModel: model must be a keras.Model, which is to be trained; got {model!r}. "
                "Wrap layers in keras.Sequential([...]) first."
            )
        own = [
            name
            for name in ("compute_loss", "train_step", "test_step")
            if getattr(type(model), name) is not getattr(keras.Model, name)
        ]
        if own:
            kind = type(model).__name__
            raise TypeError(
                "ALRCModel: model must leave compute_loss, train_step and test_step to Keras, "
                f"because a wrapper's are used instead; got {kind} with its own {', '.join(own)}. "
                f"Derive from it: class Limited(ALRCMixin, {kind}), with self.alrc = ALRC()."
            )
        if not (alrc is None or isinstance(alrc, ALRC)):
            raise TypeError(
                f"ALRCModel: alrc must be an alrc.keras.ALRC or None; got {alrc!r}. Pass "
                "ALRC(num_stddev=3.0), or leave it out."
            )
        super().__init__(**kwargs)
        self.model = model
        self.alrc = ALRC() if alrc is None else alrc
        self.built = model.built

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs)  # which takes training from here

    def get_config(self) -> dict[str, Any]:
        parts = {"model": self.model, "alrc": self.alrc}
        saved = {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}
        return {**super().get_config(), **saved}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ALRCModel":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("model", "alrc")
        }
        return cls(**{**config, **parts})


def _opaque(moments: Moments) -> Moments:
    """The moments, so that torch.compile cannot compute limits again from the next ones."""
    if keras.backend.backend() != "torch":
        return moments
    from alrc.snapshot import opaque

    return opaque(moments)


def _replicas() -> Any:
    """TensorFlow's replica context where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

    context = tf.distribute.get_replica_context()
    return context if context and context.num_replicas_in_sync > 1 else None


def _pool(total: Tensor, shift: Tensor, spread: Tensor) -> rule.Summary:
    """Total, shift and spread of the losses of all replicas, by one collective."""
    rows = _replicas().all_gather(ops.stack([total, shift, spread])[None], axis=0)
    return rule.combine(ops, rows[:, 0], rows[:, 1], rows[:, 2])


def _names(classes: Iterable[type]) -> str:
    return ", ".join(c.__name__ for c in classes)
