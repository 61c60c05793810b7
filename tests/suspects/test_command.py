"""``alrc suspects``: what it prints, the files it writes, and how it refuses."""

import base64
import csv
import io
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from alrc.integrations.loggers import Watch
from alrc.lab.cli.commands import app
from alrc.lab.report.sheet import write_sheet
from alrc.suspects import Suspect
from alrc.torch import ALRC

WIDE = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
STILL = {"num_stddev": 3, "mu1_start": 1.0, "mu2_start": 2.0, "decay": 1 - 1e-12}  # limit: 4


def alrc(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env=WIDE)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def spikes(tmp_path: Path) -> Path:
    """Of five passes over 40 examples, three of which are bad."""
    module, path = ALRC(**STILL, scale="linear"), tmp_path / "spikes.csv"
    with Watch(module, spikes=path) as watch:
        for epoch in range(5):
            losses = torch.ones(40)
            losses[7], losses[11] = 8.0, 40.0 if epoch else 1.0
            losses[30] = torch.nan if epoch == 2 else 1.0
            watch.name_next([f"[red]{i}.png" for i in range(40)])
            module(losses)
    return path


def test_the_worst_examples_are_told_with_all_that_was_read(spikes) -> None:
    code, out, err = alrc("suspects", spikes)
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first == (
        "Of 200 losses, 9 were limited (4.5%) and 1 not finite: at least once in 3 examples, 2 of "
        "which lost half of their gradients or more."
    )
    assert last.startswith("└")
    cells = [[x.strip() for x in row.split("│")[1:-1]] for row in out.splitlines() if "│" in row]
    assert cells == [
        ["1", "[red]11.png", "4", "80% of 5", "0.158"],  # of 5, 4 to a tenth
        ["2", "[red]7.png", "5", "100% of 5", "0.5"],
        ["3", "[red]30.png", "0 + 1 not finite", "20% of 5", "0.631"],
    ]


def test_as_many_are_shown_as_asked_for_and_all_are_in_the_csv_file(spikes) -> None:
    table = spikes.parent / "suspects.csv"
    code, out, _ = alrc("suspects", spikes, "--by", "share", "--top", 1, "--csv", table)
    assert code == 0
    assert out.count(".png") == 1
    assert "and 2 more: --top, --csv" in out
    assert out.splitlines()[-1] == str(table)
    with table.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [(row["rank"], row["key"], row["visits"], row["limited"]) for row in rows] == [
        ("1", "[red]7.png", "5", "5"),
        ("2", "[red]11.png", "5", "4"),
        ("3", "[red]30.png", "5", "0"),
    ]


def test_where_few_losses_are_limited_a_lower_limit_is_advised(tmp_path) -> None:
    module, path = ALRC(**STILL, scale="linear"), tmp_path / "spikes.csv"
    with Watch(module, spikes=path) as watch:
        for last in (8.0, 1.0):
            watch.name_next(range(51))
            module(torch.tensor([1.0] * 50 + [last]))
    code, out, _ = alrc("suspects", path)
    assert code == 0
    assert out.splitlines()[-1] == (
        "Few losses were limited, as they should be in training; where more data may be bad, a "
        "lower limit tells more. A second ALRC can look on without limiting what is trained: "
        "ALRC(num_stddev=0.75), called with losses.detach(), in a Watch of its own."
    )


def test_a_log_in_which_nothing_was_limited_says_how_many_losses_there_were(tmp_path) -> None:
    module, path = ALRC(**STILL, scale="linear"), tmp_path / "spikes.csv"
    with Watch(module, spikes=path, every=1) as watch:
        module(torch.ones(3))
        code, out, err = alrc("suspects", path)
        assert (code, out) == (2, "")
        assert err.startswith("alrc: suspects: the examples must have names, because these are ")
        watch.name_next("abc")
        module(torch.ones(3))
    code, out, _ = alrc("suspects", path)
    assert code == 0
    assert out.splitlines()[0] == (
        "Of 3 losses, 0 were limited (0.0%): at least once in 0 examples, 0 of which lost half of "
        "their gradients or more."
    )


# The sheet


def test_a_function_of_an_importable_module_shows_them_too(spikes, monkeypatch) -> None:
    monkeypatch.chdir(spikes.parent)
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("my_pictures.py").write_text("def show(key):\n    return key.upper()\n")
    assert alrc("suspects", spikes, "--show", "my_pictures:show")[::2] == (0, "")
    assert "[RED]7.PNG" in Sheet(Path("suspects.html")).words


class Sheet(HTMLParser):
    """The images of a page, and its words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[Image.Image] = []
        self.words, self.tags = "", set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        source = dict(attrs).get("src")
        if source is not None:
            head, data = source.split(",")
            assert (tag, head) == ("img", "data:image/png;base64")
            self.images.append(Image.open(io.BytesIO(base64.b64decode(data))))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_function_of_a_file_shows_the_worst_examples(spikes) -> None:
    code_file, sheet = spikes.parent / "random.py", spikes.parent / "sheet.html"  # as in Python
    code_file.write_text("def show(key):\n    return f'<b>picture of {key}</b>'\n")
    code, out, err = alrc(
        "suspects",
        spikes,
        "--by",
        "share",
        "--top",
        2,
        "--show",
        f"{code_file}:show",
        "--sheet",
        sheet,
    )
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(sheet)
    page = Sheet(sheet)
    assert "<b>picture of [red]7.png</b>1. [red]7.pnglimited 5 of 5, factor 0.5" in page.words
    assert page.words.index("[red]7.png") < page.words.index("[red]11.png")
    assert "30.png" not in page.words
    assert "script" not in page.tags


def red_and_blue(kind: str, folder: Path) -> object:
    """An image of two pixels, of every kind that can be shown."""
    pixels = np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    match kind:
        case "array":
            return pixels
        case "floats":
            return pixels / 255
        case "channels first":
            return torch.from_numpy(pixels).permute(2, 0, 1).float().requires_grad_()
        case "PIL":
            return Image.fromarray(pixels)
        case _:
            Image.fromarray(pixels).save(folder / "image.png")
            return folder / "image.png"


@pytest.mark.parametrize("kind", ["array", "floats", "channels first", "PIL", "path"])
def test_every_kind_of_image_is_shown(tmp_path, kind) -> None:
    suspects = [Suspect("a", 4, 2, 0, 0.5, 0.25)]
    write_sheet(tmp_path / "s.html", "", suspects, lambda key: red_and_blue(kind, tmp_path))
    (image,) = Sheet(tmp_path / "s.html").images
    assert np.array(image.convert("RGB")).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_gray_arrays_figures_and_text_are_shown(tmp_path) -> None:
    figure = Figure((1, 1))
    seen = {"gray": np.array([[-2.0, np.nan], [2.0, 0.0]]), "figure": figure, "text": "it & I"}
    suspects = [Suspect(key, 4, 2, 0, 0.5, 0.25) for key in seen]
    write_sheet(tmp_path / "s.html", "What was read", suspects, seen.__getitem__)
    page = Sheet(tmp_path / "s.html")
    gray, drawn = page.images
    assert np.array(gray)[..., 0].tolist() == [[0, 128], [255, 128]]
    assert min(drawn.size) > 10
    assert "it & I" in page.words
    assert "What was read" in page.words


def test_figures_of_pyplot_are_closed_once_they_are_shown(tmp_path) -> None:
    suspects = [Suspect(str(i), 4, 2, 0, 0.5, 0.25) for i in range(30)]  # it warns of more than 20
    write_sheet(tmp_path / "s.html", "", suspects, lambda key: pyplot.figure(figsize=(0.2, 0.2)))
    assert len(Sheet(tmp_path / "s.html").images) == 30
    assert pyplot.get_fignums() == []


def test_an_example_that_cannot_be_shown_says_why_on_the_sheet(tmp_path) -> None:
    seen = {"a": "words", "b": np.zeros(3)}
    suspects = [Suspect(key, 1, 1, 0, 1.0, 0.25) for key in "abc"]
    write_sheet(tmp_path / "s.html", "", suspects, seen.__getitem__)
    page = Sheet(tmp_path / "s.html")
    assert (
        "ValueError: an example must be text, an image, a figure or the Path of an image; got "
        "ndarray of shape (3,)"
    ) in page.words
    assert "KeyError: 'c'" in page.words


def test_what_cannot_be_shown_at_all_is_refused_in_words_and_leaves_no_file(spikes) -> None:
    folder = spikes.parent
    good, bad = folder / "fine_data.py", folder / "bad_data.py"
    good.write_text("number = 3\ndef show(key):\n    return {}[int(key)]\n")
    bad.write_text("import nothing_like_it\n")
    refusals = {
        "show": "--show must name a function as module:function or path/to/file.py:function; got "
        "show. Pass --show my_data:show, say.",
        f"{folder}/typo.py:show": f"--show: {folder}/typo.py must be a Python file; there is none. "
        "Check the path.",
        f"{bad}:show": f"--show: {bad} must be importable; ModuleNotFoundError: No module named "
        "'nothing_like_it'. Run it with python to see where.",
        f"{good}:number": f"--show: {good} must define a function number; it does not.",
        f"{good}:show": "--show must return each example as text, an image, a figure or the Path "
        "of an image; none of 3 could be shown, the first with ValueError: invalid literal for "
        "int() with base 10: '[red]11.png'. Try the function with the key '[red]11.png', which is "
        "a string.",
    }
    for name, words in refusals.items():
        sheet = folder / "sheet.html"
        code, _, err = alrc("suspects", spikes, "--show", name, "--sheet", sheet)
        assert (code, err) == (2, f"alrc: {words}\n")
        assert not sheet.exists()


def test_what_is_no_spike_log_is_refused_in_one_line(tmp_path) -> None:
    code, out, err = alrc("suspects", tmp_path / "no.csv")
    assert (code, out) == (2, "")
    assert err == (
        f"alrc: suspects: there must be a spike log; got {tmp_path / 'no.csv'}, which does not "
        "exist. Pass what Watch was given as spikes.\n"
    )
