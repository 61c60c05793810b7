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
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from alrc.lab.report.benchmark.effects import Effects
from alrc.lab.report.benchmark.reading import read_bench
from alrc.lab.report.statistics import Pairs, compare

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/experiments.md")
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


def words(before: Mapping[int, float], after: Mapping[int, float]) -> str:
    """A change in pairs of a seed."""
    (found,) = compare([Pairs(dict(before), dict(after))])
    assert found.interval is not None
    low, high = found.interval
    return percent(found.change, low, high)


def per_example() -> str:
    """What one loss per example is worth, where a few targets are broken."""
    one, batch = (change("diabetes-broken-2-quartic", arm) for arm in ("alrc", "alrc per=batch"))
    return (
        f"with 2 % broken targets and a quartic error, the clean held-out error changes by {one} "
        f"with one loss per example, and by {batch} with one per batch "
        f"({COMMAND.format('broken-targets')})."
    )


def harms() -> str:
    """Where the default did harm in the benchmark, and where a norm clip did better."""
    many = change("breast-cancer-broken-10-quartic", "alrc")
    clip = change("breast-cancer-broken-10-quartic", "clip-grad-norm")
    clean = change("digits", "alrc")
    one, one_clip = (change("t3-quartic-1", arm) for arm in ("alrc", "clip-grad-norm"))
    return (
        f"- **A tenth of the losses or more go wrong**: more than 1 / (1 + n²) of them can't be "
        f"beyond n standard deviations. With 10 % broken targets and a quartic error, the held-out "
        f"error changed by {many} with the default, by {clip} with a gradient norm clipped at 1 "
        f"({COMMAND.format('broken-targets')}).\n"
        f"- **Clean classification**: the log-loss of clean digits changed by {clean} "
        f"({COMMAND.format('wrong-labels')}).\n"
        f"- **Batch size 1**: with heavy tails and a quartic error the held-out error changed by "
        f"{one_clip} with a clipped gradient norm, by {one} with ALRC "
        f"({COMMAND.format('heavy-tails')})."
    )


@functools.cache
def results() -> Effects:
    return Effects(read_bench(RESULTS))


def change(workload: str, arm: str) -> str:
    """Of the first metric against plain training, in pairs of a seed."""
    effects = results()
    (found,) = [w for w in effects.bench.workloads if w.name == workload]
    e = effects.effect(found, arm).estimate
    return percent(*map(math.expm1, (e.value, *e.interval)))


def percent(value: float, low: float, high: float) -> str:
    """A relative change and its interval."""
    return f"{100 * value:+.0f} % [{100 * low:+.0f}, {100 * high:+.0f}]"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "demo": demo,
    "per-example": per_example,
    "harms": harms,
}


def written(text: str) -> str:
    """A page with its numbers."""
    return BLOCK.sub(lambda m: f"<!-- numbers: {m[1]} -->\n{BLOCKS[m[1]]()}\n<!-- end -->", text)


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(page)
