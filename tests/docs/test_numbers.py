"""The numbers of README.md and docs are those of the results that are kept beside them."""

import importlib.util
from pathlib import Path

import pytest

from alrc.lab.report.benchmark import draw_benchmark

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "benchmarks/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numbers_of_all_pages_are_those_of_the_results(script) -> None:
    for page in script.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert script.written(text) == text, page


def test_each_block_that_is_made_is_on_a_page_and_no_other_page_has_one(script) -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    blocks = {page: script.BLOCK.findall(text) for page, text in texts.items()}
    assert {page for page, found in blocks.items() if found} == {ROOT / p for p in script.PAGES}
    assert {block for found in blocks.values() for block in found} == set(script.BLOCKS)
    for page, found in blocks.items():
        assert texts[page].count("<!-- numbers") == len(found), page


def test_the_benchmarks_page_and_tables_are_those_of_its_compact_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alrc.lab.report.benchmark.page._figures", lambda *_: ())
    benchmark = ROOT / "docs/benchmark"
    draw_benchmark(benchmark / "compact", tmp_path)
    for name in ("benchmark.md", "matrix.csv", "arms.csv", "decision.json"):
        made, kept = ((x / name).read_text(encoding="utf-8") for x in (tmp_path, benchmark))
        assert made == kept, name
