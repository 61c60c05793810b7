"""The console script: it runs the commands, or says what to install for them."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from alrc import __version__
from alrc.cli import PACKAGES, main

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def test_the_script_runs_the_commands(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["alrc", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert capsys.readouterr() == (f"alrc {__version__}\n", "")


def test_what_is_missing_is_named_with_the_mend(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "alrc.lab.cli.commands", raising=False)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == (
        "alrc: typer is not installed here. Install what the command line needs with: "
        'pip install "alrc[lab]"'
    )


def plain(package: str) -> str:
    """The name as pip compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def test_a_command_that_needs_less_names_its_own_extra(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["alrc", "replay", "run.log"])
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "alrc.lab.cli.commands", raising=False)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == (
        "alrc: typer is not installed here. Install what alrc replay needs with: "
        'pip install "alrc[replay]"'
    )


@pytest.mark.parametrize("extra", ["lab", "ray", "replay", "torch"])
def test_what_is_missing_is_named_as_it_is_installed(extra: str) -> None:
    """Packages whose modules have other names are in the table, the lab's to come too."""
    wanted = PYPROJECT["project"]["optional-dependencies"][extra]
    packages = {plain(re.match(r"[\w.-]+", package)[0]) for package in wanted} - {"alrc"}
    named = {
        plain(owner)
        for module, owners in packages_distributions().items()
        for owner in owners
        if plain(PACKAGES.get(module, module)) == plain(owner)
    }
    assert packages - named == set()
