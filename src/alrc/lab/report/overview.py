"""Figures of all settings: paired differences, ranks and performance profiles."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from alrc.lab.report.across import average_ranks, performance_profile, ranks, typical
from alrc.lab.report.comparing import LARGEST_SHARE, Compared
from alrc.lab.report.drawing import INK, fit_height, image, legend, panel, plain_numbers
from alrc.lab.report.markup import Image, Table, code
from alrc.lab.report.results import Study

__all__ = ["forest", "profile", "rank_table", "unranked"]

NAMED = 12  # settings that are told one by one
COLOUR = {"better": "#009E73", "worse": "#D55E00", "diverged": "#CC79A7"}


def forest(study: Study, comparisons: Sequence[Compared], index: int) -> Image:
    """The change of the primary metric of one setting: a dot for each seed, mean and interval."""
    first = comparisons[0]
    metric, label = first.measure.metric, study.labels[first.setting]
    absolute = [c for c in comparisons if c.result.absolute]
    # Shares and differences can't be on one axis; where any is told as a difference, all are.
    shown = absolute or list(comparisons)
    unit = (metric.unit or "its own unit") if absolute else "%"
    factor, most = (1, math.inf) if absolute else (100, 100 * LARGEST_SHARE)
    names = [_name(c) + "\n(in %, see the table)" * (c not in shown) for c in comparisons]
    lines = max(name.count("\n") + 1 for name in names)
    with panel(label, height=1.2 + max(0.36, 0.17 * lines) * len(names)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=1)
        for row, c in enumerate(comparisons):
            colour = COLOUR.get(c.cell.kind, "#0072B2")
            if c in shown and c.result.seeds:
                dots = factor * np.array(c.result.relative)
                mean = factor * np.array([c.result.change])
                _points(axes, dots, row + 0.18, most, marker="o", color=colour, ms=3.5, alpha=0.6)
                _points(axes, mean, row - 0.12, most, marker="D", color=colour, ms=5)
                if c.result.interval is not None:
                    ends = factor * np.array(c.result.interval)
                    axes.plot(ends.clip(-most, most), [row - 0.12] * 2, color=colour)
                    _points(axes, ends[abs(ends) > most], row - 0.12, most, color=colour, ms=5)
        axes.set_yticks(range(len(comparisons)), names)
        axes.set_ylim(len(comparisons) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        side = "left" if metric.better == "lower" else "right"
        words = f"{metric.name}: difference to {first.baseline} ({unit}), {side} of 0 is better"
        figure.supxlabel("\n".join(textwrap.wrap(words, 60)), fontsize=9)
        axes.margins(x=0.08)
        if not any(any(c.result.relative) for c in shown):  # nothing but zeros
            axes.set_xlim(-1, 1)
        plain_numbers(axes.xaxis)
    alt = " ".join(_plain(c) for c in comparisons)
    return image(figure, f"setting{index}-forest", f"{label}. {alt}")


def _points(
    axes: Axes, values: NDArray[np.float64], height: float, most: float, **style: Any
) -> None:
    """In a row; an arrow stands for those that are further away than would be told."""
    for some, own in (
        (values > most, style | {"marker": ">"}),
        (values < -most, style | {"marker": "<"}),
        (abs(values) <= most, style),
    ):
        if some.any():
            shown = values[some].clip(-most, most)
            axes.plot(shown, np.full(len(shown), height), linestyle="none", **own)


def _name(c: Compared) -> str:
    """The whole arm, which may differ from others at its end alone; and how often it diverged."""
    lost, runs = c.diverged
    arm = "\n".join(textwrap.wrap(c.arm, 32, break_on_hyphens=False))
    return f"{arm}\n† {lost} of {runs} diverged" if lost else arm


def _plain(c: Compared) -> str:
    """What came of a comparison, without markup."""
    interval = ""
    if c.result.interval is not None:
        interval = " (95 % interval {} to {})".format(*map(c.told, c.result.interval))
    return f"{c.arm}: {c.cell.words[2:]}{interval}."


def _tables(study: Study) -> dict[tuple[str, bool], dict[str, dict[str, float]]]:
    """A typical value of each arm in each setting, by whether lower or higher is better."""
    tables: dict[tuple[str, bool], dict[str, dict[str, float]]] = {}
    for setting in study.settings:
        metric = study.metrics(setting)[0]
        row = {}
        for arm in study.arms_of(setting):
            runs = study.of(setting, arm)
            values = [math.nan if run.diverged else run.metric(metric.name) for run in runs]
            row[arm] = typical(values, metric.better)
        ratios = metric.unit != "dB" and all(not -math.inf < value < 0 for value in row.values())
        tables.setdefault((metric.better, ratios), {})[study.labels[setting]] = row
    return tables


def _ranked(study: Study) -> dict[str, dict[str, float]]:
    arms = {arm for _, arm in study.designs}
    ranked: dict[str, dict[str, float]] = {}
    for (better, _), table in _tables(study).items():
        whole = {setting: row for setting, row in table.items() if row.keys() == arms}
        ranked |= ranks(whole, "lower" if better == "lower" else "higher")
    return ranked


def rank_table(study: Study) -> Table | None:
    """Average rank of each arm; None where no two settings have all arms."""
    ranked = _ranked(study)
    if len(ranked) < 2:
        return None
    rows = [
        [
            code(arm),
            f"{rank:.2f}",
            str(sum(row[arm] == min(row.values()) for row in ranked.values())),
        ]
        for arm, rank in average_ranks(ranked).items()
    ]
    caption = f"Average rank by the primary metric over {len(ranked)} settings; 1 is the best."
    return Table(caption, ["arm", "average rank", "first in"], rows)


def unranked(study: Study) -> str:
    """Which settings have no ranks, and why; "" if all have them."""
    settings = dict.fromkeys([*study.settings, *(setting for setting, _ in study.lost)])
    found = []
    for setting in settings:
        why = [
            f"{code(arm)} {study.lost.get((setting, arm), 'was not run')}"
            for arm in study.arms
            if (setting, arm) not in study.designs
        ]
        if why:
            label = study.labels.get(setting, setting.task)  # without finished runs it has none
            found.append(f"{code(label)} ({', '.join(why)})")
    if not found:
        return ""
    more = f", and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return f"Left out, because an arm has no finished runs there: {'; '.join(found[:NAMED])}{more}."


def profile(study: Study, styles: Mapping[str, dict[str, Any]]) -> Image | None:
    """Share of the settings in which an arm is within a factor of the best one."""
    arms = {arm for _, arm in study.designs}
    ratios: dict[str, list[float]] = {}
    for (better, allowed), table in _tables(study).items():
        whole = {setting: row for setting, row in table.items() if row.keys() == arms}
        if allowed and whole:
            side = "lower" if better == "lower" else "higher"
            for arm, own in performance_profile(whole, side).items():  # type: ignore[arg-type]
                ratios.setdefault(arm, []).extend(own)
    count = max(map(len, ratios.values()), default=0)
    if count < 2:
        return None
    finite = [x for found in ratios.values() for x in found if math.isfinite(x)]
    most = max([*finite, 1.1]) * 1.05
    title = f"Primary metric, {count} settings"
    with panel(title) as (figure, axes):
        for arm, found in ratios.items():
            steps = sorted(x for x in found if math.isfinite(x))
            shares = [100 * k / count for k in range(len(steps) + 1)]
            style = {k: v for k, v in styles[arm].items() if k != "marker"}
            axes.step([1, *steps, most], [*shares, shares[-1]], where="post", label=arm, **style)
        axes.set(xscale="log" if most > 3 else "linear", xlim=(1, most))
        axes.set(xlabel="times worse than the best arm", ylabel="settings (%)")
        fit_height(axes, np.array([0.0, 100.0]))
        legend(axes)
    first = {arm: sum(x == 1 for x in found) for arm, found in ratios.items()}
    lost = {arm: sum(math.isinf(x) for x in found) for arm, found in ratios.items()}
    best = max(first, key=lambda arm: first[arm])
    fallen = ", ".join(f"{arm} in {n}" for arm, n in lost.items() if n)
    alt = f"{best} is the best, alone or with others, in {first[best]} of {count} settings."
    alt += f" Diverged in half of the runs or more: {fallen}." if fallen else ""
    return image(figure, "profile", alt)
