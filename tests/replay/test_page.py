"""The page says and shows all that was found: read off its text and the numbers within it."""

import base64
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from alrc.replay.curve import Curve
from alrc.replay.page import write_page
from alrc.replay.replay import replay

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}.log"
EMPTY = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join(self.text.split())
        self.charts = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] not in ("style", "title"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def noisy(size=500, seed=0):
    return 2 + 0.1 * np.random.default_rng(seed).normal(size=size)


def seen(losses, name="run.log", column="train/loss", **others):
    curve = Curve(name, column, np.asarray(losses, dtype=np.float64), **others)
    return curve, replay(curve)


def page(folder, *found):
    write_page(found, folder / "page.html")
    assert [path.name for path in folder.iterdir()] == ["page.html"]
    return Page(folder / "page.html")


def numbers(text, kind):
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_the_page_needs_no_other_file_and_no_network(tmp_path):
    shown = page(tmp_path, seen(noisy()))
    assert shown.open == []
    for tag, attributes in shown.elements:
        assert "src" not in attributes, tag
        link = attributes.get("href")
        assert link is None or link.startswith("#") or link == "data:,", link
    style = re.search("<style>(.*?)</style>", (tmp_path / "page.html").read_text("utf-8"), re.S)
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert len(shown.scripts) == 3
    assert (tmp_path / "page.html").stat().st_size < 6e6


def test_names_are_no_markup(tmp_path):
    found = seen(noisy(), HOSTILE, HOSTILE, columns=(HOSTILE, "b"), notes=(f"Read {HOSTILE}.",))
    shown = page(tmp_path, found, found)
    assert len(shown.scripts) == 3
    assert shown.all("img") == []
    assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
    assert shown.text.count(HOSTILE) >= 8


def test_a_name_that_is_no_text_does_not_keep_the_page_from_being_written(tmp_path):
    shown = page(tmp_path, seen(noisy(), "\udcff.log"))
    assert r"\udcff.log" in shown.text


def test_the_verdict_comes_first_and_all_that_is_said_is_there(tmp_path):
    losses = noisy()
    losses[[100, 300]] = 9.0, math.nan
    curve, found = seen(losses, notes=("Left out: 7 rows.",), columns=("other", "train/loss"))
    text = page(tmp_path, (curve, found)).text
    said = [
        curve.name,
        found.verdict.sentence,
        "500 losses from train/loss, 1 of them not finite.",
        *found.mattered,
        found.remedy,
        found.suggestion,
        "Left out: 7 rows.",
        *found.notes,
        "Columns that could be read: other, train/loss.",
    ]
    places = [text.index(" ".join(sentence.split())) for sentence in said]
    assert places == sorted(places)
    for rule in found.rules:
        assert rule.name in text


def test_the_chart_has_every_row_of_a_short_curve_to_the_last_digit(tmp_path):
    losses = noisy()
    losses[[100, 300, 301]] = 9.0, math.nan, math.inf
    curve, found = seen(losses, steps=np.arange(500) * 10 + 7)
    (chart,) = page(tmp_path, (curve, found)).charts
    assert chart["axis"] == "step"
    assert numbers(chart["rows"], "<i4").tolist() == list(range(500))
    assert numbers(chart["x"], "<f8").tolist() == [10 * row + 7 for row in range(500)]
    assert numbers(chart["losses"], "<f8").tobytes() == losses.tobytes()
    upper = numbers(chart["rules"][0]["upper"], "<f8")
    limited = numbers(chart["rules"][0]["limited"], "u1").astype(bool)
    assert np.isinf(upper[:10]).all()
    assert limited.tolist() == [
        math.isfinite(x) and x > y for x, y in zip(losses, upper, strict=True)
    ]
    assert limited[100]
    kinds = {one["kind"]: numbers(one["spans"], "<i4").tolist() for one in chart["findings"]}
    assert kinds == {"isolated spikes": [100, 101, 300, 302]}


def test_other_rules_can_be_chosen_and_come_with_their_limits(tmp_path):
    losses = noisy()
    losses[100] = 9.0
    curve, found = seen(losses)
    shown = page(tmp_path, (curve, found))
    (chart,) = shown.charts
    assert [rule["name"] for rule in chart["rules"]] == [rule.name for rule in found.rules]
    radios = [one for one in shown.all("input") if one["type"] == "radio"]
    assert [one["value"] for one in radios] == [str(i) for i in range(len(found.rules))]
    for shown_rule, rule in zip(chart["rules"], found.rules, strict=True):
        limited = numbers(shown_rule["limited"], "u1")
        assert limited.sum() == rule.num_limited
        assert limited[100]
        upper = numbers(shown_rule["upper"], f"<{shown_rule['kind']}")
        assert upper.size == 500
        assert (losses[limited == 1] > upper[limited == 1]).all()


def test_a_long_curve_is_thinned_which_is_said_and_its_spike_is_there(tmp_path):
    losses = noisy(200_000)
    losses[123_456] = 9.0
    losses[50_000] = math.nan
    shown = page(tmp_path, seen(losses))
    (chart,) = shown.charts
    rows, kept = numbers(chart["rows"], "<i4"), numbers(chart["losses"], "<f8")
    assert kept.tobytes() == losses[rows].tobytes()
    assert {123_456, 50_000} <= set(rows.tolist())
    assert (
        f"200,000 losses from train/loss, 1 of them not finite. The chart shows {rows.size:,} of "
        "them: of each 25 rows the smallest and the largest loss" in shown.text
    )
    assert (tmp_path / "page.html").stat().st_size < 9e6


def test_a_short_curve_is_not_said_to_be_thinned(tmp_path):
    assert "The chart shows" not in page(tmp_path, seen(noisy())).text.replace(
        "The chart shows the limit of the rule", ""
    )


def test_several_logs_have_a_table_of_verdicts_which_leads_to_each(tmp_path):
    spike = noisy()
    spike[100] = 9.0
    found = [seen(noisy(), "calm.log"), seen(spike, "spike.log")]
    shown = page(tmp_path, *found)
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [one["href"].removeprefix("#") for one in shown.all("a")]
    assert links == ["log-1", "log-2"]
    assert set(links) <= set(ids)
    assert len(shown.charts) == 2
    number = f"{found[1][1].outcome.num_limited:,}"
    assert re.search(rf"spike\.log isolated spikes 500 {number} ", shown.text)


def test_charts_have_words_for_those_who_do_not_see_them(tmp_path):
    curve, found = seen(noisy())
    (chart,) = (
        one for one in page(tmp_path, (curve, found)).all("div") if one.get("class") == "chart"
    )
    assert chart["role"] == "img"
    assert chart["tabindex"] == "0"
    assert found.verdict.sentence in chart["aria-label"]


@pytest.mark.parametrize(
    "losses",
    [
        np.full(500, 3.0),
        noisy() - 2,
        np.append(noisy(), 1e307),
        np.append(noisy() - 2, [1e300, -1e300]),
        np.append(noisy(), 5e-324),
    ],
)
def test_any_losses_make_valid_json(tmp_path, losses):
    (chart,) = page(tmp_path, seen(losses)).charts
    for low, high in chart["heights"]:
        assert -math.inf < low < high < math.inf


def test_the_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    found = seen(noisy())
    (tmp_path / "page.html").write_text("before")

    def full(self, text, **options):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write_page([found], tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "before"


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be") as refusal:
        write_page([], tmp_path / "page.html")
    assert str(refusal.value) == (
        "replay: there must be a curve for a page to show, because each gets a chart; got none. "
        "Pass [(curve, replay(curve))]."
    )
    assert list(tmp_path.iterdir()) == []


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine")
def test_a_browser_draws_the_charts_without_complaint(tmp_path):
    spike = noisy()
    spike[[100, 200]] = 9.0, math.nan
    write_page([seen(noisy(), HOSTILE), seen(spike)], tmp_path / "page.html")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
            *("--virtual-time-budget=10000", (tmp_path / "page.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count('class="main-svg"') >= 2
    assert "limited: " in done.stdout.rpartition('class="legendtext"')[0]
    assert "not finite</text>" in done.stdout
