"""The rule of adaptive learning rate clipping, written once for any array module.

Every function takes the array module ``xp`` first and uses only operators and the names ``where``,
``clip``, ``divide``, ``sqrt``, ``sum`` and ``ones_like``. NumPy, torch, jax.numpy and keras.ops
have them; :class:`Floats` below has those that are needed for a single number.
Nothing here knows of automatic differentiation: losses come in detached, and :func:`attach` puts
the result back. Constants meet ``where`` as arrays, since some modules take no numbers there, and
others copy them to the device at every call.

The paper's recursion on the raw moments mu1 and mu2 is carried out on the mean m = mu1 and the
variance v = mu2 - mu1**2: the same numbers in exact arithmetic, but in float32 mu2 - mu1**2
cancels and goes negative, while v cannot.

Source: J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from alrc.settings import Settings

# Arrays of whichever module is in use; their static type is known to the front ends only.
Array = Any
Module = Any

# A standard deviation below this share of the mean is rounding error in float32, not spread.
RELATIVE_FLOOR = 1e-4
# Keeps the factor of a huge loss from underflowing to 0, and of a tiny one from overflowing.
SMALLEST_FACTOR, LARGEST_FACTOR = 2.0**-126, 2.0**126
# Moments that float32 cannot hold are not taken over.
LARGEST_MOMENT = 2.0**127


class Moments(NamedTuple):
    """The state of the rule: three scalars, whose shapes and dtypes never change.

    Attributes:
        mean: Running mean of the limited losses, m = mu1.
        variance: Running variance of the limited losses, v = mu2 - mu1**2 >= 0.
        num_updates: Number of calls that moved the moments.
    """

    mean: Array
    variance: Array
    num_updates: Array

    def to_dict(self) -> dict[str, Any]:
        """The moments as Python numbers by name: for JSON, or to go on in another framework.

        Give them to any front end's ``init(settings, saved=...)``. Reading them waits for the
        device, and is not possible inside a compiled function.

        Example:
            >>> from alrc.rule import Moments
            >>> Moments(1.5, 0.25, 3).to_dict()
            {'mean': 1.5, 'variance': 0.25, 'num_updates': 3}
        """
        return {
            "mean": numbers(self.mean, float),
            "variance": numbers(self.variance, float),
            "num_updates": numbers(self.num_updates, int),
        }


def numbers(array: Array, kind: Callable[[Array], float]) -> Any:
    """The array of any framework as a Python number, or as a list of them if there are groups."""
    # These read a scalar of any framework, exactly: a float holds whatever a float32 does.
    return [kind(x) for x in array] if getattr(array, "shape", ()) else kind(array)


class Groups(NamedTuple):
    """How losses that belong to one group each meet moments of which every group has its own.

    Attributes:
        take: Makes one number per loss of one number per group.
        add: Makes one sum per group of one number per loss.
    """

    take: Callable[[Array], Array]
    add: Callable[[Array], Array]


class Limited(NamedTuple):
    """What the rule makes of some losses; every field has their shape.

    Attributes:
        value: The losses, limited.
        factor: What the gradient of each loss is multiplied by.
        limited: Where a loss was changed.
    """

    value: Array
    factor: Array
    limited: Array


class Summary(NamedTuple):
    """What the limited losses tell the moments: three numbers, for each group if there are any.

    Attributes:
        total: Sum of the weights of the losses that count.
        shift: Their weighted mean deviation from the running mean.
        spread: Their weighted variance about their own mean.
    """

    total: Array
    shift: Array
    spread: Array


class Counts(NamedTuple):
    """How many losses counted, how many of them were limited, and how many were not finite."""

    num_losses: Array
    num_clipped: Array
    num_nonfinite: Array


class Observed(NamedTuple):
    """One call of the rule, up to where the moments move."""

    losses: Limited
    finite: Array
    summary: Summary
    counts: Counts


class Step(NamedTuple):
    """One whole call of the rule: the limited losses, the next moments, and what was counted."""

    losses: Limited
    finite: Array
    moments: Moments
    num_losses: Array
    num_clipped: Array
    num_nonfinite: Array


class Floats:
    """The array module of Python floats: all that is needed where there is only one number."""

    sqrt = math.sqrt

    @staticmethod
    def where(condition: bool, x: float, y: float) -> float:
        return x if condition else y

    @staticmethod
    def clip(x: float, low: float, high: float) -> float:
        return min(max(x, low), high)

    @staticmethod
    def divide(x: float, y: float) -> float:
        return x / y if y else math.copysign(math.inf, x)

    @staticmethod
    def ones_like(x: float) -> float:
        return 1.0


def limits(xp: Module, moments: Moments, settings: Settings) -> tuple[Array, Array]:
    """The lower and upper limit that the next losses will meet; infinite where there is none."""
    mean, variance, num_updates = moments
    stddev, floor = xp.sqrt(variance), RELATIVE_FLOOR * abs(mean)
    stddev = xp.where(stddev > floor, stddev, floor)
    active = stddev > 0
    if settings.automatic:
        active = active & (num_updates >= settings.warmup)
    infinite = math.inf * xp.ones_like(mean)
    upper = xp.where(active, mean + settings.num_stddev * stddev, infinite)
    if settings.num_stddev_below is None:
        return -infinite, upper
    return xp.where(active, mean - settings.num_stddev_below * stddev, -infinite), upper


def limit(
    xp: Module,
    losses: Array,
    counted: Array | None,
    bounds: tuple[Array, Array],
    mean: Array,
    settings: Settings,
) -> Limited:
    """Limits the counted losses (None: all) to the bounds and finds each gradient's factor."""
    lower, upper = bounds
    one = xp.ones_like(mean)
    offset = losses if settings.center == "zero" else losses - mean

    def share(bound: Array, beyond: Array) -> Array:
        bound = bound if settings.center == "zero" else bound - mean
        return xp.where(beyond, xp.divide(bound, offset), one)

    above = losses > upper
    if counted is not None:
        above = above & counted
    # Never amplified; and nearly 0, not flipped, where the limit and the loss differ in sign.
    factor = xp.clip(share(upper, above), SMALLEST_FACTOR, 1.0)
    value = xp.where(above, upper, losses)
    if settings.num_stddev_below is None:
        return Limited(value, factor, above)

    below = losses < lower
    if counted is not None:
        below = below & counted
    if settings.center == "zero":
        below = below & (losses > 0)
    raised = xp.clip(share(lower, below), SMALLEST_FACTOR, LARGEST_FACTOR)
    return Limited(xp.where(below, lower, value), factor * raised, above | below)


def summarise(xp: Module, losses: Array, weights: Array, mean: Array, groups: Groups) -> Summary:
    """Total weight of the losses, mean deviation from ``mean``, and variance about their own.

    Both are computed from deviations, so that nothing cancels when the mean is large.
    """
    total = groups.add(weights)
    divisor = xp.where(total > 0, total, xp.ones_like(total))
    deviation = losses - groups.take(mean)
    shift = groups.add(weights * deviation) / divisor
    residual = deviation - groups.take(shift)
    return Summary(total, shift, groups.add(weights * (residual * residual)) / divisor)


def combine(xp: Module, totals: Array, shifts: Array, spreads: Array) -> Summary:
    """The summary of several devices' losses from those of each, which lie along the first axis.

    Sums of squares could simply be added, but would cancel where the running mean is far off.
    """
    devices = Groups(take=lambda x: x, add=lambda x: xp.sum(x, axis=0))
    total, shift, between = summarise(xp, shifts, totals, 0.0 * xp.sum(totals, axis=0), devices)
    within = devices.add(totals * spreads) / xp.where(total > 0, total, xp.ones_like(total))
    return Summary(total, shift, between + within)


def advance(
    xp: Module, moments: Moments, shift: Array, spread: Array, total: Array, settings: Settings
) -> Moments:
    """The moments after losses of weight ``total`` with this shift and spread.

    Written so that the variance is a sum of terms that rounding cannot make negative. Nothing
    moves if no loss counted or if the result is not finite.
    """
    mean, variance, num_updates = moments
    share = 1.0 - settings.decay
    if settings.automatic:
        # The plain average of all losses so far, until that is longer than the decay.
        one = xp.ones_like(mean)
        average = xp.divide(one, num_updates + 1)
        share = xp.where(average > share, average, share * one)
    step = share * shift
    new_mean = mean + step
    new_variance = variance + step * ((1.0 - share) * shift) + share * (spread - variance)
    sound = (total > 0) & (abs(new_mean) < LARGEST_MOMENT) & (new_variance < LARGEST_MOMENT)
    return Moments(
        xp.where(sound, new_mean, mean),
        xp.where(sound, new_variance, variance),
        xp.where(sound, num_updates + 1, num_updates),
    )


def observe(
    xp: Module,
    losses: Array,
    weights: Array | None,
    moments: Moments,
    settings: Settings,
    groups: Groups | None = None,
) -> Observed:
    """Limits the losses, and summarises for the moments what was limited.

    Args:
        xp: The array module.
        losses: Detached losses of any shape, at least float32.
        weights: Weights of the same shape and dtype; only positive ones count. None: all count.
        moments: The moments before this call, which alone set its limits.
        settings: The hyperparameters.
        groups: Which group each loss belongs to. None: the moments are those of all losses.
    """
    if groups is None:
        groups = Groups(take=lambda x: x, add=xp.sum)
    if weights is None:
        weights = xp.ones_like(losses)
    finite = abs(losses) < math.inf
    wanted = weights > 0
    counted = finite & wanted
    lower, upper = limits(xp, moments, settings)
    mean = groups.take(moments.mean)
    bounds = groups.take(lower), groups.take(upper)
    result = limit(xp, losses, counted, bounds, mean, settings)
    summary = summarise(
        xp,
        # A loss that does not count may be NaN, which a weight of 0 would not silence.
        xp.where(counted, result.value, mean),
        xp.where(counted, weights, 0.0 * xp.ones_like(mean)),
        moments.mean,
        groups,
    )
    num_losses = groups.add(counted)
    counts = Counts(num_losses, groups.add(result.limited), groups.add(wanted) - num_losses)
    return Observed(result, finite, summary, counts)


def step(
    xp: Module,
    losses: Array,
    weights: Array | None,
    moments: Moments,
    settings: Settings,
    pool: Callable[[Array, Array, Array], Summary] | None = None,
    groups: Groups | None = None,
) -> Step:
    """One whole call: limit the losses, then let the limited losses move the moments.

    Args:
        xp, losses, weights, moments, settings, groups: As for :func:`observe`.
        pool: Makes the summary of the losses here that of all devices, with :func:`combine`.
            None: there are no others.
    """
    observed = observe(xp, losses, weights, moments, settings, groups)
    total, shift, spread = observed.summary if pool is None else pool(*observed.summary)
    moments = advance(xp, moments, shift, spread, total, settings)
    return Step(observed.losses, observed.finite, moments, *observed.counts)


def attach(loss: Array, detached: Array, result: Limited) -> Array:
    """The limited value, with the factor as its derivative towards ``loss``.

    ``detached - loss`` is 0 with derivative -1, so that the value is exact, which the product
    loss * factor is not; and it is subtracted, so that a loss of -0.0 keeps its sign. Right for
    finite losses only: others have to be put back as they came.
    """
    return result.value - (detached - loss) * result.factor
