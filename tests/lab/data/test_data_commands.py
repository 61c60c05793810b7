"""``alrc lab data cifar10``: what it prints, and how it ends."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pooch
import pytest
from cifar10_archives import ARCHIVE, NAME, SIX_FILES, Server, md5
from typer.testing import CliRunner

from alrc.lab.cli.data import app
from alrc.lab.data import downloads
from alrc.lab.data.downloads import download_cifar10


def cifar10(*arguments: str) -> SimpleNamespace:
    result = CliRunner().invoke(
        app, ["cifar10", *arguments], env={"COLUMNS": "100", "TERM": "dumb"}
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command accepts the archive of these tests."""
    defaults = download_cifar10.__defaults__
    assert defaults is not None
    monkeypatch.setattr(
        download_cifar10, "__defaults__", (defaults[0], md5(ARCHIVE), *defaults[2:])
    )


@pytest.mark.usefixtures("trusting")
def test_the_command_prints_the_folder_and_shows_progress(server: Server, tmp_path: Path) -> None:
    result = cifar10("--url", server.url, "--dir", str(tmp_path))
    assert (result.code, result.out) == (0, f"{tmp_path / NAME}\n")
    assert result.err.startswith("CIFAR-10 ")
    size = len(ARCHIVE)
    assert f"{size}/{size} bytes" in result.err
    again = cifar10("--url", server.url, "--dir", str(tmp_path))
    assert (again.code, again.out, again.err) == (0, f"{tmp_path / NAME}\n", "")
    assert server.requests == 1


@pytest.mark.usefixtures("trusting")
def test_the_command_puts_it_into_the_cache(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    result = cifar10("--url", server.url)
    assert (result.code, result.out) == (0, f"{tmp_path / 'alrc' / 'cifar-10' / NAME}\n")


def test_the_command_wants_the_official_archive(server: Server, tmp_path: Path) -> None:
    result = cifar10("--url", server.url, "--dir", str(tmp_path))
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        f"alrc: {server.url} must have the md5 checksum c32a1d4ab5d03f1284b67883e8d87530, because "
        f"that is CIFAR-10's; what came has {md5(ARCHIVE)[4:]}, and was removed. Try again. Pass "
        "another address with --url if it stays so."
    )


def test_the_command_refuses_a_bad_folder(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    result = cifar10("--dir", str(tmp_path))
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"alrc: {tmp_path / NAME}/data_batch_1.bin {SIX_FILES} Or move {tmp_path / NAME} away, and "
        "it is downloaded anew.\n"
    )


def test_the_command_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_fetch", stop)
    result = cifar10("--dir", str(tmp_path))
    assert (result.code, result.out) == (130, "")
    assert result.err == "alrc: stopped; nothing was kept.\n"
    assert not list(tmp_path.iterdir())


def test_the_command_imports_nothing_heavy_for_its_help() -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('imported', sorted("
        "{'numpy', 'pooch', 'requests'} & set(sys.modules)))); "
        "from alrc.lab.cli.data import app; app(['cifar10', '--help'])"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "--url" in lines
    assert "--dir" in lines
    assert lines.splitlines()[-1] == "imported []"
