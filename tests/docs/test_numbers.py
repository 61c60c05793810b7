"""The numbers of README.md and docs are those of the results that are kept beside them."""

import importlib.util
from pathlib import Path

import pytest

from alrc.lab.report.benchmark import draw_benchmark

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/experiments.md", "docs/suspects.md")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "benchmarks/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_the_numbers_of_a_page_are_those_of_the_results(script, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert script.written(text) == text


def test_readme_has_a_number_for_each_block_that_is_made(script) -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert set(script.BLOCK.findall(text)) == set(script.BLOCKS)
    assert text.count("<!-- numbers") == len(script.BLOCKS)


def test_the_benchmarks_page_and_tables_are_those_of_its_compact_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alrc.lab.report.benchmark.page._figures", lambda *_: ())
    benchmark = ROOT / "docs/benchmark"
    draw_benchmark(benchmark / "compact", tmp_path)
    for name in ("benchmark.md", "matrix.csv", "arms.csv", "decision.json"):
        made, kept = ((x / name).read_text(encoding="utf-8") for x in (tmp_path, benchmark))
        assert made == kept, name
