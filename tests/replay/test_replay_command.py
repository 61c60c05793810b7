"""``alrc replay``: what it prints first and last, what it writes, and what it refuses."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from real_data import REAL_LOGS, needs_real_logs
from rich.console import Console
from typer.testing import CliRunner, Result

from alrc.lab.cli.commands import app
from alrc.replay import read_log, replay, show

ROOT = Path(__file__).parents[2]
WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def run(*words: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, ["replay", *map(str, words)], env=WIDE, input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def losses(size=600, seed=0):
    return 2 + 0.05 * np.random.default_rng(seed).normal(size=size)


def written(path: Path, values, name="loss", first=0) -> Path:
    rows = "".join(f"{first + i},{value}\n" for i, value in enumerate(values))
    path.write_text(f"step,{name}\n{rows}")
    return path


@pytest.fixture
def spiky(tmp_path) -> Path:
    values = losses()
    values[[200, 431]] = 9.0, 11.0
    return written(tmp_path / "spiky.csv", values)


@pytest.fixture
def calm(tmp_path) -> Path:
    return written(tmp_path / "calm.csv", losses())


def test_the_verdict_comes_first_and_the_line_to_paste_last(spiky) -> None:
    result = run(spiky)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert result.stderr == ""
    assert lines[0].startswith("isolated spikes: 2, at steps 200 and 431; the largest reached 11 ")
    assert lines[2] == "Read 600 losses from column 'loss' of a CSV."
    assert lines[-1] == "To paste: alrc = ALRC()"
    assert lines[4].startswith("Would it have mattered? Hardly: ")


def test_the_table_has_what_the_library_says(spiky) -> None:
    lines = run(spiky).stdout.splitlines()
    found = replay(read_log(spiky))
    head = next(i for i, line in enumerate(lines) if line.startswith("rule "))
    assert lines[head].split() == ["rule", "limited", "kept", "near", "cut"]
    for line, outcome in zip(lines[head + 1 :], found.rules, strict=False):
        assert line.startswith(outcome.name)
        assert line.removeprefix(outcome.name).split()[0] == str(outcome.num_limited)
    assert lines[head + 1 + len(found.rules)] == ""


def test_settings_that_are_asked_for_are_judged(spiky) -> None:
    result = run(*(spiky, "--num-stddev", 4, "--scale", "linear", "--decay", 0.99, "--recency", 2))
    name = "ALRC(num_stddev=4, decay=0.99, recency=2, scale='linear')"
    assert f"\n{name} would have limited " in result.stdout
    assert result.stdout.endswith(f"To paste: alrc = {name}\n")


def test_settings_that_are_none_are_refused_in_one_line(spiky) -> None:
    result = run(spiky, "--num-stddev", -1)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "alrc: num_stddev must be greater than 0, because it counts the standard deviations above "
        "the mean at which losses are limited; got -1.0. Pass num_stddev=3.0, or "
        "num_stddev=math.inf to limit nothing on that side.\n"
    )


def test_of_several_logs_each_verdict_has_a_name_as_it_was_typed(spiky, calm, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    again = written(tmp_path / "other/calm.csv", losses(seed=1))
    blocks = run(spiky, calm, again).stdout.split("\n\n")
    firsts = [line for block in blocks for line in block.splitlines() if "csv: " in line]
    assert [line.split(":")[0] for line in firsts] == [str(spiky), str(calm), str(again)]
    assert firsts[1].startswith(f"{calm}: calm: none of 600 losses stands out. ")


def test_a_log_that_is_refused_leaves_the_others_judged(spiky, tmp_path) -> None:
    words = tmp_path / "words.csv"
    words.write_text("step,accuracy\n1,0.5\n")
    missing = tmp_path / "missing.log"
    result = run(words, spiky, missing)
    assert result.exit_code == 2
    assert result.stdout.startswith(f"{spiky}: isolated spikes: 2, ")
    assert result.stderr.splitlines() == [
        "alrc: words.csv: one column must be the training loss; got none that is called so among "
        "accuracy. If one of them is, name it: --column 'accuracy' (in Python, "
        "column='accuracy').",
        f"alrc: {missing}: a log must be there to be read; got no file or folder of this name. "
        "Check the path.",
    ]


def test_too_few_finite_losses_are_refused_by_the_name_of_the_log(tmp_path) -> None:
    values = np.where(np.arange(60) % 4, np.nan, 1.0)
    path = written(tmp_path / "nan.csv", values)
    result = run(path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"alrc: {path}: replay: at least 20 losses must be finite, because fewer show no level to "
        "judge by; got 15 among 60. Pass the losses of training steps, not those of epochs.\n"
    )


def test_a_column_is_read_by_its_name_and_the_other_losses_are_listed(tmp_path) -> None:
    path = tmp_path / "both.csv"
    rows = "".join(
        f"{i},{a},{b}\n" for i, (a, b) in enumerate(zip(losses(), losses(seed=1), strict=True))
    )
    path.write_text(f"step,loss_a,loss_b\n{rows}")
    said = run(path).stdout
    assert "Several columns may be the training loss; 'loss_a' was read" in said
    assert "The others: loss_b." in said
    said = run(path, "--column", "loss_b").stdout
    assert "Read 600 losses from column 'loss_b' of a CSV." in said
    assert "Other losses, which --column would read: loss_a." in said


def test_a_minus_is_standard_input(spiky) -> None:
    text = "\n".join(map(str, losses()))
    result = run("-", stdin=text.encode())
    assert result.stdout.startswith("calm: none of 600 losses stands out. ")
    assert "Read 600 losses from column 'loss' of a list of numbers." in result.stdout


def test_a_folder_of_tensorboard_is_a_log(tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, loss in enumerate(losses(100)):
            writer.add_scalar("train/loss", loss, step)
    result = run(tmp_path / "run")
    assert result.stdout.startswith("calm: none of 100 losses stands out. ")
    assert "column 'train/loss' of TensorBoard's event files" in result.stdout


def test_json_is_all_there_is_on_standard_output(spiky, tmp_path) -> None:
    words = tmp_path / "words.csv"
    words.write_text("step,accuracy\n1,0.5\n")
    result = run(spiky, words, "--json")
    one, refused = json.loads(result.stdout)
    found = replay(read_log(spiky))
    assert one["name"] == str(spiky)
    assert (one["format"], one["column"], one["columns"]) == ("a CSV", "loss", ["loss"])
    assert one["values"] == 600
    assert one["verdict"]["kind"] == "isolated spikes"
    (finding,) = one["verdict"]["findings"]
    assert finding["rows"] == [[200, 201], [431, 432]]
    assert finding["steps"] == [[200, 200], [431, 431]]
    assert one["outcome"]["limited"] == found.outcome.num_limited
    assert len(one["outcomes"]) == len(found.outcomes)
    assert one["rivals"] == []
    assert one["notes"] == ["Read 600 losses from column 'loss' of a CSV.", *found.notes]
    assert one["suggestion"] == found.suggestion
    assert list(refused) == ["name", "refused"]
    assert refused["refused"].startswith("words.csv: one column must be the training loss; ")
    assert result.exit_code == 2


def test_a_log_without_steps_has_rows_alone_in_json() -> None:
    values = losses()
    values[300] = 9.0
    (one,) = json.loads(run("-", "--json", stdin="\n".join(map(str, values)).encode()).stdout)
    (finding,) = one["verdict"]["findings"]
    assert finding["rows"] == [[300, 301]]
    assert "steps" not in finding


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What is handed over to be drawn, by stand-ins that write a file each."""
    given = []

    def write(found, path) -> None:
        given.append((path, [(curve.name, one.verdict.kind) for curve, one in found]))
        path.write_text("drawn")

    monkeypatch.setitem(sys.modules, "alrc.replay.picture", SimpleNamespace(draw=write))
    monkeypatch.setitem(sys.modules, "alrc.replay.page", SimpleNamespace(write_page=write))
    return given


def test_files_are_written_where_they_are_asked_for_and_named(
    drawn, spiky, calm, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    run(spiky, calm)
    assert set(tmp_path.iterdir()) == before
    result = run(spiky, calm, "--png", "a.png", "--page", "b.html")
    found = [(str(spiky), "isolated spikes"), (str(calm), "calm")]
    assert drawn == [(Path("a.png"), found), (Path("b.html"), found)]
    assert result.stdout.endswith("\nWrote a.png\nWrote b.html\n")
    result = run(spiky, "--json", "--png", "a.png")
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr == "Wrote a.png\n"


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--png", "a.pdf"), "--png must end in .png, which is what is written there; got a.pdf."),
        (
            ("--page", "none/b.html"),
            "--page must name a file in an existing folder that can be written to; got "
            "none/b.html.",
        ),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_anything_is_read(
    drawn, spiky, words, refusal
) -> None:
    result = run(spiky, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"alrc: {refusal}\n"
    assert drawn == []


@pytest.mark.parametrize("width", [40, 80])
def test_all_of_it_fits_the_terminal(width, spiky) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    curve = read_log(spiky)
    for part in show.view(curve, replay(curve), width, named=True):
        console.print(part)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    told = " ".join(" ".join(lines).split())
    assert "scale='linear'" in told
    assert ("near: first row" in told) == (width == 80)


@needs_real_logs
def test_the_page_shows_what_is_printed() -> None:
    console = Console(file=io.StringIO(), width=76, force_terminal=True, color_system=None)
    curve = read_log(REAL_LOGS / "01_lightning_pinn_spike.csv")
    for part in show.view(curve, replay(curve), 76):
        console.print(part)
    shown = [line.rstrip() for line in console.file.getvalue().splitlines()]
    page = (ROOT / "docs/replay.md").read_text()
    assert page.split("$ alrc replay metrics.csv\n")[1].split("\n```")[0].splitlines() == shown


def test_what_is_said_of_regression_is_what_the_benchmark_found() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| regression")
    ]
    assert len(rows) >= 3
    assert {row[1] for row in rows} == {"`ALRC(num_stddev=1.5)`"}
