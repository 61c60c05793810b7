"""The findings of a verdict in words, with the numbers that say so."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alrc.replay.events import Rise
from alrc.replay.periods import Period
from alrc.replay.signals import Numbers, Signals, Span

# What a curve may show, the gravest first.
Kind = Literal[
    "divergence",
    "level shift",
    "periodic",
    "excursions",
    "isolated spikes",
    "restart",
    "calm",
]
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


class Words:
    """Words what was found on one curve."""

    def __init__(
        self,
        losses: Numbers,
        seen: Signals,
        rises: Sequence[Rise],
        epochs: Numbers | None,
        name: Namer,
    ) -> None:
        self.losses, self.seen, self.rises = losses, seen, rises
        self.epochs, self.name = epochs, name
        self.bad = ~np.isfinite(losses)

    def _found(self, kind: Kind, spans: Sequence[Span], sentence: str) -> Finding:
        return Finding(kind, tuple(spans), tuple(map(self._usual, spans)), sentence)

    def _loss(self, height: float) -> str:
        return f"{float(self.seen.loss(height)):.4g}"

    def lost(self, span: Span) -> Finding:
        last = self.losses[span.first - 1]
        return self._found(
            "divergence",
            [span],
            f"divergence: from {self.name(span.first)} to the end no loss is finite "
            f"({count(span.length, 'row')}); the last one before was {last:.4g}.",
        )

    def diverged(self, rise: Rise) -> Finding:
        return self._found(
            "divergence",
            [rise.rows],
            f"divergence: the level rose from {self._loss(rise.before)} at "
            f"{self.name(rise.rows.first)} and ends at {self._loss(rise.after)}; "
            f"the run began at {self._loss(rise.start)}.",
        )

    def shifted(self, rise: Rise) -> Finding:
        back = (
            "did not come back"
            if rise.lasts
            else f"took {count(rise.rows.length, 'row')} to come back"
        )
        return self._found(
            "level shift",
            [rise.rows],
            f"level shift: at {self.name(rise.rows.first)} the level rose from "
            f"{self._loss(rise.before)} to {self._loss(rise.top)} and {back}.",
        )

    def periodic(self, period: Period) -> Finding:
        often = "each of" if period.hits == period.slots else f"{period.hits} of"
        sentence = (
            f"periodic: every {period.length:.6g} rows, first at {self.name(period.first)}, a row "
            f"stands out ({often} {period.slots:,} times)"
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

    def excursions(self, humps: Sequence[Span]) -> Finding:
        humps = sorted(humps, key=lambda span: span.first)
        largest = max(humps, key=lambda span: self._top(span)[0])
        gain, top, usual = self._top(largest)
        places = f", {self._places(humps)}" if len(humps) > 1 else ""
        length = count(largest.length, "row")
        shown = f"the losses stood above their level for {length} and reached {top:.4g} where "
        shown += f"{usual:.4g} is usual"
        if gain == -math.inf:
            shown = f"no loss is finite for {length}"
        return self._found(
            "excursions",
            humps,
            f"excursions: {len(humps):,}{places}; from {self.name(largest.first)} {shown}.",
        )

    def spikes(self, single: Sequence[Span]) -> Finding:
        bad = sum(bool(self.bad[span.first : span.end].any()) for span in single)
        text = f"isolated spikes: {len(single):,}, {self._places(single)}"
        largest = max(single, key=lambda span: self._top(span)[0])
        gain, top, usual = self._top(largest)
        if gain > -math.inf:
            text += f"; the largest reached {top:.4g} where {usual:.4g} is usual"
        if bad:
            which = "it is" if len(single) == 1 else count(bad, "of them is", "of them are")
            text += f"; {which} not finite"
        longest = max(span.length for span in single)
        return self._found(
            "isolated spikes",
            single,
            f"{text}. The losses are back within {count(longest, 'row')}.",
        )

    def restarted(self, starts: Sequence[int], restarts: Sequence[Rise]) -> list[Finding]:
        places = [Span(row, row + 1) for row in starts[1:]]
        found = []
        if places:
            again = "once" if len(places) == 1 else f"{len(places):,} times"
            found.append(
                self._found(
                    "restart",
                    places,
                    f"restart: the run begins again {again}, "
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

    def calm(self) -> Finding:
        finite = self.losses[~self.bad]
        if finite.min() == finite.max():
            text = (
                f"calm: all {finite.size:,} values are {finite[0]:.4g}, which is hardly a loss "
                "that is trained."
            )
        else:
            noise = float(np.median(self.seen.noise))
            size = f"{100 * noise:.2g} %" if noise < 0.3 else f"a factor of {math.exp(noise):.2g}"
            if not self.seen.is_log:
                size = f"{float(self.seen.loss(noise)):.2g}"
            text = (
                f"calm: none of {finite.size:,} losses stands out. Around their level they spread "
                f"by {size}, and none is higher above it than {self.seen.threshold:.1f} standard "
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
        units = {name.partition(" ")[0] for name in names}
        if len(names) > 1 and len(units) == 1:  # at steps 8, 9 and 12
            names = [name.partition(" ")[2] for name in names]
            unit = f"{units.pop()}s "
        else:
            unit = ""
        if more := len(spans) - len(names):
            names.append(f"{more:,} more")
        *first, last = names
        return f"at {unit}{', '.join(first)} and {last}" if first else f"at {last}"


def count(number: int, one: str, many: str | None = None) -> str:
    """How many there are, in words.

    Example:
        >>> count(1, "row"), count(2500, "loss"), count(0, "row"), count(2, "is", "are")
        ('1 row', '2,500 losses', 'no rows', '2 are')
    """
    many = many or one + ("es" if one.endswith("s") else "s")
    words = one if number == 1 else many
    return f"{number:,} {words}" if number else f"no {words}"
