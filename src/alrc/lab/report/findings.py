"""The first screen: which arm, by how much, how sure."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from alrc.lab.report.comparing import Compared, measures
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
from alrc.lab.report.results import Setting, Study

__all__ = ["details", "findings", "lone_run"]

FEW_ARMS = 3  # in a setting: each has a sentence of its own
SENTENCES = 12  # settings that have one
ROWS = 2000  # of the matrix
KINDS = ("better", "worse", "unclear", "identical", "diverged")


def findings(study: Study, comparisons: Sequence[Compared]) -> Iterator[Block]:
    """Which arm, by how much, how sure; and a matrix of all settings and arms."""
    yield Heading("What the runs show")
    if not comparisons:
        yield Paragraph(_nothing_compared(study), lead=True)
        return
    declared = [c for c in comparisons if c.primary]
    if declared:
        [c] = declared
        yield Paragraph(
            f"Declared primary comparison, in {code(study.labels[c.setting])}: {c.sentence}",
            lead=True,
        )
    elif study.declared:
        yield Paragraph(
            "The primary comparison that the study declares has no finished runs yet.", lead=True
        )
    by_setting = _by_setting(comparisons)
    if len(by_setting) > 1:
        arms = {c.arm for c in comparisons}
        yield Paragraph(
            f"{plural(len(comparisons), 'comparison')} with the baseline, "
            f"{plural(len(arms), 'arm')} in {len(by_setting):,} settings: {_counts(comparisons)}.",
            lead=True,
        )
    if study.failed:
        yield Paragraph(
            f"**{plural(len(study.failed), 'run')} failed** and are missing in what follows; they "
            "are listed under What was run."
        )
    yield _matrix(study, by_setting)
    told = {s: untrained(study, s) for s in by_setting if study.untrained(s)}
    if len(told) == len(by_setting) and len(set(told.values())) == 1:
        yield Paragraph(next(iter(told.values())))
    elif told:
        words = [f"{code(study.labels[s])}: {sentence}" for s, sentence in told.items()]
        yield Bullets(words[:SENTENCES])


def untrained(study: Study, setting: Setting) -> str:
    """What needs no training gives, in a sentence."""
    metrics = [m for m in measures(study, setting) if not m.is_loss]
    given = [
        f"{text(name)} "
        + ", ".join(
            f"{text(m.name)} {text(m.value(values.get(m.metric.name, math.nan)))}" for m in metrics
        )
        for name, values in study.untrained(setting).items()
    ]
    return f"What needs no training gives: {'; '.join(given)}."


def details(study: Study, comparisons: Sequence[Compared]) -> Iterator[Block]:
    """The same in sentences, and what words mean."""
    if comparisons:
        yield from _setting_by_setting(study, _by_setting(comparisons))
        yield _legend(any(c.primary for c in comparisons))


def _by_setting(comparisons: Sequence[Compared]) -> dict[Setting, list[Compared]]:
    found: dict[Setting, list[Compared]] = {}
    for c in comparisons:
        found.setdefault(c.setting, []).append(c)
    return found


def _setting_by_setting(study: Study, by_setting: dict[Setting, list[Compared]]) -> Iterator[Block]:
    many = len(by_setting) > 1
    if many:
        yield Heading("Setting by setting", 3)
    yield Bullets(
        [
            (f"{code(study.labels[s])}: " if many else "") + " ".join(_sentences(found))
            for s, found in list(by_setting.items())[:SENTENCES]
        ],
        lead=not many,
    )
    if len(by_setting) > SENTENCES:
        yield Paragraph(
            f"The other {plural(len(by_setting) - SENTENCES, 'setting')} are in the table."
        )


def _counts(comparisons: Sequence[Compared]) -> str:
    kinds = Counter(c.cell.kind for c in comparisons)
    return ", ".join(f"{kinds[kind]:,} {kind}" for kind in KINDS if kinds[kind])


def _legend(declared: bool) -> Paragraph:
    return Paragraph(
        "✓ better and ✗ worse are said only where it is shown: at most 5 % of such reports have a "
        f"false verdict, all of a report together (Holm's correction"
        f"{'; the declared comparison comes first' if declared else ''}). ? unclear: no difference "
        "that so many pairs could show; mixed: better only in pairs where neither run diverged, or "
        "worse only there; exploratory: the declared comparison showed nothing, so that no other "
        "has a verdict. = identical: bit for bit. † diverged: k of n runs; their pairs are in "
        "no difference, and are compared by how often that happens. Changes are those of the "
        "primary metric, averaged over pairs of a seed. In the figures a dot is a pair in which "
        "neither run diverged, a diamond their mean with its 95 % interval, not "
        "corrected, and an arrow what is beyond 1,000\u00a0%."
    )


def _nothing_compared(study: Study) -> str:
    arms = ", ".join(map(code, study.arms))
    return (
        "Nothing can be compared: no setting has finished runs both of a baseline and of another "
        f"arm. Arms: {arms}."
    )


def _sentences(comparisons: Sequence[Compared]) -> list[str]:
    """One for each arm, or, if they are many, how many there are of a kind and the extremes."""
    if len(comparisons) <= FEW_ARMS:
        return [c.sentence for c in comparisons]
    baseline = code(comparisons[0].baseline)
    words = [f"Of {len(comparisons)} arms, compared with {baseline}: {_counts(comparisons)}."]
    shown = [[c for c in comparisons if c.cell.kind == kind] for kind in ("better", "worse")]
    if not any(shown):  # then what came nearest to it
        shown = [[c for c in comparisons if c.cell.kind == "unclear"]]
    words += [
        max(found, key=lambda c: abs(_finite(c.result.change))).sentence for found in shown if found
    ]
    return words


def _finite(x: float) -> float:
    return x if math.isfinite(x) else 0.0


def _matrix(study: Study, by_setting: dict[Setting, list[Compared]]) -> Table:
    """A row for each setting, a column for each arm; others only where they tell settings apart."""
    compared = {c.arm for found in by_setting.values() for c in found}
    arms = [arm for arm in study.arms if arm in compared]
    baselines = list(dict.fromkeys(found[0].baseline for found in by_setting.values()))
    metrics = {setting: _metric(found[0]) for setting, found in by_setting.items()}
    one_metric = len(set(metrics.values())) == 1
    lost = any(found[0].diverged_baseline[0] for found in by_setting.values())
    rows: list[list[Cell | str]] = []
    for setting, found in list(by_setting.items())[:ROWS]:
        cells = {arm: Cell(study.lost.get((setting, arm), "-")) for arm in arms}
        cells |= {c.arm: c.cell for c in found}
        row: list[Cell | str] = [code(study.labels[setting])]
        row += [] if one_metric else [text(metrics[setting])]
        row += [_baseline_cell(found[0])] if lost else []
        rows.append([*row, *cells.values()])
    header = ["setting", *["primary metric"] * (not one_metric)]
    header += [code(baselines[0]) if len(baselines) == 1 else "baseline"] * lost
    measure = next(iter(metrics.values())) if one_metric else "the primary metric"
    caption = f"Each arm compared with {' or '.join(baselines)}, by {measure}."
    return Table(caption, [*header, *map(code, arms)], rows, range(len(header) + len(arms)))


def _metric(c: Compared) -> str:
    return f"{c.measure.metric.name}; {c.measure.metric.better} is better"


def _baseline_cell(c: Compared) -> Cell:
    lost, runs = c.diverged_baseline
    if not lost:
        return Cell("none diverged")
    return Cell(f"† diverged {lost} of {runs}", kind="diverged")


def lone_run(study: Study) -> Iterator[Block]:
    """What a run's folder on its own shows."""
    [run] = study.runs
    yield Heading("What the run shows")
    numbers = [f"{text(m.name)} {m.value(m.of(run))}" for m in measures(study, run.setting)]
    limited = ""
    if run.config["losses_limited"]:
        count = sum(loss["count"] for loss in run.losses.values())
        limited = f" {run.limited:,} of {count:,} losses were limited."
    outcome = f"It **diverged**: {text(run.diverged)}." if run.diverged else "It did not diverge."
    beside = f" {untrained(study, run.setting)}" if run.untrained else ""
    yield Paragraph(
        f"This is one run: {code(run.config['task'])} with {code(run.arm)}, seed {run.seed}, "
        f"{plural(run.steps, 'step')}. {outcome} At the end: {'; '.join(numbers)}.{limited}"
        f"{beside} A single run is compared with nothing.",
        lead=True,
    )
