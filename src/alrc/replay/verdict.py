"""What a curve of losses shows, in the words of the person who looks at it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alrc.replay import events, periods
from alrc.replay.events import LONGEST_SPIKE, Rise
from alrc.replay.periods import Period
from alrc.replay.signals import Numbers, Signals, Span

Kind = Literal[
    "divergence",
    "level shift",
    "periodic",
    "excursions",
    "isolated spikes",
    "restart",
    "calm",
]
# The first of these that was found names the curve.
KINDS: tuple[Kind, ...] = (
    "divergence",
    "level shift",
    "periodic",
    "excursions",
    "isolated spikes",
    "restart",
    "calm",
)
# Share of what was learnt, in heights, that a diverged run has lost; and the least factor.
LOST, LEAST_FACTOR = 0.5, 2.2
# A level that is back within this share of the run was an excursion, if the run goes on.
LONGEST_EXCURSION = 1 / 3
# Rows that stand out by this much are looked at for a period.
NOTICED = 4.0

Namer = Callable[[int], str]


@dataclass(frozen=True)
class Finding:
    """One thing that a curve shows.

    Attributes:
        kind: One of KINDS.
        spans: Rows where it is.
        usual: Heights that the losses would have without it, one for each of ``spans``.
        sentence: The same in words, with the numbers that say so.
    """

    kind: Kind
    spans: tuple[Span, ...]
    usual: tuple[float, ...]
    sentence: str


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

        findings = [
            *([self._lost(lost)] if lost else []),
            *(self._diverged(rise) for rise in diverged),
            *(self._shifted(rise) for rise in shifts),
            *([self._periodic(period)] if period else []),
            *([self._excursions(humps)] if humps else []),
            *([self._spikes(single)] if single else []),
            *self._restarted(restarts),
        ]
        findings = findings or [self._calm()]
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

    # The words.

    def _found(self, kind: Kind, spans: Sequence[Span], sentence: str) -> Finding:
        return Finding(kind, tuple(spans), tuple(map(self._usual, spans)), sentence)

    def _loss(self, height: float) -> str:
        return f"{float(self.seen.loss(height)):.4g}"

    def _lost(self, span: Span) -> Finding:
        last = self.losses[span.first - 1]
        return self._found(
            "divergence",
            [span],
            f"divergence: from {self.name(span.first)} to the end no loss is finite "
            f"({count(span.length, 'row')}); the last one before was {last:.4g}.",
        )

    def _diverged(self, rise: Rise) -> Finding:
        return self._found(
            "divergence",
            [rise.rows],
            f"divergence: the level rose from {self._loss(rise.before)} at "
            f"{self.name(rise.rows.first)} and ends at {self._loss(rise.after)}; "
            f"the run began at {self._loss(rise.start)}.",
        )

    def _shifted(self, rise: Rise) -> Finding:
        back = "did not come back" if rise.lasts else f"took {rise.rows.length} rows to come back"
        return self._found(
            "level shift",
            [rise.rows],
            f"level shift: at {self.name(rise.rows.first)} the level rose from "
            f"{self._loss(rise.before)} to {self._loss(rise.top)} and {back}.",
        )

    def _periodic(self, period: Period) -> Finding:
        often = "each of" if period.hits == period.slots else f"{period.hits} of"
        sentence = (
            f"periodic: every {period.length:.6g} rows, first at {self.name(period.first)}, a row "
            f"stands out ({often} {period.slots} times)"
        )
        spans = [Span(row, row + 1) for row in period.rows]
        return self._found("periodic", spans, f"{sentence}; {self._epochs(period)}")

    def _epochs(self, period: Period) -> str:
        if self.epochs is None:
            return (
                f"if an epoch has {period.length:.6g} rows, that is its first or last, and often "
                "short, batch."
            )
        change = np.flatnonzero(np.diff(np.floor(self.epochs)) > 0)
        rows = np.array(period.rows)
        for where, edge in (("last", change), ("first", change + 1)):
            if np.isin(rows, edge).mean() > 0.5:
                why = ", often a short batch" if where == "last" else ""
                return f"it is the {where} row of an epoch{why}."
        return "it is not where the epochs in this log begin or end."

    def _excursions(self, humps: Sequence[Span]) -> Finding:
        humps = sorted(humps, key=lambda span: span.first)
        largest = max(humps, key=lambda span: self._top(span)[0])
        top, usual = self._top(largest)[1:]
        return self._found(
            "excursions",
            humps,
            f"excursions: {count(len(humps), 'time')} the losses rose and took a while to come "
            f"back, {self._places(humps)}; the largest, from {self.name(largest.first)} over "
            f"{count(largest.length, 'row')}, reached {top:.4g} where the level is {usual:.4g}.",
        )

    def _spikes(self, single: Sequence[Span]) -> Finding:
        bad = sum(bool(self.bad[span.first : span.end].any()) for span in single)
        text = f"isolated spikes: {len(single)}, {self._places(single)}"
        largest = max(single, key=lambda span: self._top(span)[0])
        gain, top, usual = self._top(largest)
        if gain > -math.inf:
            text += f"; the largest, {top:.4g} where the level is {usual:.4g}"
        if bad:
            text += f"; {count(bad, 'of them is', 'of them are')} not finite"
        longest = max(span.length for span in single)
        return self._found(
            "isolated spikes",
            single,
            f"{text}. The losses are back within {count(longest, 'row')}.",
        )

    def _restarted(self, restarts: Sequence[Rise]) -> list[Finding]:
        places = [Span(row, row + 1) for row in self.starts[1:]]
        found = []
        if places:
            found.append(
                self._found(
                    "restart",
                    places,
                    f"restart: {count(len(places), 'time')} the run begins again, "
                    f"{self._places(places)}, which is no spike.",
                )
            )
        if restarts:
            spans = [rise.rows for rise in restarts]
            found.append(
                self._found(
                    "restart",
                    spans,
                    f"restart: {self._places(spans)} the losses begin again at "
                    f"{self._loss(restarts[0].top)} and fall as they did before, which is no "
                    "spike; the log does not say that a run began there.",
                )
            )
        return found

    def _calm(self) -> Finding:
        finite = self.losses[~self.bad]
        if finite.min() == finite.max():
            text = (
                f"calm: all {finite.size} values are {finite[0]:.4g}, which is hardly a loss that "
                "is trained."
            )
        else:
            noise = float(np.median(self.seen.noise))
            size = f"{100 * noise:.2g} %" if noise < 0.3 else f"a factor of {math.exp(noise):.2g}"
            if not self.seen.is_log:
                size = f"{float(self.seen.loss(noise)):.2g}"
            text = (
                f"calm: of {finite.size} losses none stands out; around their level they spread by "
                f"{size}, and the highest row lies within {self.seen.threshold:.1f} standard "
                "deviations, which such noise reaches."
            )
        return self._found("calm", [], text)

    def _top(self, span: Span) -> tuple[float, float, float]:
        """How far a span reaches above the level around it, its largest loss, and that level."""
        rows = slice(span.first, span.end)
        usual = float(self.seen.loss(self._usual(span)))
        heights = self.seen.height[rows]
        if np.isnan(heights).all():
            return -math.inf, math.nan, usual
        row = span.first + int(np.nanargmax(heights))
        gain = float(self.seen.height[row]) - self._usual(span)
        return gain, float(self.losses[row]), usual

    def _usual(self, span: Span) -> float:
        for rise in self.rises:
            if rise.rows == span:
                return rise.before
        return float(self.seen.level[span.first])

    def _places(self, spans: Sequence[Span]) -> str:
        names = [self.name(span.first) for span in spans[:5]]
        more = len(spans) - len(names)
        return "at " + ", ".join(names) + (f" and {more} more" if more else "")


def _touch(one: Span, other: Span) -> bool:
    slack = max(8, other.length // 10)
    return one.first < other.end + slack and other.first < one.end + slack


def count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
