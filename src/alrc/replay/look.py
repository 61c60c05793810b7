"""How a replayed curve is shown, in a picture or on a page: axes, colours and places."""

import math
from typing import NamedTuple

import numpy as np

from alrc.replay.curve import Curve, Integers
from alrc.replay.replay import Replay
from alrc.replay.rules import Numbers

__all__ = ["COLOURS", "LIMITED", "LOSS", "Axis", "axis", "found_places", "is_log", "y_range"]

# From Okabe and Ito's colours, which are told apart with every kind of colour vision. What is
# found is named too, and the limit is a line of ink.
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
        return max(low * 10 ** (-0.06 * decades), 5e-324), min(
            high * 10 ** (0.12 * decades), LARGEST
        )
    scale = max(abs(low), abs(high)) or 1.0
    room = scale * max(0.06 * (high / scale - low / scale), 0.01)
    return max(low - room, -LARGEST), min(high + 2 * room, LARGEST)


class Place(NamedTuple):
    """Where something was found.

    Attributes:
        kind: Of the findings.
        rows: (n, 2) the first row of each place, and the first after it.
        ends: (n, 2) where it begins and ends on the axis, half a row around.
    """

    kind: str
    rows: Integers
    ends: Numbers


def found_places(found: Replay, along: Axis) -> list[Place]:
    """What was found, by kind, the gravest first."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for finding in found.verdict.findings:
        if finding.spans:
            # Of a restart, where it begins: the run then goes on.
            ends = (
                (s.first, s.first + 1 if finding.kind == "restart" else s.end)
                for s in finding.spans
            )
            spans.setdefault(finding.kind, []).extend(ends)
    half = np.diff(along.places) / 2
    before, after = np.append(half[:1], half), np.append(half, half[-1:])
    shown = []
    for kind, pairs in spans.items():
        rows = np.array(sorted(pairs), dtype=np.int64)
        firsts, lasts = rows[:, 0], rows[:, 1] - 1
        edges = [along.places[firsts] - before[firsts], along.places[lasts] + after[lasts]]
        shown.append(Place(kind, rows, np.stack(edges, axis=1)))
    return shown
