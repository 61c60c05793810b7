"""The matrix: what each arm changes in each workload."""

import math
from collections.abc import Sequence
from itertools import groupby

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alrc.lab.report.benchmark.compact import Workload
from alrc.lab.report.benchmark.effects import Effect, Effects
from alrc.lab.report.drawing import INK, STYLE

__all__ = ["ABSENT", "cell_words", "draw_matrix", "ordered"]

# Dark is better and pale is worse, so that greyscale tells them apart as well; see the frames.
MAP = LinearSegmentedColormap.from_list("change", ["#00507E", "#5FA8D3", "#FFFFFF", "#F5C869"])
ABSENT = "#EEEEEE"
STRONGEST = math.log(10)
CELL, ROW, LETTER = 0.43, 0.215, 0.078  # inches; of a label's letters
DARK = 0.32  # of the map, up to which words are white
TITLES = {
    "broken": "Where something breaks training",
    "calm": "The same, calm: the arm should change nothing",
    "trap": "Traps: large losses are right",
    "aside": "Aside: decides nothing",
}


def ordered(workloads: Sequence[Workload]) -> dict[str, list[Workload]]:
    """By kind, in the order broken, calm, trap, aside, and within it by part."""
    return {
        kind: own
        for kind in TITLES
        if (own := sorted((w for w in workloads if w.kind == kind), key=lambda w: w.part))
    }


def cell_words(effect: Effect) -> str:
    """A change in percent, in at most five characters."""
    dagger = "†" if effect.diverges_more else ""
    if effect.identical:
        return f"={dagger}"
    value = effect.estimate.value
    number = 100 * math.expm1(value)
    if number >= 999.5:
        return f"x{math.exp(value):.0f}{dagger}"
    words = f"{number:+.0f}" if abs(number) >= 9.95 else f"{number:+.1f}"
    return ("0" if words in ("+0.0", "-0.0") else words) + dagger


def draw_matrix(effects: Effects, arms: Sequence[str]) -> Figure:
    """A panel for the broken workloads, and one for the calm ones and the traps."""
    kinds = ordered(effects.bench.workloads)
    panels = [[k for k in group if k in kinds] for group in (["broken"], ["calm", "trap", "aside"])]
    panels = [panel for panel in panels if panel]
    columns = max(sum(len(kinds[k]) for k in panel) for panel in panels)
    labels = 0.2 + LETTER * max(16, *map(len, arms))
    height = len(panels) * (len(arms) * ROW + 2.1) + 0.35
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(max(labels + columns * CELL + 0.3, 7.2), height))
        for index, panel in enumerate(panels):
            own = [w for kind in panel for w in kinds[kind]]
            axes = _axes(figure, labels, len(own), len(arms), len(panels), index)
            _panel(axes, effects, arms, own)
        figure.text(
            0.1 / figure.get_figwidth(),
            0.1 / figure.get_figheight(),
            "Change of the first metric against plain training, %; below 0 is better. Bold: the "
            "95 % interval leaves out 0.\nFramed: it lies above 0. =: identical runs. †: diverged "
            "more often than plain training. Grey: not run.",
            fontsize=7.5,
        )
    return figure


def _axes(figure: Figure, labels: float, columns: int, rows: int, panels: int, index: int) -> Axes:
    """Cells of the same size in each panel."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    panel = (height - 0.35) / panels
    bottom = height - (index + 1) * panel + 1.55
    box = (labels / width, bottom / height, columns * CELL / width, rows * ROW / height)
    return figure.add_axes(box)


def _panel(
    axes: Axes, effects: Effects, arms: Sequence[str], workloads: Sequence[Workload]
) -> None:
    colours = np.full((len(arms), len(workloads), 4), matplotlib.colors.to_rgba(ABSENT))
    for row, arm in enumerate(arms):
        for column, workload in enumerate(workloads):
            if arm in workload.runs:
                effect = effects.effect(workload, arm)
                colours[row, column] = _draw_cell(axes, effect, row, column)
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    axes.set_xlim(-0.5, len(workloads) - 0.5)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_yticks(range(len(arms)), arms, fontsize=7.5)
    axes.set_xticks(
        range(len(workloads)),
        [w.name for w in workloads],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
        fontsize=7,
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _groups(axes, workloads)


def _draw_cell(axes: Axes, effect: Effect, row: int, column: int) -> tuple[float, ...]:
    value = effect.estimate.value
    place = math.copysign(math.sqrt(min(abs(value) / STRONGEST, 1)), value)
    at = (place + 1) / 3 * 2 if place < 0 else (2 + place) / 3
    resolved = effect.estimate.resolved and not effect.identical
    axes.text(
        column,
        row,
        cell_words(effect),
        ha="center",
        va="center",
        fontsize=7,
        color="white" if at < DARK else INK,
        fontweight="bold" if resolved else "normal",
    )
    if resolved and value > 0:
        box = Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, ec=INK, lw=0.9)
        axes.add_patch(box)
    return MAP(at)


def _groups(axes: Axes, workloads: Sequence[Workload]) -> None:
    """Lines between parts, and words above each kind."""
    start = 0
    for (kind, _), own in groupby(workloads, key=lambda w: (w.kind, w.part)):
        if start:
            first = workloads[start - 1].kind != kind
            axes.axvline(start - 0.5, color=INK, linewidth=2 if first else 0.7)
        start += len(list(own))
    start = 0
    for kind, own in groupby(workloads, key=lambda w: w.kind):
        count = len(list(own))
        words = TITLES[kind] if count > 5 else TITLES[kind].partition(":")[0]
        axes.text(start - 0.5, -0.75, words, fontsize=9, fontweight="bold", ha="left", va="bottom")
        start += count
