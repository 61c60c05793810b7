"""Reports of studies that span several settings or tasks."""

import shutil
from pathlib import Path

import pytest
from fabricated_studies import PSNR, diverging, higher, lower, off, unclear, write_pairs, write_run
from reading_reports import bullets, cells, draw_nothing, markdown, rows, spreadsheet

from alrc.lab.report.comparing import percent
from alrc.lab.report.reading import read_study


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def test_ranks_are_given_where_a_study_spans_tasks(tmp_path: Path) -> None:
    for task in ("one", "two", "three"):
        write_pairs(tmp_path, {"off": off, "alrc": lower, "clip": higher}, seeds=2, task=task)
    text = markdown(tmp_path)
    start = text.index("| arm | average rank |")
    assert rows(text[start:])[2:5] == [
        ["`alrc`", "1.00", "3"],
        ["`off`", "2.00", "0"],
        ["`clip`", "3.00", "0"],
    ]
    assert "alrc is the best, alone or with others, in 3 of 3 settings." in text


def test_ranks_go_by_the_direction_of_each_metric(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower}, seeds=2, task="one")
    write_pairs(tmp_path, {"off": lower, "alrc": off}, seeds=2, task="two", metric=PSNR)
    text = markdown(tmp_path)
    assert ["`alrc`", "1.00", "2"] in rows(text)
    # Decibels have no ratios, so that one setting is left, which is no profile.
    assert "alone or with others" not in text


def test_an_arm_that_diverged_in_most_runs_ranks_last(tmp_path: Path) -> None:
    for task in ("one", "two"):
        arms = {"off": off, "alrc": diverging(lower, 0, 1), "clip": higher}
        write_pairs(tmp_path, arms, seeds=3, task=task)
    text = markdown(tmp_path)
    assert ["`alrc`", "3.00", "0"] in rows(text)
    assert "Diverged in half of the runs or more: alrc in 2." in text


def test_data_of_each_task_are_named(tmp_path: Path) -> None:
    for task, data in (("one", "photographs"), ("two", "CIFAR-10")):
        write_run(tmp_path, task=task, task_facts={"data": data, "crops": 32})
    lines = markdown(tmp_path).splitlines()
    assert {"- crops: `32`", "- `one`: data `photographs`", "- `two`: data `CIFAR-10`"} <= set(
        lines
    )


def test_one_task_has_no_ranks(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower}, seeds=2)
    assert "## Across settings" not in markdown(tmp_path)


def test_nothing_has_a_verdict_if_the_declared_comparison_shows_nothing(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower, "alrc num_stddev=2": unclear})
    (tmp_path / "study.json").write_text('{"primary": {"arm": "alrc num_stddev=2"}}')
    text = markdown(tmp_path)
    words = [cell.split(" ")[:2] for cell in cells(text)[0][1:]]
    assert words == [["?", "unclear"], ["?", "exploratory"]]
    assert "`alrc` against `off`: **exploratory**: held-out error 19.5 % lower" in text
    assert "better" not in bullets(text)[0]


def test_many_arms_share_a_sentence_and_the_extremes_have_their_own(tmp_path: Path) -> None:
    arms = {"off": off, "alrc": lower, "clip": higher}
    same = {f"original num_stddev={n}": off for n in range(3)}
    write_pairs(tmp_path, arms | same)
    [words] = bullets(markdown(tmp_path))
    assert words.startswith("Of 5 arms, compared with `off`: 1 better, 1 worse, 3 unclear. `alrc` ")
    assert "`alrc` is **better** than `off`: held-out error 19.5 % lower" in words
    assert "`clip` is **worse** than `off`: held-out error 30.5 % higher" in words
    assert "original" not in words


def test_the_matrix_of_many_settings_comes_before_their_sentences(tmp_path: Path) -> None:
    for batch in range(1, 15):
        arms = {"off": off, "alrc": lower if batch == 3 else off}
        write_pairs(tmp_path, arms, training={"batch_size": batch})
    text = markdown(tmp_path)
    first = text.split("\n\n")[2]
    assert first == "14 comparisons with the baseline, 1 arm in 14 settings: 1 better, 13 unclear."
    assert text.index("\n| setting | `alrc` |\n") < text.index("### Setting by setting")
    assert len(bullets(text)) == 12
    assert "The other 2 settings are in the table." in text
    assert [row[1] for row in cells(text)] == [
        "✓ better -19.5 %" if batch == 3 else "? all pairs tie" for batch in range(1, 15)
    ]


def test_the_first_screen_is_matrix_then_figures_then_sentences(tmp_path: Path) -> None:
    for tasks in (["one"], ["one", "two"]):
        study = tmp_path / "-".join(tasks)
        for task in tasks:
            write_pairs(study, {"off": off, "alrc": lower}, task=task)
        (study / "study.toml").write_text('primary = {arm = "alrc", task = "one"}')
        text = markdown(study)
        places = [
            "Declared primary",
            "\n| setting |",
            "setting1-forest.png",
            "\n- ",
            "✓ better and",
        ]
        assert sorted(places, key=text.index) == places


def test_the_primary_metric_has_a_column_only_where_it_differs(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower}, task="one")
    text = markdown(tmp_path)
    assert "Each arm compared with off, by held-out error; lower is better.\n\n| setting |" in text
    assert "primary metric | `alrc` |" not in text
    write_pairs(tmp_path, {"off": diverging(off, 1), "alrc": lower}, task="two", metric=PSNR)
    text = markdown(tmp_path)
    assert "Each arm compared with off, by the primary metric." in text
    assert "\n| setting | primary metric | `off` | `alrc` |\n" in text
    assert [row[1:3] for row in cells(text)] == [
        ["held-out error; lower is better", "none diverged"],
        ["PSNR; higher is better", "† diverged 1 of 6"],
    ]


def test_settings_without_ranks_are_named_and_why(tmp_path: Path) -> None:
    for task in ("one", "two", "three", "four"):
        arms = {"off": off, "alrc": lower, "clip": higher}
        write_pairs(tmp_path, arms, seeds=1 if task == "four" else 2, task=task)
    for run in (tmp_path / "runs").iterdir():
        if run.name.startswith("four-"):
            (run / "result.json").unlink()
        elif run.name.startswith("three-clip"):
            (run / "result.json").rename(run / "log.txt")
        elif run.name.startswith("two-alrc"):
            shutil.rmtree(run)
    text = markdown(tmp_path)
    matrix = {row[0]: row[1:] for row in cells(text)}
    assert matrix["`two`"][0] == "-"
    assert matrix["`three`"][1] == "failed"
    assert (
        "Left out, because an arm has no finished runs there: `three` (`clip` failed); `two` "
        "(`alrc` was not run); `four` (`off` unfinished, `alrc` unfinished, `clip` unfinished)."
    ) in text
    assert "No two settings have finished runs of all arms, so there are no ranks." in text


def test_a_percentage_beyond_a_thousand_is_no_number(tmp_path: Path) -> None:
    score = {"name": "score", "unit": "", "better": "higher"}
    arms = {"off": off, "alrc": lambda seed: 9.0 ** (5 + seed) * off(seed)}
    write_pairs(tmp_path, arms, metric=score)
    text = markdown(tmp_path)
    assert cells(text)[0][1] == "✓ better > +1,000 %"
    assert "score > 1,000 % higher (95 % interval > +1,000 % to > +1,000 %, " in text
    assert (
        next(row for row in rows(text) if len(row) == 15 and row[2] == "score")[11] == "> 1,000 %"
    )
    assert float(spreadsheet(tmp_path, "comparisons.csv")[0]["detectable"]) > 100
    assert percent(10) == "+1,000\u00a0%"
    assert percent(-10.1) == "<\u00a0-1,000\u00a0%"


def test_tasks_without_a_limit_of_divergence_have_none_in_words(tmp_path: Path) -> None:
    for arm in ("off", "alrc"):
        run = write_run(tmp_path, arm, task="one")
        config = (run / "config.json").read_text()
        (run / "config.json").write_text(
            config.replace('"diverged_above": 3.0', '"diverged_above": "inf"')
        )
    start = "A run diverged if a loss or a metric is NaN or infinite at its end"
    assert f"{start}; no rise of a loss counts as divergence here." in markdown(tmp_path)
    write_run(tmp_path, task="two")
    assert (
        f"{start}, or if the median of a loss over the last tenth of the steps is more than 3 "
        "times that over the first tenth; of `one`, no rise counts."
    ) in markdown(tmp_path)


def test_what_varies_is_named_also_where_it_is_the_default(tmp_path: Path) -> None:
    for task, power in (("task width=2", 4), ("task power=2 width=2", 2)):
        for size in (1, 4):
            options = {"power": power, "width": 2}
            write_run(tmp_path, task=task, task_options=options, training={"batch_size": size})
    text = markdown(tmp_path)
    for power in (2, 4):
        for size in (1, 4):
            assert f"`task power={power}, batch_size={size}`" in text


def test_what_varies_between_tasks_alone_is_not_named(tmp_path: Path) -> None:
    for task, size in (("one", 1), ("other", 4)):
        write_run(tmp_path, task=task, training={"batch_size": size})
    labels = read_study(tmp_path).labels
    assert sorted(labels.values()) == ["one", "other"]
