"""Writes the numbers of README.md and of docs from the results that are kept there.

::

    python benchmarks/pages.py

Text between ``<!-- numbers: NAME -->`` and ``<!-- end -->`` is that of a function here. A test
holds the pages to it.
"""

import csv
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.optimize import fsolve
from scipy.stats import norm

from alrc.lab.report.benchmark.decision import Decision, decide
from alrc.lab.report.benchmark.effects import Effects, Estimate
from alrc.lab.report.benchmark.reading import read_bench
from alrc.lab.report.benchmark.tables import README_HEADER, arguments, table_rows
from alrc.lab.report.statistics import Pairs, compare

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/cost.md",
    "docs/experiments.md",
    "docs/how.md",
    "docs/microscopy.md",
    "docs/questions.md",
    "docs/settings.md",
    "docs/suspects.md",
    "docs/troubleshooting.md",
)
CLIP = "clip-grad-norm"
RESULTS = ROOT / "docs/benchmark/compact"
COMMAND = "`alrc lab study stability --part {}`"
BLOCK = re.compile(r"<!-- numbers: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def demo() -> str:
    """From docs/demo.csv, which ``alrc demo --out docs/demo.png`` writes."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    with (ROOT / "docs/demo.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = values.setdefault((row["targets"], row["training"]), {})
            found[int(row["seed"])] = float(row["error"])
    broken, clean = dict.fromkeys(targets for targets, _ in values)
    told = {
        (targets, training): words(values[targets, "plain"], values[targets, training])
        for targets, training in values
        if training != "plain"
    }
    error = {key: f"{np.median([*errors.values()]):.2g}" for key, errors in values.items()}
    seeds = len(values[broken, "plain"])

    def told_of(targets: str, training: str) -> str:
        return f"{error[targets, training]} ({told[targets, training]})"

    return (
        "*A network learns to take noise out of photographs; a square is hot in 2 % of its "
        f"targets. Error on clean ones that it never saw, median of {seeds} seeds: "
        f"{error[broken, 'plain']} plain, {told_of(broken, 'norm clip')} with a gradient-norm "
        f"clip at 1.0, {told_of(broken, 'ALRC')} with ALRC. Without hot squares: "
        f"{error[clean, 'plain']} plain, {told_of(clean, 'norm clip')}, {told_of(clean, 'ALRC')}. "
        "In brackets the mean change in pairs of a seed, with its 95 % interval. Made by "
        "`alrc demo`.*"
    )


def gpu_step() -> str:
    """From docs/gpu_step.csv, which ``benchmarks/gpu_step.py`` writes."""
    with (ROOT / "docs/gpu_step.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = {(row["network"], row["kind"]): row["plain_ms"] for row in rows}
    lines = [["a step, in microseconds more", *(f"{n}, {kind}" for n, kind in steps)]]
    lines += [
        ["---"] * len(lines[0]),
        ["plain, in ms", *(f"{float(x):.2g}" for x in steps.values())],
    ]
    for way in dict.fromkeys(row["way"] for row in rows if row["way"] != "plain"):
        pairs = [(float(r["more_us"]), 1e3 * float(r["plain_ms"])) for r in rows if r["way"] == way]
        lines.append([way, *(f"{more:+.0f} ({100 * more / plain:.1f} %)" for more, plain in pairs)])
    return table(lines)


def words(before: Mapping[int, float], after: Mapping[int, float]) -> str:
    """A change in pairs of a seed."""
    (found,) = compare([Pairs(dict(before), dict(after))])
    assert found.interval is not None
    low, high = found.interval
    return percent(found.change, low, high)


def study(name: str, *keys: str) -> str:
    """From runs.csv of a study, a column for each value of the keys.

    Each arm against plain training, in pairs of a seed in which neither run diverged.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    diverged = Counter[tuple[str, str]]()
    with (ROOT / "docs/studies" / name / "runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            arm, setting = row["arm"], " ".join(row[key] for key in keys)
            found = values.setdefault(arm, {}).setdefault(setting, {})
            if row["diverged"]:
                diverged[arm, setting] += 1
            else:
                found[int(row["seed"])] = float(row["metric.held-out error"])
    plain = values["off"]
    lines = [["held-out error", *plain], ["---"] * (1 + len(plain))]
    for arm, settings in values.items():
        cells = [f"`{arm}`"]
        for setting, errors in settings.items():
            seeds = errors.keys() & plain[setting].keys()
            pairs = [{s: some[setting][s] for s in sorted(seeds)} for some in (plain, settings)]
            cell = words(*pairs) if arm != "off" else f"{np.mean([*errors.values()]):.3g}"
            number = diverged[arm, setting]
            cells.append(cell + (f", {number} diverged" if number else ""))
        lines.append(cells)
    return table(lines)


def study_shown(name: str) -> str:
    """What the report of a study shows, and which arm of ALRC comes nearest to more."""
    with (ROOT / "docs/studies" / name / "comparisons.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["primary_metric"] == "True"]
    sentences = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        inside = [row for row in rows if row["setting"] == setting]
        shown = [
            f"`{row['arm']}` {row['verdict']}" for row in inside if row["verdict"] != "unclear"
        ]
        sentences.append(f"`{setting}`: {', '.join(shown) or 'nothing'}")
    left = [row for row in rows if "alrc" in row["arm"] and row["verdict"] == "unclear"]
    told = f"**Shown, after correction for {len(rows)} comparisons: {'; '.join(sentences)}.**"
    if not left:
        return told
    nearest = min(left, key=lambda row: float(row["p"]))
    return (
        f"{told} Of what is unclear of ALRC, `{nearest['arm']}` comes nearest, with "
        f"`{nearest['setting']}`: p = {float(nearest['p']):.2g} where "
        f"{float(nearest['level']):.2g} was needed."
    )


def verdict() -> str:
    """Where the default helps, does nothing and hurts, and how it stands beside a norm clip."""
    effects, arm = results(), default()
    bench = effects.bench
    ran = [w for w in bench.workloads if arm in w.runs]
    ends = {w.name: effects.effect(w, arm).estimate.interval for w in ran}
    broken, other = ([w for w in ran if (w.kind == "broken") is it] for it in (True, False))
    helped, hurt = (
        [w for w in some if sign * ends[w.name][sign < 0] > 0]
        for some, sign in ((broken, -1), (ran, 1))
    )
    calm = [w for w in other if ends[w.name][0] <= 0 <= ends[w.name][1]]
    seeds = sorted(len(w.runs[arm]) for w in ran)
    better, worse, _ = beside_clip()
    words = (
        f"In [a benchmark](docs/benchmark/benchmark.md) of {len(ran)} small real workloads, "
        f"`{arguments(arm)}` lowers the clean held-out error in {len(helped)} of the {len(broken)} "
        f"where something breaks ({told(effects.pooled(arm, bench.of('broken')))} in the mean over "
        f"all parts), and changes nothing that {seeds[0]} to {seeds[-1]} seeds can show in "
        f"{len(calm)} of the {len(other)} others. "
    )
    words += (
        f"It hurts in {len(hurt)}: {', '.join(w.name for w in hurt)}. "
        if hurt
        else "It is shown to hurt in none. "
    )
    return words + (
        f"Where it stands beside a gradient norm clipped at 1: better in {better}, worse in "
        f"{worse}."
    )


def beside_clip() -> tuple[int, int, int]:
    """In how many workloads the default is better, and worse, than a clipped norm; of how many."""
    effects, arm = results(), default()
    both = [w for w in effects.bench.workloads if arm in w.runs and CLIP in w.runs]
    apart = [effects.pooled(arm, [w], against=CLIP) for w in both]
    better, worse = (
        sum(e is not None and sign * e.interval[sign < 0] > 0 for e in apart) for sign in (-1, 1)
    )
    return better, worse, len(both)


def clip() -> str:
    better, worse, both = beside_clip()
    return (
        f"Of {both} workloads of [the benchmark](benchmark/benchmark.md), `{arguments(default())}` "
        f"is better than a norm clipped at 1 in {better}, and worse in {worse}: if the clip helps, "
        "keep it."
    )


def high_rates() -> str:
    """Where all losses rise together."""
    workload = "digits-sgd-10x"
    return (
        f"Where the learning rate is ten times the best, the held-out error changes by "
        f"{change(workload, default())} with `{arguments(default())}`, by {change(workload, CLIP)} "
        f"with the gradient norm clipped at 1 ({COMMAND.format('high-learning-rates')})."
    )


def settings() -> str:
    """The table "your loss -> your setting"."""
    lines = [README_HEADER, ["---"] * len(README_HEADER), *table_rows(results(), decision())]
    text = table(lines).replace("\u00a0", " ")
    # -72.8 % [-76.4 %, -68.6 %] is longer than what one looks for there
    return re.sub(r"\[(\S+) %, (\S+) %\]", r"[\1, \2]", text)


def per_example() -> str:
    """What one loss per example is worth, where a few targets are broken."""
    one = change("diabetes-broken-2-quartic", "alrc-log num_stddev=2")
    batch = change("diabetes-broken-2-quartic", "alrc per=batch")
    linear = change("diabetes-broken-2-quartic", "alrc")
    return (
        f"with 2 % broken targets and a quartic error, the clean held-out error changes by {one} "
        f"with one loss per example; with the paper's limit by {linear}, and by {batch} with one "
        f"per batch ({COMMAND.format('broken-targets')})."
    )


def harms() -> str:
    """Where the default does little or harm in the benchmark, and where a norm clip does better."""
    arm = default()
    many = "breast-cancer-broken-10-quartic"
    one = "t3-quartic-1"
    high = "digits-sgd-10x"
    return (
        f"- **A clipped gradient norm does it already.** It is as good or better where many losses "
        f"go wrong: with 10 % broken targets and a quartic error the held-out error changed by "
        f"{change(many, arm)} with ALRC, by {change(many, CLIP)} with the norm clipped at 1 "
        f"({COMMAND.format('broken-targets')}); and at batch size 1: {change(one, arm)} and "
        f"{change(one, CLIP)} with heavy tails ({COMMAND.format('heavy-tails')}).\n"
        f"- **The learning rate is far too high.** Then all losses rise, and none stands out: "
        f"{change(high, arm)} with ALRC where it is 10 times the best, {change(high, CLIP)} with "
        f"the norm clipped at 1 ({COMMAND.format('high-learning-rates')})."
    )


def healthy() -> str:
    """What the default limits in training that is calm, and in training that something breaks."""
    families = ("regression", "classification", "images", "language", "control")
    head = ["training", "", "`clipped_fraction`", "`kept`", "workloads"]
    lines = [head, ["---"] * len(head)]
    for family in families:
        for kind, word in (
            ("calm", "calm"),
            ("trap", "large losses are right"),
            ("broken", "something breaks"),
        ):
            ran = [
                w for w in results().bench.of(kind) if w.family == family and default() in w.runs
            ]
            if ran:
                runs = [w.runs[default()].values() for w in ran]
                limited, kept = (
                    [float(np.median([getattr(run, name) for run in some])) for some in runs]
                    for name in ("limited", "kept")
                )
                shares = (span(limited, ".2f"), span(kept, ".1f"), str(len(ran)))
                lines.append([family, word, *shares])
    return table(lines)


def span(shares: list[float], form: str) -> str:
    """From the smallest to the largest, in per cent."""
    low, high = (f"{100 * x:{form}}" for x in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def found() -> str:
    """How many of the broken examples there are, and how many losses the default limited."""
    shown = {
        "diabetes-broken-2-squared": "2 % broken targets",
        "diabetes-broken-10-squared": "10 % broken targets",
        "hot-squares-quartic": "2 % broken images",
        "digits-wrong-5": "5 % wrong labels",
        "digits-wrong-20": "20 % wrong labels",
        "digits-wrong-40": "40 % wrong labels",
        "language-garbage": "5 % garbage sequences",
    }
    lines = [["what is wrong", "`clipped_fraction`", "`kept`"], ["---"] * 3]
    workloads = {workload.name: workload for workload in results().bench.workloads}
    for name, words in shown.items():
        runs = workloads[name].runs[default()].values()
        numbers = (np.median([getattr(run, x) for run in runs]) for x in ("limited", "kept"))
        lines.append([words, *(f"{100 * x:.1f} %" for x in numbers)])
    return table(lines)


def fixed_points() -> str:
    """Where the moments come to rest on log-normal losses, by num_stddev."""
    spreads = (0.3, 1.0, 2.0)
    head = ["`num_stddev`", "losses limited", "at most, whatever the losses"]
    head += [f"kept of losses that spread by {spread:g}" for spread in spreads]
    lines = [head, ["---"] * len(head)]
    for n in (1, 1.5, 2, 3, 4):
        limit = rest(n)
        cells = [f"{100 * x:.2g} %" for x in (norm.sf(limit), 1 / (1 + n * n))]
        for s in spreads:
            kept = norm.cdf(limit - s) + math.exp(s * limit - s * s / 2) * norm.sf(limit)
            cells.append(f"{100 * kept:.1f} %")
        lines.append([f"{n:g}", *cells])
    return table(lines)


def rest(n: float) -> float:
    """The limit at which the moments of standard normal numbers rest that are limited by it."""

    def moves(moments: np.ndarray) -> list[float]:
        mean, stddev = moments
        t = mean + n * stddev
        first = t * norm.sf(t) - norm.pdf(t)  # of min(z, t), and of its square
        second = norm.cdf(t) - t * norm.pdf(t) + t * t * norm.sf(t)
        return [first - mean, second - first**2 - stddev**2]

    mean, stddev = fsolve(moves, [0.0, 1.0])
    return float(mean + n * stddev)


def table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


FOUND_BY = {
    "`ALRC()` that limits, by factor": "`ALRC()` that limits",
    "lower limit that limits, by factor": "lower limit that limits",
    "lower limit that looks on, by factor": "**lower limit that looks on**",
    "lower limit that looks on, by share": "the same, by share",
    "mean loss of training": "mean loss of training",
    "cleanlab": "cleanlab",
}


@functools.cache
def suspects(file: str) -> dict[tuple[str, str], dict[str, dict[str, list[float]]]]:
    """Of docs/suspects*.csv: for each case and each way to rank, what each seed gave."""
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    with (ROOT / "docs" / file).open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            # Each kind of data has a method of cleanlab's of its own.
            name = "cleanlab" if row["method"].startswith("cleanlab") else row["method"]
            case = found.setdefault((row["data"], f"{100 * float(row['bad']):g} %"), {})
            columns = case.setdefault(name, {})
            for column in ("auroc", "precision", "flagged", "right"):
                if row.get(column):
                    columns.setdefault(column, []).append(float(row[column]))
    return found


def suspects_found() -> str:
    """Means over seeds of AUROC and precision, of each way to rank."""
    return suspects_table(
        FOUND_BY, lambda x: f"{np.mean(x['auroc']):.3f}, {np.mean(x['precision']):.3f}"
    )


def suspects_flagged() -> str:
    """How many of the examples that a method flags are bad, of all seeds together."""
    flags = suspects("suspects.csv").values()
    named = {key: FOUND_BY[key] for key in FOUND_BY if all("flagged" in x[key] for x in flags)}
    named = {key: name for key, name in named.items() if not key.endswith("by share")}
    return suspects_table(named, lambda x: f"{sum(x['right']):.0f} of {sum(x['flagged']):.0f}")


def suspects_table(
    columns: Mapping[str, str], cell: Callable[[Mapping[str, list[float]]], str]
) -> str:
    lines = [["data", "bad", *columns.values()], ["---"] * (2 + len(columns))]
    for case, methods in suspects("suspects.csv").items():
        lines.append([*case, *(cell(methods[name]) for name in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def suspects_choice() -> str:
    """The candidates on seeds apart, with the one that the rule chooses in bold."""
    cases = suspects("suspects-choice.csv").values()
    scores = {
        name: (
            min(np.mean(case[name]["auroc"]) for case in cases),
            np.mean([np.mean(case[name]["precision"]) for case in cases]),
        )
        for name in next(iter(cases))
    }
    chosen = max((precision, name) for name, (auroc, precision) in scores.items() if auroc >= 0.97)
    lines = ["| setting, order | smallest AUROC | mean precision |", "| --- | --- | --- |"]
    for name, (auroc, precision) in scores.items():
        shown = f"**{name}**" if name == chosen[1] else name
        lines.append(f"| {shown} | {auroc:.3f} | {precision:.4f} |")
    return "\n".join(lines)


@functools.cache
def results() -> Effects:
    return Effects(read_bench(RESULTS))


@functools.cache
def decision() -> Decision:
    return decide(results())


def default() -> str:
    """The arm that the benchmark's rule chooses."""
    return decision().default.label


def told(estimate: Estimate | None) -> str:
    assert estimate is not None
    return percent(*map(math.expm1, (estimate.value, *estimate.interval)))


def change(workload: str, arm: str) -> str:
    """Of the first metric against plain training, in pairs of a seed."""
    effects = results()
    (found,) = [w for w in effects.bench.workloads if w.name == workload]
    return told(effects.effect(found, arm).estimate)


def percent(value: float, low: float, high: float) -> str:
    """A relative change and its interval."""
    return f"{100 * value:+.0f} % [{100 * low:+.0f}, {100 * high:+.0f}]"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "demo": demo,
    "gpu-step": gpu_step,
    "verdict": verdict,
    "settings": settings,
    "per-example": per_example,
    "cifar": functools.partial(study, "cifar10-small", "task.error"),
    "cifar-shown": functools.partial(study_shown, "cifar10-small"),
    "partial-stem": functools.partial(study, "partial-stem", "task.damaged"),
    "partial-stem-shown": functools.partial(study_shown, "partial-stem"),
    "partial-stem-quartic": functools.partial(study, "partial-stem-quartic", "task.damaged"),
    "partial-stem-quartic-shown": functools.partial(study_shown, "partial-stem-quartic"),
    "stem-supersampling": functools.partial(study, "stem-supersampling-small", "task.damaged"),
    "stem-supersampling-shown": functools.partial(study_shown, "stem-supersampling-small"),
    "cifar-high-learning-rates": functools.partial(
        study, "cifar10-small-high-learning-rate", "training.optimizer", "training.learning_rate"
    ),
    "harms": harms,
    "healthy": healthy,
    "found": found,
    "clip": clip,
    "high-rates": high_rates,
    "fixed-points": fixed_points,
    "suspects": suspects_found,
    "suspects-flagged": suspects_flagged,
    "suspects-choice": suspects_choice,
}


def written(text: str) -> str:
    """A page with its numbers."""
    return BLOCK.sub(lambda m: f"<!-- numbers: {m[1]} -->\n{BLOCKS[m[1]]()}\n<!-- end -->", text)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(page)
