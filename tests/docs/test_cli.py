"""The console script: it runs the commands, or says what to install for them."""

import sys

import pytest

from alrc import __version__
from alrc.cli import main


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
