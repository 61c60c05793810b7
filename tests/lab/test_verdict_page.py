"""The page of a benchmark, its figures and its spreadsheets."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_benchmarks import ERROR, NATS, Made, fabricate, pair
from matplotlib.figure import Figure
from reading_reports import rows

from alrc.lab.engine.files import Damaged
from alrc.lab.report.benchmark import draw_benchmark
from alrc.lab.report.benchmark.decision import decide
from alrc.lab.report.benchmark.effects import Effects
from alrc.lab.report.benchmark.figures import draw_tradeoff
from alrc.lab.report.benchmark.matrix import cell_words, draw_matrix
from alrc.lab.report.benchmark.reading import read_bench
from alrc.lab.report.benchmark.summaries import summaries
from alrc.lab.report.benchmark.tables import table_rows

FILES = {"benchmark.md", "readme_table.md", "matrix.csv", "arms.csv", "decision.json"} | {
    f"benchmark-{name}.png" for name in ("matrix", "forest", "regret", "tradeoff")
}
GAINS = {"alrc": -0.1, "alrc recency=4": -0.6, "clip-grad-norm": -0.3, "agc": 0.0}
TUNED = "clip-grad-norm, tuned"


def made(gains: Mapping[str, float] = GAINS) -> list[Made]:
    """Two parts: a broken workload and its calm twin in each, and a trap."""
    own = pair(Made("tables", gains, same=["agc"]), dict.fromkeys(gains, 0.0), noise=0.003)
    tuned = dict(gains) | {TUNED: -0.5}
    text = Made("text", tuned, part="words", family="language", metrics=(ERROR, NATS))
    own += pair(text, dict.fromkeys(tuned, 0.0), noise=0.003)
    trap = dict.fromkeys(tuned, 0.0) | {"alrc recency=4": 0.3}
    return [*own, Made("rare", trap, part="words", kind="trap", lost={"agc": [1, 2]})]


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests about words."""
    monkeypatch.setattr("alrc.lab.report.benchmark.page._figures", lambda *_: ())


def page(folder: Path, workloads: list[Made]) -> str:
    compact = folder / "compact"
    compact.mkdir(exist_ok=True)
    draw_benchmark(fabricate(compact, workloads), folder / "out")
    text = (folder / "out" / "benchmark.md").read_text(encoding="utf-8")
    return text.replace("\u00a0", " ")


def spreadsheet(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_page_figures_and_spreadsheets_are_written_whole(tmp_path: Path) -> None:
    text = page(tmp_path, made())
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == FILES
    for picture in out.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"]({picture.name})" in text
    assert json.loads((out / "decision.json").read_text())["default"]["label"] == "alrc recency=4"


def test_nothing_is_written_if_one_figure_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def savefig(figure: Figure, *arguments: object, **options: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(OSError, match="full"):
        page(tmp_path, made())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_first_paragraph_says_where_it_helps_does_nothing_hurts_and_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    workloads = made()
    workloads[0] = replace(workloads[0], effects=GAINS | {"clip-grad-norm": -1.2})
    for i in (1, 3):
        workloads[i] = replace(workloads[i], same=["alrc recency=4", "clip-grad-norm"])
    lead = page(tmp_path, workloads).split("\n\n")[1]
    assert lead.startswith("This is about ALRC as `alrc recency=4`, one loss per example, against")
    assert "**Helps** in 2 of 2 workloads where something breaks, most in t" in lead
    assert "on seeds that did not choose it." in lead
    assert (
        "**Does nothing** that so many seeds can show in 2 workloads (2 calm); in 2 of them the "
        "runs are identical."
    ) in lead
    assert "**Hurts** in 1 workload (1 trap): rare +3" in lead
    assert "**Loses** to `clip-grad-norm` in 2 of 5: tables (+8" in lead
    assert "it beats it in 1." in lead


def test_what_diverges_more_often_is_told_first_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    workloads = [
        replace(w, lost={"alrc recency=4": [0, 1, 2]}) if w.kind == "trap" else w for w in made()
    ]
    lead = page(tmp_path, workloads).split("\n\n")[1]
    words = "It **diverges** more often than plain training in rare (3 seeds against 0, p = 0.25)."
    assert words in lead
    bench = read_bench(tmp_path / "compact")
    effect = Effects(bench).effect(bench.of("trap")[0], "alrc recency=4")
    assert cell_words(effect).endswith("†")


def test_spreadsheets_hold_all_arms_and_workloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    page(tmp_path, made())
    lines = spreadsheet(tmp_path / "out" / "matrix.csv")
    assert len(lines) == 4 + 4 + 2 * (5 + 5) + 5
    [same] = [x for x in lines if (x["workload"], x["arm"]) == ("tables", "agc")]
    assert (same["identical"], same["change"], same["low"], same["high"]) == ("1", "0", "0", "0")
    [lost] = [x for x in lines if (x["workload"], x["arm"]) == ("rare", "agc")]
    assert (lost["diverged_arm_only"], lost["p_diverged"]) == ("2", "0.5")
    bench = read_bench(tmp_path / "compact")
    found = summaries(Effects(bench))
    arms = {line["arm"]: line for line in spreadsheet(tmp_path / "out" / "arms.csv")}
    assert list(arms) == ["off", *bench.arms]
    assert arms[TUNED]["broken"] == "1"
    assert arms["alrc recency=4"]["worst_case_at"] == "rare"
    assert found["off"].worst == 0


def test_readmes_table_has_a_row_for_each_part_and_family_with_the_rival_and_the_calm_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    page(tmp_path, made())
    effects = Effects(read_bench(tmp_path / "compact"))
    told = table_rows(effects, decide(effects))
    assert [row[0] for row in told] == [
        "regression, targets",
        "language, words",
        "regression, words (where large losses are right)",
    ]
    linear = "`ALRC(num_stddev=3, recency=4, scale='linear')`"
    assert all(row[1] == linear for row in told)
    assert [row[2][:2] for row in told] == ["-4", "-4", "+3"]  # exp(-0.6) - 1, and exp(0.3) - 1
    assert [row[3][:2] for row in told[:2]] == ["-2", "-2"]  # the norm clip: exp(-0.3) - 1
    assert all(abs(float(row[4].split("\u00a0")[0])) < 0.5 for row in told[:2])  # the calm twin
    assert told[2][4] == "-"
    written = rows((tmp_path / "out" / "readme_table.md").read_text())
    assert written[2:] == told


def test_parts_tell_what_breaks_the_remedy_the_best_arm_and_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    text = page(tmp_path, made())
    [row] = [row for row in rows(text) if row[0] == "Title of tables"]
    assert row[1:5] == [
        "broken", "Two in a hundred targets are broken.", "Huber loss.", "`alrc recency=4`",
    ]  # fmt: skip
    [row] = [row for row in rows(text) if row[0] == "Title of text"]
    assert row[7].startswith("held-out nats (nats): ")


def test_step_costs_are_shown_if_they_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    (tmp_path / "compact").mkdir()
    costs = tmp_path / "compact" / "step_cost.csv"
    costs.write_text("arm,microseconds,ratio\nalrc,830,1.0375\n")
    assert "| `alrc` | 830 us | 1.04 |" in page(tmp_path, made())
    costs.write_text("arm,microseconds\nalrc,830\n")
    with pytest.raises(Damaged) as refusal:
        page(tmp_path, made())
    assert str(refusal.value) == (
        f"{costs}:1: must have all columns; it lacks ratio. Write the compact files anew from the "
        "runs."
    )


@pytest.mark.parametrize(
    "workloads",
    [
        [Made("w", {}, seeds=1)],
        [Made("w", {"alrc": 0.0}, seeds=1)],
        [Made("w", {"alrc": 0.0, "agc": 0.0}, kind="calm", seeds=2, same=["agc"])],
        [Made("w", {"agc": -0.3}, kind="trap")],
        [Made("w", {"alrc": 5.0}, lost={"alrc": range(20), "off": range(20)})],
    ],
    ids=["plain training alone", "one seed", "calm alone", "a trap alone", "all diverged"],
)
def test_a_benchmark_of_which_little_was_run_is_drawn_too(
    tmp_path: Path, workloads: list[Made]
) -> None:
    text = page(tmp_path, workloads)
    assert "**No candidate is admissible**, so the default stays `alrc`" in text


def test_labels_of_the_tradeoff_lie_apart_and_within_the_frame(tmp_path: Path) -> None:
    gains = {f"arm-with-a-long-name-{i}": -0.5 - 0.001 * i for i in range(15)}
    bench = read_bench(fabricate(tmp_path, [Made("w", gains)]))
    figure = draw_tradeoff(summaries(Effects(bench)), list(gains), "arm-with-a-long-name-3")
    [axes] = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 15
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert axes.get_window_extent().contains(*box.p0)
        assert axes.get_window_extent().contains(*box.p1)


def test_the_matrix_says_each_number_once(tmp_path: Path) -> None:
    bench = read_bench(fabricate(tmp_path, made()))
    effects = Effects(bench)
    figure = draw_matrix(effects, ["alrc recency=4", "agc", TUNED])
    broken, rest = (
        [text.get_text() for text in axes.texts if text.get_text()[-1] not in "gms"]
        for axes in figure.axes
    )
    words = {w.name: cell_words(effects.effect(w, "alrc recency=4")) for w in bench.workloads}
    assert len(broken) == 2 * 2 + 1
    assert len(rest) == 2 * 3 + 2
    assert {words["tables"], words["text"]} <= set(broken)
    assert words["rare"] in rest
    assert decide(Effects(bench)).default.label == "alrc recency=4"
