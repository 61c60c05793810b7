"""Figures, drawn from finished runs alone."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from alrc.lab.engine.files import written_whole
from alrc.lab.report.results import Run

__all__ = ["draw_comparison", "moving_mean", "save"]

# From Okabe and Ito's colours, which are told apart with every kind of colour vision.
PLAIN, LIMITED, CLIPPED = "#000000", "#0072B2", "#D55E00"


def moving_mean(values: NDArray[np.float32], window: int) -> NDArray[np.float64]:
    """Boxcar average over ``window`` values; shape ``(len(values) - window + 1,)``."""
    return np.convolve(values.astype(np.float64), np.full(window, 1 / window), mode="valid")


def draw_comparison(plain: Run, alrc: Run, title: str) -> Figure:
    """Draws the losses of a plain run and of one with ALRC, and what ALRC cut off.

    Args:
        plain: The run without ALRC, with a loss called ``loss``.
        alrc: The same with it.
        title: What was trained and how; a few lines at most.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()

    losses, limits = alrc.series("loss.raw"), alrc.series("loss.limit")
    iterations = np.arange(1, len(losses) + 1)
    cut = (alrc.series("loss.limited") != losses) & np.isfinite(losses)
    step, example = cut.nonzero()
    axes.vlines(
        iterations[step], limits[step], losses[step, example], CLIPPED, linewidth=0.7, alpha=0.6
    )
    axes.plot(
        iterations[step],
        losses[step, example],
        ".",
        color=CLIPPED,
        markersize=4,
        label=f"cut off by ALRC: {len(step):,} losses ({cut.mean():.1%})",
    )
    axes.plot(iterations, limits, color=LIMITED, linewidth=1, label="limit set by ALRC")

    window = max(len(iterations) // 20, 1)
    middles = iterations[: len(iterations) - window + 1] + (window - 1) / 2
    for run, name, colour in ((plain, "plain", PLAIN), (alrc, "with ALRC", LIMITED)):
        smooth = moving_mean(run.series("loss.raw").mean(axis=1), window)
        axes.plot(middles, smooth, color=colour, linewidth=2, label=f"{name}, mean over {window:,}")

    axes.set(yscale="log", xlabel="training step", ylabel="loss", xlim=(0, len(iterations)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    with written_whole(path) as part:
        figure.savefig(part, format="png", dpi=150)
