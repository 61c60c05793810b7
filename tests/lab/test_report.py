"""Reports: what they say of arms, in words, tables and spreadsheets."""

from pathlib import Path

import numpy as np
import pytest
from fabricated_studies import (
    ERROR,
    NAN,
    PSNR,
    WOBBLE,
    diverging,
    falling,
    higher,
    lower,
    off,
    unclear,
    write_pairs,
    write_run,
)
from reading_reports import (
    bullets,
    cells,
    comparison,
    draw_nothing,
    markdown,
    rows,
    spreadsheet,
)

from alrc.lab.report.report import write_report


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def test_first_sentence_says_which_arm_by_how_much_and_how_sure(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower, "clip": higher})
    better, worse = bullets(markdown(tmp_path))[0].split(". ", 1)
    logarithms = np.log(0.8 + np.array(WOBBLE))
    reach = 2.5706 * logarithms.std(ddof=1) / 6**0.5  # of t with 5 degrees of freedom
    mean, low, high = 100 * np.expm1(logarithms.mean() + np.array([0, -reach, reach]))
    assert better.startswith(
        f"`alrc` is **better** than `off`: held-out error {-mean:.1f} % lower "
        f"(95 % interval {low:.1f} % to {high:.1f} %, 6 pairs, p = "
    )
    assert worse.startswith("`clip` is **worse** than `off`: held-out error 30.5 % higher (95 % ")
    assert cells(markdown(tmp_path)) == [
        [
            "`squares`",
            f"✓ better {mean:.1f} %",
            "✗ worse +30.5 %",
        ]
    ]


def test_higher_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    psnr = {"off": lambda s: 20.0 + s, "alrc": lambda s: 21.0 + s + WOBBLE[s]}
    write_pairs(tmp_path, psnr, metric=PSNR)
    text = markdown(tmp_path)
    assert "`alrc` is **better** than `off`: PSNR 1.01 dB higher" in text
    assert "Each arm compared with off, by PSNR; higher is better." in text
    assert cells(text)[0][1:] == ["✓ better +1.01 dB"]
    assert "PSNR: difference to off (dB)" not in text  # it is in the figure
    [line] = [x for x in spreadsheet(tmp_path, "comparisons.csv") if x["primary_metric"] == "True"]
    assert (line["verdict"], line["wins"], line["losses"]) == ("better", "6", "0")
    assert line["change_is"] == "absolute"
    assert float(line["change"]) == pytest.approx(1 + sum(WOBBLE) / 6)


def test_lower_is_worse_where_higher_is_better(tmp_path: Path) -> None:
    score = {"name": "score", "unit": "", "better": "higher"}
    write_pairs(tmp_path, {"off": off, "alrc": lower}, metric=score)
    text = markdown(tmp_path)
    assert "`alrc` is **worse** than `off`: score 19.5 % lower" in text
    assert cells(text)[0][1] == "✗ worse -19.5 %"


def test_only_the_primary_metric_has_a_verdict(tmp_path: Path) -> None:
    for seed in range(6):
        for arm, value, limit in (("off", off, None), ("alrc", lower, 4.0)):
            metrics = {"held-out error": value(seed), "second": value(seed)}
            listed = [ERROR, {"name": "second", "unit": "", "better": "lower"}]
            write_run(tmp_path, arm, seed, metrics=metrics, listed=listed, limit=limit)
    text = markdown(tmp_path)
    assert [row[3] for row in rows(text) if len(row) == 15 and row[2] == "second"] == [
        "exploratory"
    ]
    verdicts = [line["verdict"] for line in spreadsheet(tmp_path, "comparisons.csv")]
    assert verdicts[:2] == ["better", "exploratory"]
    assert " where 0.05 was needed" in text  # the second takes no share of it


def test_what_cannot_be_shown_is_unclear(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": unclear})
    text = markdown(tmp_path)
    assert cells(text)[0][1].startswith("? unclear ")
    assert "`alrc` against `off`: **unclear**: held-out error" in text
    row = comparison(text)
    assert row[3].startswith("? unclear")
    assert row[11].endswith(" %")
    assert 1 < float(row[11][:-2]) < 20
    assert int(row[12].replace(",", "")) > 6


def test_one_pair_shows_nothing(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower}, seeds=1)
    text = markdown(tmp_path)
    assert cells(text)[0][1] == "? too few pairs -19.0 %"
    assert "19.0 % lower (1 pair, too few to show any difference)." in text


def test_identical_runs_are_called_identical(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "off", seed)
        write_run(tmp_path, "alrc", seed, limit=1e6)
    text = markdown(tmp_path)
    assert cells(text)[0][1] == "= identical: nothing was limited"
    assert "- `alrc` is **identical** to `off`, bit for bit: nothing was limited." in text
    assert spreadsheet(tmp_path, "comparisons.csv")[0]["identical"] == "3"


def test_identical_runs_that_diverged_are_both(tmp_path: Path) -> None:
    for arm, limit in (("off", None), ("alrc", 1e6)):
        write_run(tmp_path, arm, 0, limit=limit)
        write_run(tmp_path, arm, 1, limit=limit, diverged=NAN)
    text = markdown(tmp_path)
    assert cells(text)[0][2] == "† diverged 1 of 2; = otherwise identical"
    assert bullets(text) == [
        "`alrc` is **identical** to `off`, bit for bit: nothing was limited. It diverged in 1 of 2 "
        "runs (`off`: 1 of 2)."
    ]


@pytest.mark.parametrize("lost", [(0,), (0, 1, 2), (0, 1, 2, 3, 4), tuple(range(6))])
def test_an_arm_that_diverged_is_never_called_better(tmp_path: Path, lost: tuple[int, ...]) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": diverging(lower, *lost)})
    text = markdown(tmp_path)
    assert "better" not in cells(text)[0][1]
    assert f"diverged {len(lost)} of 6" in cells(text)[0][1]
    assert "**better**" not in text


def test_an_arm_that_always_diverged_has_no_other_verdict(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": diverging(lower, *range(6))})
    text = markdown(tmp_path)
    assert cells(text)[0][1] == "† diverged 6 of 6"
    assert bullets(text) == ["`alrc` **diverged** in 6 of 6 runs (`off`: 0 of 6)."]


def test_a_run_that_diverged_counts_as_such_whatever_its_metric_is(tmp_path: Path) -> None:
    words = "loss has a median of 9 over the last tenth, more than 3 times the 1 of the first"
    for seed in range(6):
        write_run(tmp_path, "off", seed)
        write_run(tmp_path, "alrc", seed, metrics={"held-out error": 0.1}, diverged=words, limit=4)
    assert cells(markdown(tmp_path))[0][1] == "† diverged 6 of 6"
    assert comparison(markdown(tmp_path))[8:11] == ["0", "0", "0"]
    values = ["`squares`", "`alrc`", "held-out error", "-", "lower", "6", "6"]
    assert values in rows(markdown(tmp_path))


def test_diverging_less_often_is_an_outcome_of_its_own(tmp_path: Path) -> None:
    arms = {"off": diverging(off, *range(12)), "alrc": diverging(unclear, 3, 4)}
    write_pairs(tmp_path, arms, seeds=12)
    text = markdown(tmp_path)
    assert cells(text)[0][1:] == [
        "† diverged 12 of 12",
        "† diverged 2 of 12, less often than 12 of 12",
    ]
    assert bullets(text)[0].endswith(
        " It diverged in 2 of 12 runs, **less often** (`off`: 12 of 12)."
    )
    row = comparison(text)
    assert row[13] == "2, 10, 0"  # both, only the baseline's, only the arm's


def test_diverging_more_often_is_worse(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": diverging(unclear, *range(11))}, seeds=12)
    assert cells(markdown(tmp_path))[0][1] == "✗ diverges more often: 11 of 12"


def test_wins_ties_and_losses_are_counted(tmp_path: Path) -> None:
    change = (0.5, 0.5, 0.0, 0.5, -0.5, 0.5)
    write_pairs(tmp_path, {"off": off, "alrc": lambda s: off(s) + change[s]})
    row = comparison(markdown(tmp_path))
    assert row[8:11] == ["1", "1", "4"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("study.toml", 'primary = {arm = "alrc num_stddev=2", task.width = 16}'),
        ("study.json", '{"primary": {"arm": "alrc num_stddev=2.0", "task.width": 16}}'),
    ],
)
def test_a_declared_primary_comparison_comes_first(tmp_path: Path, file: str, content: str) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": unclear, "alrc num_stddev=2.0": lower})
    (tmp_path / file).write_text(content)
    text = markdown(tmp_path)
    assert text.split("\n\n")[2].startswith(
        "Declared primary comparison, in `squares`: `alrc num_stddev=2.0` is **better** than `off`"
    )
    assert " where 0.05 was needed" in text.split("\n\n")[2]
    header = next(row for row in rows(text) if row[0] == "setting")
    assert header[1:] == ["`alrc num_stddev=2.0`", "`alrc`"]


def test_a_primary_comparison_that_is_not_there_yet_is_said(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc": lower})
    (tmp_path / "study.toml").write_text('primary = {arm = "alrc num_stddev=9"}')
    assert ("The primary comparison that the study declares has no finished runs yet.") in markdown(
        tmp_path
    )


def test_settings_are_told_apart_by_what_varies(tmp_path: Path) -> None:
    for batch in (1, 16):
        training = {"batch_size": batch}
        for arm, limit in (("off", None), ("alrc", 4.0)):
            write_run(tmp_path, arm, training=training, limit=limit)
    write_run(tmp_path, "off", task="other")
    text = markdown(tmp_path)
    assert [row[0] for row in cells(text)] == [
        "`squares, batch_size=1`",
        "`squares, batch_size=16`",
    ]
    for line in ("- data: `made up`", "- training.learning\\_rate: `0.001`", "- task.width: `16`"):
        assert line in text.splitlines()


def test_without_a_baseline_nothing_is_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "alrc", limit=4.0)
    assert "Nothing can be compared: no setting has finished runs both of a baseline" in markdown(
        tmp_path
    )
    assert spreadsheet(tmp_path, "comparisons.csv") == []


def test_means_leave_out_what_diverged_and_count_it(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": diverging(off, 5)})
    text = markdown(tmp_path)
    # 2, 3, 4, 5, 6: s = sqrt(2.5), so sqrt(2.5 / 5) = 0.71.
    assert ["`squares`", "`off`", "held-out error", "4.00 ± 0.71", "lower", "6", "1"] in rows(text)
    assert "6 runs: 6 finished, of which 1 diverged; 0 failed and 0 unfinished" in text
    assert f"({NAN})" in text
    assert "of the steps is more than 3 times that over the first tenth." in text


def test_limited_losses_are_counted(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "off", seed)
        write_run(tmp_path, "alrc", seed, limit=4.0)
    limited = sum(int((falling(seed) > 4).sum()) for seed in range(2))
    share = f"{limited / 800:.2%}".replace("%", " %")
    largest = max(float(falling(seed).max()) for seed in range(2))
    row = next(row for row in rows(markdown(tmp_path)) if len(row) == 10 and row[1] == "`alrc`")
    assert row[2:7] == ["loss", "2", "800", f"{limited}", share]
    assert row[8:] == ["0", f"{largest:,.4g}"]


def test_spreadsheets_hold_every_run_and_comparison(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"off": off, "alrc num_stddev=2.0": diverging(lower, 2)}, seeds=3)
    (tmp_path / "runs" / "begun").mkdir()
    write_report(tmp_path)
    runs = spreadsheet(tmp_path, "runs.csv")
    assert [(r["arm"], r["seed"], r["status"]) for r in runs] == [
        *[("off", str(seed), "finished") for seed in range(3)],
        *[("alrc num_stddev=2.0", str(seed), "finished") for seed in range(3)],
        ("", "", "unfinished"),
    ]
    assert [r["metric.held-out error"] for r in runs[:3]] == ["2.0", "3.0", "4.0"]
    assert (runs[5]["diverged"], runs[5]["metric.held-out error"]) == (NAN, "")
    assert runs[4]["arm.num_stddev"] == "2.0"
    assert runs[0]["training.batch_size"] == "2"
    lines = spreadsheet(tmp_path, "comparisons.csv")
    assert [(x["measure"], x["pairs"]) for x in lines] == [
        ("held-out error", "2"),
        ("training loss", "2"),
    ]
    assert lines[1]["verdict"] in ("exploratory", "too_few")
