"""Replayed curves as a picture: a panel for each, with its verdict."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from alrc.files import written_whole
from alrc.replay import look
from alrc.replay.curve import Curve
from alrc.replay.replay import Replay
from alrc.replay.thinning import thinned

__all__ = ["draw", "figure"]

INK, FAINT = "#1c2024", "#59626c"
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "path.simplify": False,  # a simplified path may lose a spike
    "agg.path.chunksize": 10_000,
    "text.parse_math": False,  # a name with dollar signs is a name
}
WIDTH, HEIGHT, DPI = 8.5, 4.4, 120  # inches of a panel; with more than one, two beside each other
BLOCKS = 900  # columns of pixels
LONGEST_TITLE = 3  # lines
FINDINGS = tuple(look.COLOURS)
TOP, BOTTOM = 0.985, 0.015  # where losses are marked that have no place, as shares of the height


def draw(found: Sequence[tuple[Curve, Replay]], path: Path) -> None:
    """Draws curves with their limits, what was limited, and what was found, to a PNG.

    The curves are thinned to what can be seen; no spike is lost by that. The file appears whole or
    not at all.

    Args:
        found: Curves, and what was found on them; a panel each.
        path: The file; an older one is replaced.

    Raises:
        ValueError: If there is nothing to draw.
        OSError: If the file cannot be written.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in any script is no fault
        drawn = figure(found)
        with written_whole(path) as part:
            drawn.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def figure(found: Sequence[tuple[Curve, Replay]]) -> Figure:
    """The picture, to be shown or saved."""
    if not found:
        raise ValueError(
            "replay: there must be a curve to draw, because each gets a panel; got none. Pass "
            "[(curve, replay(curve))]."
        )
    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    drawn = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes, (curve, one) in zip(panels, found, strict=False):
        _panel(axes, curve, one)
    return drawn


def _panel(axes: Axes, curve: Curve, found: Replay) -> None:
    along, log = look.axis(curve), look.is_log(found)
    rows = thinned(found, BLOCKS)
    x, losses = along.places[rows], found.losses[rows]
    upper, lower = found.limits.upper[rows], found.limits.lower[rows]
    axes.set_autoscale_on(False)  # the largest numbers overflow in its margins
    if log:
        axes.set_yscale("log")
    _findings(axes, found, along)
    shown = np.where(np.isfinite(losses) & ((losses > 0) | (not log)), losses, np.nan)
    axes.plot(x, shown, color=look.LOSS, linewidth=0.8, label="loss", zorder=2)
    for bound, name in ((upper, "limit"), (lower, "lower limit")):
        if np.isfinite(bound).any():
            style = {"linestyle": "-" if name == "limit" else "--", "label": name}
            axes.plot(
                x,
                np.where(np.isfinite(bound) & ((bound > 0) | (not log)), bound, np.nan),
                color=INK,
                linewidth=1.1,
                zorder=4,
                **style,  # type: ignore[arg-type]
            )
    at = found.limited[rows] & np.isfinite(shown)
    axes.plot(
        x[at],
        shown[at],
        "o",
        color=look.LIMITED,
        markerfacecolor="none",
        markersize=4.5 if at.sum() < 200 else 2.5,
        markeredgewidth=1.1 if at.sum() < 200 else 0.6,
        label=f"limited: {found.outcome.num_limited:,} of {found.outcome.num_losses:,}",
        zorder=3,
    )
    _without_place(axes, x, ~np.isfinite(losses), TOP, "v", f"{_nonfinite(found)}")
    if log:
        num_dead = int((found.losses[np.isfinite(found.losses)] <= 0).sum())
        dead = np.isfinite(losses) & (losses <= 0)
        _without_place(axes, x, dead, BOTTOM, "^", f"not above 0: {num_dead:,}")
    _dress(axes, curve, found, along, log)


def _nonfinite(found: Replay) -> str:
    kinds = {
        "NaN": np.isnan(found.losses),
        "inf": np.isposinf(found.losses),
        "-inf": np.isneginf(found.losses),
    }
    counted = {name: int(there.sum()) for name, there in kinds.items()}
    return ", ".join(f"{name}: {number:,}" for name, number in counted.items() if number)


def _without_place(axes: Axes, x: Any, there: Any, height: float, marker: str, label: str) -> None:
    """Marks rows at the edge, as their losses have no place on the axis."""
    if there.any():
        axes.plot(
            x,
            np.where(there, height, np.nan),
            color=look.LIMITED,
            marker=marker,
            markersize=6,
            linewidth=4,
            solid_capstyle="butt",
            transform=axes.get_xaxis_transform(),
            label=label,
            zorder=5,
        )


def _findings(axes: Axes, found: Replay, along: look.Axis) -> None:
    """Shades what was found from the bottom to the top, and at least a pixel wide."""
    for place, (kind, _, ends) in enumerate(look.found_places(found, along)):
        colour, across = look.COLOURS[kind], axes.get_xaxis_transform()
        boxes = [[(a, 0), (a, 1), (b, 1), (b, 0)] for a, b in ends]
        lines: LineCollection | PolyCollection
        if kind == "restart":
            lines = LineCollection(
                [[(a, 0), (a, 1)] for a, _ in ends], colors=FAINT, linestyles="dotted"
            )
        else:
            lines = PolyCollection(boxes, facecolor=colour, edgecolor=colour, alpha=0.28)
        lines.set(transform=across, linewidth=1.0, zorder=1, label=_named(kind, ends))
        axes.add_collection(lines, autolim=False)
        first, last = along.places[0], along.places[-1]
        right = ends[0, 0] > first + 0.8 * (last - first)  # where there is no room for words
        axes.annotate(
            kind,
            (ends[0, 0], 1.0),
            xycoords=across,
            xytext=(-3 if right else 3, -16 - 12 * place),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            horizontalalignment="right" if right else "left",
            annotation_clip=False,
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )


def _named(kind: str, ends: Any) -> str:
    return f"{kind}: {len(ends):,}" if len(ends) > 1 else kind


def _dress(axes: Axes, curve: Curve, found: Replay, along: look.Axis, log: bool) -> None:
    """Ranges, ticks, words around."""
    low, high = look.y_range(found, log)
    axes.set_ylim(low, high)
    first, last = along.places[0], along.places[-1]
    room = 0.01 * (last - first) or 1.0
    axes.set_xlim(first - room, last + room)
    if log:
        axes.yaxis.set_major_locator(FixedLocator(_decades(low, high)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.15g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))
    axes.grid(axis="y", color="#d3d8de", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(along.words, labelpad=2)
    axes.set_ylabel(_short(curve.column, 40))
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].startswith(FINDINGS))
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="upper left",
        bbox_to_anchor=(0, -0.15),
        ncols=4,
        fontsize=9,
        borderaxespad=0,
    )
    name = f"{_short(curve.name, 60)}: {len(curve):,} losses"
    lines = textwrap.wrap(found.verdict.sentence, 105)
    if len(lines) > LONGEST_TITLE:
        lines = [*lines[: LONGEST_TITLE - 1], lines[LONGEST_TITLE - 1] + " ..."]
    axes.set_title("\n".join(lines), loc="left", fontsize=10, pad=6)
    axes.annotate(
        name,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 9 + 14.5 * len(lines)),
        textcoords="offset points",
        fontsize=11,
        fontweight="bold",
        annotation_clip=False,
    )


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade, or decades alone; few enough to be read, up to any number."""
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    digits = (1, 2, 5) if last - first < 3 else (1,)
    every = -(-(last - first) // 8) or 1
    ticks = [
        float(f"{digit}e{power}")
        for power in range(first, last + 1)
        for digit in digits
        if power % every == 0
    ]
    return [tick for tick in ticks if low <= tick <= high]


def _short(words: str, length: int) -> str:
    """On one line, and its end where it is long, which tells paths apart."""
    words = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return words if len(words) <= length else "..." + words[3 - length :]
