"""The hyperparameters of ALRC: the only place that checks them and words their errors."""

import math
import operator
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any, Literal, SupportsFloat, SupportsIndex

CENTERS = ("zero", "mean")
SCALES = ("linear", "log")
# Moments are kept in float32; starts beyond these, or their squares, would be infinite there.
_LARGEST_MU1, _LARGEST_MU2 = 2.0**63, 2.0**127
# A geometric mean that is smaller is no normal number in float32: 0, to some devices.
SMALLEST_MEAN = 2.0**-126
# Settings were once pickled as a list of these, and not by name.
_ONCE_PICKLED = (
    *("num_stddev", "decay", "mu1_start", "mu2_start"),
    *("num_stddev_below", "warmup", "center", "num_groups"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that fixes the behaviour of ALRC, checked when it is made.

    Every front end takes the same arguments with the same meaning and hands them on to this class.

    Args:
        num_stddev: Number of standard deviations above the mean at which losses are limited, > 0.
            Larger limits fewer losses; ``math.inf`` limits none and only tracks the moments.
        decay: Share of the old moments kept at each call, in [0, 1). Larger remembers longer:
            0.999 is about the last 1,000 calls.
        mu1_start: First estimate of the mean loss. Guess high rather than low: a start that is too
            high only delays the first limited loss. Leave out together with ``mu2_start`` to
            start automatically, from the average of the losses seen so far.
        mu2_start: First estimate of the mean squared loss, at least ``mu1_start**2``.
        num_stddev_below: Number of standard deviations below the mean at which low losses are
            raised, > 0, or None for no lower limit. Larger raises fewer losses. Its product with
            ``num_stddev`` must be above 1, or the limits would close in on the mean.
        warmup: Calls to watch before the first loss is limited, >= 1. Larger waits longer. Used
            by the automatic start only.
        recency: How much more recent calls weigh in the average that the automatic start is, >= 1
            and finite: call k weighs about ``k**(recency - 1)``. 1 is the plain average. Larger
            forgets the losses of the first calls sooner: it remembers about the last
            1 / recency of all calls, until ``decay`` forgets faster. Used by the automatic
            start only.
        center: Point towards which gradients are scaled. ``"zero"``, as in the paper, scales by
            limit / loss and suits losses >= 0; ``"mean"`` scales by
            (limit - mean) / (loss - mean) and suits losses of either sign, with scale
            ``"linear"``.
        scale: What has a mean and standard deviations. ``"log"``: the logarithms of losses, so
            that the limit is exp(m + num_stddev * s), and the same losses are limited whatever
            power the error has. Only losses > 0 count, the others come back as they came; those
            < 0 are counted as not finite, as their logarithms are. The starts stay moments of the
            losses, taken as log-normal. Needs center ``"zero"``. ``"linear"``, as in the paper,
            with ``num_stddev=3``: the losses themselves.
        num_groups: Number of groups of losses that have moments of their own, >= 1: one for each
            data source, task, class or range of diffusion timesteps, say. None: all losses
            share the same moments.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, or one start is given without the other.

    Warns:
        UserWarning: If ``mu2_start < mu1_start**2``, which no losses have; a variance of 0 is
            assumed.

    Example:
        >>> from alrc import Settings
        >>> Settings()  # doctest: +ELLIPSIS
        Settings(num_stddev=2.0, decay=0.999, ... scale='log', num_groups=None)
        >>> Settings(scale="linear", mu1_start=1.0, mu2_start=1.25).start
        (1.0, 0.25)
        >>> Settings(decay=1000)
        Traceback (most recent call last):
            ...
        ValueError: ALRC: decay must be at least 0 and less than 1, because it is the share of \
the old moments kept at each call; got 1000.0. To remember about the last 1000 calls, pass \
decay=0.999.
    """

    num_stddev: float = 2.0
    decay: float = 0.999
    mu1_start: float | None = None
    mu2_start: float | None = None
    _: KW_ONLY
    num_stddev_below: float | None = None
    warmup: int = 10
    recency: float = 1.0
    center: Literal["zero", "mean"] = "zero"
    scale: Literal["log", "linear"] = "log"
    num_groups: int | None = None

    def __post_init__(self) -> None:
        needed = ("num_stddev", "decay", "recency")
        for name in (*needed, "mu1_start", "mu2_start", "num_stddev_below"):
            if name in needed or getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name, example in (("warmup", 10), ("num_groups", 4)):
            if name == "warmup" or self.num_groups is not None:
                object.__setattr__(self, name, _integer(name, getattr(self, name), example))
        self._check_widths()
        self._check_starts()

    def _check_widths(self) -> None:
        for name, side in (("num_stddev", "above"), ("num_stddev_below", "below")):
            value = getattr(self, name)
            if value is not None and not value > 0:
                off = "math.inf" if side == "above" else "None"
                raise ValueError(
                    f"ALRC: {name} must be greater than 0, because it counts the standard "
                    f"deviations {side} the mean at which losses are limited; got {value}. "
                    f"Pass {name}=3.0, or {name}={off} to limit nothing on that side."
                )
        above, below = self.num_stddev, self.num_stddev_below
        if below is not None and above * below <= 1:
            raise ValueError(
                "ALRC: num_stddev * num_stddev_below must be greater than 1, because losses that "
                "are limited on both sides closer to the mean have a smaller variance than the "
                "one they are limited by, and both limits close in on the mean whatever the "
                f"losses; got {above:g} * {below:g} = {above * below:g}. Pass num_stddev_below="
                f"{max(3.0, math.ceil(1.5 / max(above, 1e-9))):g}, or None to limit nothing below."
            )
        if not 0 <= self.decay < 1:
            mend = (
                f"To remember about the last {self.decay:g} calls, pass "
                f"decay={1 - 1 / self.decay:.12g}."
                if 2 <= self.decay < 1e12
                else "Pass decay=0.999 to remember about the last 1000 calls."
            )
            raise ValueError(
                "ALRC: decay must be at least 0 and less than 1, because it is the share of the "
                f"old moments kept at each call; got {self.decay}. {mend}"
            )
        if not 1 <= self.warmup < 2**31:
            raise ValueError(
                "ALRC: warmup must be from 1 to 2**31 - 1, because the first limit needs losses "
                f"to be computed from; got {self.warmup}. Pass warmup=10, or give mu1_start and "
                "mu2_start to limit from the first call."
            )
        if not 1 <= self.recency < math.inf:
            raise ValueError(
                "ALRC: recency must be at least 1 and finite, because the average that losses "
                "start from lets call k weigh about k**(recency - 1), later calls no less than "
                f"earlier ones; got {self.recency}. Pass recency=1.0 for the plain average, or "
                "recency=4.0 to forget the first losses sooner."
            )
        if self.center not in CENTERS:
            raise ValueError(
                f"ALRC: center must be 'zero' or 'mean', the point towards which gradients are "
                f"scaled; got {self.center!r}. Pass center='zero' for losses >= 0, or "
                "center='mean' for losses of either sign."
            )
        if self.scale not in SCALES:
            raise ValueError(
                "ALRC: scale must be 'linear' or 'log', which says whether the moments are those "
                f"of the losses or of their logarithms; got {self.scale!r}. Pass scale='linear' "
                "for the rule of the paper, or scale='log' for losses > 0 that spread over decades."
            )
        if self.scale == "log" and self.center == "mean":
            raise ValueError(
                "ALRC: center must be 'zero' with scale='log', because only losses > 0 have a "
                "logarithm, and their gradients are scaled by limit / loss; got center='mean'. "
                "Pass center='zero', or scale='linear' for losses of either sign."
            )
        if self.num_groups is not None and self.num_groups < 1:
            raise ValueError(
                "ALRC: num_groups must be at least 1, because it counts the groups of losses that "
                f"have moments of their own; got {self.num_groups}. Pass num_groups=4 for groups "
                "0 to 3, or None for moments that all losses share."
            )

    def _check_starts(self) -> None:
        mu1, mu2 = self.mu1_start, self.mu2_start
        if (mu1 is None) != (mu2 is None):
            given = (
                "If your losses spread by s around it, add mu2_start=mu1_start**2 + s**2"
                if mu2 is None
                else "Add mu1_start, the mean loss"
            )
            raise ValueError(
                "ALRC: mu1_start and mu2_start must be given together, because a limit needs the "
                f"mean loss and the mean squared loss; got mu1_start={mu1} and mu2_start={mu2}. "
                f"{given}, or leave both out to start automatically."
            )
        if mu1 is None or mu2 is None:
            return
        if not abs(mu1) < _LARGEST_MU1:
            raise ValueError(
                "ALRC: mu1_start must have a square that is finite in float32, because it is the "
                f"mean loss, whose variance is kept there; got {mu1}. Pass an estimate of the mean "
                "loss, or leave mu1_start and mu2_start out to start automatically."
            )
        if self.scale == "log" and not mu1 > 0:
            raise ValueError(
                "ALRC: mu1_start must be greater than 0 with scale='log', because only losses > 0 "
                f"have a logarithm; got {mu1}. Pass an estimate of the mean loss, or leave "
                "mu1_start and mu2_start out to start automatically."
            )
        if not 0 <= mu2 < _LARGEST_MU2:
            raise ValueError(
                "ALRC: mu2_start must be at least 0 and finite in float32, because it is the mean "
                f"squared loss; got {mu2}. Pass mu1_start**2 + s**2 for losses that spread by s, "
                "or leave mu1_start and mu2_start out to start automatically."
            )
        if mu2 < mu1 * mu1:
            warnings.warn(
                "ALRC: mu2_start is the mean squared loss, so it must be at least "
                f"mu1_start**2 = {mu1 * mu1:g}; got mu1_start={mu1:g}, mu2_start={mu2:g}. Going "
                "on with a variance of 0, which limits most losses until the moments have caught "
                f"up. If {mu2:g} is a standard deviation s, pass mu2_start=mu1_start**2 + s**2 = "
                f"{mu1 * mu1 + mu2 * mu2:g}, or leave both out to start automatically.",
                stacklevel=first_frame_outside_alrc(),
            )

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)

    def __setstate__(self, state: Mapping[str, Any] | Sequence[Any]) -> None:
        if not isinstance(state, Mapping):
            state = dict(zip(_ONCE_PICKLED, state, strict=False))
        state = {"scale": "linear", **state}  # which there was no other of, at first
        for field in fields(self):
            object.__setattr__(self, field.name, state.get(field.name, field.default))

    @property
    def automatic(self) -> bool:
        """True if no start was given, so that the moments start as an average."""
        return self.mu1_start is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of each of the moments: ``()``, or ``(num_groups,)``."""
        return () if self.num_groups is None else (self.num_groups,)

    @property
    def start(self) -> tuple[float, float]:
        """Mean and variance before the first call; both 0 for the automatic start.

        With scale ``"log"``, the geometric mean, and the variance of logarithms: those of
        log-normal losses with the starts as moments, or 1 and 0.
        """
        mu1, mu2, is_log = self.mu1_start, self.mu2_start, self.scale == "log"
        if mu1 is None or mu2 is None:
            return float(is_log), 0.0
        variance = max(mu2 - mu1 * mu1, 0.0)
        if not is_log:
            return mu1, variance
        v = math.log(mu2) - 2 * math.log(mu1) if variance else 0.0
        return max(math.exp(math.log(mu1) - v / 2), SMALLEST_MEAN), v


def _number(name: str, value: SupportsFloat) -> float:
    # float() also takes what NumPy and the frameworks call a scalar, such as losses.mean().
    if not isinstance(value, bool | str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
    mend = f"Pass a float, for example {name}=2.5."
    if getattr(value, "shape", None) == ():  # an array of one number, which is not known yet
        mend += (
            " Settings are compiled in and cannot be traced, as by jit or vmap; the docstring of "
            "alrc.jax.clip shows how to limit by several of them in one call."
        )
    raise TypeError(
        f"ALRC: {name} must be a number; got {value!r} of type {type(value).__name__}. {mend}"
    )


def _integer(name: str, value: SupportsIndex, example: int) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(
        f"ALRC: {name} must be a whole number; got {value!r} of type {type(value).__name__}. "
        f"Pass an int, for example {name}={example}."
    )


def first_frame_outside_alrc() -> int:
    """The ``stacklevel`` that makes a warning point at the user's line, whatever front end."""
    level, frame = 1, sys._getframe(1)
    inside = ("alrc", "torch", "jax")  # those call modules, and compile functions
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        level, frame = level + 1, frame.f_back
    return level
