"""The layer: state, modes and signature of the rule in Keras."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import keras
from keras import ops

from alrc import refusals, rule, state
from alrc.keras import counts, inputs, replicas
from alrc.keras.reach import reached
from alrc.rule import Counts, Moments, Reduction
from alrc.settings import Settings

Tensor = Any  # of whichever backend is in use
_LARGEST = {"int32": 2**31 - 1, "int64": 2**63 - 1}
_SETTINGS = [field.name for field in dataclasses.fields(Settings)]


@keras.saving.register_keras_serializable("alrc")
class ALRC(state.ShowsState, keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    """Keeps outlier losses from wrecking training, without silencing them.

    A loss whose logarithm is more than ``num_stddev`` running standard deviations above the
    running mean is lowered to that limit, and its gradient is scaled by limit / loss. Every other
    loss comes back as it is, bit for bit; so does a NaN or infinite loss, which never enters the
    moments. With ``scale="linear"``, as in the paper, losses are taken without logarithm.

    With ``fit``, hand it to :class:`ALRCModel` or :class:`ALRCMixin`; in a training step of your
    own, call it on the loss. A Keras ``Loss`` is no place for it: on JAX its state would not move,
    and it says so.

    Args:
        num_stddev, decay, mu1_start, mu2_start, num_stddev_below, warmup, recency, center, scale,
            num_groups: As in :class:`alrc.Settings`.
        **kwargs: Of ``keras.layers.Layer``, such as ``name``.

    Call arguments:
        loss: Losses of any shape, floating: one per example, before any mean, or one per batch.
        mask: The shape of ``loss``: True or a positive weight for losses that count.
        training: False makes it the identity. Inside another layer's ``call``, that layer's
            ``training`` is the default; elsewhere True is.
        group: Which group the losses are in, from 0 to ``num_groups - 1``: whole numbers in the
            shape of ``loss``, or one for all; given if and only if there are groups. Losses with
            another number are in no group: they come back as they are and move nothing. ``fit``
            has no place for it.

    Returns:
        The losses, same shape and dtype, limited.

    State:
        Weights of shape ``()``, or ``(num_groups,)``, that are never trained, in ``.keras`` and
        ``.weights.h5`` files: ``mean`` and ``variance``, float32 whatever the dtype policy, and
        the counts ``num_updates``, ``num_losses``, ``num_clipped`` and ``num_nonfinite``, integers
        that stay at their largest once they have reached it. Two metrics count clipped and
        non-finite losses since they were reset, which ``fit`` does each epoch; if it is called
        inside another layer's ``call``, Keras on JAX has them for whole epochs only, and NaN in
        the logs of a batch. With scale ``"log"``, ``mean`` is the geometric one and ``variance``
        that of logarithms, and files and dicts call them ``geometric_mean`` and ``log_variance``;
        ``mu1``, ``mu2`` and ``threshold`` are in the unit of the loss on either scale.

    Note:
        With scale ``"log"``, losses below 0 come back as they are and count as not finite: for
        losses of either sign, pass ``center="mean"`` and ``scale="linear"``.

        Under ``tf.distribute`` all replicas share one limit and the same moments, by one
        collective; under ``keras.distribution.DataParallel`` the losses are those of all devices.

    Raises:
        TypeError: If a setting is of the wrong type, if ``loss`` is not floating, if the moments
            have been cast, or if on JAX the trained model does not know of the layer.
        AttributeError: If a setting is assigned, because settings are fixed.
        ValueError: If a setting is out of range, ``mask`` has another shape than ``loss``, or a
            file's state is damaged.

    Example:
        >>> from keras import ops
        >>> from alrc.keras import ALRC
        >>> alrc = ALRC(3, mu1_start=1.0, mu2_start=2.0, scale="linear")  # limit: 1 + 3 * 1
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
        num_groups: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Without autocast: losses come back in the dtype they have, whatever the dtype policy.
        super().__init__(**{"trainable": False, "autocast": False, **kwargs})
        self.settings = Settings(
            num_stddev,
            decay,
            mu1_start,
            mu2_start,
            num_stddev_below=num_stddev_below,
            warmup=warmup,
            recency=recency,
            center=center,
            scale=scale,
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
        self.clipped, self.nonfinite = counts.of(self)
        self.supports_masking = True  # a mask says which losses count, and goes no further
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            raise refusals.fixed_setting("ALRC", name, value)
        super().__setattr__(name, value)

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
        return self._limit(loss, mask, groups) if training else loss

    def _limit(
        self,
        loss: Tensor,
        mask: Tensor | None,
        groups: Reduction | None,
        keep_values: bool = False,
    ) -> Tensor:
        """The losses limited, in value and gradient or in their gradients only."""
        reached.flag = True
        self._check_state(loss)
        wide, losses = inputs.detached(loss)
        mean, variance, num_updates = self._moments()
        step, after = rule.step(
            ops,
            losses,
            None if mask is None else inputs.weights(mask, losses),
            _opaque(
                Moments(ops.cast(mean, losses.dtype), ops.cast(variance, losses.dtype), num_updates)
            ),
            self.settings,
            replicas.pool if replicas.context() else None,
            groups,
            inputs.largest_factor(loss),
        )
        self._take_over(step.counts, after)
        result = step.losses._replace(value=losses) if keep_values else step.losses
        return rule.attach(ops, loss, wide, losses, result, lambda x: ops.cast(x, loss.dtype))

    def _take_over(self, counted: Counts, moments: Moments) -> None:
        """Stores all new numbers; each was computed before any is assigned."""
        new = {"num_updates": moments.num_updates}
        for name, count in replicas.add(counted)._asdict().items():
            old = getattr(self, name)
            new[name] = old + ops.cast(count, old.dtype)
        self.mean.assign(moments.mean)
        self.variance.assign(moments.variance)
        for name, count in new.items():
            old = getattr(self, name)
            old.assign(ops.maximum(old, count))  # one that overflows stays as it is
        self.clipped.update_state(counted.num_clipped)
        self.nonfinite.update_state(counted.num_nonfinite)

    def _check_state(self, loss: Tensor) -> None:
        """Refuses a state that could not move, as far as that is seen without reading numbers."""
        if counts.loses(self.mean, loss):
            raise TypeError(
                "ALRC: the layer must be one of those of the model that is trained, because on "
                "JAX its moments would not move otherwise, and nothing would be limited; this "
                "model does not know of it. Assign it in the model's __init__, after "
                "super().__init__(), as self.alrc = ALRC(); a keras.losses.Loss is no place for "
                "it, nor is a keras.Sequential."
            )
        for name in ("mean", "variance"):
            found = inputs.dtype(ops.convert_to_tensor(getattr(self, name)))
            if found != "float32":
                raise TypeError(
                    f"ALRC: {name} must be float32, in which it can move; got {found}. Set the "
                    "precision of the model with keras.config.set_dtype_policy('mixed_bfloat16') "
                    "before it is built, instead of casting it."
                )

    def _moments(self) -> Moments:
        """The moments as tensors, which may be the weights themselves."""
        return Moments(*(ops.convert_to_tensor(getattr(self, name)) for name in state.MOMENTS))

    def _of_losses(self) -> tuple[Tensor, Tensor]:
        mean, variance = rule.of_losses(ops, self._moments(), self.settings)
        return ops.copy(mean), variance

    def _thresholds(self) -> tuple[Tensor, Tensor]:
        return rule.limits(ops, self._moments(), self.settings)

    def to_dict(self) -> dict[str, Any]:
        """The state as plain numbers by name, which any front end can go on from."""
        return {name: array.tolist() for name, array in self._arrays().items()}

    def load_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what ``to_dict`` of any front end returned; counts left out are 0.

        Raises:
            TypeError: If ``saved`` is not a dict.
            ValueError: If something in it is missing, unknown or impossible; nothing is taken over.
        """
        settings = self.settings
        for name, value in state.checked(
            "ALRC", saved, settings.num_groups, settings.scale
        ).items():
            # A count too large for the weight is held at its largest.
            weight = getattr(self, name)
            largest = _LARGEST[inputs.dtype(weight)] if name in state.WHOLE else math.inf
            groups = isinstance(value, list)
            weight.assign([min(x, largest) for x in value] if groups else min(value, largest))

    def save_own_variables(self, store: Any) -> None:
        for name, array in self._arrays().items():
            store[name] = array

    def _arrays(self) -> dict[str, Any]:
        """The state as NumPy arrays, under the names that tell of which scale it is."""
        saved = state.saved_names(self.settings.scale)
        tensors = (ops.convert_to_tensor(getattr(self, name)) for name in state.NAMES)
        return {
            name: ops.convert_to_numpy(tensor) for name, tensor in zip(saved, tensors, strict=True)
        }

    def load_own_variables(self, store: Any) -> None:
        saved = {name: inputs.stored(store[name]) for name in store.keys()}  # noqa: SIM118 - it is no dict
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

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ALRC":
        layer: ALRC = super().from_config({"scale": "linear", **config})  # once the only one
        return layer


def _opaque(moments: Moments) -> Moments:
    """The moments, so that torch.compile cannot compute limits again from the next ones."""
    if keras.backend.backend() != "torch":
        return moments
    from alrc import opaque

    opaque.check_outside_of_backward()
    return opaque.opaque(moments)
