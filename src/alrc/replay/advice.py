"""What follows from a replayed curve: whether a limit would have mattered, and what to type."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alrc.replay import events
from alrc.replay.outcomes import Outcome
from alrc.replay.rules import Mask, Numbers
from alrc.replay.signals import signals
from alrc.replay.table import percent
from alrc.replay.verdict import Verdict
from alrc.replay.wording import count
from alrc.settings import Settings

# Rows within which a loss follows a norm.
SOON = 10
# Rows in which a rise begins.
ONSET = 20
# A rule that cuts this share of what rose is good enough.
ENOUGH = 0.5
EXAMPLES = (
    " Pass the limit one loss per example, and it turns down those that stand out and no others"
)
REGRESSION = "; for regression ALRC(num_stddev=1.5) did better in the benchmark"
NONFINITE = " Skip steps whose loss is not finite: no limit can scale them."
REMEDIES = {
    "calm": "nothing.",
    "restart": "nothing, if you started it there. Losses that are higher after it than before "
    "tell of a state that was not restored: the optimiser's, or the order of the data.",
    "periodic": "look at the batches there, not at the optimiser. A limit is no cure for that.",
    "isolated spikes": "nothing has to be done; to find the cause, look at the batches there.",
    "excursions": "look at the batches where they begin, and keep checkpoints to go back to.",
    "level shift": "look for what changed there: data, learning rate, code. If nothing did, go "
    "back to a checkpoint before it and leave out the batches that began it, or lower the "
    "learning rate.",
    "divergence": "go back to a checkpoint before it, with a lower learning rate or a longer "
    "warm-up, and clip the gradient's norm. Where all losses rise none stands out, and a limit "
    "on losses does not help.",
}


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
    done = f"{outcome.name} would have limited no row"
    if outcome.num_limited:
        rows = f"{outcome.num_limited:,} of {outcome.num_losses:,} rows"
        done = f"{outcome.name} would have limited {rows} ({percent(outcome.share)})"
        if not math.isnan(outcome.kept):
            done += f" and kept {percent(outcome.kept)} of the sum of the losses"
    cut = "" if math.isnan(outcome.excess_cut) else f"{percent(outcome.excess_cut)} of what rose"
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
        begun = sum(
            bool(limited[span.first : min(span.first + ONSET, span.end)].any()) for span in spans
        )
        if begun and not (norms and norms.num_after):
            answer = (
                "Perhaps: if a few losses started it, rather than the learning rate, their "
                f"gradients would have been scaled down ({_of(begun, len(spans))} have met the "
                f"limit within {ONSET} rows)."
            )
        elif begun:
            answer = f"Hardly, though {_of(begun, len(spans))} have met the limit."
        else:
            answer = f"No: {_of(0, len(spans))} have met the limit within {ONSET} rows."
        sentences.insert(0, f"Would it have mattered? {answer}")
        sentences.append(f"It would have cut {cut}.") if cut else None
    else:
        sentences.insert(
            0,
            "Would it have mattered? Hardly: after each the losses were back at once, so that "
            "no harm to the weights is to be seen."
            if kind == "isolated spikes"
            else "Would it have mattered? Hardly: what comes in each period is a matter of "
            "batches; make them of one size, or drop the last (drop_last=True).",
        )
        sentences.append(f"It would have cut {cut}.") if cut else None
    if norms is not None and norms.num_events:
        sentences.append(_of_norms(norms))
    return tuple(sentences)


def _of(number: int, events: int) -> str:
    if events == 1:
        return "it would" if number else "it would not"
    return f"{f'{number:,}' if number else 'none'} of {events:,} would"


def _of_norms(norms: Follows) -> str:
    if norms.num_after:
        return (
            f"{norms.num_after:,} of {norms.num_events:,} follow a spike of the gradient's norm by "
            f"up to {SOON} rows, which points to the optimiser, not the data: clipping losses will "
            "not cure that. Lower the learning rate, warm up longer or clip the norm."
        )
    if norms.num_same:
        return (
            f"{norms.num_same:,} of {norms.num_events:,} have a spike of the gradient's norm in "
            "the same row and none before, as a bad batch has."
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
        found.append("From means it cannot be told what limits single steps would have met.")
    if steps_per_row != 1:
        found.append(
            f"From row to row are {steps_per_row:g} steps, so that the rule is taken to remember "
            f"decay**{steps_per_row:g} a row."
        )
    found.append(
        "If a row is the mean over a batch, this cannot say what a limit for each example would "
        "have done: one bad example hardly raises the mean, and is limited only with one loss per "
        "example."
    )
    if verdict.num_nonfinite:
        found.append(
            f"{count(verdict.num_nonfinite, 'row is', 'rows are')} not finite: the rule leaves "
            "such losses as they are and learns nothing from them."
        )
    num_dead = int((losses <= 0).sum())
    if chosen.scale == "log" and num_dead:
        found.append(
            "1 loss is not above 0 and has no logarithm: the rule leaves it as it is."
            if num_dead == 1
            else f"{num_dead:,} losses are not above 0 and have no logarithm: the rule leaves them "
            "as they are."
        )
    if asked is None and chosen.center == "mean":
        found.append(
            "Losses are negative, so that the linear scale about their mean was taken rather than "
            "the defaults, which are for losses above 0."
        )
    return tuple(found)


def remedy(verdict: Verdict, norms: Follows | None, chosen: Settings) -> str:
    """What to do now, whether with a limit or without."""
    if norms is not None and norms.num_after and verdict.kind not in ("divergence", "calm"):
        return "What to do: calm the optimiser first, as said above; a limit comes second."
    words = f"What to do: {REMEDIES[verdict.kind]}"
    if verdict.kind in ("isolated spikes", "excursions"):
        words += EXAMPLES + (REGRESSION if chosen == Settings() else "") + "."
    return words + (NONFINITE if verdict.num_nonfinite else "")


def suggestion(verdict: Verdict, outcome: Outcome, outcomes: Sequence[Outcome]) -> str:
    """Settings to paste: those that were asked for, unless they cut little and others half.

    Of those that do, the one that limits fewest rows. Narrower limits cost where nothing is wrong,
    which one curve does not show; other scales did worse in the benchmark.
    """
    asked = f"alrc = {outcome.name}"
    if verdict.kind not in ("excursions", "isolated spikes") or outcome.excess_cut >= ENOUGH:
        return asked
    enough = [
        one
        for one in outcomes
        if one.settings
        and one.settings.num_stddev >= 2
        and one.settings.scale == (outcome.settings and outcome.settings.scale)
        and one.excess_cut >= ENOUGH
    ]
    if not enough:
        return asked
    return f"alrc = {min(enough, key=lambda one: one.num_limited).name}"


def to_paste(verdict: Verdict, suggestion: str) -> str:
    """The suggestion as the last line says it."""
    if verdict.kind in ("calm", "restart", "periodic", "divergence"):
        return f"To have a limit all the same, paste: {suggestion}"
    return f"To paste: {suggestion}"
