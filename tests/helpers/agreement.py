"""Compares a front end with the reference, call by call: values, gradients, moments, counts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from frontends import FrontEnd, Mask
from reference import Reference

UNDERFLOW = 2.0**-125  # moments below it are not normal numbers in float32
Batch = tuple[Sequence[float], Mask]


def assert_agrees(row: type[FrontEnd], batches: Sequence[Batch], **settings: Any) -> None:
    """Feeds both the same batches and compares all there is after every call.

    Every third call is preceded by one in evaluation, which has to change nothing.
    """
    ours, reference = row(**settings), Reference(**settings)
    ours.hurry = len(batches) > 50
    is_log = settings.get("scale") == "log"
    allowed = (LogTolerances if is_log else Tolerances)(reference, settings)
    for index, (losses, mask) in enumerate(batches):
        losses = [float(x) for x in np.asarray(losses, np.float32)]
        if index % 3 == 2:
            before = ours.moments
            assert ours.evaluate([7.0, 1e9]) == ([7.0, 1e9], [1.0, 1.0]), f"evaluation, {row}"
            assert ours.moments == before, f"evaluation of {row.__name__} moved the moments"
        limits, updates_before = (reference.lower, reference.upper), reference.num_updates
        pivot = reference.mean if settings.get("center") == "mean" else 0.0
        values, factors = ours(losses, mask)
        expected = reference(losses, mask)

        where = f"call {index} of {row.__name__}({settings})"
        for x, value, factor, e in zip(losses, values, factors, expected, strict=True):
            if not e.limited and all(not abs(x - y) <= allowed.at(y) for y in limits):
                assert value == x or (math.isnan(value) and math.isnan(x)), where
                assert factor == 1.0, where
            else:
                relative = 1e-5 + allowed.at(e.value) / max(abs(x - pivot), 1e-300)
                assert value == Within(e.value, allowed.at(e.value)), where
                assert factor == Within(e.factor, relative * max(e.factor, 1.0)), where

        if reference.num_updates > updates_before:
            allowed.after_update(reference, any(e.limited for e in expected))
        mean, variance, num_updates = ours.moments
        assert num_updates == reference.num_updates, where
        assert mean == Within(reference.mean, allowed.mean), where
        assert variance == Within(reference.variance, allowed.variance), where
        if ours.counts and any(e.closeness < 1e-3 for e in expected):
            reference.num_clipped = ours.counts[1]  # so close that rounding decided
        counts = reference.num_losses, reference.num_clipped, reference.num_nonfinite
        assert ours.counts in (None, counts), where


class Tolerances:
    """What float32 moments may be off by, absolutely.

    As promised: 2e-5 of the size of the losses for the mean, 1e-4 of the variance, which is 2e-3
    of it where the losses spread by 1e-4 of their size. Rounding errors are those of the sizes
    before and after a call, and are forgotten at the rate at which the moments forget; not at
    all where a loss was limited, because the limit hands them on to the moments.
    """

    def __init__(self, reference: Reference, settings: dict[str, Any]) -> None:
        self.decay = settings.get("decay", 0.999)
        self.width = max(settings.get("num_stddev", 3.0), settings.get("num_stddev_below") or 0.0)
        self.size = self.now = math.sqrt(reference.mu2)
        self.spread = self.spread_now = reference.variance
        self._set(reference)

    def after_update(self, reference: Reference, limited: bool) -> None:
        now, spread_now = math.sqrt(reference.mu2), reference.variance
        kept = 1.0 if limited else self.decay
        self.size = max(kept * self.size, self.now, now)
        self.spread = max(kept * self.spread, self.spread_now, spread_now)
        self.now, self.spread_now = now, spread_now
        self._set(reference)

    def _set(self, reference: Reference) -> None:
        v = reference.variance
        self.mean = 2e-5 * self.size + UNDERFLOW
        self.variance = 1e-4 * v + 2e-7 * self.spread + 2e-11 * self.size**2 + UNDERFLOW
        stddev = math.sqrt(v + self.variance) - math.sqrt(v)
        self.limit = self.mean + min(self.width, 1e6) * stddev

    def at(self, limit: float) -> float:
        return self.limit


class LogTolerances(Tolerances):
    """The same for logarithms, of which differences are relative ones of losses."""

    def __init__(self, reference: Reference, settings: dict[str, Any]) -> None:
        super().__init__(reference, settings)
        self.size = self.now = _size(reference)

    def after_update(self, reference: Reference, limited: bool) -> None:
        self.now, before = _size(reference), self.now
        self.size = max((1.0 if limited else self.decay) * self.size, before, self.now)
        self.spread = max(self.spread, reference.variance)
        self._set(reference)

    def _set(self, reference: Reference) -> None:
        v, size = reference.variance, getattr(self, "size", 1.0)
        # The logarithms of the first call are taken of losses that nothing has scaled yet.
        first = 6e-8 * max(1.0, abs(math.log(reference.mean)))
        self.variance = 1e-4 * v + 2e-7 * self.spread + 2e-11 * size**2 + first * math.sqrt(v)
        stddev = math.sqrt(v + self.variance) - math.sqrt(v)
        self.relative = 2e-5 * size + min(self.width, 1e6) * stddev
        self.mean = 2e-5 * size * reference.mean

    def at(self, limit: float) -> float:
        return self.relative * min(limit, 1e300)


def _size(reference: Reference) -> float:
    return max(1.0, math.sqrt(reference.variance))


class Within:
    """Equal up to an absolute tolerance; infinities equal themselves and NaN nothing."""

    def __init__(self, expected: float, tolerance: float) -> None:
        self.expected, self.tolerance = expected, tolerance

    def __eq__(self, actual: object) -> bool:
        assert isinstance(actual, float)
        return actual == self.expected or abs(actual - self.expected) <= self.tolerance

    def __repr__(self) -> str:
        return f"{self.expected!r} +- {self.tolerance:.2g}"


def stream(
    seed: int = 0,
    calls: int = 300,
    batch_size: int = 4,
    scale: float = 1.0,
    spread: float = 1.0,
    bad: bool = True,
    masked: bool = True,
    signed: bool = False,
) -> list[Batch]:
    """Losses as in a training run: log-normal, with spikes, and now and then something broken."""
    rng = np.random.default_rng(seed)
    sigma = math.sqrt(math.log1p(spread**2))
    batches: list[Batch] = []
    for call in range(calls):
        losses = scale * np.exp(sigma * rng.standard_normal(batch_size) - sigma**2 / 2)
        losses *= np.where(rng.random(batch_size) < 0.05, 10.0 ** rng.integers(1, 7), 1.0)
        if signed:
            losses -= 1.5 * scale
        if bad and call % 7 == 3:
            losses[rng.integers(batch_size)] = rng.choice([np.nan, np.inf, -np.inf])
        if bad and call % 31 == 30:
            losses[:] = np.nan
        if bad and call % 11 == 5:
            losses[rng.integers(batch_size)] = 0.0
        mask = None
        if masked and call % 2:
            mask = rng.choice([0.0, 1.0, 0.25, 2.0], batch_size).tolist()
        if masked and call % 29 == 28:
            mask = [0.0] * batch_size
        batches.append((losses.astype(np.float32).tolist(), mask))
    return batches
