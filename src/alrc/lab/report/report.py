"""The report of a study: what was run, what came of it, and what that allows to say."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from alrc import __version__
from alrc.lab.engine.files import written_whole
from alrc.lab.report.bootstrap import (
    MIN_PAIRS,
    RESAMPLES,
    Difference,
    Effect,
    paired_difference,
)
from alrc.lab.report.figures import save
from alrc.lab.report.markup import bullets, code, page, plural, sentence, table
from alrc.lab.report.results import Arm, FinishedRun, Setting, Study, common, read_study
from alrc.lab.report.statistics import mean
from alrc.lab.report.study_figures import draw_curves, draw_losses, smoothing

__all__ = ["write_report"]

CURVES = "figures/curves.png"

# A run that diverged in either error counts as diverged in both.
MEASURES: dict[str, Callable[[FinishedRun], float]] = {
    "training error": lambda run: math.nan if run.diverged else run.training_error,
    "held-out error": lambda run: math.nan if run.diverged else run.held_out_error,
}


class Comparison(NamedTuple):
    """An arm with ALRC against plain training."""

    setting: Setting
    arm: Arm
    measure: str
    difference: Difference


def write_report(folder: Path) -> list[Path]:
    """Writes report.md, report.html, runs.csv and figures/*.png into the folder of a study.

    Each file appears whole or not at all. The same results give the same files.

    Args:
        folder: Holds the runs as ``runs/NAME/``.

    Returns:
        The files written.

    Raises:
        ValueError: If the folder does not hold runs that can be compared.
        OSError: If a file cannot be read or written.
    """
    study = read_study(folder)
    files = []
    (folder / "figures").mkdir(exist_ok=True)
    for source, figure in _figures(study):
        save(figure, folder / source)
        files.append(folder / source)
    title = f"Report of the study {code(folder.resolve().name)}"
    markdown = "\n\n".join([f"# {title}", *_sections(study)]) + "\n"
    for name, text in (
        ("runs.csv", _runs_csv(study)),
        ("report.md", markdown),
        ("report.html", page(title.replace("`", ""), markdown, folder)),
    ):
        with written_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def _runs_csv(study: Study) -> str:
    """A line for each finished run: what it was, and the numbers that all tables are made of."""
    results = ("training_error", "held_out_error", "num_clipped", "num_nonfinite", "largest_loss")
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow([*Setting._fields, *Arm._fields, "seed", *results])
    for run in study.runs:
        values = (getattr(run, name) for name in results)
        lines.writerow([*run.setting, *run.arm, run.seed, *values])
    return stream.getvalue()


def _figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """Path of each figure in the folder, and the figure."""
    yield CURVES, draw_curves(study)
    for settings in study.groups():
        if _limited(study, settings):
            yield _losses_png(settings[0]), draw_losses(study, settings)


def _losses_png(first: Setting) -> str:
    return f"figures/losses-{first.power}-{first.optimizer}-{first.learning_rate}.png"


def _limited(study: Study, settings: Iterable[Setting]) -> list[tuple[Setting, Arm]]:
    """The designs with ALRC that have runs."""
    arms = [arm for arm in study.arms if arm.num_stddev is not None]
    return [(setting, arm) for setting in settings for arm in arms if study.of(setting, arm)]


def _sections(study: Study) -> Iterator[str]:
    comparisons = list(_comparisons(study))
    yield from _findings(study, comparisons)
    yield from _what_was_run(study)
    yield from _errors(study)
    yield from _differences(study, comparisons)
    yield from _learning_curves(study)
    yield from _clipping(study)


def _comparisons(study: Study) -> Iterator[Comparison]:
    for setting, arm in _limited(study, study.settings):
        plain = [r for a in study.arms if a.num_stddev is None for r in study.of(setting, a)]
        for measure, value in MEASURES.items() if plain else ():
            off, on = ({r.seed: value(r) for r in runs} for runs in (plain, study.of(setting, arm)))
            yield Comparison(setting, arm, measure, paired_difference(off, on))


def _findings(study: Study, comparisons: list[Comparison]) -> Iterator[str]:
    yield "## What the runs show"
    if not comparisons:
        yield (
            "Nothing can be compared: no error, batch size and optimizer has finished runs both "
            "with ALRC and without."
        )
        return
    for measure in MEASURES:
        count = Counter(c.difference.effect for c in comparisons if c.measure == measure)
        counts = ", ".join(f"{effect.value} in {count[effect]}" for effect in Effect)
        yield (
            f"{sentence(measure)} with ALRC, compared with off in "
            f"{plural(count.total(), 'comparison')}: {counts}."
        )
    for setting in study.settings:
        of_setting = [c for c in comparisons if c.setting == setting]
        if of_setting:
            yield f"### {sentence(str(setting))}"
            yield bullets(
                f"{study.labels[arm]}. {' '.join(map(_verdict, of_arm))}{_left_out(of_arm[0])}"
                for arm, of_arm in _by_arm(of_setting).items()
            )


def _by_arm(comparisons: list[Comparison]) -> dict[Arm, list[Comparison]]:
    arms = dict.fromkeys(c.arm for c in comparisons)
    return {arm: [c for c in comparisons if c.arm == arm] for arm in arms}


def _verdict(comparison: Comparison) -> str:
    """What a comparison shows."""
    d = comparison.difference
    number = plural(d.pairs, "pair")
    if d.effect is Effect.too_few:
        number += f" of at least {MIN_PAIRS}"
    size = f" by {abs(d.relative):.1%}" if d.effect in (Effect.lower, Effect.higher) else ""
    return f"{sentence(comparison.measure)}: **{d.effect.value}**{size} ({number})."


def _left_out(comparison: Comparison) -> str:
    """What the pairs do not show, the same for all measures."""
    d = comparison.difference
    if not d.diverged_before + d.diverged_after:
        return ""
    return (
        f" Diverged and left out, with the other of the pair: {d.diverged_before} without ALRC, "
        f"{d.diverged_after} with it."
    )


def _what_was_run(study: Study) -> Iterator[str]:
    diverged = [run.name for run in study.runs if run.diverged]
    yield "## What was run"
    yield (
        f"{plural(study.total, 'run')}: {len(study.runs):,} finished, of which {len(diverged):,} "
        f"diverged; {len(study.failed):,} failed and {len(study.unfinished):,} unfinished, which "
        "are in no table and no figure."
    )
    if study.failed:
        yield f"Failed: {', '.join(map(code, study.failed))}."
    if study.unfinished:
        yield f"Unfinished: {', '.join(map(code, study.unfinished))}."
    if diverged:
        yield (
            f"Diverged: {', '.join(map(code, diverged))}. Such a run ended with a training or "
            "held-out error that is NaN or infinite. It is counted, but left out of all means, "
            "curves and differences. These are of the runs that went well, and so flatter an arm "
            "that diverges often."
        )
    yield "Finished runs by arm; n is the limit in standard deviations above the mean loss:"
    yield table(
        ["error", "optimizer", "batch size", "steps", *study.labels.values()],
        (
            [
                setting.error,
                setting.rate,
                str(setting.batch_size),
                _each(f"{r.run.config.iterations:,}" for r in study.runs if r.setting == setting),
                *(_count(study.of(setting, arm)) for arm in study.arms),
            ]
            for setting in study.settings
        ),
        text=(0, 1),
    )
    if starts := {label: arm.starts for arm, label in study.labels.items() if arm.starts}:
        if len(set(starts.values())) > 1:
            said = "; ".join(f"{label}: {start}" for label, start in starts.items())
        else:
            said = next(iter(starts.values()))
        yield f"Estimates that ALRC begins with: {said}."
    yield "The same in all finished runs:"
    yield bullets(f"{name}: {code(value)}" for name, value in common(study))
    name = study.folder.resolve().name
    yield f"Made from stored results by alrc {__version__} with {code(f'alrc lab report {name}')}."


def _errors(study: Study) -> Iterator[str]:
    windows = _each(f"{run.window:,}" for run in study.runs)
    yield "## Errors"
    yield (
        f"Training error is the loss before it is limited, averaged over the last {windows} steps "
        "of a run (5,000, or a twentieth of a run shorter than 100,000). Held-out error is the "
        "mean loss over held-out images after the last step. Given are the mean ± the standard "
        "deviation of the mean over seeds, and the number of runs in parentheses."
    )
    for settings in study.groups():
        for measure, value in MEASURES.items():
            yield f"### {_group(settings[0])}: {measure}"
            yield table(
                ["", *(f"batch size {setting.batch_size}" for setting in settings)],
                (
                    [label, *(_mean(map(value, study.of(setting, arm))) for setting in settings)]
                    for arm, label in study.labels.items()
                    if any(study.of(setting, arm) for setting in settings)
                ),
            )


def _mean(values: Iterable[float]) -> str:
    m = mean(values)
    diverged = f"{m.diverged} diverged" if m.diverged else ""
    if not m.count:
        return diverged or "-"
    # As many digits as the standard deviation of the mean bears out.
    digits = max(1 - math.floor(math.log10(m.error)), 0) if m.error > 0 else 4
    spread = f" ± {m.error:.{digits}f}" if m.count > 1 else ""
    return f"{m.value:.{digits}f}{spread} ({m.count}{diverged and '; ' + diverged})"


def _differences(study: Study, comparisons: list[Comparison]) -> Iterator[str]:
    yield "## Paired differences to off"
    if not comparisons:
        yield "None: no setting has finished runs both with ALRC and without."
        return
    number = sum(c.difference.interval is not None for c in comparisons)
    yield (
        "Runs of one seed have the same weights and data in every arm, so that a pair differs in "
        "ALRC alone. Given is the mean difference, negative where the error is lower with ALRC, "
        f"and from {MIN_PAIRS} pairs on its 95 % bootstrap interval (BCa, {RESAMPLES:,} resamples "
        "of whole pairs, fixed random state). BCa, because differences are skewed by the rare bad "
        "run, and it allows for that where plain percentiles do not. Lower and higher are said "
        "only where the whole interval is."
    )
    yield (
        "Take intervals of few pairs with care: simulated for normal differences, they held the "
        "truth in about 85 % of cases with 5 pairs, 90 % with 10 and 94 % with 20, and in fewer "
        f"where differences are skewed. {plural(number, 'interval')} in all; nothing is corrected "
        "for their number."
    )
    for settings in study.groups():
        for measure in MEASURES:
            rows = [
                _row(study, c) for c in comparisons if c.setting in settings and c[2] == measure
            ]
            if rows:
                yield f"### {_group(settings[0])}: difference in {measure}"
                header = ["batch size", "arm", "difference", "relative", "95 % interval", "pairs"]
                yield table([*header, "result"], rows, text=(1, 6))
    if unpaired := max(c.difference.unpaired for c in comparisons):
        yield (
            f"In a comparison up to {plural(unpaired, 'seed')} had a finished run on one side only "
            "and could not be paired: it is in the means, but in no difference."
        )


def _row(study: Study, comparison: Comparison) -> list[str]:
    setting, arm, _, d = comparison
    return [
        str(setting.batch_size),
        study.labels[arm],
        _signed(d.value) if d.pairs else "-",
        f"{d.relative:+.1%}" if d.pairs else "-",
        " to ".join(map(_signed, d.interval)) if d.interval else "-",
        str(d.pairs),
        d.effect.value,
    ]


def _signed(value: float) -> str:
    """Three digits, zeros at the end too."""
    return f"{value:+#.3g}".rstrip(".")


def _learning_curves(study: Study) -> Iterator[str]:
    windows = _each(f"{smoothing(run):,}" for run in study.runs)
    yield "## Learning curves"
    yield (
        f"Training error, mean over seeds and over {windows} steps (boxcar), without the runs that "
        "diverged. The axes are fitted to what follows the first fifth of the steps; what is "
        "before may leave them."
    )
    yield f"![Learning curves of all arms, a panel for each setting]({CURVES})"


def _clipping(study: Study) -> Iterator[str]:
    yield "## Losses before and after clipping"
    if not _limited(study, study.settings):
        yield "No finished run had ALRC."
        return
    yield (
        "All finite losses of all finished runs, of those that diverged too. What is orange was "
        "clipped. Largest is the largest finite loss before clipping."
    )
    for settings in study.groups():
        if designs := _limited(study, settings):
            yield f"### {_group(settings[0])}: losses"
            alt = f"Losses before and after clipping: {_group(settings[0])}"
            yield f"![{alt}]({_losses_png(settings[0])})"
            yield table(
                [
                    "batch size",
                    "arm",
                    "runs",
                    "losses",
                    "clipped",
                    "share",
                    "not finite",
                    "largest",
                ],
                (_clipped(study, setting, arm) for setting, arm in designs),
                text=(1,),
            )


def _clipped(study: Study, setting: Setting, arm: Arm) -> list[str]:
    runs = study.of(setting, arm)
    losses, clipped = sum(r.run.losses.size for r in runs), sum(r.num_clipped for r in runs)
    return [
        str(setting.batch_size),
        study.labels[arm],
        _count(runs),
        f"{losses:,}",
        f"{clipped:,}",
        f"{clipped / losses:.2%}",
        f"{sum(run.num_nonfinite for run in runs):,}",
        f"{max(run.largest_loss for run in runs):,.4g}",
    ]


def _group(first: Setting) -> str:
    return f"{sentence(first.error)}, {first.rate}"


def _each(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def _count(runs: list[FinishedRun]) -> str:
    diverged = sum(run.diverged for run in runs)
    return f"{len(runs)} ({diverged} diverged)" if diverged else str(len(runs))
