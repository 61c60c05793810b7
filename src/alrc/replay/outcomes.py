"""What the rule would have done to a curve with one setting or another, summed up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from alrc.replay import rules
from alrc.replay.rules import Limits, Mask, Numbers
from alrc.replay.signals import BLOCKS, SMALLEST_BLOCK, Signals
from alrc.replay.verdict import Verdict
from alrc.settings import Settings

# A limit has settled when it first lies within this factor of the level of the losses.
SETTLED = 1.2


@dataclass(frozen=True)
class Outcome:
    """What a rule would have done to a curve.

    Attributes:
        name: The rule, as it is typed.
        settings: Those of ALRC; None for other rules.
        num_losses: Rows with a loss that the rule looks at.
        num_limited: Those of them that it would have limited; or steps skipped or clipped.
        kept: The sum of the limited losses as a share of that of the losses. NaN if some are
            negative, or if the rule changes gradients alone.
        settled: First row at which the limit is within 1.2 times the median of the losses around
            it; None if it never is.
        excess_cut: Share of the area between events and the level below them that is cut; NaN
            if nothing rose, or if the rule changes gradients alone.
    """

    name: str
    settings: Settings | None
    num_losses: int
    num_limited: int
    kept: float = math.nan
    settled: int | None = None
    excess_cut: float = math.nan

    @property
    def share(self) -> float:
        """Share of the losses that would have been limited."""
        return self.num_limited / self.num_losses if self.num_losses else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None for what is not known."""

        def known(value: float) -> float | None:
            return None if math.isnan(value) else value

        return {
            "name": self.name,
            "losses": self.num_losses,
            "limited": self.num_limited,
            "kept": known(self.kept),
            "settled": self.settled,
            "excess_cut": known(self.excess_cut),
        }


class Judge:
    """Runs rules over a curve and sums up what they did."""

    def __init__(
        self,
        losses: Numbers,
        seen: Signals,
        found: Verdict,
        starts: Sequence[int],
        steps_per_row: float,
    ) -> None:
        self.losses, self.seen, self.found = losses, seen, found
        self.starts, self.steps_per_row = starts, steps_per_row

    def limits(self, settings: Settings) -> tuple[Limits, Mask, Outcome]:
        """Limits, what they limit, and the sums."""
        losses, by_row = self.losses, rules.for_rows(settings, self.steps_per_row)
        logs = self.seen.height if self.seen.is_log else None
        parts = [
            rules.limits(losses[a:b], by_row, None if logs is None else logs[a:b])
            for a, b in pairwise((*self.starts, losses.size))
        ]
        bounds = (
            parts[0] if len(parts) == 1 else Limits(*map(np.concatenate, zip(*parts, strict=True)))
        )
        limited = rules.is_limited(losses, bounds, settings)
        rows = np.flatnonzero(limited)
        changed = losses[rows]
        value = np.clip(changed, bounds.lower[rows], bounds.upper[rows])
        counted = rules.countable(losses, settings)
        total = float(losses.sum(where=counted))
        negative = settings.scale != "log" and bool((losses[counted] < 0).any())
        outcome = Outcome(
            name=called(settings),
            settings=settings,
            num_losses=int(counted.sum()),
            num_limited=rows.size,
            kept=math.nan if negative or not total else 1 - float((changed - value).sum()) / total,
            settled=self._settled(bounds.upper),
            excess_cut=self._excess_cut(bounds.upper, limited),
        )
        return bounds, limited, outcome

    def _settled(self, upper: Numbers) -> int | None:
        size = 1 << 16  # the first one is near the start, most often
        for first in range(0, upper.size, size):
            rows = slice(first, first + size)
            level = self.seen.loss(self.seen.level[rows])
            within = upper[rows] <= level + (SETTLED - 1) * np.abs(level)
            for span, _ in self.found.events:  # where the level came to the limit
                slack = max(SMALLEST_BLOCK, 2 * upper.size // BLOCKS)
                within[max(span.first - slack - first, 0) : max(span.end + slack - first, 0)] = (
                    False
                )
            if within.any():
                return first + int(within.argmax())
        return None

    def _excess_cut(self, upper: Numbers, limited: Mask) -> float:
        excess = cut = 0.0
        for span, usual in self.found.events:
            rows = slice(span.first, span.end)
            losses = self.losses[rows]
            above = losses - float(self.seen.loss(usual))
            there = np.isfinite(losses) & (above > 0)
            excess += float(above[there].sum())
            at = there & limited[rows]
            # Below the level there is no excess left to cut.
            over = np.minimum(losses[at] - upper[rows][at], above[at])
            cut += float(over.sum())
        return cut / excess if excess else math.nan


def called(settings: Settings) -> str:
    """The settings as they are typed: ``ALRC(num_stddev=3, scale='linear')``.

    Example:
        >>> called(Settings(3, recency=4))
        'ALRC(num_stddev=3, recency=4)'
    """
    words = []
    for one in fields(Settings):
        value = getattr(settings, one.name)
        if value != one.default:
            shown = f"{value:.12g}" if isinstance(value, float) else repr(value)
            words.append(f"{one.name}={'math.inf' if value == math.inf else shown}")
    return f"ALRC({', '.join(words)})"


def compared_with(chosen: Settings) -> tuple[Settings, ...]:
    """The default, that at other widths, one that forgets its start sooner, and the paper's."""
    if chosen.center == "mean":
        rest = [Settings(n, scale="linear", center="mean") for n in (1, 2, 3, 4, 6, 10)]
        rest += [Settings(3.0, scale="linear", center="mean", recency=4)]
    else:
        rest = [Settings(n) for n in (2, 1, 3, 4, 6, 10)]
        rest += [Settings(recency=4), Settings(3.0, scale="linear")]
    return tuple(settings for settings in rest if settings != chosen)
