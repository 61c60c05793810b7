"""Tables of a report: comparisons, values, what was limited, what was run."""

import math
from collections.abc import Iterator, Sequence

from alrc import __version__
from alrc.lab.report.comparing import Compared, Measure, measures, percent
from alrc.lab.report.limiting import limiting_arms
from alrc.lab.report.markup import (
    Block,
    Bullets,
    Cell,
    Heading,
    Paragraph,
    Table,
    code,
    plural,
    text,
)
from alrc.lab.report.results import Run, Setting, Study
from alrc.lab.report.statistics import mean

__all__ = ["comparison_table", "limiting_table", "values", "what_was_run"]

ROWS = 2000  # of a table in the page; more would make it slow
UNTRAINED = " *In italics*, without runs: what needs no training gives on the same data."
NAMED = 12  # diverged runs that are told one by one above the table


def comparison_table(study: Study, comparisons: Sequence[Compared]) -> Iterator[Block]:
    yield Heading("Comparisons")
    if not comparisons:
        yield Paragraph("None: no setting has finished runs both of a baseline and of another arm.")
        return
    yield Paragraph(
        "Runs of one seed have the same weights and data in every arm, so that a pair differs in "
        "the arm alone. Changes are means over pairs in which neither run diverged (geometric "
        "means of ratios where values allow it), with the 95 % interval of each by itself, not "
        "corrected. Verdicts are about the primary metric; everything else is exploratory. "
        "*Level* is what p had to reach after correction. *Detectable* is the smallest change for "
        "the better that so many pairs of this spread would show in 80 % of studies; *seeds "
        "needed*, how many would show the change as it was seen. Diverged pairs: both, only the "
        "baseline's, only the arm's."
    )
    header = ["setting", "arm", "measure", "verdict", "change", "95 % interval", "p", "level"]
    header += ["wins", "ties", "losses", "detectable", "seeds needed", "diverged pairs"]
    header += ["unpaired seeds"]
    rows = [_comparison_row(study, c) for c in comparisons[:ROWS]]
    yield Table("Every comparison with the baseline.", header, rows, textual=(0, 1, 2, 3))
    if len(comparisons) > ROWS:
        yield Paragraph(_rest(len(comparisons), "comparisons", "comparisons.csv"))


def _rest(total: int, what: str, file: str) -> str:
    return f"The first {ROWS:,} of {total:,} {what}; all are in {code(file)}."


def _comparison_row(study: Study, c: Compared) -> list[Cell | str]:
    r = c.result
    interval = " to ".join(map(c.told, r.interval)) if r.interval else "-"
    exploratory = c.measure != measures(study, c.setting)[0]
    verdict = Cell("exploratory") if exploratory else c.cell
    both, before, after, _ = r.diverged
    return [
        code(study.labels[c.setting]),
        code(c.arm),
        text(c.measure.name),
        Cell(verdict.words, kind=verdict.kind),
        Cell(c.change, r.change if math.isfinite(r.change) else None),
        interval,
        f"{r.p:.2g}" if math.isfinite(r.p) else "-",
        "-" if exploratory else f"{r.level:.2g}",
        str(r.wins),
        str(r.ties),
        str(r.losses),
        "-" if exploratory else c.told(r.detectable, sign=False),
        "-" if r.seeds_needed is None or exploratory else f"{r.seeds_needed:,}",
        f"{both}, {before}, {after}",
        str(r.unpaired),
    ]


def values(study: Study) -> Iterator[Block]:
    """Means of every design by every measure."""
    yield Heading("Values")
    yield Paragraph(
        "Mean ± standard deviation of the mean over the seeds that did not diverge: metrics after "
        "the last step; *training loss*, the mean of a loss before limiting over the last tenth of "
        "the steps." + UNTRAINED * any(map(study.untrained, study.settings))
    )
    rows = [
        [code(study.labels[setting]), *row]
        for setting in study.settings
        for row in (*_of_arms(study, setting), *_untrained(study, setting))
    ]
    header = ["setting", "arm", "measure", "mean", "better", "runs", "diverged"]
    yield Table("Values of every arm in every setting.", header, rows[:ROWS], textual=(0, 1, 2, 4))
    if len(rows) > ROWS:
        yield Paragraph(_rest(len(rows), "values", "runs.csv"))


def _of_arms(study: Study, setting: Setting) -> Iterator[list[Cell | str]]:
    for arm in study.arms_of(setting):
        for measure in measures(study, setting):
            yield [code(arm), text(measure.name), *_mean(measure, study.of(setting, arm))]


def _untrained(study: Study, setting: Setting) -> Iterator[list[Cell | str]]:
    for name, values in study.untrained(setting).items():
        for measure in measures(study, setting):
            if not measure.is_loss:
                value = values.get(measure.metric.name, math.nan)
                cell = Cell(text(measure.value(value)), value if math.isfinite(value) else None)
                yield [f"*{text(name)}*", text(measure.name), cell, measure.metric.better, "-", "-"]


def _mean(measure: Measure, runs: Sequence[Run]) -> list[Cell | str]:
    m = mean(math.nan if run.diverged else measure.of(run) for run in runs)
    words = "-"
    if m.count:
        # As many digits as the standard deviation of the mean bears out.
        digits = min(max(1 - math.floor(math.log10(m.error)), 0), 12) if m.error > 0 else None
        spread = "" if m.count < 2 else f" ± {m.error:.{digits or 0}f}"
        value = f"{m.value:.5g}" if digits is None else f"{m.value:.{digits}f}"
        words = f"{value}{spread}{' ' * bool(measure.metric.unit)}{text(measure.metric.unit)}"
    lost = sum(run.diverged is not None for run in runs)
    mean_cell = Cell(words, m.value if m.count else None)
    return [mean_cell, measure.metric.better, str(len(runs)), str(lost)]


def limiting_table(study: Study) -> Iterator[Block]:
    designs = [(s, arm) for s in study.settings for arm in limiting_arms(study, s)]
    if not designs:
        yield Paragraph("No finished run had an arm that limits losses.")
        return
    rows = []
    for setting, arm in designs:
        runs = study.of(setting, arm)
        for name in study.losses(setting):
            found = [run.losses[name] for run in runs if name in run.losses]
            count, limited = (sum(loss[k] for loss in found) for k in ("count", "limited"))
            kept = [loss["kept"] for loss in found if loss["kept"] is not None]
            largest = [loss["largest"] for loss in found if loss["largest"] is not None]
            share = limited / count if count else 0.0
            rows.append(
                [
                    code(study.labels[setting]),
                    code(arm),
                    text(name),
                    str(len(found)),
                    f"{count:,}",
                    f"{limited:,}",
                    f"{share:.2%}".replace("%", " %"),
                    percent(min(kept), sign=False) if kept else "-",
                    f"{sum(loss['nonfinite'] for loss in found):,}",
                    f"{max(largest):,.4g}" if largest else "-",
                ]
            )
    header = ["setting", "arm", "loss", "runs", "losses", "limited", "share", "least kept"]
    header += ["not finite", "largest"]
    yield Table("What was limited.", header, rows[:ROWS], textual=(0, 1, 2))


def what_was_run(study: Study) -> Iterator[Block]:
    yield Heading("What was run")
    lost = [run for run in study.runs if run.diverged]
    if not study.single:
        yield Paragraph(
            f"{plural(study.total, 'run')}: {len(study.runs):,} finished, of which {len(lost):,} "
            f"diverged; {len(study.failed):,} failed and {len(study.unfinished):,} unfinished, "
            "which are in no other table and no figure."
        )
    if study.others:
        yield Paragraph(
            f"{plural(study.others, 'run')} in the folder beside are not of the study as it was "
            "last asked for, and not in this report."
        )
    for word, names in (("Failed", study.failed), ("Unfinished", study.unfinished)):
        if names:
            yield Paragraph(f"{word}: {_listed(names)}.")
    yield Paragraph(_what_diverged_means(study))
    if lost:
        shown = [f"{code(run.name)} ({text(run.diverged)})" for run in lost[:NAMED]]
        more = f", and {len(lost) - len(shown):,} more" if len(lost) > len(shown) else ""
        yield Paragraph(f"Diverged: {', '.join(shown)}{more}.")
    yield Paragraph("The same in all finished runs:" if not study.single else "It is fixed by:")
    yield Bullets([f"{text(name)}: {code(value)}" for name, value in common(study)])
    yield from _data(study)
    yield _runs(study)
    if len(study.runs) > ROWS:
        yield Paragraph(_rest(len(study.runs), "finished runs", "runs.csv"))
    name = study.folder.resolve().name
    yield Paragraph(
        f"Made from stored results by alrc {__version__} with {code(f'alrc lab report {name}')}."
    )


def _what_diverged_means(study: Study) -> str:
    above = {run.config["task"]: float(run.config["diverged_above"]) for run in study.runs}
    limits = sorted({limit for limit in above.values() if math.isfinite(limit)})
    without = [code(task) for task, limit in above.items() if not math.isfinite(limit)]
    words = "A run diverged if a loss or a metric is NaN or infinite at its end"
    if not limits:
        return f"{words}; no rise of a loss counts as divergence here."
    times = " or ".join(f"{limit:g}" for limit in limits)
    words += (
        ", or if the median of a loss over the last tenth of the steps is more than "
        f"{times} times that over the first tenth"
    )
    return f"{words}; of {', '.join(without)}, no rise counts." if without else f"{words}."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 100
    return ", ".join(map(code, names[:100])) + (f", and {more:,} more" if more > 0 else "")


def common(study: Study) -> Iterator[tuple[str, object]]:
    """What all finished runs have in common, by dotted name; in the order of the files."""
    flat = [dict(_flat(run)) for run in study.runs]
    for name, value in flat[0].items():
        if all(name in other and other[name] == value for other in flat):
            yield name, value


def _data(study: Study) -> Iterator[Block]:
    """What is a fact of some tasks alone, such as the name of their data."""
    shared = dict(common(study))
    facts = {run.config["task"]: run.config["task_facts"] for run in study.runs}
    own = {
        task: [f"{text(n)} {code(v)}" for n, v in found.items() if n not in shared]
        for task, found in facts.items()
    }
    if any(own.values()):
        yield Paragraph("Of each task:")
        yield Bullets([f"{code(task)}: {', '.join(found)}" for task, found in own.items() if found])


def _flat(run: Run) -> Iterator[tuple[str, object]]:
    yield "task", run.config["task"]
    for room, prefix in (("task_options", "task."), ("task_facts", ""), ("training", "training.")):
        for name, value in run.config[room].items():
            yield f"{prefix}{name}", value
    for name, value in run.config["sources"].items():
        yield f"SHA-256 of {name}", value


def _runs(study: Study) -> Table:
    rows = [
        [
            code(run.name),
            code(study.labels[run.setting]),
            code(run.arm),
            str(run.seed),
            Cell("† " + text(run.diverged), kind="diverged") if run.diverged else "finished",
            *(f"{value:.6g}" for value in [run.metric(run.metrics[0].name)]),
            f"{run.limited:,}",
        ]
        for run in study.runs[:ROWS]
    ]
    header = ["run", "setting", "arm", "seed", "outcome", "primary metric", "limited losses"]
    return Table("Every finished run.", header, rows, textual=(0, 1, 2, 4))
