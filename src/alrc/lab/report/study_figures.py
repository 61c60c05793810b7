"""The figures of a report: learning curves, and losses before and after they are limited."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from alrc.lab.report.figures import moving_mean
from alrc.lab.report.results import Arm, FinishedRun, Setting, Study

__all__ = ["draw_curves", "draw_losses", "smoothing"]

# Okabe and Ito's colours, which are told apart with every kind of colour vision; black is off.
# The dashes tell arms apart in print without colours, and when there are more arms than colours.
OFF = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", "-.", ":")
BEFORE, AFTER = "#E69F00", "#0072B2"
COLUMNS = 4
POINTS = 1000  # of a curve; more would not be seen
BINS_PER_DECADE = 20
BASE = 10 ** (1 / BINS_PER_DECADE)
LOWEST, HIGHEST = -46 * BINS_PER_DECADE, 39 * BINS_PER_DECADE  # bins that hold any float32


def smoothing(run: FinishedRun) -> int:
    """Steps in the boxcar average of a curve: a two-hundredth, 500 in the paper's runs."""
    return max(run.run.config.iterations // 200, 1)


def draw_curves(study: Study) -> Figure:
    """Mean training error over the seeds of each arm; a panel for each setting.

    Runs that diverged are left out, and counted in the panel. The axes are fitted to what follows
    the first fifth, because the fall from the initial error would dwarf all differences.
    """
    rows = [
        list(row)
        for _, settings in groupby(study.settings, key=lambda setting: setting.power)
        for row in _batched(list(settings), COLUMNS)
    ]
    figure, panels = _panels([[str(setting) for setting in row] for row in rows], sharey="row")
    styles = _styles(study.arms)
    for row, axes_of_row in zip(rows, panels, strict=True):
        late = [
            error
            for setting, axes in zip(row, axes_of_row, strict=False)
            for error in _draw_setting(axes, study, setting, styles)
        ]
        if late:
            axes_of_row[0].set_ylim(0.95 * min(late), 1.05 * max(late))
        for axes in axes_of_row:
            _plain_numbers(axes)
        axes_of_row[0].set_ylabel("training error")
    _legend(figure)
    return figure


def _batched(settings: list[Setting], size: int) -> list[list[Setting]]:
    return [settings[first : first + size] for first in range(0, len(settings), size)]


def _draw_setting(
    axes: Axes, study: Study, setting: Setting, styles: dict[Arm, dict[str, Any]]
) -> list[float]:
    """One panel; returns the errors that its vertical axis is to show."""
    late: list[float] = []
    diverged = []
    axes.set(yscale="log", xlabel="iteration")
    for arm, style in styles.items():
        runs = study.of(setting, arm)
        finite = [run for run in runs if not run.diverged]
        if finite:
            iterations, errors = _curve(finite)
            axes.plot(iterations, errors, label=study.labels[arm], linewidth=1.3, **style)
            shown = (iterations > finite[0].run.config.iterations / 5) & np.isfinite(errors)
            late.extend(errors[shown & (errors > 0)].tolist())
        if len(finite) < len(runs):
            diverged.append(f"{study.labels[arm]}: {len(runs) - len(finite)} diverged")
    axes.text(
        0.98, 0.97, "\n".join(diverged), transform=axes.transAxes, ha="right", va="top", fontsize=9
    )
    return late


def draw_losses(study: Study, settings: Sequence[Setting]) -> Figure:
    """Histograms of the losses of each arm with ALRC, before and after they are limited.

    Args:
        study: Whose runs.
        settings: A column for each; there is a row for each arm.
    """
    arms = [arm for arm in study.arms if arm.num_stddev is not None]
    arms = [arm for arm in arms if any(study.of(setting, arm) for setting in settings)]
    titles = [
        [f"batch size {setting.batch_size}, {study.labels[arm]}" for setting in settings]
        for arm in arms
    ]
    figure, panels = _panels(titles, sharey="none", sharex="all")
    for arm, axes_of_row in zip(arms, panels, strict=True):
        for setting, axes in zip(settings, axes_of_row, strict=True):
            axes.set(xscale="log", yscale="log")
            if runs := study.of(setting, arm):
                edges, before, after = _counts(runs)
                # What was cut off is what of the first the second does not cover.
                axes.stairs(before, edges, fill=True, color=BEFORE, label="before clipping")
                axes.stairs(after, edges, fill=True, color=AFTER, label="after clipping")
                axes.set_ylim(0.5, 2 * max(before.max(), after.max(), 1))
            else:
                axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes_of_row[0].set_ylabel("number of losses")
    for axes in panels[-1]:
        axes.set_xlabel("loss")
    _legend(figure)
    return figure


def _curve(runs: list[FinishedRun]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Iterations, and the smooth mean over the runs."""
    total = np.zeros(runs[0].run.config.iterations)
    for run in runs:
        total += run.run.losses.mean(axis=1, dtype=np.float64)
    window = smoothing(runs[0])
    smooth = moving_mean((total / len(runs)).astype(np.float32), window)
    middles = np.arange(len(smooth), dtype=np.float64) + (window + 1) / 2
    every = max(len(smooth) // POINTS, 1)
    return middles[::every], smooth[::every]


def _counts(runs: list[FinishedRun]) -> tuple[NDArray[np.float64], ...]:
    """Edges of bins of equal width in the logarithm; losses before and after in each."""
    before, after = (
        np.sum([_count(losses) for losses in arrays], axis=0)
        for arrays in ((r.run.losses for r in runs), (r.run.limited for r in runs))
    )
    occupied = np.flatnonzero(before + after)
    first, end = (occupied[0], occupied[-1] + 1) if occupied.size else (-LOWEST, 1 - LOWEST)
    edges = np.logspace(first + LOWEST, end + LOWEST, end - first + 1, base=BASE)
    return edges, before[first:end], after[first:end]


def _count(losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """How many losses are in each bin, from the smallest float32 to the largest."""
    bins = np.floor(np.log10(_shown(losses)) * BINS_PER_DECADE).astype(np.int64) - LOWEST
    return np.bincount(bins, minlength=HIGHEST - LOWEST + 1).astype(np.float64)


def _shown(losses: NDArray[np.float32]) -> NDArray[np.float32]:
    """The losses that a logarithmic axis can show."""
    return losses[np.isfinite(losses) & (losses > 0)]


def _styles(arms: list[Arm]) -> dict[Arm, dict[str, Any]]:
    """Colour and dashes of each arm, the same in all panels."""
    limited = [arm for arm in arms if arm.num_stddev is not None]
    styles: dict[Arm, dict[str, Any]] = {
        arm: {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        }
        for index, arm in enumerate(limited)
    }
    return {arm: styles.get(arm, {"color": OFF, "linestyle": "-"}) for arm in arms}


def _panels(
    titles: list[list[str]],
    sharey: Literal["none", "row"],
    sharex: Literal["none", "all"] = "none",
) -> tuple[Figure, list[list[Axes]]]:
    """A grid with a panel for each title; places without one stay empty."""
    columns = max(map(len, titles))
    size = (max(3.3 * columns, 7.0), 0.6 + 2.6 * len(titles))
    figure = Figure(figsize=size, layout="constrained")
    grid: NDArray[np.object_] = figure.subplots(
        len(titles), columns, squeeze=False, sharey=sharey, sharex=sharex
    )
    for row, axes_of_row in zip(titles, grid, strict=True):
        for title, axes in zip(row, axes_of_row, strict=False):
            axes.set_title(title.replace(", ", "\n", 1) if columns > 1 else title, fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelleft=True)
        for axes in axes_of_row[len(row) :]:
            axes.set_axis_off()
    return figure, grid.tolist()


def _plain_numbers(axes: Axes) -> None:
    """Numbers as they are spoken, 0.5 and 20,000, and some of them on short axes too."""
    plain = FuncFormatter(lambda x, _: f"{x:,g}")
    axes.xaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(5) if high < 5 * low else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure) -> None:
    """One legend for all panels."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = max(min(len(handles), 5), 1)
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=columns, frameon=False
    )
