"""The numbers of a benchmark as spreadsheets and as tables of its page."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from alrc import Settings
from alrc.lab.report.benchmark.choosing import CANDIDATES, GROUPS, Choice, reasons
from alrc.lab.report.benchmark.compact import PLAIN, Bench, Workload
from alrc.lab.report.benchmark.decision import Decision
from alrc.lab.report.benchmark.effects import Effects, Which
from alrc.lab.report.benchmark.matrix import ordered
from alrc.lab.report.benchmark.summaries import Summary
from alrc.lab.report.benchmark.words import change, effect_words, told
from alrc.lab.report.markup import Block, Heading, Table, code, plural, text

__all__ = [
    "README_HEADER",
    "arms_csv",
    "arms_table",
    "candidates_table",
    "costs_table",
    "matrix_csv",
    "part_tables",
    "regret_table",
    "table_rows",
    "tuned_table",
]

NORM_CLIP, RIGHT = "clip-grad-norm", " (where large losses are right)"
README_HEADER = (
    "your loss",
    "your setting",
    "held-out error",
    "with the gradient norm clipped at 1",
    "where nothing breaks it",
)
WHICH: tuple[Which, Which] = ("first", "second")


def matrix_csv(effects: Effects) -> str:
    """A line for each workload, arm and metric."""
    return _csv(
        _effect_row(effects, workload, arm, which)
        for workload in effects.bench.workloads
        for arm in workload.runs
        for which in WHICH[: len(workload.metrics)]
        if arm != PLAIN
    )


def _effect_row(effects: Effects, w: Workload, arm: str, which: Which) -> dict[str, Any]:
    effect = effects.effect(w, arm, which)
    runs = w.runs[arm].values()
    low, high = effect.estimate.interval
    tell = math.expm1 if effect.ratios else float
    return {
        "workload": w.name,
        "part": w.part,
        "kind": w.kind,
        "family": w.family,
        "arm": arm,
        "spelled": w.spelled[arm],
        "metric": w.metrics[which == "second"]["name"],
        "which": which,
        "change_is": "relative" if effect.ratios else "absolute",
        "change": tell(effect.estimate.value),
        "low": tell(low),
        "high": tell(high) if high < math.inf else high,
        "p": effect.estimate.p,
        "pairs": len(effect.differences),
        "seeds": len(w.seeds),
        "identical": int(effect.identical),
        "diverged_plain_only": effect.before,
        "diverged_arm_only": effect.after,
        "diverged_both": effect.both,
        "p_diverged": effect.p_diverged,
        "spikes": sum(run.spikes for run in runs) / len(w.seeds),
        "limited": sum(run.limited for run in runs) / len(w.seeds),
        "kept": sum(run.kept for run in runs) / len(w.seeds),
        "reached": sum(run.reached is not None for run in runs),
    }


def arms_csv(summaries: dict[str, Summary]) -> str:
    """A line for each arm."""
    return _csv(map(_arm_row, summaries.values()))


def _arm_row(s: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": s.arm, "workloads": s.workloads, "broken": s.broken}
    named = {"gain": s.gain, "calm": s.calm, "trap": s.trap}
    named |= {f"calm_{family}": e for family, e in s.harm.items()}
    for name, estimate in named.items():
        if estimate is not None:
            low, high = (math.expm1(min(x, 700)) for x in estimate.interval)
            row |= {name: math.expm1(estimate.value), f"{name}_low": low, f"{name}_high": high}
    return row | {
        "worst_case": math.expm1(min(s.worst, 700)),
        "worst_case_at": s.worst_at.name,
        "regret": math.expm1(s.regret),
        "regret_worst": math.expm1(s.regret_worst),
        "regret_worst_at": s.regret_at.name,
        "diverged_more": " ".join(s.diverged_more),
    }


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    given = list(rows)
    columns = list(dict.fromkeys(column for row in given for column in row))
    stream = io.StringIO()
    lines = csv.DictWriter(stream, columns or ["workload"], lineterminator="\n")
    lines.writeheader()
    for row in given:
        lines.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return stream.getvalue()


def arms_table(summaries: dict[str, Summary], arms: Sequence[str]) -> Table:
    """The numbers of the forest plot."""
    rows = [
        [
            code(s.arm),
            told(s.gain),
            told(s.calm),
            told(s.trap),
            f"{change(s.worst)}, {s.worst_at.name}",
            plural(len(s.diverged_more), "workload") if s.diverged_more else "nowhere",
        ]
        for s in (summaries[arm] for arm in arms)
    ]
    header = ["arm", "broken", "calm", "traps", "worst case", "diverges more than plain"]
    return Table("Mean change [95 % interval] of the first metric.", header, rows)


def regret_table(summaries: dict[str, Summary], arms: Sequence[str]) -> Table:
    order = sorted(arms, key=lambda arm: summaries[arm].regret)
    rows = [
        [code(s.arm), change(s.regret), change(s.regret_worst), s.regret_at.name, str(s.workloads)]
        for s in (summaries[arm] for arm in order)
    ]
    header = ["arm", "mean regret", "worst regret", "on", "workloads"]
    return Table("How far each arm is from the best arm of each workload.", header, rows, (0, 3))


def part_tables(effects: Effects, default: str) -> Iterator[Block]:
    """What breaks each workload, what the literature would do, the best arm, and the default."""
    for part in effects.bench.parts:
        own = [w for w in effects.bench.workloads if w.part == part]
        rows = [
            _workload_row(effects, w, default) for of_kind in ordered(own).values() for w in of_kind
        ]
        header = ["workload", "kind", "what breaks it", "the literature's remedy", "best arm"]
        header += ["its change", "change with the default", "second metric"]
        yield Heading(f"Part {code(part)}", 3)
        yield Table(
            "Changes against plain training, with 95 % intervals.",
            header,
            rows,
            tuple(range(len(header))),
        )


def _workload_row(effects: Effects, w: Workload, default: str) -> list[str]:
    arms = [arm for arm in w.runs if arm != PLAIN]
    best = min(arms, key=lambda arm: effects.effect(w, arm).estimate.value, default=None)
    row = [text(w.title), w.kind, *(text(w.about[key]) or "-" for key in ("breaks", "remedy"))]
    row += ["-", "-"] if best is None else [code(best), effect_words(effects.effect(w, best))]
    if default not in w.runs:
        return [*row, "not run", "-"]
    row.append(effect_words(effects.effect(w, default)))
    if len(w.metrics) < 2:
        return [*row, "-"]
    second = effect_words(effects.effect(w, default, "second"))
    unit = w.metrics[1]["unit"]
    return [*row, f"{text(w.metrics[1]['name'])}{f' ({text(unit)})' * bool(unit)}: {second}"]


def candidates_table(choice: Choice, summaries: dict[str, Summary]) -> Table:
    rows = [[code(label), told(summaries[label].gain), text(why)] for label, why in reasons(choice)]
    header = ["candidate", "gain where something breaks", "by clause (i)"]
    return Table("Every candidate, and whether it may become the default.", header, rows, (0, 1, 2))


def tuned_table(bench: Bench) -> Table:
    """Which trial of each tuned rival was the best on the tuning seeds."""
    rows = [
        [
            text(w.name),
            code(rival),
            code(found["best"]),
            plural(len(found.get("trials", {})), "trial"),
        ]
        for w in bench.workloads
        for rival, found in (w.about.get("tuning") or {}).items()
    ]
    header = ["workload", "rival", "best trial", "out of"]
    return Table("What was chosen on the tuning seeds.", header, rows, (0, 1, 2, 3))


def costs_table(bench: Bench) -> Table:
    rows = [[code(a), f"{us:,.4g} us", f"{ratio:.3g}"] for a, us, ratio in bench.step_cost]
    return Table("What a training step takes.", ["arm", "time of a step", "against plain"], rows)


def table_rows(effects: Effects, decision: Decision) -> list[list[str]]:
    """README's table "your loss -> your setting": a row for each part and each family in it.

    Its broken workloads together, or its traps, where large losses are right.
    """
    bench, rows = effects.bench, []
    places = dict.fromkeys((w.part, w.family) for w in bench.workloads)
    for part, family in places:
        inside = [w for w in bench.of("broken", "trap", families=(family,)) if w.part == part]
        label = _recommended(decision, family)
        for kind in ("broken", "trap"):
            some = [w for w in inside if w.kind == kind]
            if not some or any(label not in w.runs for w in some):
                continue
            twins = {w.about.get("twin") for w in some}
            calm = [w for w in bench.workloads if w.name in twins and label in w.runs]
            rows.append(
                [
                    ", ".join(dict.fromkeys((family, part.replace("-", " "))))
                    + RIGHT * (kind == "trap"),
                    code(arguments(label)),
                    told(effects.pooled(label, some)),
                    told(effects.pooled(NORM_CLIP, some)),
                    told(effects.pooled(label, calm)),
                ]
            )
    return rows


def _recommended(decision: Decision, family: str) -> str:
    group = next(name for name, families in GROUPS.items() if family in families)
    return decision.recommended.get(group, decision.default.label)


def arguments(label: str) -> str:
    """A setting as a user types it.

    Example:
        >>> arguments("alrc-log num_stddev=2")
        'ALRC()'
        >>> arguments("alrc recency=4")
        "ALRC(num_stddev=3, recency=4, scale='linear')"
    """
    c, default = CANDIDATES[label], Settings()
    given = {
        "num_stddev": float(c.num_stddev),
        "recency": float(c.recency),
        "scale": ("linear", "log")[c.log],
    }
    words = [
        f"{name}={x:g}" if isinstance(x, float) else f"{name}={x!r}"
        for name, x in given.items()
        if x != getattr(default, name)
    ]
    return f"ALRC({', '.join(words)})"
