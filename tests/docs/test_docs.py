"""Every Python block of README.md and every example in a docstring runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from agreement_table import KERAS_ONLY, PROMISES
from promises import (
    test_agreement,
    test_log_scale,
    test_moments,
    test_states,
    test_values,
    test_what_counts,
)
from table import ROWS

import alrc

pytestmark = [
    # Lightning 2.6 asks PyTorch 2.13's pytree in a way that this one deprecates,
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning"),
    # and wants a process for loading data, which is slower where they are tiny.
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]
ROOT = Path(__file__).parents[2]
MODULES = sorted(m.name for m in pkgutil.walk_packages(alrc.__path__, "alrc."))
PAGES = sorted(
    page
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
    if page == ROOT / "README.md" or "```python" in page.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_the_public_names_have_examples_that_are_found() -> None:
    finder = doctest.DocTestFinder()
    torch = ("alrc.torch.ALRC", "alrc.torch.clip", "alrc.torch.init", "alrc.rule.Moments")
    jax = ("alrc.jax.clip", "alrc.jax.init", "alrc.jax.scale_by_alrc")
    keras = ("alrc.keras.ALRC", "alrc.keras.ALRCMixin", "alrc.keras.ALRCModel")
    lightning = ("alrc.integrations.lightning.ALRCCallback",)
    for name in ("alrc.settings.Settings", *torch, *jax, *keras, *lightning):
        module, _, attribute = name.rpartition(".")
        public = getattr(importlib.import_module(module), attribute)
        assert any(test.examples for test in finder.find(public)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:  # one after the other: a later block may use an earlier one's names
        exec(compile(block, str(page), "exec"), namespace)


def test_every_guarantee_names_a_test_that_exists() -> None:
    page = (ROOT / "docs/dev/guarantees.md").read_text()
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 30
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


def test_every_named_guarantee_test_is_on_the_page() -> None:
    page = (ROOT / "docs/dev/guarantees.md").read_text()
    guarantees = (test_values, test_moments, test_states, test_what_counts, test_log_scale)
    tests = [name for module in guarantees for name in vars(module) if name.startswith("test_")]
    assert [test for test in tests if f"::{test}`" not in page] == []


def test_the_agreement_table_in_the_docs_is_complete() -> None:
    lines = (ROOT / "docs/dev/agreement.md").read_text().splitlines()
    head, _, *rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert [cell.strip() for cell in head[1:]] == list(ROWS)
    assert [row[0].strip() for row in rows] == list(PROMISES)
    assert all(int(cell) > 0 for row in rows for cell in row[1:])


def test_every_test_in_the_agreement_table_exists_for_every_row() -> None:
    for test in {test for tests in PROMISES.values() for test in tests} - KERAS_ONLY:
        modules = (test_agreement, test_values, test_moments, test_states, test_what_counts)
        (function,) = [getattr(m, test) for m in (*modules, test_log_scale) if hasattr(m, test)]
        (rows,) = [m.args[1] for m in function.pytestmark if m.args[0] == "row"]
        assert list(rows) == list(ROWS), test


def test_each_cell_of_the_matrix_of_stacks_names_a_test_that_exists() -> None:
    page = (ROOT / "docs/dev/stacks.md").read_text()
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    assert len(head) == 7
    assert len(rows) == 6
    for stack, *cells in rows:
        for feature, cell in zip(head[1:], cells, strict=True):
            (named,) = re.findall(r"^\[(.+)\]\(\.\./\.\./tests/((?:\w+/)?test_\w+\.py)\)$", cell)
            words, file = named
            source = (ROOT / "tests" / file).read_text()
            test = f"def test_{words.replace(' ', '_')}("
            assert f"\n{test}" in source, f"{stack}, {feature}: {file}"
