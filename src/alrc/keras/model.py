"""The models whose ``fit`` limits losses, and that say so when it does not."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from alrc import state
from alrc.keras import inputs, replicas
from alrc.keras.counts import Count
from alrc.keras.layer import ALRC
from alrc.keras.reach import watched

Tensor = Any  # of whichever backend is in use
_TO_KERAS = ("compute_loss", "compute_metrics", "train_step", "test_step", "predict_step")


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
        * A ``compute_loss`` of your own gets the limit if it stands in a class after the mixin; in
          the same class it has to call ``super().compute_loss(...)``.
        * A ``train_step`` of your own has to call ``compute_loss``, or ``self.alrc(loss)`` itself.
        * A first step that was not limited by any of these is refused in words, and so is a state
          that is damaged when ``fit`` starts, or a model that does not keep track of ``alrc``.
        * Lists of numbers, as from ``train_on_batch``, are without the counts; dicts have them.

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
    _base_takes_training = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__
        if keras.Model in bases and bases.index(keras.Model) < bases.index(ALRCMixin):
            given = ", ".join(base.__name__ for base in cls.__bases__)
            raise TypeError(
                "ALRCMixin: must come before keras.Model among the bases, or nothing would be "
                f"limited; got class {cls.__name__}({given}). Write "
                f"class {cls.__name__}(ALRCMixin, ...)."
            )
        base = getattr(super(), "compute_loss", keras.Model.compute_loss)
        cls._base_takes_training = "training" in inspect.signature(base).parameters

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # Before 3.15, a functional model lists a layer that is assigned later where it never looks.
        if isinstance(value, ALRC) and not isinstance(self, keras.Sequential):
            layers: list[Any] = self._layers  # type: ignore[attr-defined]
            if not any(layer is value for layer in layers):  # pragma: no cover - in make oldest
                layers.append(value)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        # Called as Keras would call it: those written for Keras before 3.3 take no training.
        flag = {"training": training} if self._base_takes_training else {}
        base: Any = super()
        loss = base.compute_loss(x, y, y_pred, sample_weight, **flag)
        training = training and not self._evaluating
        share = replicas.share()
        if len(loss.shape) == 0:
            # Keras has multiplied this mean by the replica's share in the batch.
            return self._limit_gradient(loss / share, None) * share if training else loss
        if training:
            loss = self._limit_gradient(loss, inputs.mask(loss, y_pred, sample_weight))
        return ops.mean(loss) * share

    def _limit_gradient(self, loss: Tensor, mask: Tensor | None) -> Tensor:
        """The losses with their own values, and the gradients of limited ones."""
        alrc = getattr(self, "alrc", None)
        if not isinstance(alrc, ALRC):
            raise TypeError(
                "ALRCMixin: the model must have an attribute alrc that is an alrc.keras.ALRC, "
                f"which keeps the moments; got {alrc!r}. In __init__, after super().__init__(), "
                "write self.alrc = ALRC()."
            )
        groups = inputs.groups(loss, None, alrc.settings)
        return alrc._limit(loss, mask, groups, keep_values=True)

    # Before training, and its first step

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(alrc := getattr(self, "alrc", None), ALRC):
            # Weights that were assigned have not been checked, as those from files have.
            state.checked("ALRC", alrc.to_dict(), alrc.settings.num_groups, alrc.settings.scale)
        return super().fit(*args, **kwargs)  # type: ignore[misc]

    def make_train_function(self, force: bool = False) -> Any:
        model: Any = self
        if force or model.train_function is None:
            self._prepare()
            super().make_train_function(force)  # type: ignore[misc]
            model.train_function = watched(model.train_function, self._not_reached)
        return model.train_function

    def _prepare(self) -> None:
        """Refuses an ALRC that the model does not keep track of, and names the counts."""
        model: Any = self
        alrc = getattr(self, "alrc", None)
        if not isinstance(alrc, ALRC):
            return  # which is refused where it is needed
        if not any(weight is alrc.mean for weight in model.non_trainable_variables):
            kind = type(self).__name__
            mend = (
                "keras.Sequential keeps track of none; write "
                "ALRCModel(keras.Sequential([...]), ALRC())."
                if isinstance(self, keras.Sequential)
                else "Assign it in __init__, after super().__init__(): self.alrc = ALRC()."
            )
            raise TypeError(
                "ALRCMixin: alrc must be an attribute that the model keeps track of, because its "
                f"state is neither trained nor saved with the model otherwise; {kind} has it in "
                f"no weights. {mend}"
            )
        if re.fullmatch(r"alrc_\d+", alrc.name):  # by Keras, and another one in each model
            others = {metric.name for metric in self.metrics if metric not in alrc.metrics}
            for count in alrc.metrics:
                if (name := f"alrc_{count.counted}") not in others:
                    count.name = name

    def _not_reached(self) -> TypeError:
        kind = type(self)
        hidden = next(c for c in kind.__mro__ if "compute_loss" in vars(c)) is not ALRCMixin
        mend = (
            f"The compute_loss of {kind.__name__} hides that of the mixin: call "
            "super().compute_loss(...) in it, return self.alrc(loss, training=training), or move "
            f"it into a class after the mixin, class {kind.__name__}(ALRCMixin, ...)."
            if hidden
            else "In train_step, call self.compute_loss(...), or self.alrc(loss)."
        )
        return TypeError(
            "ALRCMixin: a training step must call the mixin's compute_loss or self.alrc, or "
            f"nothing is limited; the first step of {kind.__name__} called neither. {mend}"
        )

    # What is reported

    @property
    def metrics(self) -> list[Any]:
        metrics: list[Any] = super().metrics  # type: ignore[misc]
        if not self._evaluating:
            return metrics
        return [metric for metric in metrics if not isinstance(metric, Count)]

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        model: Any = self
        base: Any = super()
        logs = base.train_on_batch(x, y, sample_weight, class_weight, return_dict=True)
        if return_dict:
            return logs
        hidden = [metric.name for metric in model.metrics if isinstance(metric, Count)]
        shown = {name: number for name, number in logs.items() if name not in hidden}
        return model._flatten_metrics_in_order(shown)

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
        model: Any Keras model that leaves ``compute_loss``, ``compute_metrics``, ``train_step``,
            ``test_step`` and ``predict_step`` to Keras; one with its own needs
            :class:`ALRCMixin`.
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
            for name in _TO_KERAS
            if getattr(type(model), name) is not getattr(keras.Model, name)
        ]
        if own:
            kind = type(model).__name__
            raise TypeError(
                f"ALRCModel: model must leave {', '.join(_TO_KERAS)} to Keras, "
                f"because a wrapper's are used instead; got {kind} with its own {', '.join(own)}. "
                f"Derive from it: class Limited(ALRCMixin, {kind}), with self.alrc = ALRC()."
            )
        if not (alrc is None or isinstance(alrc, ALRC)):
            raise TypeError(
                f"ALRCModel: alrc must be an alrc.keras.ALRC or None; got {alrc!r}. Pass "
                "ALRC(num_stddev=2.0), or leave it out."
            )
        super().__init__(**kwargs)
        self.model = model
        self.alrc = ALRC() if alrc is None else alrc
        if model.built:
            self.build(_input_shapes(model))

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


def _input_shapes(model: Any) -> Any:
    """What the model was built for, in the structure of its inputs."""
    try:
        return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), model.input)
    except AttributeError:  # a subclass, which was built by its first call
        return (model.get_build_config() or {}).get("input_shape")
