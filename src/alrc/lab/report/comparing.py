"""Each arm of a study against the baseline, and what came of it in words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from alrc.lab.api import Metric
from alrc.lab.report.markup import Cell, code, plural, text
from alrc.lab.report.results import Run, Setting, Study
from alrc.lab.report.statistics import Comparison, Pairs, Verdict, compare

__all__ = ["LARGEST_SHARE", "Compared", "Measure", "compared", "measures", "percent"]

LARGEST_SHARE = 10.0  # beyond which a number says no more than that it is large
NO_RATIOS = {"dB"}  # units whose zero means nothing, so that shares of a value mean nothing


@dataclass(frozen=True)
class Measure:
    """A number that runs are compared by.

    Attributes:
        metric: Its name, unit and direction.
        is_loss: Whether it is a loss over the last tenth of training, not a metric of the task.
    """

    metric: Metric
    is_loss: bool = False

    @property
    def name(self) -> str:
        if not self.is_loss:
            return self.metric.name
        return (
            "training loss" if self.metric.name == "loss" else f"training loss {self.metric.name}"
        )

    def of(self, run: Run) -> float:
        name = self.metric.name
        return run.training_loss(name) if self.is_loss else run.metric(name)

    def value(self, number: float) -> str:
        """With its unit."""
        return f"{number:.4g}{' ' * bool(self.metric.unit)}{self.metric.unit}"


def measures(study: Study, setting: Setting) -> list[Measure]:
    """The primary one first."""
    metrics = [Measure(metric) for metric in study.metrics(setting)]
    return metrics + [Measure(Metric(name), True) for name in study.losses(setting)]


@dataclass(frozen=True)
class Compared:
    """An arm and the baseline of a setting.

    Attributes:
        setting: In which.
        arm: The arm.
        baseline: What it is compared with.
        measure: By what.
        primary: Whether it is the declared primary comparison.
        diverged: How many runs of the arm diverged, and of how many.
        diverged_baseline: The same of the baseline.
        limited: How many losses the arm limited.
        result: What came of it.
    """

    setting: Setting
    arm: str
    baseline: str
    measure: Measure
    primary: bool
    diverged: tuple[int, int]
    diverged_baseline: tuple[int, int]
    limited: int
    result: Comparison

    @property
    def change(self) -> str:
        """For a table."""
        return self.told(self.result.change)

    def told(self, change: float, sign: bool = True) -> str:
        """A change, relative or in the metric's unit."""
        if math.isnan(change):
            return "-"
        if math.isinf(change):
            return "none"
        if self.result.absolute:
            number = f"{change:+.3g}" if sign else f"{abs(change):.3g}"
            return f"{number}{' ' * bool(self.measure.metric.unit)}{self.measure.metric.unit}"
        return percent(change, sign)

    @property
    def cell(self) -> Cell:
        """For the matrix: the verdict by sign, word and colour."""
        kind, words = self._judged()
        return Cell(words, self.result.change if math.isfinite(self.result.change) else None, kind)

    def _judged(self) -> tuple[str, str]:
        r, (lost, runs) = self.result, self.diverged
        if lost == runs:
            return "diverged", f"† diverged {lost} of {runs}"
        also = f"; † diverged {lost} of {runs}" if lost else ""
        if r.verdict is Verdict.better:
            return "better", f"✓ better {self.change}{also}"
        if r.verdict is Verdict.worse:
            return "worse", f"✗ worse {self.change}{also}"
        if r.divergence is Verdict.worse:
            return "worse", f"✗ diverges more often: {lost} of {runs}"
        if r.divergence is Verdict.better:
            more = "{} of {}".format(*self.diverged_baseline)
            if not lost:
                return "better", f"✓ never diverges, {text(self.baseline)} {more}"
            return "diverged", f"† diverged {lost} of {runs}, less often than {more}"
        if lost:
            same = r.verdict is Verdict.identical
            rest = "= otherwise identical" if same else f"? unclear {self.change}"
            return "diverged", f"† diverged {lost} of {runs}; {rest}"
        if r.verdict is Verdict.identical:
            limited = "nothing was limited" if not self.limited else f"{self.limited:,} limited"
            return "identical", f"= identical: {limited}"
        if r.verdict is Verdict.mixed:
            return "unclear", f"? mixed {self.change}"
        if r.verdict is Verdict.too_few:
            return "unclear", "? all pairs tie" if self._ties else f"? too few pairs {self.change}"
        if r.verdict is Verdict.exploratory:
            return "unclear", f"? exploratory {self.change}"
        return "unclear", f"? unclear {self.change}"

    @property
    def sentence(self) -> str:
        """Which arm, by how much, how sure."""
        r, name = self.result, text(self.measure.name)
        arm, baseline = code(self.arm), code(self.baseline)
        lost, runs = self.diverged
        if lost == runs:
            return f"{arm} **diverged** in {lost} of {runs} runs{self._of_baseline()}."
        if r.verdict is Verdict.identical:
            limited = "nothing was limited" if not self.limited else "limiting changed no loss"
            words = f"{arm} is **identical** to {baseline}, bit for bit: {limited}."
            return f"{words}{self._divergence()}"
        verdict = {
            Verdict.better: f"is **better** than {baseline}",
            Verdict.worse: f"is **worse** than {baseline}",
            Verdict.mixed: f"against {baseline}: **mixed**",
            Verdict.exploratory: f"against {baseline}: **exploratory**",
        }.get(r.verdict, f"against {baseline}: **unclear**")
        words = f"{arm} {verdict}: {name} {self._how_much()}{self._how_sure()}."
        return f"{words}{self._divergence()}"

    def _how_much(self) -> str:
        change = self.result.change
        if math.isnan(change):
            return "can't be compared, for lack of pairs in which both runs are whole"
        if change == 0:
            return "the same on average"
        return f"{self.told(change, sign=False)} {'lower' if change < 0 else 'higher'}"

    def _how_sure(self) -> str:
        r = self.result
        if math.isnan(r.change):
            return ""
        pairs = plural(len(r.seeds), "pair")
        interval = ""
        if r.interval is not None:
            low, high = map(self.told, r.interval)
            interval = f"95 % interval {low} to {high}, "
        p = f", p = {r.p:.2g}" if math.isfinite(r.p) else ""
        if p and r.verdict is not Verdict.exploratory:
            p += f" where {r.level:.2g} was needed"
        few = ""
        if r.verdict is Verdict.too_few:
            few = ", all ties" if self._ties else ", too few to show any difference"
        return f" ({interval}{pairs}{p}{few})"

    @property
    def _ties(self) -> bool:
        """Whether runs that are not identical came to the same values."""
        return 0 < self.result.ties == len(self.result.seeds)

    def _divergence(self) -> str:
        lost, runs = self.diverged
        if not lost + self.diverged_baseline[0]:
            return ""
        often = {
            Verdict.better: ", **less often**",
            Verdict.worse: ", **more often**",
        }.get(self.result.divergence, "")
        return f" It diverged in {lost} of {runs} runs{often}{self._of_baseline()}."

    def _of_baseline(self) -> str:
        lost, runs = self.diverged_baseline
        return f" ({code(self.baseline)}: {lost} of {runs})"


def percent(share: float, sign: bool = True) -> str:
    """For reading; CSV files hold the number."""
    share = share if sign else abs(share)
    if abs(share) > LARGEST_SHARE:
        most = f"{'+' * sign}{100 * LARGEST_SHARE:,.0f}"
        return f">\u00a0{most}\u00a0%" if share > 0 else f"<\u00a0-{most.lstrip('+')}\u00a0%"
    number = 100 * share
    if 0 < abs(number) < 0.05:
        return f"{number:{'+' if sign else ''}.2g}\u00a0%"
    digits = 1 if abs(number) < 100 else 0
    return f"{number:{'+' if sign else ''},.{digits}f}\u00a0%"  # not parted at the end of a line


def compared(study: Study) -> list[Compared]:
    """All arms against the baselines, by all measures; verdicts hold for the whole report."""
    found = []
    for setting in study.settings:
        if (baseline := study.baseline(setting)) is None:
            continue
        arms = [a for a in study.arms_of(setting) if not study.of(setting, a)[0].is_baseline]
        for measure in measures(study, setting):
            found += [(setting, arm, baseline, measure) for arm in arms]
    families = [_pairs(study, *design) for design in found]
    primary = [
        i
        for i, (setting, arm, _, _) in enumerate(found)
        if (setting, arm) in study.primary and not families[i].exploratory
    ]
    results = compare(families, primary[0] if primary else None)
    return [
        Compared(
            *design,
            i in primary,
            _diverged(study.of(design[0], design[1])),
            _diverged(study.of(design[0], design[2])),
            sum(run.limited for run in study.of(design[0], design[1])),
            result,
        )
        for i, (design, result) in enumerate(zip(found, results, strict=True))
    ]


def _pairs(study: Study, setting: Setting, arm: str, baseline: str, measure: Measure) -> Pairs:
    before = {run.seed: run for run in study.of(setting, baseline)}
    after = {run.seed: run for run in study.of(setting, arm)}
    return Pairs(
        {seed: measure.of(run) for seed, run in before.items()},
        {seed: measure.of(run) for seed, run in after.items()},
        _lost(before.values()),
        _lost(after.values()),
        frozenset(
            seed
            for seed in before.keys() & after.keys()
            if before[seed].fingerprint == after[seed].fingerprint
        ),
        measure.metric.better,
        measure.metric.unit not in NO_RATIOS,
        exploratory=measure != measures(study, setting)[0],
    )


def _lost(runs: Iterable[Run]) -> frozenset[int]:
    return frozenset(run.seed for run in runs if run.diverged)


def _diverged(runs: list[Run]) -> tuple[int, int]:
    return sum(run.diverged is not None for run in runs), len(runs)
