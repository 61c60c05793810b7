"""What runs when, and in which process: tests come in two tiers, and in groups.

``pytest`` runs the short tier: all but what is marked ``slow``, with fewer examples and shorter
feeds. ``pytest --all`` runs everything. A group runs in one process of ``-n 2 --dist loadgroup``,
for its tests share what was compiled: those of a row of the table, or of a file.
"""

import re
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

TESTS = Path(__file__).parents[1]
KERAS = ("tensorflow", "jax", "torch")
# In this order: the lab's tests fork, which JAX forbids once it is at work; then the longest, so
# that the last ones, which are short, let both processes end together.
ORDER = (r"lab/", r"keras-", r"ranks", r"torch-compiled|jax|integrations/", r"")

left_out, total = 0, 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too, as CI does")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: left out unless --all is given, or the test named")
    config.addinivalue_line(
        "markers",
        "thin(parameter, *values): slow with other values in rows of the table that take long",
    )
    # Examples are the same in every run of the same tests; how long one takes says nothing.
    options = {"deadline": None, "derandomize": True}
    hypothesis.settings.register_profile("short", max_examples=20, **options)
    hypothesis.settings.register_profile("all", max_examples=60, **options)
    hypothesis.settings.load_profile("all" if config.getoption("all") else "short")


@pytest.fixture(scope="session")
def everything(request: pytest.FixtureRequest) -> bool:
    """Whether everything runs, and nothing is to be made short."""
    return request.config.getoption("all")


def row_of(item: pytest.Item) -> str | None:
    """The row of the table that a test belongs to, if any."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    backend = parameters.get("backend")
    return parameters.get("row", f"keras-{backend}" if backend in KERAS else None)


def group_of(item: pytest.Item) -> str:
    file = item.path.relative_to(TESTS).with_suffix("").as_posix()
    # All tests of ranks look at what one start of them has seen.
    return row_of(item) or ("ranks" if file.startswith("ranks/") else file)


def place_of(group: str) -> int:
    return next(i for i, start in enumerate(ORDER) if re.match(start, group))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    global left_out, total
    total = len(items)
    named = any("::" in argument for argument in config.args)
    if not (config.getoption("all") or named):
        slow = [item for item in items if is_slow(item)]
        items[:] = [item for item in items if not is_slow(item)]
        config.hook.pytest_deselected(items=slow)
        left_out = len(slow)
        if bare := promises() & {name(item) for item in slow} - {name(item) for item in items}:
            raise pytest.UsageError(f"slow alone, though promised: {', '.join(sorted(bare))}")
    first: dict[str, int] = {}
    for i, item in enumerate(items):
        first.setdefault(group_of(item), i)
    items.sort(key=lambda item: (place_of(group_of(item)), first[group_of(item)]))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Says so where pytest-xdist and pytest do not fit, and no group would be kept together."""
    is_grouped = getattr(session.config.option, "loadgroup", False)
    if is_grouped and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist keeps no groups with this pytest: install pytest<9.2")


def is_slow(item: pytest.Item) -> bool:
    if item.get_closest_marker("slow"):
        return True
    thin = [mark.args for mark in item.iter_markers("thin")]
    if not thin or sys.modules["table"].ROWS[row_of(item)].examples == 100:
        return False
    return any(item.callspec.params[parameter] not in values for parameter, *values in thin)


def name(item: pytest.Item) -> str:
    return getattr(item, "originalname", item.name)


def promises() -> set[str]:
    """The tests that the docs name."""
    pages = (TESTS.parent / "docs/dev").glob("*.md")
    return {test for page in pages for test in re.findall(r"::(test_\w+)`", page.read_text())}


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """No process of Keras outlives its group."""
    ends = nextitem is None or group_of(nextitem) != group_of(item)
    if ends and "keras_workers" in sys.modules:
        sys.modules["keras_workers"].close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = left_out, total


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each process has collected all of them."""
    global left_out, total
    left_out, total = getattr(node, "workeroutput", {}).get("left out", (left_out, total))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not (config.getoption("all") or hasattr(config, "workerinput")):
        terminalreporter.write_line(
            f"{left_out} of {total} tests were left out, hypothesis tried a third of its examples, "
            "and most long feeds were a tenth: make check (pytest --all) runs everything."
        )
    skipped = terminalreporter.stats.get("skipped", [])
    if count := sum("needs a GPU" in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"{count} tests need a GPU: make gpu runs them where one is.")
