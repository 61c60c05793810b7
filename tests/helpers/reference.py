"""The rule in plain loops and 60-digit decimals: the oracle the library's numbers are held to.

It is written from the paper's recursion on the two raw moments of the clipped losses,

    mu_k <- b mu_k + (1 - b) mean(clipped loss ** k),   k = 1, 2,   limit = mu1 +- n sigma,

and not from the centred form the library uses, so that an error in the one cannot hide in the
other. It imports nothing of alrc and no array library. In float32, or even float64, mu2 - mu1**2
cancels; with 60 digits there is nothing to take care of, so the code can follow the paper line by
line. With scale "log" the same recursion is that of the logarithms of the clipped losses, and the
limit is exp(mu1 +- n sigma). Numbers given as floats (losses, weights, hyperparameters) are taken
as exactly the binary fractions they are; results are rounded to float only when they are handed
out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext

PRECISION = Context(prec=60)
SPREAD_FLOOR = Decimal("1e-4")  # the spread is never taken as less than this part of |mean|
SMALLEST_SPREAD = Decimal(2) ** -62  # its square is the least that float32 can tell from 0
LARGEST = Decimal(2) ** 62  # the square of a larger loss is lost in float32
LIGHTEST, HEAVIEST = Decimal(2) ** -60, Decimal(2) ** 60  # weights are held in this range
ZERO, ONE, INFINITY = Decimal(0), Decimal(1), Decimal("Infinity")


@dataclass(frozen=True)
class Clipped:
    """One loss after the call: what it became and what its gradient is multiplied by."""

    value: float
    factor: float
    limited: bool
    closeness: float
    """|x - limit| / max(|x|, |limit|) for the nearest limit that can act on x; inf if none can.

    Where this is as small as the rounding of a coarser arithmetic, it may decide the other way.
    """


class Reference:
    """Adaptive learning rate clipping of flat sequences of floats, always in training mode."""

    def __init__(
        self,
        num_stddev: float = 3.0,
        decay: float = 0.999,
        mu1_start: float | None = None,
        mu2_start: float | None = None,
        *,
        num_stddev_below: float | None = None,
        warmup: int = 10,
        recency: float = 1.0,
        center: str = "zero",
        scale: str = "linear",
    ) -> None:
        if scale not in ("linear", "log") or (scale == "log" and center != "zero"):
            raise ValueError("scale is 'linear' or 'log', which takes no center but 'zero'")
        if center not in ("zero", "mean") or (mu1_start is None) != (mu2_start is None):
            raise ValueError("center is 'zero' or 'mean'; give both starts or neither")
        self._num_above = Decimal(num_stddev)
        self._num_below = None if num_stddev_below is None else Decimal(num_stddev_below)
        self._decay = Decimal(decay)
        self._warmup = warmup
        self._recency = Decimal(recency)
        self._weight, self._total_weight = ONE, ZERO  # of the next call, and of all before it
        self._center = center
        self._started = mu1_start is not None
        self._mu1 = Decimal(mu1_start or 0)
        self._mu2 = Decimal(mu2_start or 0)
        with localcontext(PRECISION):  # no distribution has mu2 < mu1**2: take it as variance 0
            self._mu2 = max(self._mu2, self._mu1 * self._mu1)
        self._log = scale == "log"
        if self._log and self._started:
            with localcontext(PRECISION):  # of a log-normal, mu1 = e^(m + v/2), mu2 = e^(2m + 2v)
                v = (self._mu2 / self._mu1 / self._mu1).ln()
                self._mu1 = self._mu1.ln() - v / 2
                self._mu2 = self._mu1 * self._mu1 + v
        self.num_updates = self.num_losses = self.num_clipped = self.num_nonfinite = 0

    def __call__(
        self, losses: Sequence[float], mask: Sequence[bool | float] | None = None
    ) -> list[Clipped]:
        with localcontext(PRECISION):
            lower, upper = self._limits()  # from the moments before these losses
            results = []
            total = sum1 = sum2 = ZERO
            weights = [True] * len(losses) if mask is None else mask
            for loss, weight in zip(losses, weights, strict=True):
                counts = weight > 0
                nothing_to_limit = loss == 0 and self._center == "zero"
                # Of 0 and of what is below, the logarithm is not finite; but 0 counts nowhere.
                finite = math.isfinite(loss) and (loss >= 0 or not self._log)
                if nothing_to_limit or not (counts and finite):
                    self.num_nonfinite += counts and not nothing_to_limit
                    results.append(Clipped(loss, 1.0, limited=False, closeness=math.inf))
                    continue
                x = Decimal(loss)
                clipped, factor = self._clip(x, lower, upper)
                limited = clipped != x
                value = float(clipped) if limited else loss
                closeness = float(self._closeness(x, lower, upper))
                results.append(Clipped(value, float(factor), limited, closeness))
                self.num_clipped += limited
                if abs(clipped) >= LARGEST and not self._log:
                    self.num_nonfinite += 1
                    continue
                self.num_losses += 1
                share = min(max(Decimal(weight), LIGHTEST), HEAVIEST)
                total += share
                measured = clipped.ln() if self._log else clipped
                sum1 += share * measured
                sum2 += share * measured * measured
            if total > 0:
                b = self._decay
                if not self._started:  # weighted average of all calls until it is long enough
                    whole = self._total_weight + self._weight
                    b = min(b, self._total_weight / whole)
                    self._total_weight = whole
                    # The k-th weighs (1 + (c-1)/1) (1 + (c-1)/2) ... (1 + (c-1)/(k-1)), which
                    # grows like k**(c-1); all of them the same for c = 1.
                    self._weight *= 1 + (self._recency - 1) / (self.num_updates + 1)
                self._mu1 = b * self._mu1 + (1 - b) * (sum1 / total)
                self._mu2 = b * self._mu2 + (1 - b) * (sum2 / total)
                self.num_updates += 1
            return results

    def _variance(self) -> Decimal:
        return max(self._mu2 - self._mu1 * self._mu1, ZERO)

    def _limits(self) -> tuple[Decimal, Decimal]:
        unit = ONE if self._log else abs(self._mu1)
        spread = max(self._variance().sqrt(), SPREAD_FLOOR * unit)
        warming_up = not self._started and self.num_updates < self._warmup
        if warming_up or spread < SMALLEST_SPREAD:
            return -INFINITY, INFINITY
        below = INFINITY if self._num_below is None else self._num_below * spread
        lower, upper = self._mu1 - below, self._mu1 + self._num_above * spread
        return (lower.exp(), upper.exp()) if self._log else (lower, upper)

    def _lower_acts_on(self, x: Decimal) -> bool:
        return self._center == "mean" or x > 0

    def _clip(self, x: Decimal, lower: Decimal, upper: Decimal) -> tuple[Decimal, Decimal]:
        """The limited loss, and the factor by which its gradient is scaled."""
        origin = self._mu1 if self._center == "mean" else ZERO
        if x > upper:
            if x == origin:  # 0 above a negative limit has no ratio: no gradient
                return upper, ZERO
            return upper, min(max((upper - origin) / (x - origin), ZERO), ONE)
        if x < lower and self._lower_acts_on(x):
            return lower, (lower - origin) / (x - origin)  # > 1 for center "zero": raised
        return x, ONE

    def _closeness(self, x: Decimal, lower: Decimal, upper: Decimal) -> Decimal:
        nearest = INFINITY
        for limit in (lower, upper) if self._lower_acts_on(x) else (upper,):
            if limit.is_finite():
                size = max(abs(x), abs(limit))
                nearest = min(nearest, abs(x - limit) / size if size else ZERO)
        return nearest

    @property
    def mean(self) -> float:
        """The mean; of logarithms, its exponential, which is the geometric mean of the losses."""
        with localcontext(PRECISION):
            return float(self._mu1.exp() if self._log else self._mu1)

    @property
    def variance(self) -> float:
        with localcontext(PRECISION):
            return float(self._variance())

    @property
    def mu1(self) -> float:
        with localcontext(PRECISION):
            return float((self._mu1 + self._variance() / 2).exp() if self._log else self._mu1)

    @property
    def mu2(self) -> float:
        with localcontext(PRECISION):
            return float((2 * (self._mu1 + self._variance())).exp() if self._log else self._mu2)

    @property
    def lower(self) -> float:
        with localcontext(PRECISION):
            return float(self._limits()[0])

    @property
    def upper(self) -> float:
        with localcontext(PRECISION):
            return float(self._limits()[1])
