"""The rule for finite losses on the CPU, where reading a number costs no wait; PyTorch only.

What is one number is a Python float here, ten times faster than a tensor of shape (); and where
no loss is beyond its limit, the loss itself is returned.
"""

import math

import torch
from torch import Tensor

from alrc import rule
from alrc.rule import (
    LARGEST_LOSS,
    LARGEST_MOMENT,
    Counts,
    Floats,
    Limited,
    Moments,
    Step,
    Summary,
)
from alrc.settings import SMALLEST_MEAN, Settings
from alrc.torch import inputs


class Unsound(Exception):
    """The moments are no numbers that training leaves."""


def observe(
    loss: Tensor, moments: Moments, settings: Settings
) -> tuple[Tensor, Step, Moments] | None:
    """As :func:`alrc.torch.pure.observe`; None where tensors are to be used.

    That is where a number cannot be read, or where some losses are not finite or too large.

    Raises:
        Unsound: If the moments are none.
    """
    if not inputs.is_readable(loss):
        return None
    try:
        low, high = _extremes(loss)
        numbers = read(moments)
    except RuntimeError:
        return None  # no number to read: an empty loss, or a call under vmap
    if not (low > -LARGEST_LOSS and high < LARGEST_LOSS):
        return None
    if not (numbers.variance >= 0.0 and abs(numbers.mean) < LARGEST_MOMENT):
        raise Unsound
    is_log = settings.scale == "log"
    if is_log and not numbers.mean >= SMALLEST_MEAN:
        raise Unsound
    bounds = rule.limits(Floats, numbers, settings)
    if is_log and (low < 0.0 or high == 0.0):
        return None  # losses that have no logarithm, or nothing counts
    has_zeros = is_log and low == 0.0
    if not is_log and settings.center == "zero" and low <= 0.0 <= high:
        has_zeros = loss.dim() == 0 or int(loss.count_nonzero()) < loss.numel()
        if has_zeros and (low == high or bounds[1] < 0.0):
            return None  # nothing counts, or a negative limit, which zeros are not to meet
    within = bounds[0] <= low and high <= bounds[1]
    if loss.dim() == 0:
        result = Limited(low, 1.0, False)
        if not within:
            largest = inputs.largest_factor(loss)
            result = rule.limit(Floats, low, None, bounds, numbers.mean, settings, largest)
        size = 1
        num_clipped: Tensor | int = int(result.limited)
        shift = rule.deviations(Floats, result.value, numbers.mean, settings)
        summary = Summary(size, shift, 0.0)
    else:
        losses = inputs.detached(loss)
        result = Limited(losses, 1.0, False)
        num_clipped = 0
        if not within:
            result = _limit_each(
                losses, bounds, moments.mean, settings, inputs.largest_factor(loss)
            )
            num_clipped = result.limited.count_nonzero()
        counted = result.value
        if has_zeros:
            counted = counted[losses > 0 if is_log else losses != 0]
        size = counted.numel()
        deviations = rule.deviations(torch, counted, moments.mean, settings)
        variance, shift = torch.var_mean(deviations, correction=0)
        summary = Summary(size, shift.item(), variance.item())
    limited = loss if within else _with_factor(loss, result)
    return limited, Step(result, summary, Counts(size, num_clipped, 0)), numbers


def read(moments: Moments) -> Moments:
    mean, variance, num_updates = moments
    return Moments(mean.item(), variance.item(), num_updates.item())


def _extremes(loss: Tensor) -> tuple[float, float]:
    if loss.dim() == 0:
        value = loss.item()
        return value, value
    low, high = inputs.detached(loss).aminmax()
    return low.item(), high.item()


def _limit_each(
    losses: Tensor, bounds: tuple[float, float], mean: Tensor, settings: Settings, largest: float
) -> Limited:
    def tensor(bound: float) -> Tensor:
        return torch.scalar_tensor(bound, dtype=losses.dtype, device=losses.device)

    upper = tensor(bounds[1] if bounds[1] < LARGEST_MOMENT else math.inf)
    lower = upper if settings.num_stddev_below is None else tensor(bounds[0])  # else not looked at
    return rule.limit(torch, losses, None, (lower, upper), mean, settings, largest)


def _with_factor(loss: Tensor, result: Limited) -> Tensor:
    limited: Tensor = (loss * result.factor).to(loss.dtype)
    # The product is off by a rounding error: put the limit itself in, beneath autograd.
    value, inside = result.value, limited.detach()
    inside.copy_(value) if isinstance(value, Tensor) else inside.fill_(value)
    return limited
