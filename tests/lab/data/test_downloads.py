"""CIFAR-10 from a server on this machine: whole, or a clear refusal and nothing left behind."""

import errno
import io
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cifar10_archives import (
    ARCHIVE,
    BINARIES,
    BY_HAND,
    FILES,
    NAME,
    SIX_FILES,
    SUBSET,
    Server,
    md5,
    write,
)

from alrc.lab.data import downloads
from alrc.lab.data.downloads import DownloadError, download_cifar10
from alrc.lab.data.images import read_cifar10


def test_what_is_downloaded_is_what_was_packed(
    fetch: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    assert fetch() == tmp_path / "data" / NAME
    found = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {tmp_path / "data" / name for name in FILES}
    for name, content in FILES.items():
        assert (tmp_path / "data" / name).read_bytes() == content
    images = read_cifar10(tmp_path / "data" / NAME)
    assert images.training[:, 0, 0, 0].tolist() == [0, 1, 1, 2, 3, 3, 4]
    assert images.held_out[:, 0, 0, 0].tolist() == [5, 5]
    assert server.requests == 1


def test_a_second_call_fetches_nothing(fetch: Callable[..., Path], server: Server) -> None:
    assert fetch() == fetch("md5:0")
    assert server.requests == 1


@pytest.mark.parametrize("inner", ["", NAME])
def test_an_unpacked_folder_is_taken_as_it_is(tmp_path: Path, server: Server, inner: str) -> None:
    folder = write(tmp_path)
    assert download_cifar10(tmp_path / inner, server.url, progress=False) == folder
    assert server.requests == 0


@pytest.mark.parametrize("inner", ["", NAME])
@pytest.mark.parametrize("name", BINARIES)
def test_an_unpacked_folder_that_lacks_a_file_is_refused(
    tmp_path: Path, server: Server, name: str, inner: str
) -> None:
    folder = write(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        download_cifar10(tmp_path / inner, server.url, progress=False)
    assert str(caught.value) == (
        f"{folder / name} {SIX_FILES} Or move {folder} away, and it is downloaded anew."
    )
    assert server.requests == 0


def test_an_unpacked_folder_with_a_broken_file_is_refused(tmp_path: Path, server: Server) -> None:
    folder = write(tmp_path)
    (folder / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match="whole records") as caught:
        download_cifar10(tmp_path, server.url, progress=False)
    assert str(caught.value) == (
        f"{folder}/test_batch.bin must hold whole records of 3,073 bytes, at least one; it has "
        "3,072 bytes, 3,072 bytes over. Download "
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz again, unpack it, and give its "
        f"folder cifar-10-batches-bin. Or move {folder} away, and it is downloaded anew."
    )
    assert (folder / "test_batch.bin").stat().st_size == 3072


def test_a_folder_with_other_things_is_downloaded_into(
    fetch: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    fetch()
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"notes.txt", NAME}


def test_a_wrong_checksum_is_refused(
    fetch: Callable[..., Path], refused: Callable[..., str], server: Server
) -> None:
    expected = "0123456789abcdef" * 2
    assert refused(f"md5:{expected}") == (
        f"{server.url} must have the md5 checksum {expected}, because that is CIFAR-10's; what "
        f"came has {md5(ARCHIVE)[4:]}, and was removed. Try again. Pass another address with --url "
        "if it stays so."
    )
    assert fetch(md5(ARCHIVE).upper().replace("MD5", "md5")).is_dir()
    assert server.requests == 2


@pytest.mark.parametrize(
    ("status", "answer"), [(404, "404 Not Found"), (503, "503 Service Unavailable")]
)
def test_a_server_that_refuses_is_quoted(
    refused: Callable[..., str], server: Server, status: int, answer: str
) -> None:
    server.status = status
    assert refused() == (
        f"{server.url} must be reachable, because CIFAR-10 is downloaded from there; the server "
        f"answered {answer}. {BY_HAND}"
    )


def test_a_refused_connection_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:  # bound, so that nobody else is, but not listening
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/archive"
        with pytest.raises(DownloadError) as caught:
            download_cifar10(tmp_path, url, progress=False)
    assert str(caught.value) == (
        f"{url} must be reachable, because CIFAR-10 is downloaded from there; "
        f"{os.strerror(errno.ECONNREFUSED)}. {BY_HAND}"
    )
    assert not list(tmp_path.iterdir())


def test_a_silent_server_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/archive"
        with pytest.raises(DownloadError) as caught:
            download_cifar10(tmp_path, url, progress=False)
    assert str(caught.value) == (
        f"{url} must be reachable, because CIFAR-10 is downloaded from there; timed out. {BY_HAND}"
    )


def test_an_address_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        download_cifar10(tmp_path, "ftp://127.0.0.1/archive", progress=False)
    assert str(caught.value) == (
        "ftp://127.0.0.1/archive must be reachable, because CIFAR-10 is downloaded from there; No "
        f"connection adapters were found for 'ftp://127.0.0.1/archive'. {BY_HAND}"
    )


@pytest.mark.parametrize("cut", [0, len(ARCHIVE) // 2, len(ARCHIVE) - 1])
def test_after_a_cut_connection_a_retry_ends_well(
    fetch: Callable[..., Path], refused: Callable[..., str], server: Server, cut: int
) -> None:
    server.cut = cut
    assert refused() == (
        f"{server.url} must be reachable, because CIFAR-10 is downloaded from there; the "
        f"connection broke off. {BY_HAND}"
    )
    server.cut = None
    assert len(read_cifar10(fetch()).training) == 7


def test_of_two_downloads_at_once_both_are_told_of_the_files(
    fetch: Callable[..., Path], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack = downloads._unpack

    def slower(*arguments: Any) -> None:
        monkeypatch.setattr(downloads, "_unpack", unpack)
        assert fetch() == tmp_path / "data" / NAME  # another process, which began later
        unpack(*arguments)

    monkeypatch.setattr(downloads, "_unpack", slower)
    assert fetch() == tmp_path / "data" / NAME
    assert server.requests == 2
    found = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {tmp_path / "data" / name for name in FILES}


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_stopped_before_the_last_step_nothing_is_left(
    fetch: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
) -> None:
    def fail(*arguments: object) -> NoReturn:
        assert not (tmp_path / "data" / NAME).exists()
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises((DownloadError, KeyboardInterrupt)) as caught:
            fetch()
    if isinstance(stop, OSError):
        assert str(caught.value) == (
            f"{tmp_path}/data must be a folder to write to, with 350 MB free, because CIFAR-10 is "
            "unpacked there; disk full. Pass another folder with --dir."
        )
    assert list(tmp_path.rglob("*")) == [tmp_path / "data"]
    assert fetch().is_dir()


@pytest.mark.parametrize("full", ["archive", "data_batch_1.bin", "test_batch.bin"])
def test_a_full_disk_is_named_and_left_as_it_was(
    fetch: Callable[..., Path],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full: str,
) -> None:
    class Full(io.FileIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def on_a_full_disk(path: Path, mode: str) -> io.FileIO:
        return (Full if path.name == full else io.FileIO)(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "open", on_a_full_disk, raising=False)
        assert refused() == (
            f"{tmp_path}/data must be a folder to write to, with 350 MB free, because CIFAR-10 is "
            f"unpacked there; {os.strerror(errno.ENOSPC)}. Pass another folder with --dir."
        )
    assert fetch().is_dir()


@pytest.mark.parametrize("step", ["os.replace", "shutil.copyfileobj", "pooch.file_hash"])
def test_killed_at_any_step_the_next_call_ends_well(
    fetch: Callable[..., Path], server: Server, tmp_path: Path, step: str
) -> None:
    code = (
        "import os, shutil, sys, pooch; from pathlib import Path; "
        "from alrc.lab.data.downloads import download_cifar10; "
        f"{step} = lambda *a, **k: os._exit(9); "
        "download_cifar10(Path(sys.argv[1]), *sys.argv[2:], progress=False)"
    )
    arguments = [str(tmp_path / "data"), server.url, md5(ARCHIVE)]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], timeout=60)
    assert killed.returncode == 9
    assert not (tmp_path / "data" / NAME).exists()
    assert len(read_cifar10(fetch()).training) == 7
    assert server.requests == 2


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(NotADirectoryError) as caught:
        download_cifar10(path, progress=False)
    assert str(caught.value) == (
        f"{path} must be a folder, because CIFAR-10 is put into it; it is a file. Pass a folder "
        "with --dir."
    )
    with pytest.raises(DownloadError) as caught:
        download_cifar10(path / "data", progress=False)
    assert str(caught.value) == (
        f"{path}/data must be a folder to write to, with 350 MB free, because CIFAR-10 is unpacked "
        f"there; {os.strerror(errno.ENOTDIR)}. Pass another folder with --dir."
    )


@pytest.mark.skipif(not SUBSET.is_dir(), reason="the CIFAR-10 subset lies only beside the project")
def test_the_real_files_come_through(fetch: Callable[..., Path], server: Server) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        archive.add(SUBSET, NAME)
    server.content = packed.getvalue()
    images = read_cifar10(fetch())
    assert (len(images.training), len(images.held_out)) == (5085, 1017)
    assert (images.training == read_cifar10(SUBSET).training).all()
