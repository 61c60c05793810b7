"""How long the first losses rule the limit, by scale and recency: the tables of docs/start.md.

Run: python benchmarks/start.py
     python benchmarks/start.py LOG 'loss=([0-9.]+)'   # of a log of yours, one group for the loss
"""

import math
import re
import sys
from pathlib import Path

import numpy as np

from alrc import Settings, rule
from alrc.rule import Moments, Summary

# The default, then the paper's scale, by how soon its average forgets.
SETTINGS = (
    Settings(),
    *(Settings(num_stddev=3, scale="linear", recency=c) for c in (1, 2, 3, 4, 5, 10)),
)
SEEDS = 20
CALLS = 12_000
FALL = np.geomspace(1000, 1, 200)[:, None]  # what the first calm losses are multiplied by
OUTLIER_AT = 5  # within the ten calls of the warm-up
AT = (500, 1000, 2000, 5000)


def limits_met(losses: np.ndarray, settings: Settings) -> np.ndarray:
    """The limit that each loss meets; each column is a training of its own."""
    ones = np.ones(losses.shape[1])
    mean, variance = settings.start
    moments = Moments(mean * ones, variance * ones, np.zeros(len(ones), int))
    limits = np.empty_like(losses)
    for now, limit in zip(losses, limits, strict=True):
        limit[:] = rule.limits(np, moments, settings)[1]
        shift = rule.deviations(np, np.minimum(now, limit), moments.mean, settings)
        moments = rule.advance(np, moments, Summary(ones, shift, 0 * ones), settings)
    return limits


def calls_until_clean(limits: np.ndarray, clean: float) -> int:
    """Calls after which the limit stays below ten times its clean value: median of the columns."""
    far = np.where(np.isfinite(limits), limits, 0) > 10 * clean
    last = len(far) - np.argmax(far[::-1], axis=0)
    return round(np.median(np.where(far.any(axis=0), last, 0)))


def named(settings: Settings) -> str:
    return f'| `"{settings.scale}"` | {settings.recency:g}'


def made() -> list[str]:
    """Calm losses, log-normal around 1; after a fall from 1000, and with an outlier of 1000."""
    calm = np.random.default_rng(0).lognormal(0.0, 0.3, (CALLS, SEEDS))
    fall, outlier = calm.copy(), calm.copy()
    fall[: len(FALL)] *= FALL
    outlier[OUTLIER_AT] *= 1000
    many = np.random.default_rng(1).lognormal(0.0, 0.3, (1000, 2000))
    lines = [
        "| `scale` | `recency` | fall from 1000: calls | outlier of 1000 in the warm-up: calls "
        "| calm losses limited, calls 11 to 50 | 51 to 1,000 |",
        "|---" * 6 + "|",
    ]
    for settings in SETTINGS:
        met = limits_met(np.hstack([calm, fall, outlier]), settings)
        of_calm, of_fall, of_outlier = np.hsplit(met, 3)
        clean = float(np.median(of_calm[CALLS // 2 :]))
        limited = many > limits_met(many, settings)
        lines.append(
            f"{named(settings)} | {calls_until_clean(of_fall, clean):,} "
            f"| {calls_until_clean(of_outlier, clean):,} "
            f"| {100 * limited[10:50].mean():.1f} % | {100 * limited[50:].mean():.1f} % |"
        )
    return lines


def logged(losses: list[float]) -> list[str]:
    """The limit over the median of the 201 losses before it, and how many losses it limits."""
    column = np.array(losses)[:, None]
    at = [step for step in AT if step < len(losses)]
    lines = [
        "| `scale` | `recency` | " + " | ".join(f"at {s:,}" for s in at) + " | losses limited |",
        "|---" * (len(at) + 3) + "|",
    ]
    for settings in SETTINGS:
        limits = limits_met(column, settings)
        ratios = [limits[step, 0] / np.median(column[max(step - 201, 0) : step]) for step in at]
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        limited = (column > limits).sum()
        lines.append(f"{named(settings)} | {cells} | {limited} of {len(losses):,} |")
    return lines


def main() -> None:
    if len(sys.argv) == 1:
        print("\n".join(made()))
        return
    file, pattern = sys.argv[1:]
    found = re.findall(pattern, Path(file).read_text(errors="replace"))
    losses = [loss for loss in map(float, found) if math.isfinite(loss)]
    print("\n".join(logged(losses)))


if __name__ == "__main__":
    main()
