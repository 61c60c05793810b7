"""What rules that look at the norm of the gradient would have done to a curve."""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from alrc.replay.rules import Mask, Numbers

CHUNK = 4096  # windows at a time


def zclip(norms: Numbers, alpha: float = 0.97, z_threshold: float = 2.5, warmup: int = 25) -> Mask:
    """Rows whose gradient ZClip would have scaled down, but for its fixed largest norm.

    A norm z > z_threshold standard deviations above the running mean counts as
    mean + z_threshold**2 * sd / z. Rows without a finite norm are left out.

    References:
        A. Kumar et al., "ZClip: adaptive spike mitigation for LLM pre-training", 2025,
        https://arxiv.org/abs/2504.02507.
    """
    clipped = np.zeros(norms.size, dtype=bool)
    rows = np.flatnonzero(np.isfinite(norms))
    first = norms[rows[:warmup]]
    if first.size < warmup:
        return clipped
    mean, variance = float(first.mean()), float(first.var())
    for row, norm in zip(rows[warmup:].tolist(), norms[rows[warmup:]].tolist(), strict=True):
        sd = math.sqrt(variance)
        z = (norm - mean) / (sd + 1e-6)
        if z > z_threshold:
            clipped[row] = True
            norm = mean + z_threshold**2 * sd / z
        mean += (1 - alpha) * (norm - mean)
        variance += (1 - alpha) * ((norm - mean) ** 2 - variance)
    return clipped


def skip_step(losses: Numbers, norms: Numbers, window: int = 128, num_stddev: float = 6.0) -> Mask:
    """Rows whose step OLMo's rule would have skipped.

    That is where the loss or the norm lies more than num_stddev sample standard deviations above
    the mean of the ``window`` rows before, or is not finite; the first half of a window is taken.
    Rows that are not finite do not enter the mean.
    """
    skipped = _stands_out(losses, window, num_stddev) | _stands_out(norms, window, num_stddev)
    skipped[: max(20, window // 2) - 1] = False
    return skipped


def _stands_out(numbers: Numbers, window: int, num_stddev: float) -> Mask:
    """Which are far above the ``window`` finite ones before them, or not finite."""
    out = ~np.isfinite(numbers)
    rows = np.flatnonzero(~out)
    known = numbers[rows]
    # Of each window anew: running sums would never forget the square of a huge number.
    with np.errstate(over="ignore", invalid="ignore"):
        for row in range(2, min(window, known.size)):
            past = known[:row]
            out[rows[row]] = known[row] - past.mean() > num_stddev * past.std(ddof=1)
        for first in range(window, known.size, CHUNK):
            end = min(first + CHUNK, known.size)
            past = sliding_window_view(known[first - window : end - 1], window)
            far = num_stddev * past.std(axis=1, ddof=1)
            out[rows[first:end]] = known[first:end] - past.mean(axis=1) > far
    return out
