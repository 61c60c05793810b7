"""Curves of losses with one planted phenomenon each: many descents, noises and places.

A curve is the product of a descent, noise and what is planted; all that is random comes from the
seed. What is planted is as large as a person would call by that name: a spike stands clear of the
largest noise, a shift of the level is seen without smoothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

KINDS = (
    "calm",
    "isolated spikes",
    "excursions",
    "divergence",
    "periodic",
    "restart",
    "level shift",
)


@dataclass(frozen=True)
class Planted:
    """A curve and what was planted in it.

    Attributes:
        losses: (N,) float64.
        kind: One of KINDS.
        places: Rows at which it was planted.
        period: Rows from one spike to the next, where kind is "periodic".
        starts: Where runs begin, as a reader of logs would have found out.
    """

    losses: NDArray[np.float64]
    kind: str
    places: tuple[int, ...] = ()
    period: int | None = None
    starts: tuple[int, ...] = (0,)


def curve(kind: str, seed: int) -> Planted:
    rng = np.random.default_rng([KINDS.index(kind), seed])
    size = int(10 ** rng.uniform(2.6, 4.2))
    clean = descent(rng, size)
    rough = noise(rng, size)
    return globals()["_" + kind.replace(" ", "_")](rng, clean, rough)


def descent(rng: Generator, size: int) -> NDArray[np.float64]:
    """Mean losses: exponentials, power laws, falls of the learning rate, plateaus, flat ones."""
    t = np.arange(size) / size
    low, high = 10.0 ** rng.uniform(-3, 1), 10 ** rng.uniform(0.2, 1.3)
    shape = rng.integers(6)
    if shape == 0:
        fall = np.exp(-t / 10 ** rng.uniform(-1.7, -0.3))
    elif shape == 1:
        fall = (1 + t * size / 10 ** rng.uniform(0.5, 2)) ** -rng.uniform(0.2, 1)
    elif shape == 2:  # the learning rate falls twice
        first, second = np.sort(rng.uniform(0.3, 0.9, 2))
        fall = np.exp(-t / 0.1) * 0.7 + 0.15 * (t < first) + 0.15 * (t < second)
    elif shape == 3:  # a plateau at first
        fall = 1 / (1 + np.exp((t - rng.uniform(0.08, 0.3)) / rng.uniform(0.01, 0.05)))
    elif shape == 4:  # fine-tuning: almost flat
        fall, high = 1 - t, rng.uniform(1.0, 1.3)
    else:  # as the learning rate's cosine
        fall = 0.6 * np.exp(-t / 0.03) + 0.2 * (1 + np.cos(np.pi * t))
    return np.asarray(low * (1 + (high - 1) * fall))


def noise(rng: Generator, size: int) -> NDArray[np.float64]:
    """Positive factors with a median near 1: log-normal, gamma, power-law tails, autocorrelated."""
    spread = 10 ** rng.uniform(-2, -0.7)
    shape = rng.integers(5)
    if shape == 0:
        return np.asarray(np.exp(spread * rng.normal(size=size)))
    if shape == 1:  # the spread grows or shrinks
        along = np.linspace(rng.uniform(0.3, 1), rng.uniform(0.3, 1), size)
        return np.asarray(np.exp(spread * along * rng.normal(size=size)))
    if shape == 2:  # losses of a few examples a batch
        count = rng.integers(4, 64)
        return np.asarray(rng.gamma(count, 1 / count, size=size))
    if shape == 3:  # tails that fall by a power
        return np.asarray(np.exp(spread * rng.laplace(size=size)))
    white, smooth = rng.normal(size=size), rng.uniform(0.3, 0.8)  # as progress bars show it
    drawn = np.empty(size)
    drawn[0] = white[0]
    for i in range(1, size):
        drawn[i] = smooth * drawn[i - 1] + np.sqrt(1 - smooth**2) * white[i]
    return np.asarray(np.exp(spread * drawn))


def _clear(rng: Generator, rough: NDArray[np.float64], least: float = 1.5) -> float:
    """A factor that stands clear of the noise: twice its largest deviation, or more."""
    logs = np.log(rough)
    widest = max(np.log(least), 2 * (logs.max() - np.median(logs)))
    return float(np.exp(widest * rng.uniform(1, 2)))


def _calm(rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]) -> Planted:
    return Planted(clean * rough, "calm")


def _isolated_spikes(
    rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]
) -> Planted:
    size = clean.size
    count = int(rng.integers(1, 6))
    places = np.sort(rng.choice(np.arange(size // 12, size - 5), count, replace=False))
    losses = clean * rough
    for place in places:
        width = int(rng.integers(1, 3))
        losses[place : place + width] *= _clear(rng, rough)
    return Planted(losses, "isolated spikes", tuple(map(int, places)))


def _excursions(rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]) -> Planted:
    size = clean.size
    losses, places = clean * rough, []
    for part in range(int(rng.integers(1, 3))):  # each in its half
        length = int(np.clip(10 ** rng.uniform(1.1, 3) * size / 4000, 20, size // 8))
        place = int(size * (0.1 + 0.45 * part + rng.uniform(0, 0.25)))
        rise = int(rng.integers(1, max(2, length // 4)))
        along = np.arange(size - place)
        hump = np.where(
            along < rise, (along + 1) / rise, np.exp(-3 * (along - rise) / (length - rise))
        )
        losses[place:] *= np.exp(np.log(_clear(rng, rough)) * hump * (along < 2 * length))
        places.append(place)
    return Planted(losses, "excursions", tuple(places))


def _divergence(rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]) -> Planted:
    size = clean.size
    place = int(size * rng.uniform(0.3, 0.85))
    losses, along = clean * rough, np.arange(size - place)
    shape = rng.integers(3)
    if shape == 0:  # not a number from here on
        losses[place:] = [np.nan, np.inf][int(rng.integers(2))]
    elif shape == 1:  # explodes
        losses[place:] *= np.exp(rng.uniform(3, 12) * along / along.size)
    else:  # leaps to where it began or above, and stays
        leap = losses[:3].mean() * rng.uniform(1, 3) * max(1.0, 3 * clean[place] / clean[0])
        ramp = np.minimum(1, (along + 1) / rng.integers(1, 20))
        losses[place:] = clean[place] * (leap / clean[place]) ** ramp * rough[place:]
    return Planted(losses, "divergence", (place,))


def _periodic(rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]) -> Planted:
    size = clean.size
    period = int(rng.integers(max(8, size // 60), size // 6))
    last = np.arange(period - 1, size, period)
    losses = clean * rough
    if rng.integers(2):
        for place in last:
            losses[place] *= _clear(rng, rough)
    else:  # few examples in the last batch, which may be easy or hard ones
        losses[last] *= np.exp(np.log(_clear(rng, rough)) * rng.choice([-1, 1, 1], last.size))
    return Planted(losses, "periodic", tuple(map(int, last)), period)


def _restart(rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]) -> Planted:
    size = clean.size
    place = int(size * rng.uniform(0.2, 0.6))
    t = np.arange(size)
    decay = size * 10 ** rng.uniform(-1.7, -0.7)
    low, high = clean[-1], clean[-1] * rng.uniform(4, 20)
    again = np.where(t < place, t, t - place)  # trained anew, from the first step
    losses = (low + (high - low) * np.exp(-again / decay)) * rough
    return Planted(losses, "restart", (place,), starts=(0, place) if rng.integers(2) else (0,))


def _level_shift(rng: Generator, clean: NDArray[np.float64], rough: NDArray[np.float64]) -> Planted:
    size = clean.size
    place = int(size * rng.uniform(0.3, 0.8))
    # Hardly anything is learnt after it, so that nothing hides it.
    clean = np.append(clean[:place], clean[place] * (clean[place:] / clean[place]) ** 0.2)
    losses = clean * rough
    spread = 1.4826 * np.median(np.abs(np.log(rough)))
    shift = np.exp(max(spread * rng.uniform(3, 4), np.log(rng.uniform(1.15, 1.6))))
    ramp = np.minimum(1, (np.arange(size - place) + 1) / rng.integers(1, 10))
    losses[place:] *= min(shift, 1.9) ** ramp
    return Planted(losses, "level shift", (place,))
