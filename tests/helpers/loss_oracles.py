"""What the lab's arms that act on losses are held to: their published formulas in plain float64.

An oracle is called with the losses of one step, and gives what each becomes, what its gradient is
multiplied by, and the state that is left, by name. It imports nothing of ours but the reference.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reference import Reference

Numbers = NDArray[np.float64]
Result = tuple[list[float], list[float], Mapping[str, Any]]
Oracle = Callable[[list[float]], Result]


def each(one: Callable[[float], tuple[float, float]]) -> Oracle:
    """An arm without state that does the same to each loss."""

    def oracle(losses: list[float]) -> Result:
        pairs = [one(x) for x in losses]
        return [value for value, _ in pairs], [factor for _, factor in pairs], {}

    return oracle


def huber(delta: float, power: float) -> Oracle:
    def one(loss: float) -> tuple[float, float]:
        residual = loss ** (1 / power)
        if not residual > delta:
            return loss, 1.0
        value = delta**power + power * delta ** (power - 1) * (residual - delta)
        return value, (delta / residual) ** (power - 1)

    return each(one)


def huberise(above: float) -> Oracle:
    def one(loss: float) -> tuple[float, float]:
        if not loss > above:
            return loss, 1.0
        root = math.sqrt(loss / above + 1e-8)
        return above * root, 0.5 / root

    return each(one)


def gce(q: float) -> Oracle:
    return each(lambda loss: ((1 - math.exp(-loss) ** q) / q, math.exp(-loss) ** q))


def sce(alpha: float, beta: float, a: float) -> Oracle:
    def one(loss: float) -> tuple[float, float]:
        p = math.exp(-loss)  # of the label; all other probabilities meet a logarithm of 0, -a
        return alpha * loss + beta * a * (1 - p), alpha + beta * a * p

    return each(one)


def mean_of(losses: list[float], kept: list[bool]) -> Result:
    weight = len(kept) / max(sum(kept), 1)
    values = [x * weight if keep else 0.0 for x, keep in zip(losses, kept, strict=True)]
    return values, [weight * keep for keep in kept], {}


def trim(share: str) -> Oracle:
    def oracle(losses: list[float]) -> Result:
        count = max(1, math.floor((1 - Fraction(share)) * len(losses)))
        order = sorted(range(len(losses)), key=lambda i: (math.isnan(losses[i]), losses[i], i))
        return mean_of(losses, [i in order[:count] for i in range(len(losses))])

    return oracle


def loss_dropper(dropc: float, memory: int) -> Oracle:
    latest: deque[float] = deque(maxlen=memory)
    cutoff, since = math.inf, 0

    def oracle(losses: list[float]) -> Result:
        nonlocal cutoff, since
        latest.extend(losses)
        since += len(losses)
        if since > memory:
            numbers = sorted(x for x in latest if not math.isnan(x))
            place = (1 - dropc) * (len(numbers) - 1)
            low, high = numbers[math.floor(place)], numbers[math.ceil(place)]
            cutoff, since = low + (high - low) * (place - math.floor(place)), 0
        kept = [x < cutoff for x in losses]
        values = [x if keep else 0.0 for x, keep in zip(losses, kept, strict=True)]
        state = {"cutoff": cutoff, "latest": sorted(latest, key=lambda x: (math.isnan(x), x))}
        return values, [float(keep) for keep in kept], state

    return oracle


def alrc_clamp(**settings: Any) -> Oracle:
    reference = Reference(**settings)

    def oracle(losses: list[float]) -> Result:
        clipped = reference(losses)
        values = [x.value for x in clipped]
        return values, [float(not x.limited) for x in clipped], _moments(reference)

    return oracle


def alrc_drop(**settings: Any) -> Oracle:
    reference = Reference(**settings)

    def oracle(losses: list[float]) -> Result:
        values, factors, _ = mean_of(losses, [not x.limited for x in reference(losses)])
        return values, factors, _moments(reference)

    return oracle


def _moments(reference: Reference) -> dict[str, float]:
    names = ("mean", "variance", "num_updates", "upper")
    return {name: getattr(reference, name) for name in names}


def alrc_log(
    n: float,
    below: float = math.inf,
    decay: float = 0.999,
    warmup: int = 10,
    starts: tuple[float, float] | None = None,
    recency: float = 1.0,
) -> Oracle:
    """The raw moments of limited logarithms, mu_k <- b mu_k + (1 - b) mean(log(loss)**k)."""
    mu1 = mu2 = 0.0
    count = 0
    if starts is not None:  # log-normal: E L = exp(m + v / 2), E L^2 = exp(2 m + 2 v)
        mu1 = 2 * math.log(starts[0]) - math.log(starts[1]) / 2
        mu2 = mu1**2 + math.log(starts[1]) - 2 * math.log(starts[0])

    def oracle(losses: list[float]) -> Result:
        nonlocal mu1, mu2, count
        s = max(math.sqrt(max(mu2 - mu1**2, 0)), 1e-4)
        free = starts is None and count < warmup
        low, high = (0.0, math.inf) if free else (math.exp(mu1 - below * s), math.exp(mu1 + n * s))
        counts = [0 < x < math.inf for x in losses]
        values = [min(max(x, low), high) if c else x for x, c in zip(losses, counts, strict=True)]
        factors = [y / x if c else 1.0 for x, y, c in zip(losses, values, counts, strict=True)]
        logs = np.log([y for y, c in zip(values, counts, strict=True) if c])
        if logs.size:
            b = decay if starts is not None else min(decay, count / (count + recency))
            mu1 = b * mu1 + (1 - b) * logs.mean()
            mu2 = b * mu2 + (1 - b) * (logs**2).mean()
            count += 1
        state = {"mean": mu1, "variance": mu2 - mu1**2, "num_updates": count}
        return values, factors, state

    return oracle
