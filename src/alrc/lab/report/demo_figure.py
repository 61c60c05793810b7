"""The figure of ``alrc demo``, made to be understood at a glance, small and in grey too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from alrc.lab.report.drawing import plain_numbers
from alrc.lab.report.results import Run

__all__ = ["Panel", "draw_demo"]

# A figure of 1,500 pixels: shown 400 wide, its smallest words are still 9 high.
WIDTH, HEIGHT, DPI = 10.0, 8.0, 150
STYLE = {
    "font.size": 17,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 19,
    "axes.titleweight": "bold",
}
# Dark and bright, whole and dashed, so that they are told apart in grey too; from Okabe and Ito.
LINES: Sequence[dict[str, Any]] = (
    {"color": "#D55E00", "linestyle": "-", "linewidth": 3.5},
    {"color": "#7F7F7F", "linestyle": (0, (1, 1)), "linewidth": 4},
    {"color": "#004C80", "linestyle": (0, (4, 1)), "linewidth": 5},
)
SHOWN = 1  # which of the pictures of a run
SIDE = 32  # its pixels


@dataclass(frozen=True)
class Panel:
    """Runs of one task: those of each arm by its label, plain ones first, by seed.

    The arms are of the same seeds.
    """

    title: str
    arms: Mapping[str, Sequence[Run]]

    @property
    def baseline(self) -> str:
        return next(iter(self.arms))

    @property
    def metric(self) -> str:
        """The primary one."""
        return self.arms[self.baseline][0].metrics[0].name

    def values(self, label: str) -> dict[int, float]:
        """The metric at the end, by seed."""
        return {run.seed: run.metric(self.metric) for run in self.arms[label]}


def draw_demo(panels: Sequence[Panel]) -> Figure:
    """Draws how the held-out error falls, a panel for each task, and what came of a photograph."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
        grid = figure.add_gridspec(2, 1, height_ratios=(5, 3))
        above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        axes = above.subplots(1, len(panels), sharey=True)
        for panel, own in zip(panels, axes, strict=True):
            _draw_curves(own, panel)
        count = len(panels[0].arms[panels[0].baseline])
        seeds = f"{count} seeds: median, range" if count > 1 else "1 seed"
        axes[0].set_ylabel(f"{panels[0].metric}\n({seeds})")
        # Bands may leave at the top: a spike of one seed must not flatten all lines.
        middles = [np.median(_curves(x)[1], axis=0) for p in panels for x in p.arms.values()]
        finite = np.ravel(middles)[np.isfinite(np.ravel(middles))]
        if finite.size:
            axes[0].set_ylim(finite.min() / 1.5, finite.max() * 2)
        for panel, own in zip(panels, axes, strict=True):
            plain_numbers(own.xaxis, own.yaxis)
            _label_ends(own, panel)
        _draw_pictures(below, panels[0])
    return figure


def _curves(runs: Sequence[Run]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The steps of the evaluations, and the metric of each run at them."""
    rows = np.stack([run.evaluations for run in runs])
    return rows[0, :, 0], rows[:, :, 1]


def _draw_curves(axes: Axes, panel: Panel) -> None:
    for style, runs in zip(LINES, panel.arms.values(), strict=False):
        steps, values = _curves(runs)
        axes.fill_between(
            steps, values.min(0), values.max(0), color=style["color"], alpha=0.2, linewidth=0
        )
        axes.plot(steps, np.median(values, axis=0), **style)
    axes.set(yscale="log", title=f"Targets: {panel.title}", xlabel="training step")


def _label_ends(axes: Axes, panel: Panel) -> None:
    """Names each line at its end; names that would overlap are moved apart."""
    ends = {label: _curves(runs) for label, runs in panel.arms.items()}
    low, high = np.log(axes.get_ylim())
    room = 0.1  # of the height, for a line of text
    last = {label: np.median(values[:, -1]) for label, (_, values) in ends.items()}
    heights = {  # at the top if it diverged
        label: (np.log(value) - low) / (high - low) if np.isfinite(value) else 1.0
        for label, value in last.items()
    }
    order = sorted(heights, key=heights.__getitem__)
    places = [max(heights[label], room / 2) for label in order]
    for _ in range(100):
        for i in range(len(places) - 1):
            if (overlap := room - (places[i + 1] - places[i])) > 0:
                places[i] = max(places[i] - overlap / 2, room / 2)
                places[i + 1] += overlap / 2
    for label, place in zip(order, places, strict=True):
        i = list(panel.arms).index(label)
        axes.annotate(
            label,
            (1, place),
            xytext=(6, 0),
            textcoords="offset points",
            xycoords="axes fraction",
            color=LINES[i]["color"],
            verticalalignment="center",
            fontweight="bold",
            annotation_clip=False,
        )


def _draw_pictures(figure: Any, panel: Panel) -> None:
    """One held-out photograph: what was given, what each arm makes of it, the truth."""
    figure.suptitle(f"A held-out photograph, targets: {panel.title}", fontsize=17)
    made = {label: _picture(runs[0]) for label, runs in panel.arms.items()}
    given, _, truth = made[panel.baseline]
    tiles = {"input": given, **{label: x[1] for label, x in made.items()}, "truth": truth}
    for axes, (label, pixels) in zip(figure.subplots(1, len(tiles)), tiles.items(), strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(label, fontsize=17, fontweight="normal")


def _picture(run: Run) -> list[NDArray[np.float32]]:
    """What was given, what the network makes of it, and the truth, each ``(32, 32, 3)``."""
    pixels = imread(run.folder / str(run.result["pictures"][0]["file"]))[..., :3]
    column = pixels[:, SHOWN * SIDE : (SHOWN + 1) * SIDE]
    return [column[top : top + SIDE] for top in range(0, 3 * SIDE, SIDE)]
