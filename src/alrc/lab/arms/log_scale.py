"""ALRC's rule on the logarithms of losses, as pure functions on tensors of ``(runs, ...)``."""

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor

from alrc import rule
from alrc.lab.arms.rows import column
from alrc.rule import Limited, Moments, Reduction
from alrc.settings import Settings

__all__ = ["clip", "init", "settings_of_logs", "thresholds"]


@functools.cache
def settings_of_logs(given: Settings) -> Settings:
    """The settings for logarithms: those for losses, with the starts of a log-normal.

    Raises:
        ValueError: If the first mean is not above 0.
    """
    if given.automatic:
        return replace(given, center="mean")  # logarithms have either sign
    mean, variance = given.start
    if mean <= 0:
        raise ValueError(
            "AlrcLog: mu1_start must be greater than 0, because only losses above 0 have a "
            f"logarithm; got {mean:g}. Pass an estimate of the mean loss, or leave mu1_start and "
            "mu2_start out to start automatically."
        )
    v = math.log1p(variance / mean**2)
    m = math.log(mean) - v / 2
    return replace(given, mu1_start=m, mu2_start=m * m + v, center="mean")


def init(settings: Settings, runs: int, device: torch.device) -> Moments:
    """The moments of logarithms before the first call, in float64: exp() enlarges rounding."""
    mean, variance = settings.start
    none = torch.zeros(runs, dtype=torch.int64, device=device)
    return Moments(none.double() + mean, none.double() + variance, none)


def thresholds(moments: Moments, settings: Settings) -> Tensor:
    """The upper limit of each run's next losses, ``(runs,)``; infinite where there is none."""
    _, above = rule.limits(torch, _about_the_mean(moments), settings)
    limits: Tensor = (moments.mean + above).exp().float()
    return limits


def clip(losses: Tensor, moments: Moments, settings: Settings) -> tuple[Tensor, Moments]:
    """Limits losses of any shape ``(runs, ...)``, and returns them with the next moments."""
    raw, mean = losses.detach(), column(moments.mean, losses)
    rows = Reduction(lambda x: column(x, losses), lambda x: x.reshape(len(x), -1).sum(1))
    # Those of losses up to 0 are NaN or infinite, and so neither count nor have a limit.
    logs = raw.double().log() - mean
    step = rule.observe(torch, logs, None, _about_the_mean(moments), settings, rows)
    where, value = step.losses.limited, (step.losses.value + mean).exp()
    share = torch.where(where, value / raw, 1.0)  # NaN would spread from where it is not used
    factor = share.clamp(rule.SMALLEST_FACTOR, rule.LARGEST_FACTOR)
    limited = Limited(value.to(raw.dtype), factor.to(raw.dtype), where)
    clipped = rule.attach(torch, losses, losses, raw, limited, lambda x: x)
    return clipped, rule.advance(torch, moments, step.summary, settings)


def _about_the_mean(moments: Moments) -> Moments:
    """Those of logarithms less their mean; their floor is 1e-4, which no scale of losses moves."""
    variance = moments.variance.clamp(min=rule.RELATIVE_FLOOR**2)
    return Moments(torch.zeros_like(variance), variance, moments.num_updates)
