"""Figures over the steps of training: losses, metrics, differences, survival."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from alrc.lab.api import Metric
from alrc.lab.report.across import survival
from alrc.lab.report.comparing import percent
from alrc.lab.report.drawing import (
    INK,
    blocks,
    fit_height,
    image,
    legend,
    number,
    panel,
    scale,
    styles,
)
from alrc.lab.report.markup import Image, plural
from alrc.lab.report.results import Run, Setting, Study

__all__ = ["ARMS", "Curves", "labelled"]

ARMS = 6  # beside the baseline in one panel; more could not be told apart
LOGGED = 6  # series of the task's own in one setting

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def labelled(metric: Metric) -> str:
    """Name and unit, for an axis."""
    return f"{metric.name} ({metric.unit})" if metric.unit else metric.name


@dataclass(frozen=True)
class Curves:
    """Figures of one setting; their files are named after its number."""

    study: Study
    setting: Setting
    number: int

    @property
    def label(self) -> str:
        return self.study.labels[self.setting]

    @cached_property
    def baseline(self) -> str | None:
        return self.study.baseline(self.setting)

    @cached_property
    def arms(self) -> list[str]:
        """The baseline, and the others that are drawn: if they are many, the best by median."""
        arms = self.study.arms_of(self.setting)
        others = [arm for arm in arms if arm != self.baseline]
        if len(others) <= ARMS:
            return arms
        metric = self.study.metrics(self.setting)[0]
        sign = 1 if metric.better == "lower" else -1
        best = sorted(others, key=lambda arm: sign * self._median_metric(arm, metric, sign))[:ARMS]
        return [arm for arm in arms if arm == self.baseline or arm in best]

    def _median_metric(self, arm: str, metric: Metric, sign: int) -> float:
        values = [run.metric(metric.name) for run in self.study.of(self.setting, arm)]
        return float(np.median(np.nan_to_num(values, nan=sign * np.inf)))

    @cached_property
    def styles(self) -> dict[str, dict[str, Any]]:
        plain = {run.arm for run in self.study.runs if run.is_baseline}
        return styles(self.study.arms, plain)

    def whole(self, arm: str) -> list[Run]:
        """Runs that did not diverge."""
        return [run for run in self.study.of(self.setting, arm) if not run.diverged]

    def losses(self) -> Iterator[Image]:
        """Learning curves, a panel for each loss."""
        for index, name in enumerate(self.study.losses(self.setting)):
            if image := self._learning(f"{name}.raw", f"{name}, before limiting", f"loss{index}"):
                yield image

    def logged(self) -> Iterator[Image]:
        """Series that the task logs."""
        return self._named("logged.")

    def of_arms(self) -> Iterator[Image]:
        """Series that arms log; a panel holds those of one name."""
        return self._named("arm.")

    def _named(self, prefix: str) -> Iterator[Image]:
        for index, name in enumerate(self.names(prefix)[:LOGGED]):
            label = name.removeprefix(prefix)
            if image := self._learning(name, label, f"{prefix.rstrip('.')}{index}"):
                yield image

    def names(self, prefix: str) -> list[str]:
        """Names of the series of the arms that are drawn."""
        runs = [run for arm in self.arms for run in self.study.of(self.setting, arm)]
        return list(
            dict.fromkeys(n for r in runs for n in r.result["series"] if n[: len(prefix)] == prefix)
        )

    def _learning(self, series: str, label: str, file: str) -> Image | None:
        curves = {arm: [blocks(r, series) for r in self._with(arm, series)] for arm in self.arms}
        return self._bands(
            {arm: (steps, values) for arm, steps, values in _stacked(curves)}, label, file
        )

    def _with(self, arm: str, series: str) -> list[Run]:
        return [run for run in self.whole(arm) if run.has(series)]

    def metrics(self) -> Iterator[Image]:
        """The metrics over the evaluations, where there is more than one."""
        for index, metric in enumerate(self.study.metrics(self.setting), 1):
            points: dict[str, Points] = {}
            for arm in self.arms:
                rows = [run.evaluations for run in self.whole(arm)]
                common = _common_steps([row[:, 0] for row in rows])
                if len(common) > 1:
                    values = [row[np.isin(row[:, 0], common), index] for row in rows]
                    points[arm] = common, np.array(values)
            if points and (
                image := self._bands(points, labelled(metric), f"metric{index}", metric.better)
            ):
                yield image

    def _bands(
        self, points: dict[str, Points], label: str, file: str, better: str = "lower"
    ) -> Image | None:
        """Median over the seeds of each arm, and the band from the lowest to the highest."""
        points = {arm: p for arm, p in points.items() if np.isfinite(p[1]).any()}
        if not points:
            return None
        with panel(self.label) as (figure, axes):
            scale(axes, np.concatenate([values.ravel() for _, values in points.values()]))
            late = []
            for arm, (steps, values) in points.items():
                self._draw(axes, arm, steps, values)
                late.append(_fitted(steps, values))
            axes.set(xlabel="training step", ylabel=label)
            fit_height(axes, np.concatenate(late))
            legend(axes)
        ends = _ends(points)
        said = ", ".join(f"{number(end)} with {self._counted(arm)}" for arm, end in ends.items())
        alt = f"{self.label}: at the end, {label} is {said} (median over seeds)"
        if len(ends) > 1:
            best = (min if better == "lower" else max)(ends, key=lambda arm: ends[arm])
            alt += (
                f"; {'lowest' if better == 'lower' else 'highest'} with {best}"
                if len(set(ends.values())) > 1
                else "; all alike"
            )
        return image(figure, f"setting{self.number}-{file}", f"{alt}.{self._not_drawn()}")

    def _draw(
        self, axes: Axes, arm: str, steps: NDArray[np.float64], values: NDArray[np.float64]
    ) -> None:
        style = {k: v for k, v in self.styles[arm].items() if k != "marker"}
        there = np.isfinite(values).any(axis=0)
        steps, values = steps[there], np.where(np.isfinite(values), values, np.nan)[:, there]
        axes.plot(steps, np.nanmedian(values, axis=0), label=self._counted(arm), lw=1.4, **style)
        if len(values) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(
                steps,
                low,
                high,
                color=style["color"],
                alpha=0.15 if len(self.arms) < 4 else 0.08,
                linewidth=0,
            )

    def _counted(self, arm: str) -> str:
        """Name, and how many runs are missing from its curve."""
        runs, whole = self.study.of(self.setting, arm), self.whole(arm)
        lost = len(runs) - len(whole)
        return f"{arm} ({lost} of {len(runs)} diverged)" if lost else arm

    def _not_drawn(self) -> str:
        """For the text of a figure that leaves diverged runs out."""
        lost = [self._counted(arm) for arm in self.arms if self._counted(arm) != arm]
        return f" Without runs that diverged: {', '.join(lost)}." if lost else ""

    def differences(self) -> Iterator[Image]:
        """What each arm changes in pairs of a seed, over the steps; a panel for each loss."""
        if self.baseline is None:
            return
        for index, name in enumerate(self.study.losses(self.setting)):
            series = f"{name}.raw"
            plain = {run.seed: blocks(run, series) for run in self._with(self.baseline, series)}
            ratios: dict[str, Points] = {}
            for arm in self.arms:
                pairs = [
                    (plain[r.seed], blocks(r, series))
                    for r in self._with(arm, series)
                    if r.seed in plain
                ]
                if arm != self.baseline and pairs:
                    values = [_relative(before[1], after[1]) for before, after in pairs]
                    ratios[arm] = pairs[0][0][0], np.array(values)
            ratios = {arm: p for arm, p in ratios.items() if np.isfinite(p[1]).any()}
            if ratios:
                yield self._difference(name, ratios, index)

    def _difference(self, name: str, ratios: dict[str, Points], index: int) -> Image:
        with panel(self.label) as (figure, axes):
            axes.axhline(0, color=INK, linewidth=1)
            late = []
            for arm, (steps, values) in ratios.items():
                self._draw(axes, arm, steps, 100 * values)
                late.append(100 * _fitted(steps, values))
            axes.set(xlabel="training step", ylabel=f"{name}: difference to {self.baseline} (%)")
            fit_height(axes, np.concatenate([*late, [0.0]]))
            legend(axes)
        said = ", ".join(f"{_percent(end)} with {arm}" for arm, end in _ends(ratios).items())
        alt = (
            f"{self.label}: over the last tenth of the steps, {name} is, compared with "
            f"{self.baseline}, {said} (median over pairs of a seed).{self._not_drawn()}"
        )
        return image(figure, f"setting{self.number}-difference{index}", alt)

    def survival(self) -> Image | None:
        """Share of runs that have not diverged yet; None where none did."""
        arms = self.study.arms_of(self.setting)
        if not any(run.diverged for arm in arms for run in self.study.of(self.setting, arm)):
            return None
        arms = [arm for arm in arms if arm in self.arms or self._counted(arm) != arm]
        said = []
        with panel(self.label) as (figure, axes):
            for i, arm in enumerate(arms):
                runs = self.study.of(self.setting, arm)
                stairs = survival((run.diverged_step for run in runs), runs[0].steps)
                steps, shares = np.array(stairs).T
                style = {k: v for k, v in self.styles[arm].items() if k != "marker"}
                # A little apart, so that lines on one another are all seen.
                drawn = 100 * shares - 0.5 * i
                axes.step(steps, drawn, where="post", label=arm, linewidth=1.6, **style)
                said.append(f"{len(self.whole(arm))} of {plural(len(runs), 'run')} of {arm}")
            axes.set(xlabel="training step", ylabel="runs not yet diverged (%)")
            fit_height(axes, np.array([0.0, 100.0]))
            legend(axes)
        alt = f"{self.label}: at the end, {', '.join(said)} had not diverged."
        return image(figure, f"setting{self.number}-survival", alt)


def _stacked(
    curves: dict[str, list[Points]],
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    for arm, found in curves.items():
        if found:
            yield arm, found[0][0], np.array([values for _, values in found])


def _common_steps(steps: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The steps at which all runs were evaluated."""
    common = steps[0] if steps else np.empty(0)
    for other in steps[1:]:
        common = np.intersect1d(common, other)
    return common


def _ends(points: dict[str, Points]) -> dict[str, float]:
    """The median over the seeds of where each curve ends."""
    lasts = {arm: _last(values) for arm, (_, values) in points.items()}
    lasts = {arm: last[np.isfinite(last)] for arm, last in lasts.items()}
    return {arm: float(np.median(last)) for arm, last in lasts.items() if last.size}


def _last(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each seed, the mean over the last tenth of the points."""
    tail = values[:, -max(values.shape[1] // 10, 1) :]
    counts = np.isfinite(tail).sum(axis=1)
    sums = np.where(np.isfinite(tail), tail, 0).sum(axis=1)
    means: NDArray[np.float64] = np.full(len(values), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _fitted(steps: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What an axis is fitted to, after the first fifth: the line, and all but 2 % of the band."""
    late = values[:, steps >= steps[-1] / 5]
    late = np.where(np.isfinite(late), late, np.nan)[:, np.isfinite(late).any(axis=0)]
    if not late.size:
        return np.empty(0)
    line = np.nanmedian(late, axis=0)
    return np.concatenate([line, np.nanquantile(late, [0.01, 0.99])])


def _relative(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Change as a share of what it was; NaN where that is not above 0."""
    shares: NDArray[np.float64] = np.full(len(before), np.nan)
    np.divide(after - before, before, out=shares, where=before > 0)
    return shares


def _percent(share: float) -> str:
    if abs(share) < 5e-4:
        return "the same"
    return f"{percent(share, sign=False)} {'lower' if share < 0 else 'higher'}"
