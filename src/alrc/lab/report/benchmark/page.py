"""The page of a benchmark, its figures and its spreadsheets, from compact results alone."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alrc.lab.engine.files import write_json, written_together, written_whole
from alrc.lab.report.benchmark.choosing import Choice
from alrc.lab.report.benchmark.compact import PLAIN
from alrc.lab.report.benchmark.decision import Decision, decide
from alrc.lab.report.benchmark.effects import Effects, Estimate
from alrc.lab.report.benchmark.figures import draw_forest, draw_regret, draw_tradeoff
from alrc.lab.report.benchmark.matrix import draw_matrix
from alrc.lab.report.benchmark.reading import read_bench
from alrc.lab.report.benchmark.sentences import decision_words, how_measured, lead, limits
from alrc.lab.report.benchmark.summaries import Summary, summaries
from alrc.lab.report.benchmark.tables import (
    README_HEADER,
    arms_csv,
    arms_table,
    candidates_table,
    costs_table,
    matrix_csv,
    part_tables,
    regret_table,
    table_rows,
    tuned_table,
)
from alrc.lab.report.benchmark.words import main_arms, shown_arms
from alrc.lab.report.figures import save
from alrc.lab.report.markup import (
    Block,
    Bullets,
    Gallery,
    Heading,
    Image,
    Paragraph,
    Table,
    markdown,
)

__all__ = ["draw_benchmark"]

FIGURES = {
    "benchmark-matrix": "Change of the held-out error by each arm in each workload.",
    "benchmark-forest": "Gain where something breaks, change of calm workloads and worst case.",
    "benchmark-regret": "Distance of each arm from the best arm, in the mean and at worst.",
    "benchmark-tradeoff": "Gain where something breaks against the worst case, by arm.",
}


def draw_benchmark(folder: Path, out: Path) -> None:
    """Writes benchmark.md, its figures, matrix.csv, arms.csv, decision.json, readme_table.md.

    All of them or none.

    Args:
        folder: Holds PART.csv and PART.json of each part, and step_cost.csv if it was measured.
        out: Folder to write to; made if it is not there.

    Raises:
        Damaged: If a file of the folder is not as it has to be; with the file and the line.
        NotStored: If a file can't be written.
    """
    effects = Effects(read_bench(folder))
    decision, found = decide(effects), summaries(effects)
    shown = shown_arms(effects.bench, decision, found)
    main = main_arms(effects.bench, decision, found)
    blocks = list(_blocks(effects, decision, found, shown, main))
    rows = Table("What the benchmark recommends.", README_HEADER, table_rows(effects, decision))
    rows = dataclasses.replace(rows, textual=tuple(range(len(README_HEADER))))
    text = {
        "benchmark.md": markdown("Benchmark", blocks),
        "readme_table.md": markdown("", [rows]).split("\n", 4)[4],
        "matrix.csv": matrix_csv(effects),
        "arms.csv": arms_csv(found),
    }
    out.mkdir(parents=True, exist_ok=True)
    with written_together():
        for name, content in text.items():
            with written_whole(out / name) as part:
                part.write_text(content, encoding="utf-8")
        for name, figure in _figures(effects, decision, found, shown, main):
            save(figure, out / f"{name}.png")
        write_json(out / "decision.json", _plain(decision))


def _figures(
    effects: Effects,
    decision: Decision,
    found: dict[str, Summary],
    shown: list[str],
    main: list[str],
) -> Iterator[tuple[str, Figure]]:
    default = decision.default.label
    yield "benchmark-matrix", draw_matrix(effects, shown)
    yield "benchmark-forest", draw_forest(found, main, default)
    yield "benchmark-regret", draw_regret(found, [PLAIN, *_wide(effects, shown)], default)
    yield "benchmark-tradeoff", draw_tradeoff(found, _wide(effects, shown), default)


def _wide(effects: Effects, shown: list[str]) -> list[str]:
    """Arms that ran on all broken workloads: means of others are of other workloads."""
    return [a for a in shown if all(a in w.runs for w in effects.bench.of("broken"))]


def _blocks(
    effects: Effects,
    decision: Decision,
    found: dict[str, Summary],
    shown: list[str],
    main: list[str],
) -> Iterator[Block]:
    bench = effects.bench
    cells = sum(len(w.runs) - 1 for w in bench.workloads)
    pictures = {name: Gallery([Image(f"{name}.png", alt, b"")]) for name, alt in FIGURES.items()}
    yield Paragraph(lead(effects, decision))
    yield Heading("The matrix")
    yield pictures["benchmark-matrix"]
    yield Paragraph("All arms, both metrics, with intervals: [matrix.csv](matrix.csv).")
    yield Heading("Gain, cost and worst case")
    yield pictures["benchmark-forest"]
    yield arms_table(found, main)
    yield pictures["benchmark-tradeoff"]
    yield Heading("Regret")
    yield pictures["benchmark-regret"]
    yield regret_table(found, [PLAIN, *_wide(effects, shown)])
    yield Paragraph("All arms: [arms.csv](arms.csv).")
    yield Heading("The choice of the defaults")
    yield Paragraph("By [the rule](benchmark-rule.md) that was written before the runs:")
    yield Bullets(list(decision_words(effects, decision)))
    yield candidates_table(decision.default, found)
    yield Heading("Part by part")
    yield from part_tables(effects, decision.default.label)
    if (tuned := tuned_table(bench)).rows:
        yield Heading("What was tuned")
        yield tuned
    if bench.step_cost:
        yield Heading("What it costs")
        yield costs_table(bench)
    yield Heading("How it was measured")
    yield Bullets(list(how_measured(bench)))
    yield Heading("Limits")
    yield Bullets(list(limits(cells)))


def _plain(value: Any) -> Any:
    """The decision as JSON has it; estimates as changes, with their intervals."""
    if isinstance(value, Estimate):
        low, high = (math.expm1(min(x, 700)) for x in value.interval)
        return {"change": math.expm1(value.value), "low": low, "high": high, "p": value.p}
    if isinstance(value, Choice | Decision):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return fields | ({"fallback": value.fallback} if isinstance(value, Choice) else {})
    if isinstance(value, dict):
        return {str(name): _plain(x) for name, x in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(x) for name, x in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(x) for x in value]
    return value
