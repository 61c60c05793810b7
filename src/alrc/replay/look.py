"""How a replayed curve is shown, in a picture or on a page: axes, colours and places."""

import math
from typing import NamedTuple

import numpy as np

from alrc.replay.curve import Curve
from alrc.replay.replay import Replay
from alrc.replay.rules import Numbers

__all__ = ["COLOURS", "LIMITED", "LOSS", "Axis", "axis", "found_places", "is_log", "y_range"]

# From Okabe and Ito's colours, which are told apart with every kind of colour vision. What is found is
# named too, and the limit is a line of ink.
LOSS, LIMITED = "#0072B2", "#D55E00"
COLOURS = {
    "divergence": "#D55E00",
    "level shift": "#009E73",
    "periodic": "#56B4E9",
    "excursions": "#CC79A7",
    "isolated spikes": "#E69F00",
    "restart": "#8A8A8A",
}
# A logarithmic axis where the losses span this factor.
LOG_FROM = 10.0
LARGEST = 1e308


class Axis(NamedTuple):
    """The horizontal axis.

    Attributes:
        places: (N,) where each row is.
        name: "step" or "row".
        words: What is written there.
    """

    places: Numbers
    name: str
    words: str


def axis(curve: Curve) -> Axis:
    """Steps, or rows where there are none or they come again."""
    steps = curve.steps
    if steps is None:
        return Axis(np.arange(len(curve), dtype=np.float64), "row", "row")
    if (np.diff(steps) > 0).all():
        return Axis(steps.astype(np.float64), "step", "step")
    words = "row (steps begin anew, or come again)"
    return Axis(np.arange(len(curve), dtype=np.float64), "row", words)


def is_log(found: Replay) -> bool:
    """Whether the losses are shown on a logarithmic axis: almost all above 0, over a decade."""
    shown = found.losses[np.isfinite(found.losses) & (found.losses > 0)]
    return found.seen.is_log and bool(shown.max() >= LOG_FROM * shown.min())


def y_range(found: Replay, log: bool) -> tuple[float, float]:
    """The bottom and the top of the vertical axis, with room; the limit may reach beyond."""
    shown = np.isfinite(found.losses)
    if log:
        shown &= found.losses > 0
    low, high = float(found.losses[shown].min()), float(found.losses[shown].max())
    if log:
        decades = math.log10(high) - math.log10(low)
        return low * 10 ** (-0.06 * decades), min(high * 10 ** (0.12 * decades), LARGEST)
    scale = max(abs(low), abs(high)) or 1.0
    room = scale * max(0.06 * (high / scale - low / scale), 0.01)
    return max(low - room, -LARGEST), min(high + 2 * room, LARGEST)


def found_places(found: Replay, along: Axis) -> list[tuple[str, Numbers]]:
    """What was found: its kind, and (n, 2) where each begins and ends, half a row around."""
    shown = []
    half = np.diff(along.places) / 2 if along.places.size > 1 else np.ones(1)
    before, after = np.append(half[0], half), np.append(half, half[-1])
    for finding in found.verdict.findings:
        if not finding.spans:
            continue
        firsts = np.array([span.first for span in finding.spans])
        lasts = np.array([span.end for span in finding.spans]) - 1
        if finding.kind == "restart":  # a run begins there, wherever it goes
            lasts = firsts
        ends = np.stack(
            [along.places[firsts] - before[firsts], along.places[lasts] + after[lasts]], axis=1
        )
        shown.append((finding.kind, ends[np.argsort(ends[:, 0], kind="stable")]))
    return shown
