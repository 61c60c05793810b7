"""The page of a report: what it holds, what it leaves out, and that nothing in it is by chance."""

import base64
import errno
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fabricated_studies import ERROR, PSNR, exploding, falling, png, write_run
from reading_reports import draw_nothing

from alrc.lab.report import report as report_module
from alrc.lab.report.markup import Heading, Paragraph, Table, code, markdown, text
from alrc.lab.report.page import page
from alrc.lab.report.report import write_report

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """What a page is made of; every tag has to be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def figures(self) -> list[str]:
        """Their alternative texts."""
        drawn = [svg["aria-label"] for svg in self.all("svg") if svg.get("role") == "img"]
        return [*drawn, *(image["alt"] for image in self.all("img"))]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, three arms, two seeds; one diverged; pictures, evaluations, a logged series."""
    folder = tmp_path_factory.mktemp("report") / "study"
    for task in ("one", "two width=8"):
        for arm, gain, limit in (
            ("off", 1.0, None),
            ("alrc num_stddev=2.0", 0.8, 4.0),
            ("clip", 1.2, None),
        ):
            for seed in range(2):
                lost = (task, arm, seed) == ("one", "clip", 1)
                losses = exploding(seed, 51) if lost else falling(seed, scale=gain)
                write_run(
                    folder,
                    arm,
                    seed,
                    task=task,
                    listed=[ERROR, PSNR],
                    metrics={"held-out error": float("nan") if lost else gain, "PSNR": 20 / gain},
                    losses={"loss": losses},
                    limit=limit,
                    diverged="loss is NaN from step 51 on" if lost else None,
                    logged={"norm": falling(seed, size=1)[:, 0]},
                    evaluations=[[100, 2 * gain, 10.0], [200, gain, 20 / gain]],
                    pictures={"sample": "What it <makes> of a *ship*"},
                )
    write_report(folder)
    return folder


def html(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")


def test_page_needs_no_other_file_and_no_network(study: Path) -> None:
    content = html(study)
    parsed = Page(content)
    names = ("href", "src", "srcset", "data", "action", "background", "xlink:href", "poster")
    links = [value for _, given in parsed.tags for n, value in given.items() if n in names]
    assert len(links) > 20
    assert [link for link in links if not re.match(r"#|data:", link)] == []
    assert not re.search(r"url\((?!#)|@import|https?:(?!//www\.w3\.org/)", content)
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _ in parsed.tags}


def test_every_link_and_name_within_the_page_has_its_place_once(study: Path) -> None:
    content = html(study)
    parsed = Page(content)
    ids = [given["id"] for _, given in parsed.tags if "id" in given]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', content)
    assert {one or other for one, other in references} <= set(ids)


def test_contents_list_every_heading(study: Path) -> None:
    parsed = Page(html(study))
    headings = [given["id"] for tag, given in parsed.tags if tag in ("h2", "h3")]
    links = [given["href"][1:] for given in parsed.all("a")]
    assert links == headings
    assert len(headings) > 10


def limited(seed: int) -> int:
    return int((falling(seed, scale=0.8) > 4).sum())


def test_each_figure_has_a_text_that_states_its_finding(study: Path) -> None:
    figures = Page(html(study)).figures
    assert len(figures) == len(set(figures)) == len(list((study / "figures").iterdir())) + 6
    for words in (
        "one. alrc num_stddev=2.0: too few pairs -20.0 %",
        "clip: diverged 1 of 2; ? unclear +20.0 %.",
        "alrc num_stddev=2.0 is the best, alone or with others, in 2 of 2 settings.",
        "held-out error is 1 with off, 0.8 with alrc num_stddev=2.0, 1.2 with clip (1 of 2 "
        "diverged) (median over seeds); lowest with alrc num_stddev=2.0.",
        "PSNR (dB) is 20 with off, 25 with alrc num_stddev=2.0, 16.67 with clip (median over "
        "seeds); highest with alrc num_stddev=2.0.",
        "loss is, compared with off, 20.0 % lower with alrc num_stddev=2.0, 20.0 % higher with ",
        "at the end, 2 of 2 runs of off, 2 of 2 runs of alrc num_stddev=2.0, 1 of 2 runs of clip "
        "had not diverged.",
        f"alrc num_stddev=2.0, seed 0: {limited(0)} of 400 losses loss",
        f"of 800 losses loss in 2 runs, {limited(0) + limited(1)} were limited;",
        "one, alrc num_stddev=2.0, seed 0: What it <makes> of a *ship*",
    ):
        assert any(words in figure for figure in figures), words


def test_pictures_of_the_first_seed_stand_side_by_side(study: Path) -> None:
    images = Page(html(study)).all("img")
    expected = "data:image/png;base64," + base64.b64encode(png(0)).decode()
    assert [image["src"] for image in images] == [expected] * 6
    text = (study / "report.md").read_text(encoding="utf-8")
    paths = re.findall(r"\]\((runs/[^)]+)\)", text)
    assert len(paths) == 6
    assert all((study / path.replace("%3A", ":")).is_file() for path in paths)


def test_markdown_and_page_hold_the_same_tables(study: Path) -> None:
    lines = (study / "report.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    parsed = Page(html(study))
    assert len(parsed.all("table")) == sum(line.startswith("| :--") for line in rows) == 6
    assert len(parsed.all("tr")) == len(rows) - 6
    sources = re.findall(r"\]\((figures/[^)]+)\)", "\n".join(lines))
    assert sorted(sources) == sorted(f"figures/{p.name}" for p in (study / "figures").iterdir())
    for source in sources:
        assert (study / source).read_bytes().startswith(b"\x89PNG")


def test_page_can_be_used_with_the_keyboard_and_without_colours(study: Path) -> None:
    parsed = Page(html(study))
    boxes = [given for given in parsed.all("div") if given.get("class") == "box"]
    assert len(boxes) == len(parsed.all("table"))
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    for kind, sign in (("unclear", "?"), ("diverged", "†")):
        cells = re.findall(rf'<td class="text {kind}"[^>]*>(.)', html(study))
        assert cells
        assert set(cells) == {sign}


def test_figures_take_the_colours_of_the_page(study: Path) -> None:
    content = html(study)
    drawings = re.findall(r"<svg role=.*?</svg>", content, re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        assert "currentColor" in drawing
        assert not re.search(r"#010203|#000000|fill: white|#ffffff", drawing)


def test_same_results_give_the_same_bytes_whatever_runs_are_called(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    for arm, limit in (("off", None), ("alrc", 4.0)):
        write_run(folder, arm, limit=limit, pictures={"sample": "A ship"})
    first = {path.name: path.read_bytes() for path in write_report(folder)}
    assert len(first) == 9
    for index, run in enumerate(sorted((folder / "runs").iterdir(), reverse=True)):
        shutil.move(run, run.with_name(f"run-{index}"))
    again = {path.name: path.read_bytes() for path in write_report(folder)}
    for name, content in first.items():
        for index, run in enumerate(("squares-off-seed0-", "squares-alrc-seed0-")):
            found = re.compile(rf"{run}[0-9a-f]{{8}}".encode())
            content = found.sub(f"run-{index}".encode(), content)
        assert content == again[name], name


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = "\"'<script>x</script>_a*b*`c`|[l](http://x)$y$&amp;"
    metric = {"name": evil, "unit": "<b>", "better": "lower"}
    for arm, limit in (("off", None), (evil, 4.0)):
        for seed in range(2):
            write_run(
                tmp_path,
                arm,
                seed,
                task=evil,
                metrics={evil: 1.0},
                listed=[metric],
                losses={"<i>": falling(seed)},
                limit=limit,
                pictures={"p": evil},
                name=f"run <u> {arm[:3]}{seed}",
            )
    write_report(tmp_path)
    content = html(tmp_path)
    parsed = Page(content)
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"b", "i", "u", "l"}
    assert len(parsed.all("script")) == 1
    assert not any("http" in given.get("href", "") for given in parsed.all("a"))
    assert parsed.words.count(evil) > 10
    table = [x for x in (tmp_path / "report.md").read_text().splitlines() if x.startswith("| ")]
    assert len({line.replace(r"\|", "").count("|") for line in table[:3]}) == 1


def test_words_of_the_report_itself_are_no_html_either() -> None:
    assert "<b>" not in page("a <b>", [Paragraph("a <b>bold</b> word")])


def test_backticks_and_empty_names_stay_what_they_are() -> None:
    blocks = [Heading(code("a``b`")), Paragraph(code("")), Paragraph(text("1 < 2 & *x* \\ _y_"))]
    parsed = Page(page("T", blocks))
    assert "a``b`" in parsed.words
    assert "1 < 2 & *x* \\ _y_" in parsed.words
    told = markdown("T", [Table("a_b", ["a|b"], [["c|d"]])])
    assert told == "# T\n\na\\_b\n\n| a\\|b |\n| :-- |\n| c\\|d |\n"


def test_nothing_half_written_is_left(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    before = {p: p.read_bytes() for p in study.rglob("*") if p.is_file()}

    def break_off(part: Path, content: bytes) -> None:
        with part.open("wb") as stream:
            stream.write(b"half a rep")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", break_off)
    with pytest.raises(OSError, match="the disk is full"):
        report_module.write_report(study)
    assert {p: p.read_bytes() for p in study.rglob("*") if p.is_file()} == before
