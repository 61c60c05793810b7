"""The rule of adaptive learning rate clipping, written once for any array module.

Every function takes the array module ``xp`` first and uses only operators and the names ``where``,
``clip``, ``divide``, ``sqrt``, ``exp``, ``expm1``, ``log``, ``sum`` and ``ones_like``. NumPy,
torch, jax.numpy and keras.ops have them; :class:`Floats` below has those that are needed for a
single number.
Nothing here knows of automatic differentiation: losses come in detached, and :func:`attach` puts
the result back. Constants meet ``where`` as arrays, since some modules take no numbers there, and
others copy them to the device at every call.

The paper's recursion on the raw moments mu1 and mu2 is carried out on the mean m = mu1 and the
variance v = mu2 - mu1**2: the same numbers in exact arithmetic, but in float32 mu2 - mu1**2
cancels and goes negative, while v cannot.

With scale "log" the same is done to the logarithms of losses, whose mean m is kept as exp(m), the
geometric mean of the losses: float32 holds that as exactly on every scale of the losses, while the
rounding of m would be as large as the least spread. Their deviations are log(loss / exp(m)).

Source: J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
"""

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from alrc.settings import SMALLEST_MEAN, Settings

# Arrays of whichever module is in use; their static type is known to the front ends only.
Array = Any
Module = Any

# A standard deviation below this share of the mean is rounding error in float32, not spread; or one
# of logarithms below this number, which is the same.
RELATIVE_FLOOR = 1e-4
# Below it float32 loses the variance: no limit, rather than one that is wrong.
SMALLEST_STDDEV = 2.0**-62
# Losses from here on count like infinite ones: float32 could not hold their squares.
LARGEST_LOSS = 2.0**62
# Moments that float32 cannot hold are not taken over.
LARGEST_MOMENT = 2.0**127
# Keeps the factor of a huge loss from underflowing to 0, and of a tiny one from overflowing.
SMALLEST_FACTOR, LARGEST_FACTOR = 2.0**-126, 2.0**126
LARGEST_RATIO = 2.0**128 - 2.0**104  # the largest number in float32
# The same for gradients in float16, of which the largest is 65504.
LARGEST_FACTOR_FLOAT16 = 2.0**14
# Weights are held in this range, so that neither a tiny one underflows nor an infinite one spreads.
SMALLEST_WEIGHT, LARGEST_WEIGHT = 2.0**-60, 2.0**60


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
        return _by_name(self)


class LogMoments(NamedTuple):
    """The state of the rule with scale "log": its names tell it from the other, wherever it is.

    Attributes:
        geometric_mean: exp of the running mean m of the logarithms of the limited losses.
        log_variance: Running variance of these logarithms, v >= 0.
        num_updates: Number of calls that moved the moments.
    """

    geometric_mean: Array
    log_variance: Array
    num_updates: Array

    @property
    def mean(self) -> Array:
        return self.geometric_mean

    @property
    def variance(self) -> Array:
        return self.log_variance

    def to_dict(self) -> dict[str, Any]:
        """As that of :class:`Moments`.

        Example:
            >>> from alrc.rule import LogMoments
            >>> LogMoments(1.5, 0.25, 3).to_dict()
            {'geometric_mean': 1.5, 'log_variance': 0.25, 'num_updates': 3}
        """
        return _by_name(self)


# By the setting ``scale``. Within a call, both are Moments.
KINDS: dict[str, Any] = {"linear": Moments, "log": LogMoments}


def _by_name(moments: Moments | LogMoments) -> dict[str, Any]:
    kinds = (float, float, int)
    pairs = zip(moments._asdict().items(), kinds, strict=True)
    return {name: numbers(number, kind) for (name, number), kind in pairs}


def numbers(array: Array, kind: Callable[[Array], float]) -> Any:
    """The array of any framework as a Python number, or as a list of them if there are groups."""
    # These read a scalar of any framework, exactly: a float holds whatever a float32 does.
    return [kind(x) for x in array] if getattr(array, "shape", ()) else kind(array)


class Reduction(NamedTuple):
    """How numbers along the losses meet numbers of which each group, or all losses, have one.

    Attributes:
        take: Makes one number per loss of one number per group.
        add: Makes one sum per group of one number per loss.
    """

    take: Callable[[Array], Array]
    add: Callable[[Array], Array]


class Limited(NamedTuple):
    """What the rule makes of some losses; every field has their shape, or is one for all of them.

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

    With scale "log", those of their logarithms.
    """

    total: Array
    shift: Array
    spread: Array


class Counts(NamedTuple):
    """How many losses counted, how many of them were limited, and how many were not finite.

    Losses too large for moments in float32 count as not finite; with scale "log", those < 0, too.
    """

    num_losses: Array
    num_clipped: Array
    num_nonfinite: Array


class Step(NamedTuple):
    """One call of the rule, up to where the moments move."""

    losses: Limited
    summary: Summary
    counts: Counts


class Floats:
    """The array module of Python floats, for what is one number, or one :class:`Column`."""

    sqrt, log, expm1 = math.sqrt, math.log, math.expm1

    @staticmethod
    def exp(x: float) -> float:
        try:
            return math.exp(x)
        except OverflowError:
            return math.inf

    @staticmethod
    def where(condition: bool, x: float, y: float) -> float:
        return x if condition else y

    @staticmethod
    def clip(x: float, low: float, high: float) -> float:
        return min(max(x, low), high)

    @staticmethod
    def divide(x: float, y: float) -> float:
        return x / y

    @staticmethod
    def ones_like(x: float) -> float:
        return 1.0

    @staticmethod
    def sum(x: Iterable[float], axis: int) -> float:
        return sum(x)


class Column(tuple[float, ...]):
    """As many floats as there are ranks, with the operators that :func:`combine` needs."""

    __slots__ = ()

    def __mul__(self, other: Iterable[float]) -> "Column":  # type: ignore[override]
        return Column(map(operator.mul, self, other))

    def __sub__(self, other: float) -> "Column":
        return Column(x - other for x in self)


def limits(xp: Module, moments: Moments, settings: Settings) -> tuple[Array, Array]:
    """The lower and upper limit that the next losses will meet; infinite where there is none."""
    mean, variance, num_updates = moments
    unit = abs(mean) if settings.scale == "linear" else xp.ones_like(mean)
    stddev, floor = xp.sqrt(variance), RELATIVE_FLOOR * unit
    stddev = xp.where(stddev > floor, stddev, floor)
    active = stddev >= SMALLEST_STDDEV
    if settings.automatic:
        active = active & (num_updates >= settings.warmup)
    infinite = math.inf * xp.ones_like(mean)
    lower, upper = -infinite, infinite
    above, below = settings.num_stddev, settings.num_stddev_below
    if above < math.inf:  # infinity times a standard deviation of 0 is NaN
        upper = xp.where(active, _beside(xp, mean, above * stddev, settings), upper)
    if below is not None and below < math.inf:
        lower = xp.where(active, _beside(xp, mean, -below * stddev, settings), lower)
    return lower, upper


def _beside(xp: Module, mean: Array, distance: Array, settings: Settings) -> Array:
    """The loss that lies this far above the mean; or its logarithm above theirs."""
    if settings.scale == "linear":
        return mean + distance
    half = xp.exp(0.5 * distance)  # of the whole, exp could overflow where the product does not
    return mean * half * half


def deviations(xp: Module, losses: Array, mean: Array, settings: Settings) -> Array:
    """How far losses lie above the mean; or their logarithms above theirs."""
    if settings.scale == "linear":
        return losses - mean
    # Neither infinite nor that of 0, whatever float32 makes of the quotient.
    return xp.log(xp.clip(xp.divide(losses, mean), SMALLEST_MEAN, LARGEST_RATIO))


def of_losses(xp: Module, moments: Moments, settings: Settings) -> tuple[Array, Array]:
    """Mean and variance of the losses themselves; of log-normal ones, with scale "log"."""
    mean, variance, _ = moments
    if settings.scale == "linear":
        return mean, variance
    mu1 = mean * xp.exp(0.5 * variance)
    return mu1, mu1 * (mu1 * xp.expm1(variance))  # of no spread 0, though the square overflow


def limit(
    xp: Module,
    losses: Array,
    limitable: Array | None,
    bounds: tuple[Array, Array],
    mean: Array,
    settings: Settings,
    largest_factor: float = LARGEST_FACTOR,
) -> Limited:
    """Limits the losses that may be (None: all) to the bounds and finds each gradient's factor."""
    lower, upper = bounds
    one = xp.ones_like(mean)
    offset = losses if settings.center == "zero" else losses - mean

    def share(bound: Array, beyond: Array) -> Array:
        bound = bound if settings.center == "zero" else bound - mean
        # Guarded before the division, for tools that look for NaN in what is not used, too.
        return xp.divide(xp.where(beyond, bound, one), xp.where(beyond, offset, one))

    above = losses > upper
    if limitable is not None:
        above = above & limitable
    # Never amplified; and nearly 0, not flipped, where the limit and the loss differ in sign.
    factor = xp.clip(share(upper, above), SMALLEST_FACTOR, 1.0)
    value = xp.where(above, upper, losses)
    if settings.num_stddev_below is None:
        return Limited(value, factor, above)

    below = losses < lower
    if limitable is not None:
        below = below & limitable
    if settings.center == "zero":
        below = below & (losses > 0)
    raised = xp.clip(share(lower, below), SMALLEST_FACTOR, largest_factor)
    return Limited(xp.where(below, lower, value), factor * raised, above | below)


def largest_loss(settings: Settings) -> float:
    """Losses from here on count like infinite ones."""
    return LARGEST_LOSS if settings.scale == "linear" else math.inf  # any logarithm has a square


def summarise(xp: Module, deviation: Array, weights: Array, reduction: Reduction) -> Summary:
    """Total weight of losses, their mean deviation from the mean, and variance about their own.

    Both are computed from deviations, so that nothing cancels when the mean is large.
    """
    total = reduction.add(weights)
    divisor = xp.where(total > 0, total, xp.ones_like(total))
    shift = reduction.add(weights * deviation) / divisor
    residual = deviation - reduction.take(shift)
    return Summary(total, shift, reduction.add(weights * (residual * residual)) / divisor)


def combine(xp: Module, devices: Summary) -> Summary:
    """The summary of several devices' losses from those of each, which lie along the first axis.

    Sums of squares could simply be added, but would cancel where the running mean is far off.
    """
    totals, shifts, spreads = devices
    reduction = Reduction(take=lambda x: x, add=lambda x: xp.sum(x, axis=0))
    total, shift, between = summarise(xp, shifts, totals, reduction)
    within = reduction.add(totals * spreads) / xp.where(total > 0, total, xp.ones_like(total))
    return Summary(total, shift, between + within)


def advance(xp: Module, moments: Moments, summary: Summary, settings: Settings) -> Moments:
    """The moments after losses of this summary.

    Written so that the variance is a sum of terms that rounding cannot make negative. Nothing
    moves if no loss counted or if the result is not finite.
    """
    mean, variance, num_updates = moments
    total, shift, spread = summary
    share = 1.0 - settings.decay
    if settings.automatic:
        # The average of all losses so far, until that is longer than the decay. Call k weighs like
        # k**(c - 1), c = recency, so that this one's share is c / (t + c), which for t = 0 has to
        # be 1 to the last bit; for c = 1 that is the plain average.
        one = xp.ones_like(mean)
        length = num_updates
        if settings.recency != 1:  # else it stays a whole number, which is exact beyond 2**24
            length = xp.divide(length, one) * (1.0 / settings.recency)
        average = xp.divide(one, length + 1)
        share = xp.where(average > share, average, share * one)
    step = share * shift
    if settings.scale == "linear":
        new_mean = mean + step
    else:  # mean * exp(step), of which the rounding of exp would add up where steps are small
        near = mean + mean * xp.expm1(step)
        new_mean = xp.where(step > -0.5, near, mean * xp.exp(step))
    new_variance = variance + step * ((1.0 - share) * shift) + share * (spread - variance)
    sound = (total > 0) & (abs(new_mean) < LARGEST_MOMENT) & (new_variance < LARGEST_MOMENT)
    if settings.scale == "log":
        sound = sound & (new_mean >= SMALLEST_MEAN)
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
    groups: Reduction | None = None,
    largest_factor: float = LARGEST_FACTOR,
) -> Step:
    """Limits the losses, and summarises for the moments what was limited.

    Args:
        xp: The array module.
        losses: Detached losses of any shape, at least float32.
        weights: Weights of the same shape, at least float32; only positive ones count. None: all
            count.
        moments: The moments before this call, which alone set its limits.
        settings: The hyperparameters.
        groups: Which group each loss belongs to. None: the moments are those of all losses.
        largest_factor: The largest that the gradient's dtype can take.
    """
    if groups is None:
        groups = Reduction(take=lambda x: x, add=xp.sum)
    mean = groups.take(moments.mean)
    weight = xp.ones_like(mean)
    nothing = 0.0 * weight
    size = abs(losses)
    limitable = size < math.inf
    if settings.scale == "log":
        limitable = limitable & (losses > 0)  # no other has a logarithm
    elif settings.center == "zero":
        limitable = limitable & (size > 0)  # scaled towards 0, a 0 has nothing to limit
    if weights is not None:
        wanted = weights > 0
        limitable = limitable & wanted
        weight = xp.clip(weights, SMALLEST_WEIGHT, LARGEST_WEIGHT)
    lower, upper = limits(xp, moments, settings)
    bounds = groups.take(lower), groups.take(upper)
    result = limit(xp, losses, limitable, bounds, mean, settings, largest_factor)
    held = abs(result.value) < largest_loss(settings)
    counted = limitable & held
    # A loss that does not count may be NaN, which a weight of 0 would not silence.
    deviation = deviations(xp, xp.where(counted, result.value, mean), mean, settings)
    summary = summarise(xp, deviation, xp.where(counted, weight, nothing), groups)
    lost = ~held
    if settings.scale == "log":
        lost = lost | (losses < 0)  # the logarithm is not finite
    lost = lost if weights is None else wanted & lost
    counts = Counts(groups.add(counted), groups.add(result.limited), groups.add(lost))
    return Step(result, summary, counts)


def step(
    xp: Module,
    losses: Array,
    weights: Array | None,
    moments: Moments,
    settings: Settings,
    pool: Callable[[Summary], Summary] | None = None,
    groups: Reduction | None = None,
    largest_factor: float = LARGEST_FACTOR,
) -> tuple[Step, Moments]:
    """One whole call: limit the losses, then let the limited losses move the moments.

    Args:
        xp, losses, weights, moments, settings, groups, largest_factor: As for :func:`observe`.
        pool: Makes the summary of the losses here that of all devices, with :func:`combine`.
            None: there are no others.
    """
    result = observe(xp, losses, weights, moments, settings, groups, largest_factor)
    summary = result.summary if pool is None else pool(result.summary)
    return result, advance(xp, moments, summary, settings)


def attach(
    xp: Module,
    loss: Array,
    wide: Array,
    detached: Array,
    result: Limited,
    narrow: Callable[[Array], Array],
) -> Array:
    """The limited losses, with their factors as derivatives; all others as they came.

    ``detached - wide`` is 0 with derivative -1, so that the value is exact, which the product
    loss * factor is not; and it is subtracted, so that a loss of -0.0 keeps its sign. Losses that
    are not limited are taken untouched, so that neither NaN nor rounding reaches their gradients.

    Args:
        loss: The losses that came in.
        wide: The same, at least float32.
        detached: The same, without gradient.
        result: What the rule made of them.
        narrow: Gives numbers the dtype of ``loss``.
    """
    # Anything finite for losses that are not limited: of infinite ones, detached - wide is NaN,
    # which some tools look for even where it is not used.
    off = xp.where(result.limited, detached, result.factor) - wide
    return xp.where(result.limited, narrow(result.value - off * result.factor), loss)


def group_index(xp: Module, index: Array, size: int) -> Array:
    """The index of each loss's group; ``size``, which is no group, for all that is none.

    Losses of no group are never limited and move nothing. To be called with numbers that hold
    ``size``: int8 holds 127 at most.
    """
    return xp.where((index >= 0) & (index < size), index, size * xp.ones_like(index))
