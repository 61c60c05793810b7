"""Compact files that are damaged are refused in words, with file and line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated_benchmarks import Made, fabricate

from alrc.lab.engine.files import Damaged
from alrc.lab.report.benchmark.reading import COLUMNS, read_bench

MEND = " Write the compact files anew from the runs."
HEADER = ",".join(COLUMNS)
Text = Callable[[str], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two seeds of plain training, in lines 2 and 3, and of alrc, in lines 4 and 5."""
    return fabricate(tmp_path, [Made("w", {"alrc": -0.3}, seeds=2)])


def row(arm: str = "alrc", seed: str = "1", **others: str) -> str:
    cells = {"workload": "w", "arm": arm, "tuned": "", "seed": seed, "first": "1", "second": ""}
    cells |= {"diverged": "0", "spikes": "0", "reached": "", "limited": "0", "kept": "1"}
    return ",".join((cells | others).values())


def line(number: int, text: str) -> Text:
    def changed(table: str) -> str:
        lines = table.splitlines()
        lines[number - 1] = text
        return "\n".join(lines) + "\n"

    return changed


def without(number: int) -> Text:
    return lambda table: "".join(
        text for n, text in enumerate(table.splitlines(True), 1) if n != number
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            line(1, HEADER.replace("first,second,", "")),
            "{file}:1: must have all columns; it lacks first, second.",
        ),
        (lambda _: "", f"{{file}}:1: must have all columns; it lacks {', '.join(COLUMNS)}."),
        (line(4, "w,alrc"), "{file}:4: must have 11 values, as the header has; it has 2."),
        (
            line(4, row(workload="x")),
            "{file}:4: workload must be one of those in targets.json; got 'x'.",
        ),
        (line(4, row(seed="-1")), "{file}:4: seed must be a whole number; got '-1'."),
        (line(4, row(first="low")), "{file}:4: first must be a number; got 'low'."),
        (line(4, row(diverged="no")), "{file}:4: diverged must be 0 or 1; got 'no'."),
        (
            line(4, row(second="2")),
            "{file}:4: second must be empty, because the workload has one metric; got '2'.",
        ),
        (
            line(4, row()),
            "{file}:5: workload, arm and seed must occur once; w, alrc, seed 1 is there already.",
        ),
        (
            without(5),
            "{file}: w, alrc must have the 2 seeds of its workload, because runs are paired by "
            "seed; it lacks 1.",
        ),
        (
            lambda table: table + row(seed="7") + "\n",
            "{file}: w, alrc must have the 2 seeds of its workload, because runs are paired by "
            "seed; it adds 7.",
        ),
        (
            lambda table: table.replace("w,off", "w,zclip"),
            "{file}: w must have runs of 'off', because all others are compared with them; there "
            "are none.",
        ),
        (
            lambda table: table + row("b max_norm=1", "0", tuned="b") + "\n"
            + row("b max_norm=3", "1", tuned="b") + "\n",
            "{file}:7: a tuned arm must have the same options with every seed; got 'b max_norm=3' "
            "after 'b max_norm=1' of 'b, tuned'.",
        ),
    ],
)  # fmt: skip
def test_a_table_that_is_not_as_it_has_to_be_is_refused(
    folder: Path, change: Text, words: str
) -> None:
    file = folder / "targets.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(Damaged) as refusal:
        read_bench(folder)
    assert str(refusal.value) == words.format(file=file) + MEND


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "odd"}, "kind of w must be one of broken, calm, trap, aside; got 'odd'."),
        (
            {"family": "odd"},
            "family of w must be one of regression, images, control, classification, language; got "
            "'odd'.",
        ),
        ({"title": ""}, "title of w must be text; got ''."),
        ({"part": "x"}, "part of w must be targets, as the file is called; got 'x'."),
        (
            {"seeds": [1, 1]},
            "seeds of w must be a number of seeds or a list of them, each once; got [1, 1].",
        ),
        (
            {"metrics": []},
            "metrics of w must be a list of name, unit and better ('lower' or 'higher'); got [].",
        ),
        (
            {"metrics": [{"name": "PSNR", "unit": "dB", "better": "higher"}]},
            "metrics of w must be such that the first has ratios that mean something, which dB "
            "have not; got [{'name': 'PSNR', 'unit': 'dB', 'better': 'higher'}].",
        ),
    ],
)
def test_a_workload_that_is_not_as_it_has_to_be_is_refused(
    folder: Path, change: dict[str, Any], words: str
) -> None:
    file = folder / "targets.json"
    whole = json.loads(file.read_text())
    whole["workloads"]["w"] |= change
    file.write_text(json.dumps(whole))
    with pytest.raises(Damaged) as refusal:
        read_bench(folder)
    assert str(refusal.value) == f"{file}: {words}{MEND}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{\n  broken",
            "{file}:2: must be JSON; Expecting property name enclosed in double quotes.",
        ),
        ("[]", "{file}: must have 'workloads', a table by name; it has none."),
        ('{"workloads": {}}', "{file}: must have at least one workload; it has none."),
        ('{"workloads": {"w": 1}}', "{file}: the table of w must be a table; got 1."),
    ],
)
def test_facts_that_are_damaged_are_refused(folder: Path, text: str, words: str) -> None:
    file = folder / "targets.json"
    file.write_text(text)
    with pytest.raises(Damaged) as refusal:
        read_bench(folder)
    assert str(refusal.value) == words.format(file=file) + MEND


def test_a_part_without_its_other_file_is_refused(folder: Path) -> None:
    (folder / "targets.csv").unlink()
    with pytest.raises(Damaged) as refusal:
        read_bench(folder)
    assert str(refusal.value) == (
        f"{folder / 'targets.csv'} must stand beside targets.json, because a part is both; it is "
        f"missing.{MEND}"
    )


def test_a_workload_in_two_parts_is_refused(folder: Path) -> None:
    fabricate(folder, [Made("w", {}, part="others", seeds=2)])
    with pytest.raises(Damaged) as refusal:
        read_bench(folder)
    assert str(refusal.value) == (
        f"{folder / 'targets'}.json: a workload must be in one part only, so that it is not "
        f"counted twice; w is in others too.{MEND}"
    )


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_text("{}")  # of a report, which may stand there
    with pytest.raises(Damaged) as refusal:
        read_bench(tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path} must hold PART.csv and PART.json of at least one part of a benchmark; there "
        "is none. Pass the folder of the compact results."
    )


def test_a_tuned_rival_stands_beside_the_same_arm_untuned(tmp_path: Path) -> None:
    made = Made("w", {"clip-grad-norm": 0.0, "clip-grad-norm, tuned": 0.0}, seeds=2)
    [w] = read_bench(fabricate(tmp_path, [made])).workloads
    assert list(w.runs) == ["off", "clip-grad-norm", "clip-grad-norm, tuned"]
    assert w.spelled["clip-grad-norm, tuned"] == "clip-grad-norm max_norm=0.3"
