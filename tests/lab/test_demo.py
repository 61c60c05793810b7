"""``alrc demo``: its table and figure, made of stored runs, and how it ends."""

import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from fabricated_studies import write_run
from launching import process_group
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from rich.console import Console
from typer.testing import CliRunner

from alrc.lab.cli import demo
from alrc.lab.cli.commands import app
from alrc.lab.report.demo_figure import Panel, draw_demo
from alrc.lab.report.reading import read_study

SEEDS = 3
# The error at the end of each arm, and how much more in each seed.
ENDS = {
    "2 % broken": {"plain": 8.0, "norm clip": 1.0, "ALRC": 0.5},
    "all clean": {"plain": 0.4, "norm clip": 0.6, "ALRC": 0.4},
}
WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def alrc(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env=WIDE)
    return result.exit_code, result.output


@pytest.fixture
def panels(tmp_path: Path) -> list[Panel]:
    """Two tasks, three arms and three seeds, whose pictures are of one colour for each arm."""
    for i, ends in enumerate(ENDS.values()):
        for j, (label, end) in enumerate(ends.items()):
            for k in range(SEEDS):
                seed = demo.FIRST_SEED + k
                last = end * (1 + k * (1 + 0.1 * j))
                run = write_run(
                    tmp_path,
                    demo.ARMS[label],
                    seed,
                    task=f"t{i}",
                    metrics={"held-out error": last},
                    evaluations=[[100, 2 * last], [200, last]],
                    limit=4.0 if label == "ALRC" else None,
                    pictures={"held-out": "Some."},
                    name=demo._name(i, demo.ARMS[label], seed),
                )
                pixels = np.zeros((96, 192, 3))
                pixels[:32], pixels[32:64], pixels[64:] = 0.2, j / 10 + 0.4, 1.0
                imsave(run / "pictures" / "held-out.png", pixels)
    assert len(read_study(tmp_path).runs) == 18
    return demo._panels(tmp_path, SEEDS)


def drawn(figure: Figure) -> tuple[list[Axes], list[Axes]]:
    """The axes of the curves and those of the pictures."""
    above, below = figure.subfigs
    return above.axes, below.axes


def test_lines_are_medians_over_the_seeds_and_bands_their_ranges(panels: list[Panel]) -> None:
    curves, _ = drawn(draw_demo(panels))
    for axes, (title, ends) in zip(curves, ENDS.items(), strict=True):
        assert axes.get_title() == f"Targets: {title}"
        assert (axes.get_xlabel(), axes.get_yscale()) == ("training step", "log")
        assert len(axes.lines) == len(axes.collections) == 3
        for j, (line, band, end) in enumerate(
            zip(axes.lines, axes.collections, ends.values(), strict=True)
        ):
            lasts = [end * (1 + seed * (1 + 0.1 * j)) for seed in range(SEEDS)]
            np.testing.assert_allclose(line.get_xdata(), [100, 200])
            np.testing.assert_allclose(line.get_ydata(), [2 * lasts[1], lasts[1]])
            heights = band.get_paths()[0].vertices[:, 1]
            assert heights.min() == pytest.approx(lasts[0])
            assert heights.max() == pytest.approx(2 * lasts[2])
    assert curves[0].get_ylabel() == "held-out error\n(3 seeds: median, range)"
    assert curves[0].get_ylim() == curves[1].get_ylim()


def test_lines_are_told_apart_without_colours_and_named_at_their_ends(panels: list[Panel]) -> None:
    curves, _ = drawn(draw_demo(panels))
    for axes, ends in zip(curves, ENDS.values(), strict=True):
        assert len({line._linestyle + str(line._dash_pattern) for line in axes.lines}) == 3
        names = {text.get_text(): text.xy[1] for text in axes.texts}
        assert names.keys() == ends.keys()
        heights = sorted(names.values())
        assert min(np.diff(heights)) > 0.095  # none lies on another
    order = sorted(ENDS["2 % broken"], key={t.get_text(): t.xy[1] for t in curves[0].texts}.get)
    assert order == ["ALRC", "norm clip", "plain"]


def test_pictures_are_of_each_arm_of_the_first_task(panels: list[Panel]) -> None:
    _, tiles = drawn(draw_demo(panels))
    shown = {axes.get_title(): float(axes.images[0].get_array()[0, 0, 0]) for axes in tiles}
    expected = {"input": 0.2, "plain": 0.4, "norm clip": 0.5, "ALRC": 0.6, "truth": 1.0}
    assert shown == pytest.approx(expected, abs=0.01)
    assert tiles[0].images[0].get_array().shape == (32, 32, 3)


def test_the_table_has_the_change_in_pairs_of_a_seed(panels: list[Panel]) -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(demo.table(panels))
    text = console.export_text()
    rows = [[x.strip() for x in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [row[:3] for row in rows] == [
        ["2 % broken", "plain", "16"],
        ["", "norm clip", "2.1"],
        ["", "ALRC", "1.1"],
        ["all clean", "plain", "0.8"],
        ["", "norm clip", "1.26"],
        ["", "ALRC", "0.88"],
    ]
    for row, ends in ((rows[1], (1, 2.1, 3.2)), (rows[2], (0.5, 1.1, 1.7))):
        logs = np.log(np.array(ends) / (8, 16, 24))
        reach = 4.302653 * logs.std(ddof=1) / 3**0.5  # Student's t, two degrees of freedom
        mean, low, high = np.expm1([logs.mean(), logs.mean() - reach, logs.mean() + reach])
        assert row[3] == f"{mean:+.0%} [{low:+.0%}, {high:+.0%}]"
    assert rows[0][3] == rows[3][3] == ""
    assert [row[4] for row in rows] == ["", "3 of 3", "3 of 3", "", "0 of 3", "0 of 3"]
    assert [row[5] == "-" for row in rows] == [True, True, False, True, True, False]


def test_the_numbers_of_each_run_are_kept(panels: list[Panel]) -> None:
    _, *rows = demo._numbers(panels).splitlines()
    assert len(rows) == 18
    assert rows[1] == "2 % broken,plain,11,16,0"
    *run, limited = rows[6].split(",")
    assert run == ["2 % broken", "ALRC", "10", "0.5"]
    assert float(limited) > 0


def test_runs_that_diverged_are_named_at_the_top_and_compared_with_nothing(tmp_path: Path) -> None:
    for arm in demo.ARMS.values():
        for i in range(2):
            last = float("nan") if arm == "off" and i == 0 else 1.0
            run = write_run(
                tmp_path,
                arm,
                task=f"t{i}",
                metrics={"held-out error": last},
                evaluations=[[100, 2.0], [200, last]],
                pictures={"held-out": "Some."},
                name=demo._name(i, arm, demo.FIRST_SEED),
            )
            imsave(run / "pictures" / "held-out.png", np.zeros((96, 192, 3)))
    panels = demo._panels(tmp_path, 1)
    curves, _ = drawn(draw_demo(panels))
    places = {text.get_text(): text.xy[1] for text in curves[0].texts}
    assert places["plain"] == 1 > max(places["norm clip"], places["ALRC"])
    console = Console(width=80, record=True, file=StringIO())
    console.print(demo.table(panels))
    rows = [line.split() for line in console.export_text().splitlines() if "│" in line]
    assert "inf" in rows[0]
    assert "diverged" in rows[1]


def test_the_demo_trains_shows_a_table_and_draws_a_figure(tmp_path: Path) -> None:
    out = tmp_path / "figure.png"
    code, text = alrc("demo", "--steps", 10, "--seeds", 1, "--out", out)
    assert code == 0, text
    numbers = tmp_path / "figure.csv"
    assert text.splitlines()[-2:] == [f"Figure: {out}", f"Numbers: {numbers}"]
    for words in ("2 % broken", "all clean", "plain", "norm clip", "ALRC", "held-out error"):
        assert words in text
    height, width, _ = imread(out).shape
    assert (width, height) == (1500, 1200)
    assert {file.name for file in tmp_path.iterdir()} == {"figure.png", "figure.csv"}
    head, *rows = [line.split(",") for line in numbers.read_text().splitlines()]
    assert head == ["targets", "training", "seed", "error", "limited"]
    assert [row[:3] for row in rows] == [
        [targets, training, "10"] for targets in demo.TASKS for training in demo.ARMS
    ]


@pytest.mark.slow
def test_the_demo_of_the_paper_trains_and_draws_a_figure(tmp_path: Path) -> None:
    out = tmp_path / "figure.png"
    code, text = alrc("demo", "paper", "--steps", 10, "--out", out)
    assert code == 0, text
    assert "one seed is a lead, not a result." in text
    assert text.splitlines()[-1] == f"Figure: {out}"
    assert imread(out).shape[1] == 1350


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", 0), "--seeds must be at least 1, because each is a training; got 0."),
        (("--steps", 9), "Training: steps must be greater than or equal to 10; got 9."),
        (
            ("--out", "figure.jpg"),
            "--out must end in .png, because the figure is a PNG; got figure.jpg.",
        ),
        (
            ("--out", "nowhere/figure.png"),
            "--out must name a file in an existing folder that can be written to; got "
            "nowhere/figure.png.",
        ),
        (("paper", "--steps", 9), "Training: steps must be greater than or equal to 10; got 9."),
    ],
)
def test_what_is_not_right_is_refused_before_training(
    words: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert alrc("demo", *words) == (2, f"alrc: {message}\n")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_demo_leaves_nothing_and_says_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    # Else PyTorch makes a folder of its own there, unless other tests have set this before.
    elsewhere = tmp_path_factory.mktemp("compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(elsewhere))
    words = ("demo", "--steps", "100000000", "--out", str(tmp_path / "figure.png"))
    # In the background of a script, Ctrl-C is ignored, and so it is by what is started there.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeded}; from alrc.cli import main; main()"
    command = [sys.executable, "-c", program, *words]
    with process_group(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while "to do" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "alrc: stopped; no figure was written."
    assert not list(temporary.iterdir())
    assert [file.name for file in tmp_path.iterdir()] == ["temporary"]
