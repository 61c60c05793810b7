"""What a curve of losses shows, in the words of the person who looks at it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from alrc.replay import events, periods
from alrc.replay.events import LONGEST_SPIKE, Rise
from alrc.replay.periods import Period
from alrc.replay.signals import Numbers, Signals, Span
from alrc.replay.wording import Finding, Kind, Namer, Words

# The first of these that was found names the curve.
KINDS: tuple[Kind, ...] = get_args(Kind)
# Share of what was learnt, in heights, that a diverged run has lost; and the least factor.
LOST, LEAST_FACTOR = 0.5, 2.2
# A level that is back within this share of the run was an excursion, if the run goes on.
LONGEST_EXCURSION = 1 / 3
# Rows that stand out by this much are looked at for a period.
NOTICED = 4.0


@dataclass(frozen=True)
class Verdict:
    """What a curve shows.

    Attributes:
        kind: The gravest of the findings; "calm" where there is none.
        findings: All, the gravest first.
        period: What comes periodically, if anything does.
        num_values, num_nonfinite: Rows that were looked at, and those of them without a number.
    """

    kind: Kind
    findings: tuple[Finding, ...]
    period: Period | None
    num_values: int
    num_nonfinite: int

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        return self.findings[0].sentence

    @property
    def events(self) -> tuple[tuple[Span, float], ...]:
        """What rose where it should not: rows, and the height that is usual there."""
        return tuple(
            event
            for finding in self.findings
            if finding.kind != "restart"
            for event in zip(finding.spans, finding.usual, strict=True)
        )


def verdict(
    losses: Numbers,
    seen: Signals,
    starts: Sequence[int] = (0,),
    epochs: Numbers | None = None,
    name: Namer = "row {}".format,
) -> Verdict:
    """Says what a curve shows.

    Args:
        losses: (N,) float64.
        seen: Its signals.
        starts: First rows of runs.
        epochs: (N,) epoch of each row, where known.
        name: What a row is called.
    """
    return _Looking(losses, seen, starts, epochs, name).verdict()


class _Looking:
    def __init__(
        self,
        losses: Numbers,
        seen: Signals,
        starts: Sequence[int],
        epochs: Numbers | None,
        name: Namer,
    ) -> None:
        self.losses, self.seen, self.starts, self.name = losses, seen, starts, name
        self.epochs = epochs
        self.bad = ~np.isfinite(losses)
        self.spikes = events.spikes(seen)
        self.rises = events.rises(seen)

    def verdict(self) -> Verdict:
        lost = self._nonfinite_end()
        rises = [rise for rise in self.rises if lost is None or rise.rows.first < lost.first]
        diverged = [rise for rise in rises if self._is_divergence(rise)]
        restarts = [rise for rise in rises if rise.begins_again and rise not in diverged]
        rest = [rise for rise in rises if rise not in diverged and rise not in restarts]
        shifts = [rise for rise in rest if self._is_shift(rise)]
        humps = [rise.rows for rise in rest if rise not in shifts]

        taken = [rise.rows for rise in rises]
        single = [span for span in self.spikes if not any(_touch(span, other) for other in taken)]
        single += [
            span for span in events.spans(self.bad, ~self.bad) if lost is None or span != lost
        ]
        single.sort(key=lambda span: span.first)
        period = self._period()
        if period is not None:
            inside = set(period.rows)
            fit = [s for s in single if inside.intersection(range(s.first - 1, s.end + 1))]
            if len(fit) < 0.5 * len(single):
                period = None
            else:
                single = [span for span in single if span not in fit]
        humps += [span for span in single if span.length > LONGEST_SPIKE]
        single = [span for span in single if span.length <= LONGEST_SPIKE]

        words = Words(self.losses, self.seen, self.rises, self.epochs, self.name)
        findings = [
            *([words.lost(lost)] if lost else []),
            *(words.diverged(rise) for rise in diverged),
            *(words.shifted(rise) for rise in shifts),
            *([words.periodic(period)] if period else []),
            *([words.excursions(humps)] if humps else []),
            *([words.spikes(single)] if single else []),
            *words.restarted(self.starts, restarts),
        ]
        findings = findings or [words.calm()]
        findings.sort(key=lambda finding: KINDS.index(finding.kind))
        return Verdict(
            findings[0].kind, tuple(findings), period, self.losses.size, int(self.bad.sum())
        )

    def _nonfinite_end(self) -> Span | None:
        """The rows from which on no loss is a number any more."""
        if not self.bad[-1]:
            return None
        good = np.flatnonzero(~self.bad)
        return Span(int(good[-1]) + 1, self.losses.size)

    def _is_divergence(self, rise: Rise) -> bool:
        if not rise.lasts or rise.rows.end < self.losses.size:
            return False
        lost = rise.after - rise.before
        return lost >= max(LOST * (rise.start - rise.before), self._height_of(LEAST_FACTOR)) and (
            not rise.begins_again
        )

    def _is_shift(self, rise: Rise) -> bool:
        return rise.lasts or rise.rows.length > LONGEST_EXCURSION * self.losses.size

    def _height_of(self, factor: float) -> float:
        return math.log(factor) if self.seen.is_log else factor - 1

    def _period(self) -> Period | None:
        """What comes periodically, on either side of the level."""
        seen = self.seen
        out = np.fmax(seen.above, seen.below)
        for part in seen.blocks:
            out[part.edges[0] : part.edges[1]] = 0.0
        rows = np.flatnonzero(out > min(seen.threshold, NOTICED))
        return periods.period(rows[np.argsort(-out[rows], kind="stable")][:400], out.size)


def _touch(one: Span, other: Span) -> bool:
    slack = max(8, other.length // 10)
    return one.first < other.end + slack and other.first < one.end + slack
