"""Figures of what was limited: losses before and after, the limit over the steps, histograms."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from alrc.lab.report.drawing import (
    ACCENT,
    BLOCKS,
    INK,
    fit_height,
    image,
    legend,
    number,
    panel,
    plain_numbers,
)
from alrc.lab.report.markup import Image, plural
from alrc.lab.report.results import Run, Setting, Study

__all__ = ["ARMS", "limiting_arms", "limiting_figures"]

ARMS = 2  # in one setting; the table has them all
BINS_PER_DECADE = 20
BASE = 10 ** (1 / BINS_PER_DECADE)
LOWEST, HIGHEST = -46 * BINS_PER_DECADE, 39 * BINS_PER_DECADE  # bins that hold any float32
BEFORE, AFTER = ACCENT


def limiting_arms(study: Study, setting: Setting) -> list[str]:
    """Those that change losses."""
    return [
        arm for arm in study.arms_of(setting) if study.of(setting, arm)[0].config["losses_limited"]
    ]


def limiting_figures(study: Study, setting: Setting, index: int) -> Iterator[Image]:
    """Over the steps, for the first seed; and histograms, of all runs; of each loss and arm."""
    arms = limiting_arms(study, setting)[:ARMS]
    for a, arm in enumerate(arms):
        runs = study.of(setting, arm)
        for n, name in enumerate(study.losses(setting)):
            there = [run for run in runs if run.has(f"{name}.raw") and run.has(f"{name}.limited")]
            if there:
                title, file = f"{study.labels[setting]}: {arm}", f"setting{index}-arm{a}-loss{n}"
                if any(run.result.get("store") == "mean" for run in there):
                    title += ", means of steps"  # the losses were not kept
                yield _over_steps(there[0], name, title, file)
                yield _histogram(there, name, title, f"{file}-histogram")


def _pair(run: Run, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Before and after, of the same shape: where a batch was limited as one loss, its mean."""
    before, after = run.series(f"{name}.raw"), run.series(f"{name}.limited")
    if before.shape != after.shape:
        return before.reshape(len(before), -1).mean(axis=1), after.reshape(len(after), -1).mean(
            axis=1
        )
    return before, after


def _over_steps(run: Run, name: str, title: str, file: str) -> Image:
    """The range of the losses in each block of steps; what was cut off; the limit."""
    before, after = _pair(run, name)
    edges = np.linspace(0, len(before), min(len(before), BLOCKS) + 1).astype(np.int64)
    middles = (edges[:-1] + edges[1:] + 1) / 2
    most, left = (_extreme(np.fmax, x, edges) for x in (before, after))
    least = _extreme(np.fmin, after, edges)
    with panel(f"{title}, seed {run.seed}") as (figure, axes):
        positive = np.concatenate([most, left, least])
        positive = positive[np.isfinite(positive)]
        if positive.size and positive.min() > 0:
            axes.set_yscale("log")
        axes.fill_between(
            middles, least, left, color=AFTER, label="range after limiting", step="mid", lw=0
        )
        axes.fill_between(middles, left, most, color=BEFORE, label="cut off", step="mid", lw=0)
        limit = _limit(run, name, edges)
        if limit is not None and np.isfinite(limit).any():
            axes.plot(middles, limit, color=INK, linewidth=1.2, label="limit (median)")
            near = limit[limit < 10 * positive.max(initial=0)]  # one far above all is not shown
            positive = np.concatenate([positive, near])
        axes.set(xlabel="training step", ylabel=name)
        fit_height(axes, positive)
        legend(axes)
    return image(figure, file, f"{title}, seed {run.seed}: {_cut(run, name)}")


def _cut(run: Run, name: str) -> str:
    """What limiting did, as a sentence."""
    loss = run.losses[name]
    count, limited, largest = loss["count"], loss["limited"], loss["largest"]
    share = f"{limited / count:.2%}".replace("%", " %") if count else "0 %"
    kept = (
        f"{loss['kept']:.1%}".replace("%", " %") if loss["kept"] is not None else "an unknown share"
    )
    tail = f", which left {kept} of the sum of the losses" if limited else ""
    most = f"; the largest was {number(largest)}" if largest is not None else ""
    return f"{limited:,} of {count:,} losses {name} ({share}) were limited{tail}{most}."


def _extreme(
    choose: np.ufunc, losses: NDArray[np.float32], edges: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The largest or smallest finite loss of each block; NaN where there is none."""
    flat = losses.reshape(len(losses), -1)
    rows = choose.reduce(np.where(np.isfinite(flat), flat, np.nan), axis=1)
    blocks: NDArray[np.float64] = choose.reduceat(rows, edges[:-1]).astype(np.float64)
    return blocks


def _limit(run: Run, name: str, edges: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Its median in each block, without the steps in which there was none."""
    if not run.has(f"{name}.limit"):
        return None
    limit = run.series(f"{name}.limit")
    flat = np.where(np.isfinite(limit), limit, np.nan).reshape(len(limit), -1)
    found = np.full(len(edges) - 1, np.nan)
    for block, (first, end) in enumerate(pairwise(edges)):
        values = flat[first:end]
        if np.isfinite(values).any():
            found[block] = np.nanmedian(values)
    return found


def _histogram(runs: list[Run], name: str, title: str, file: str) -> Image:
    """All losses of all seeds, before and after."""
    before, after = (
        np.sum([_count(pair[side]) for pair in (_pair(run, name) for run in runs)], axis=0)
        for side in (0, 1)
    )
    occupied = np.flatnonzero(before + after)
    first, end = (occupied[0], occupied[-1] + 1) if occupied.size else (-LOWEST, 1 - LOWEST)
    edges = np.logspace(first + LOWEST, end + LOWEST, end - first + 1, base=BASE)
    with panel(f"{title}, {plural(len(runs), 'run')}") as (figure, axes):
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="number of losses")
        # What was cut off is what of the first the second does not cover.
        for counts, colour, label in (
            (before[first:end], BEFORE, "before limiting"),
            (after[first:end], AFTER, "after limiting"),
        ):
            axes.stairs(counts, edges, fill=True, color=colour, label=label)
        axes.set_ylim(0.5, 2 * max(before.max(), after.max(), 1))
        plain_numbers(axes.xaxis, axes.yaxis)
        legend(axes)
    limited = sum(run.losses[name]["limited"] for run in runs)
    count = sum(run.losses[name]["count"] for run in runs)
    largest, kept = (
        _largest([pair[side] for pair in (_pair(r, name) for r in runs)]) for side in (0, 1)
    )
    alt = (
        f"{title}: of {count:,} losses {name} in {plural(len(runs), 'run')}, {limited:,} were "
        f"limited; the largest was {number(largest)} before and {number(kept)} after."
    )
    return image(figure, file, alt)


def _largest(arrays: list[NDArray[np.float32]]) -> float:
    """The largest finite one; 0 without any."""
    return max(float(x.max(where=np.isfinite(x), initial=0)) for x in arrays)


def _count(losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """How many positive finite losses are in each bin, from the smallest float32 to the largest."""
    shown = losses[np.isfinite(losses) & (losses > 0)]
    bins = np.floor(np.log10(shown.astype(np.float64)) * BINS_PER_DECADE).astype(np.int64) - LOWEST
    return np.bincount(bins, minlength=HIGHEST - LOWEST + 1).astype(np.float64)
