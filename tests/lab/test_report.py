"""Reports, of studies that the tests write with nothing of ours."""

import base64
import csv
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.io
import typer
from typer.testing import CliRunner

from alrc.lab.cli.report import report
from alrc.lab.report import report as report_module
from alrc.lab.report.markup import page
from alrc.lab.report.report import write_report
from alrc.lab.report.results import read_study
from alrc.lab.report.study_figures import draw_curves, draw_losses

STEPS = 200  # so the last 10 count
CONFIG: dict[str, Any] = {
    "task": "supersampling",
    "images": "photographs",
    "images_sha256": "0" * 64,
    "power": 4,
    "width": 16,
    "sqrt_step": True,
    "iterations": STEPS,
    "batch_size": 2,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "num_stddev": None,
    "seed": 0,
    "num_stddev_below": None,
    "mu1_start": None,
    "mu2_start": None,
    "original": False,
    "evaluate_every": None,
    "device": "cpu",
    "compile": False,
}


def write_run(folder: Path, final: float, held_out: float = 1.0, **changes: Any) -> Path:
    """A finished run: errors fall from 50 to ``final``, where each of the last 10 steps is."""
    config = CONFIG | changes
    path = folder / "runs" / "-".join(str(x) for x in ("run", *changes.values()))
    path.mkdir(parents=True)
    shape = (config["iterations"], config["batch_size"])
    losses = np.full(shape, 7, np.float32) + np.linspace(43, 0, shape[0], dtype="f4")[:, None]
    losses[-10:] = (final - 0.5, final + 0.5)[: shape[1]]
    limit = math.inf if config["num_stddev"] is None else 30
    with np.errstate(invalid="ignore"):
        limited = np.where(losses > limit, np.float32(limit), losses)
    np.save(path / "losses.npy", losses)
    np.save(path / "limited.npy", limited)
    np.save(path / "limits.npy", np.full(shape[0], limit, np.float32))
    np.save(path / "held_out.npy", np.array([held_out], np.float32))
    (path / "config.json").write_text(json.dumps(config))
    result = {"final_error": final if math.isfinite(final) else None, "held_out_error": None}
    (path / "result.json").write_text(json.dumps(result))
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Five pairs with n = 2, lower; two with n = 3; held out: no effect."""
    folder = tmp_path / "study"
    wobble = [0.01, -0.02, 0.03, -0.01, 0.03]
    for seed, w in enumerate(wobble):
        write_run(folder, 2.0 + seed, 3.0 + w, seed=seed)
        write_run(folder, 1.5 + seed + w, 3.0 - w, seed=seed, num_stddev=2.0)
    for seed in range(2):
        write_run(folder, 9.0, 9.0, seed=seed, num_stddev=3.0)
    return folder


def markdown(folder: Path) -> str:
    write_report(folder)
    return (folder / "report.md").read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    return [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]


class Page(HTMLParser):
    """What a page links to, and what its tables hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("href", "src", "srcset", "data", "action", "background")
        self.links += [(tag, value or "") for name, value in attributes if name in names]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and self.tags[-1] in ("td", "th"):
            self.cells[-1] += data.strip("\n")


def test_table_holds_mean_and_standard_deviation_of_the_mean(study: Path) -> None:
    text = markdown(study)
    assert "averaged over the last 10 steps of a run" in text
    # Finals 2, 3, 4, 5, 6: s = sqrt(2.5), so sqrt(2.5 / 5) = 0.71.
    assert ["off", "4.00 ± 0.71 (5)"] in rows(text)
    finals = np.array([1.51, 2.48, 3.53, 4.49, 5.53])
    assert ["n = 2", f"{finals.mean():.2f} ± {finals.std(ddof=1) / 5**0.5:.2f} (5)"] in rows(text)
    assert ["n = 3", "9.0000 ± 0.0000 (2)"] in rows(text)
    held_out = np.array([3.01, 2.98, 3.03, 2.99, 3.03])
    error = held_out.std(ddof=1) / 5**0.5
    assert ["off", f"{held_out.mean():.3f} ± {error:.3f} (5)"] in rows(text)


def test_training_error_is_the_loss_before_it_is_limited(tmp_path: Path) -> None:
    write_run(tmp_path, 40.0, num_stddev=2.0)  # limited to 30
    assert ["n = 2", "40.0000 (1)"] in rows(markdown(tmp_path))


def test_sentences_say_what_the_pairs_show(study: Path) -> None:
    text = markdown(study)
    share = 0.492 / 4
    assert (
        f"- n = 2. Training error: **lower** by {share:.1%} (5 pairs). "
        "Held-out error: **no effect that this many runs can show** (5 pairs)."
    ) in text.splitlines()
    assert (
        "- n = 3. Training error: **too few runs to tell** (2 pairs of at least 5). "
        "Held-out error: **too few runs to tell** (2 pairs of at least 5)."
    ) in text.splitlines()
    assert (
        "Training error with ALRC, compared with off in 2 comparisons: lower in 1, higher in 0, "
        "no effect that this many runs can show in 0, too few runs to tell in 1."
    ) in text
    three = next(row for row in rows(text) if row[:2] == ["2", "n = 3"] and len(row) == 7)
    assert three == ["2", "n = 3", "+6.50", "+260.0%", "-", "2", "too few runs to tell"]
    assert ["2", "n = 2", "-0.492", f"{-share:+.1%}"] in [row[:4] for row in rows(text)]


def test_higher_is_said_as_plainly_as_lower(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path, 2.0, seed=seed)
        write_run(tmp_path, 3.0, seed=seed, num_stddev=2.0)
    assert "Training error: **higher** by 50.0% (5 pairs)." in markdown(tmp_path)


def test_a_missing_seed_makes_no_pair_and_is_told(study: Path) -> None:
    shutil.rmtree(study / "runs" / "run-4-2.0")
    text = markdown(study)
    assert "- n = 2. Training error: **too few runs to tell** (4 pairs of at least 5)." in text
    assert "had a finished run on one side only" in text


def test_diverged_runs_are_counted_named_and_left_out(study: Path) -> None:
    write_run(study, math.nan, math.nan, seed=5)
    write_run(study, 1.0, 3.0, seed=5, num_stddev=2.0)
    write_run(study, 1.0, 3.0, seed=6)
    write_run(study, 1.0, math.inf, seed=6, num_stddev=2.0)
    text = markdown(study)
    assert "16 runs: 16 finished, of which 2 diverged; 0 failed and 0 unfinished" in text
    assert "Diverged: `run-5`, `run-6-2.0`. " in text
    assert "left out of all means, curves and differences" in text
    off = [2.0, 3.0, 4.0, 5.0, 6.0, 1.0]
    error = np.std(off, ddof=1) / 6**0.5
    assert ["off", f"{np.mean(off):.2f} ± {error:.2f} (6; 1 diverged)"] in rows(text)
    assert (
        "(5 pairs). Diverged and left out, with the other of the pair: 1 without ALRC, 1 with it."
    ) in text
    assert ["quartic error", "Adam at 0.001", "2", "200", "7 (1 diverged)"] in [
        row[:5] for row in rows(text)
    ]


def test_a_design_that_always_diverged_is_shown_as_such(tmp_path: Path) -> None:
    write_run(tmp_path, math.nan, seed=0)
    write_run(tmp_path, math.inf, seed=0, num_stddev=2.0)
    text = markdown(tmp_path)
    assert ["off", "1 diverged"] in rows(text)
    assert "too few runs to tell** (0 pairs of at least 5)" in text


def test_unfinished_and_failed_runs_are_named(study: Path) -> None:
    (study / "runs" / "run-1-3.0" / "result.json").unlink()
    (study / "runs" / "run-0-3.0" / "result.json").unlink()
    (study / "runs" / "run-0-3.0" / "log.txt").write_text("Traceback")
    (study / "runs" / "never_begun").mkdir()
    text = markdown(study)
    assert "13 runs: 10 finished, of which 0 diverged; 1 failed and 2 unfinished" in text
    assert "Failed: `run-0-3.0`." in text
    assert "Unfinished: `never_begun`, `run-1-3.0`." in text
    assert "n = 3" not in text


def test_settings_counts_and_the_command_are_there(study: Path) -> None:
    text = markdown(study)
    assert ["quartic error", "Adam at 0.001", "2", "200", "5", "5", "2"] in rows(text)
    for line in ("- width: `16`", "- images: `photographs`", f"- images_sha256: `{'0' * 64}`"):
        assert line in text.splitlines()
    assert "with `alrc lab report study`." in text


def test_clipped_losses_are_counted(study: Path) -> None:
    # Errors fall from 50 to 7 in 200 steps; those above 30 are limited.
    clipped = int((7 + np.linspace(43, 0, STEPS) > 30).sum()) * 2 * 5
    row = ["2", "n = 2", "5", "2,000", f"{clipped:,}", f"{clipped / 2000:.2%}", "0", "50"]
    assert row in rows(markdown(study))


def test_page_holds_everything_and_links_to_nothing(study: Path) -> None:
    text = markdown(study)
    html = (study / "report.html").read_text(encoding="utf-8")
    parsed = Page(html)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    assert not re.search(r"url\(|@import|https?:", html)
    assert [tag for tag, _ in parsed.links] == ["img"] * 2
    sources = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted(sources) == sorted(f"figures/{p.name}" for p in (study / "figures").iterdir())
    for source, (_, link) in zip(sources, parsed.links, strict=True):
        assert link.startswith("data:image/png;base64,")
        assert base64.b64decode(link.partition(",")[2]) == (study / source).read_bytes()
    cells = [cell for row in rows(text) for cell in row if cell not in (":--", "--:")]
    assert parsed.cells == [cell.strip() for cell in cells]
    assert parsed.tags.count("table") == len(re.findall(r"^[|:\- ]+$", text, re.MULTILINE)) == 6


def test_names_are_text_and_never_markup(study: Path) -> None:
    (study / "runs" / "<script>*_a`b_*").mkdir()
    write_report(study)
    html = (study / "report.html").read_text(encoding="utf-8")
    assert "<code>&lt;script&gt;*_a`b_*</code>" in html
    assert "<b>" not in page("a <b>", "a <b>bold</b> word", study)


def test_a_spreadsheet_holds_every_finished_run(study: Path) -> None:
    write_report(study)
    with (study / "runs.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 12
    finals = [float(line["training_error"]) for line in lines if line["num_stddev"] == "2.0"]
    np.testing.assert_allclose(finals, [1.51, 2.48, 3.53, 4.49, 5.53], rtol=1e-6)
    assert [line["seed"] for line in lines] == [*"01234", *"01234", *"01"]


def test_figures_are_png_files_that_can_be_read(study: Path) -> None:
    files = write_report(study)
    pictures = [file for file in files if file.suffix == ".png"]
    assert [f.name for f in pictures] == ["curves.png", "losses-4-adam-0.001.png"]
    for picture in pictures:
        pixels = skimage.io.imread(picture)
        assert pixels.shape[1] >= 1000
        assert pixels.std() > 10
    written = {p for p in study.rglob("*") if p.is_file() and study / "runs" not in p.parents}
    assert written == set(files)


def test_a_curve_is_the_mean_over_the_seeds_that_did_not_diverge(study: Path) -> None:
    write_run(study, math.nan, seed=5)
    axes = draw_curves(read_study(study)).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines) == ["off", "n = 2", "n = 3"]
    np.testing.assert_allclose(lines["off"][-10:], 4.0, rtol=1e-6)  # of 2, 3, 4, 5, 6
    assert "off: 1 diverged" in [text.get_text() for text in axes.texts]
    assert axes.get_yscale() == "log"


def test_histograms_hold_each_finite_loss_once_before_and_after(study: Path) -> None:
    write_run(study, math.nan, seed=5, num_stddev=2.0)
    losses = [np.load(p / "losses.npy") for p in sorted(study.glob("runs/run-*-2.0"))]
    finite = np.concatenate([x[np.isfinite(x)] for x in losses])
    assert finite.size == 6 * 400 - 20
    read = read_study(study)
    before, after = (patch.get_data() for patch in draw_losses(read, read.settings).axes[0].patches)
    for data in (before, after):
        assert data.values.sum() == finite.size
    expected, _ = np.histogram(finite, before.edges)
    np.testing.assert_array_equal(before.values, expected)
    assert after.values[after.edges[:-1] > 30].sum() == 0
    assert before.values[before.edges[:-1] > 30].sum() > 0


def test_order_and_names_of_runs_change_no_byte(study: Path) -> None:
    first = {file.name: file.read_bytes() for file in write_report(study)}
    for index, run in enumerate(sorted(study.glob("runs/*"), reverse=True)):
        run.rename(run.with_name(f"other-{index}"))
    assert {file.name: file.read_bytes() for file in write_report(study)} == first


def test_errors_and_batch_sizes_may_share_a_study(study: Path) -> None:
    write_run(study, 4.0, seed=0, power=2, batch_size=1, learning_rate=0.0001)
    text = markdown(study)
    assert "### Squared error, Adam at 0.0001: training error" in text
    assert "### Quartic error, Adam at 0.001: training error" in text


def test_arms_with_other_starts_are_told_apart(study: Path) -> None:
    write_run(study, 4.0, seed=0, num_stddev=2.0, mu1_start=25.0, mu2_start=900.0)
    write_run(study, 4.0, seed=0, num_stddev=2.0, original=True)
    text = markdown(study)
    firsts = {row[0] for row in rows(text)}
    assert {"n = 2, automatic start", "n = 2, starts 25 and 900", "n = 2, original form"} <= firsts


def test_without_plain_runs_nothing_is_compared(tmp_path: Path) -> None:
    write_run(tmp_path, 4.0, num_stddev=2.0)
    assert "Nothing can be compared" in markdown(tmp_path)


@pytest.mark.parametrize("change", [{"images_sha256": "1" * 64}, {"width": 32}, {"task": "other"}])
def test_other_tasks_in_one_comparison_are_refused(study: Path, change: dict[str, Any]) -> None:
    write_run(study, 4.0, seed=9, num_stddev=4.0, **change)
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match="must not mix tasks") as error:
        write_report(study)
    assert str(error.value) == (
        f"{study} must not mix tasks in one comparison (quartic error, batch size 2, Adam at "
        f"0.001), because their errors mean different things; run-0 has {name} {CONFIG[name]!r}, "
        f"run-9-4.0-{value} has {value!r}. Keep them in separate folders."
    )
    assert not (study / "report.md").exists()


def test_a_copy_of_a_run_is_refused(study: Path) -> None:
    shutil.copytree(study / "runs" / "run-1", study / "runs" / "run-1-copy")
    with pytest.raises(ValueError, match="run-1 and run-1-copy have the same settings and seed"):
        write_report(study)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("losses.npy", b"", "No data left in file"),
        ("limits.npy", None, "No such file"),
        ("config.json", b"{", "Expecting property name"),
        ("config.json", b'{"iterations": 200}', "config.json lacks batch_size"),
    ],
)
def test_a_finished_run_that_is_not_whole_is_refused(
    study: Path, name: str, content: bytes | None, fault: str
) -> None:
    file = study / "runs" / "run-1" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="must hold a whole run") as error:
        write_report(study)
    assert fault in str(error.value)
    assert str(error.value).startswith(f"{study / 'runs' / 'run-1'} must hold")


def test_nothing_half_written_is_left(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(study)
    before = {p: p.read_bytes() for p in study.rglob("*") if p.is_file()}

    def break_off(part: Path, text: str, **options: object) -> None:
        part.write_bytes(b"half a rep")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", break_off)
    with pytest.raises(OSError, match="disk full"):
        report_module.write_report(study)
    assert {p: p.read_bytes() for p in study.rglob("*") if p.is_file()} == before


def command(folder: Path) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(report)
    result = CliRunner().invoke(app, [str(folder)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_command_names_the_files_it_wrote(study: Path) -> None:
    code, output = command(study)
    assert code == 0
    assert output.splitlines()[-2:] == [str(study / "report.md"), str(study / "report.html")]


def test_command_refuses_folders_without_runs_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert command(folder) == (
            2,
            f"alrc: {folder} must hold at least one run, as runs/NAME/, because a report is drawn "
            "from stored results; it holds none. Pass the folder of a study.\n",
        )
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    assert command(tmp_path) == (
        2,
        f"alrc: {tmp_path} must hold at least one finished run, because a report is drawn from "
        "stored results; none of its 1 has a result.json. Let one of them finish.\n",
    )
