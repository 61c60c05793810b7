"""The site: every page is in its navigation, and every link to the repository leads somewhere."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
LEFT_OUT = {line.lstrip("/") for line in CONFIG["exclude_docs"].split()}
LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
TRAINERS = ("lightning", "loggers", "transformers")
PUBLIC = (
    "torch",
    "jax",
    "keras",
    "lab/api",
    "replay",
    "suspects",
    *(f"integrations/{name}" for name in TRAINERS),
)
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        ROOT / "benchmarks/README.md",
    ]
)


def pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(part)


@pytest.fixture(scope="module")
def made() -> set[str]:
    """Pages of the site that are not files of docs/."""
    source = (ROOT / "website/hooks.py").read_text(encoding="utf-8")
    names = re.search(r"ELSEWHERE = \{\n(.*?)\n\}", source, re.DOTALL)
    pairs = dict(re.findall(r'"(.*?)": "(.*?)"', names[1]))
    for file in pairs.values():
        assert (ROOT / file).is_file(), file
    return {*pairs, re.search(r'EXAMPLES = "(.*)"', source)[1]}


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page(made) -> None:
    files = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert files >= LEFT_OUT
    entries = Counter(pages_of(CONFIG["nav"]))
    assert set(entries) == (files - LEFT_OUT) | made
    assert set(entries.values()) == {1}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_api_shows_every_public_name(module: str) -> None:
    (file,) = [
        file
        for file in (ROOT / f"src/alrc/{module}.py", ROOT / f"src/alrc/{module}/__init__.py")
        if file.is_file()
    ]
    named = re.search(r"^__all__ = (\[.*?\])", file.read_text(), re.MULTILINE | re.DOTALL)
    names = {f"alrc.{module.replace('/', '.')}.{name}" for name in ast.literal_eval(named[1])}
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    elsewhere = {"Moments", "Networks", "Ge", "Gt", "Le", "Lt"}  # alrc.rule's, a type, and not ours
    missing = {name for name in names - listed if name.rpartition(".")[2] not in elsewhere}
    assert missing == set()
    assert names & listed


def test_a_build_is_strict_about_all_links() -> None:
    assert CONFIG["strict"] is True
    for kind in ("nav", "links"):
        assert set(CONFIG["validation"][kind].values()) == {"warn"}


def test_nothing_is_asked_of_other_sites() -> None:
    assert CONFIG["theme"]["font"] is False
    assert "analytics" not in CONFIG["extra"]
    for file in (*CONFIG["extra_css"], *CONFIG["extra"]["polyfills"]):
        assert (DOCS / file).is_file(), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_link_leads_somewhere_in_the_repository(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        meant = page.parent / path if path else page
        assert meant.exists(), target
        if anchor:
            assert anchor in anchors(meant), target


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in words}


def test_readme_leads_to_the_questions() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/questions.md)" in readme
    questions = (DOCS / "questions.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^## (\d+)\. ", questions, re.MULTILINE)
    assert numbers == [str(i) for i in range(1, 16)]
    for answer in re.split(r"^## ", questions, flags=re.MULTILINE)[1:]:
        assert LINK.search(answer), answer.splitlines()[0]
