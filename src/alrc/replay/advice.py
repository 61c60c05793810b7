"""What follows from a replayed curve: whether a limit would have mattered, and what to type."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alrc.replay import events
from alrc.replay.outcomes import Outcome
from alrc.replay.rules import Mask, Numbers
from alrc.replay.signals import signals
from alrc.replay.verdict import Verdict
from alrc.replay.wording import count
from alrc.settings import Settings

# Rows within which a loss follows a norm.
SOON = 10
# Rows in which a rise begins.
ONSET = 20
# A rule that cuts this share of what rose is good enough.
ENOUGH = 0.5


@dataclass(frozen=True)
class Follows:
    """How events of the losses lie to spikes of the gradient's norm.

    Attributes:
        num_events: Events of the losses.
        num_after: Those with a spike of the norm up to ten rows before.
        num_same: Those with one in their first row, and none before.
    """

    num_events: int
    num_after: int
    num_same: int


def follows(verdict: Verdict, norms: Numbers, starts: Sequence[int]) -> Follows:
    """Compares the events of a verdict with the norms of the gradient."""
    seen = signals(norms, tuple(starts))
    rows = [span.first for span in events.spikes(seen)]
    rows += [rise.rows.first for rise in events.rises(seen)]
    rows += np.flatnonzero(np.isposinf(norms)).tolist()
    peaks = np.array(sorted(rows), dtype=np.int64)
    after = same = 0
    for span, _ in verdict.events:
        if ((peaks >= span.first - SOON) & (peaks < span.first)).any():
            after += 1
        elif (peaks == span.first).any():
            same += 1
    return Follows(len(verdict.events), after, same)


def mattered(
    verdict: Verdict, outcome: Outcome, limited: Mask, norms: Follows | None
) -> tuple[str, ...]:
    """Whether limiting the losses would have mattered, the answer first."""
    share = f"{outcome.num_limited} of {outcome.num_losses} rows ({_percent(outcome.share)})"
    done = f"{outcome.name} would have limited {share}"
    if not math.isnan(outcome.kept):
        done += f" and kept {_percent(outcome.kept)} of the loss"
    cut = "" if math.isnan(outcome.excess_cut) else f"{_percent(outcome.excess_cut)} of what rose"
    kind, spans = verdict.kind, [span for span, _ in verdict.events]
    sentences = [f"{done}."]
    if kind in ("calm", "restart"):
        sentences.insert(0, "Would it have mattered? No: there is nothing to be saved from.")
    elif kind == "divergence" and not cut:
        sentences.insert(
            0,
            "Would it have mattered? No: a loss that is not finite comes back as it came, and what "
            "came before it does not stand out.",
        )
    elif kind in ("divergence", "level shift", "excursions"):
        begun = sum(limited[span.first : min(span.first + ONSET, span.end)].any() for span in spans)
        if begun and not (norms and norms.num_after):
            answer = (
                "Perhaps: if a few losses started it, rather than the learning rate, their "
                f"gradients would have been scaled down ({begun} of {len(spans)} would have met "
                f"the limit within {ONSET} rows)."
            )
        elif begun:
            answer = f"Hardly, though {begun} of {len(spans)} would have met the limit."
        else:
            answer = f"No: none of {len(spans)} would have met the limit within {ONSET} rows."
        sentences.insert(0, f"Would it have mattered? {answer}")
        sentences.append(f"It would have cut {cut}.") if cut else None
    else:
        sentences.insert(
            0,
            "Would it have mattered? Hardly: after each the losses were back at once, so the "
            "weights took no harm that lasts."
            if kind == "isolated spikes"
            else "Would it have mattered? Hardly: what comes in each period is a matter of "
            "batches; make them of one size, or drop the last (drop_last=True).",
        )
        sentences.append(f"It would have cut {cut}.") if cut else None
    if norms is not None and norms.num_events:
        sentences.append(_of_norms(norms))
    return tuple(sentences)


def _of_norms(norms: Follows) -> str:
    if norms.num_after:
        return (
            f"{norms.num_after} of {norms.num_events} follow a spike of the gradient's norm by up "
            f"to {SOON} rows, which points to the optimiser, not the data: clipping losses will "
            "not cure that. Lower the learning rate, warm up longer or clip the norm."
        )
    if norms.num_same:
        return (
            f"{norms.num_same} of {norms.num_events} have a spike of the gradient's norm in the "
            "same row and none before, as a bad batch has."
        )
    return "No spike of the gradient's norm comes before any of them."


def notes(
    losses: Numbers,
    steps_per_row: float,
    averaged: bool | None,
    verdict: Verdict,
    chosen: Settings,
    asked: Settings | None,
) -> tuple[str, ...]:
    """What the curve cannot answer, and what it was taken for."""
    found = []
    if averaged:
        rows = f"the mean of {steps_per_row:g} steps" if steps_per_row > 1 else "a mean"
        found.append(
            f"Each row is {rows}: a spike of one step is that much smaller here, or not to be "
            "seen, and what limits each step would have met cannot be told."
        )
    elif steps_per_row > 1:
        found.append(
            f"There is one row for {steps_per_row:g} steps: most steps are not seen, and the rule "
            f"is taken to remember decay**{steps_per_row:g} a row."
        )
    found.append(
        "If a row is the mean over a batch, this cannot say what a limit for each example would "
        "have done: one bad example hardly raises the mean, and is limited only with one loss per "
        "example."
    )
    if verdict.num_nonfinite:
        found.append(
            f"{count(verdict.num_nonfinite, 'row is', 'rows are')} not finite; the rule leaves "
            "them as they are and learns nothing from them."
        )
    num_dead = int((losses <= 0).sum())
    if chosen.scale == "log" and num_dead:
        found.append(
            f"{count(num_dead, 'loss is', 'losses are')} not above 0 and has no logarithm: the "
            "rule leaves it as it is."
            if num_dead == 1
            else f"{num_dead} losses are not above 0 and have no logarithm: the rule leaves them "
            "as they are."
        )
    if asked is None and chosen.center == "mean":
        found.append(
            "Losses are negative, so that the linear scale about their mean was taken rather than "
            "the defaults, which are for losses above 0."
        )
    return tuple(found)


def suggestion(verdict: Verdict, outcome: Outcome, outcomes: Sequence[Outcome]) -> str:
    """Settings to paste: those that were asked for, unless they cut little and others half.

    Of those that do, the one that limits fewest rows.
    """
    asked = f"alrc = {outcome.name}"
    if verdict.kind not in ("excursions", "isolated spikes") or outcome.excess_cut >= ENOUGH:
        return asked
    # Narrower limits cost where nothing is wrong, which one curve does not show.
    others = [one for one in outcomes if one.settings and one.settings.num_stddev >= 2]
    enough = [one for one in others if one.excess_cut >= ENOUGH]
    if not enough:
        return asked
    return f"alrc = {min(enough, key=lambda one: one.num_limited).name}"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines of a table of rules, for a terminal."""
    rows = [("rule", "limited", "of", "kept", "settled at row", "excess cut")]
    for one in outcomes:
        settled = "" if one.settings is None else "never" if one.settled is None else one.settled
        limited, losses = str(one.num_limited), str(one.num_losses)
        cut = _percent(one.excess_cut)
        rows.append((one.name, limited, losses, _percent(one.kept), str(settled), cut))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            word.ljust(width) if i == 0 else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _percent(share: float) -> str:
    """Never rounded to none or all, unless it is that."""
    if math.isnan(share):
        return ""
    for digits in range(1, 5):
        shown = f"{100 * share:.{digits}f}"
        if float(shown) not in (0.0, 100.0) or share in (0.0, 1.0):
            return f"{shown} %"
    return f"{100 * share:.2g} %" if share < 0.5 else f"{100 * share:.8g} %"
