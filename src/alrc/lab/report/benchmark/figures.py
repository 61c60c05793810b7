"""Figures of whole arms: gain, cost and worst case; regret; and what is traded for what."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from alrc.lab.report.benchmark.effects import Estimate
from alrc.lab.report.benchmark.summaries import Summary
from alrc.lab.report.drawing import COLOURS, INK, STYLE

__all__ = ["draw_forest", "draw_regret", "draw_tradeoff"]

BELOW = (-99, -98, -95, -90, -80, -70, -60, -50, -40, -30, -20, -10, -5, -2, -1, -0.5, -0.2)
ABOVE = (0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 400, 900, 1900, 4900, 9900)
TICKS, FEW = 5, 3  # at most, on an axis, and on one of three side by side
OURS, OTHERS = COLOURS[0], INK
CAPPED = math.log(100)  # as large as a pair counts; intervals beyond say nothing


def _colour(arm: str) -> str:
    return OURS if arm.startswith("alrc") else OTHERS


def _percent_axis(axes: Axes, which: str = "x", most: int = TICKS) -> None:
    """Logarithms of ratios, labelled with round changes in percent."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    there = [p for p in (*BELOW, *ABOVE) if low <= math.log1p(p / 100) <= high]
    kept: list[float] = [0] if 0 in there else []
    for p in sorted(there, key=lambda p: -abs(p)):
        room = (high - low) / (most + 1)
        if all(abs(math.log1p(p / 100) - math.log1p(q / 100)) >= room for q in kept):
            kept.append(p)
    axis.set_major_locator(FixedLocator(sorted(math.log1p(p / 100) for p in kept)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: _spoken(100 * math.expm1(x))))


def _spoken(number: float) -> str:
    if abs(number) < 1e-9:
        return "0"
    words = f"{number:+,.0f}" if abs(number) >= 1.5 else f"{number:+.2g}"
    return f"{words} %"


def _intervals(axes: Axes, estimates: Sequence[tuple[str, Estimate | None]]) -> None:
    for row, (arm, estimate) in enumerate(estimates):
        if estimate is None:
            continue
        low, high = (max(-CAPPED, min(x, CAPPED)) for x in estimate.interval)
        axes.plot([low, high], [row, row], color=_colour(arm), linewidth=2, solid_capstyle="butt")
        axes.plot(estimate.value, row, "o", color=_colour(arm), markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)


def _rows(axes: Axes, arms: Sequence[str]) -> None:
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_yticks(range(len(arms)), arms)
    axes.tick_params(axis="y", length=0)
    for row in range(0, len(arms), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#F2F2F2", zorder=0, linewidth=0)


def draw_forest(summaries: Mapping[str, Summary], arms: Sequence[str], default: str) -> Figure:
    """Gain, change of calm workloads, and worst case, side by side; the default is marked."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(9.6, 1.35 + 0.3 * len(arms)), layout="constrained")
        gain, calm, worst = figure.subplots(1, 3, sharey=True)
        own = [summaries[arm] for arm in arms]
        _intervals(gain, [(s.arm, s.gain) for s in own])
        _intervals(calm, [(s.arm, s.calm) for s in own])
        for row, s in enumerate(own):
            x = min(s.worst, CAPPED)
            worst.plot([0, x], [row, row], color=_colour(s.arm), linewidth=1)
            worst.plot(x, row, "D", color=_colour(s.arm), markersize=5)
        worst.axvline(0, color=INK, linewidth=0.8)
        calm.axvline(math.log(1.01), color=INK, linewidth=0.8, linestyle=":")
        for axes, title, below in (
            (gain, "Where something breaks", "mean change of held-out error"),
            (calm, "Calm workloads", "mean change; dotted: +1 %"),
            (worst, "Worst case", "largest upper end of any workload"),
        ):
            _rows(axes, arms)
            _percent_axis(axes, most=FEW)
            axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
            axes.set_xlabel(f"{below}\n← better", fontsize=8)
        for label in gain.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() == default else "normal")
    return figure


def draw_regret(summaries: Mapping[str, Summary], arms: Sequence[str], default: str) -> Figure:
    """Mean and largest distance from the best arm of each workload, the smallest mean first."""
    order = sorted(arms, key=lambda arm: summaries[arm].regret)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 1.2 + 0.24 * len(order)), layout="constrained")
        axes = figure.add_subplot()
        for row, arm in enumerate(order):
            s, colour = summaries[arm], _colour(arm)
            axes.plot([s.regret, s.regret_worst], [row, row], color=colour, linewidth=1)
            axes.plot(s.regret, row, "o", color=colour, markersize=5)
            axes.plot(s.regret_worst, row, "D", mfc="white", mec=colour, markersize=5)
        axes.plot([], [], "o", color=INK, markersize=5, label="mean over workloads")
        axes.plot([], [], "D", mfc="white", mec=INK, markersize=5, label="worst workload")
        _rows(axes, order)
        axes.set_xlim(left=0)
        _percent_axis(axes)
        axes.set_xlabel("regret: error above that of the best arm of each workload")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() == default else "normal")
    return figure


@dataclass
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def draw_tradeoff(summaries: Mapping[str, Summary], arms: Sequence[str], default: str) -> Figure:
    """Gain against worst case: the nearer to the corner at the lower left, the better."""
    points = {
        arm: (min(summaries[arm].worst, CAPPED), gain.value)
        for arm in arms
        if (gain := summaries[arm].gain) is not None
    }
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        axes = figure.add_subplot()
        for arm, (x, y) in points.items():
            size = 9 if arm == default else 5
            axes.plot(x, y, "o" if _colour(arm) == OURS else "s", color=_colour(arm), ms=size)
        axes.margins(0.12)
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.set_xlabel("worst case: largest upper end of any workload (← safer)")
        axes.set_ylabel("mean change where something breaks (↓ better)")
        axes.set_xlim(axes.get_xlim())
        axes.set_ylim(axes.get_ylim())
        _percent_axis(axes)
        _percent_axis(axes, "y")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # what it found stays
        _label(axes, points, default)
    return figure


def _label(axes: Axes, points: Mapping[str, tuple[float, float]], default: str) -> None:
    """Each label at the first place around its point, near before far, that is still free."""
    figure = axes.figure
    at = {arm: axes.transData.transform(p) for arm, p in points.items()}
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in at.values()]
    frame = axes.get_window_extent()
    measure: Callable[[str, str], tuple[float, float]] = _measure(axes)
    scale = figure.dpi / 72
    for arm in sorted(points, key=lambda arm: (arm != default, at[arm][0])):
        weight = "bold" if arm == default else "normal"
        width, height = measure(arm, weight)
        for reach in np.arange(8, 160, 6):
            places = [(0.0, 1.0)] + [(math.cos(a), math.sin(a)) for a in np.arange(0, 6.3, 0.4)]
            boxes = []
            for cos, sin in places:
                x = at[arm][0] + cos * reach + (cos - 1) / 2 * width
                y = at[arm][1] + sin * reach - height / 2
                boxes.append(_Box(x, y, x + width, y + height))
            free = [
                box
                for box in boxes
                if box.left >= frame.x0
                and box.right <= frame.x1
                and box.bottom >= frame.y0
                and box.top <= frame.y1
                and not any(box.meets(other) for other in taken)
            ]
            if free:
                break
        box = free[0] if free else boxes[0]
        taken.append(box)
        middle = (max(box.left, min(at[arm][0], box.right)), (box.bottom + box.top) / 2)
        offset = (np.array([box.left, box.bottom]) - at[arm]) / scale
        axes.annotate(
            arm,
            points[arm],
            xytext=offset,
            textcoords="offset points",
            fontsize=8,
            fontweight=weight,
            color=_colour(arm),
        )
        if math.dist(middle, at[arm]) > 14:
            ends = axes.transData.inverted().transform(np.array([at[arm], middle]))
            axes.plot(*zip(*ends, strict=True), color="#999999", linewidth=0.6, zorder=0)


def _measure(axes: Axes) -> Callable[[str, str], tuple[float, float]]:
    def size(words: str, weight: str) -> tuple[float, float]:
        text = axes.text(0, 0, words, fontsize=8, fontweight=weight)
        box = text.get_window_extent()
        text.remove()
        return box.width + 4, box.height + 2

    return size
