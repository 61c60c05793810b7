"""CIFAR-10 from a server on this machine: whole, or a clear refusal and nothing left behind."""

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pooch
import pytest
from typer.testing import CliRunner

from alrc.lab.cli.data import app
from alrc.lab.data import downloads
from alrc.lab.data.downloads import DownloadError, download_cifar10
from alrc.lab.data.images import read_cifar10

SUBSET = Path(__file__).parents[3] / "shared/data/cifar-10-subset/cifar-10-batches-bin"
NAME = "cifar-10-batches-bin"
BINARIES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
# One record in the first file, two in the second, and so on in turn.
FILES = {
    f"{NAME}/{name}": bytes([number]) * 3073 * (1 + number % 2)
    for number, name in enumerate(BINARIES)
} | {f"{NAME}/batches.meta.txt": b"airplane\n", f"{NAME}/readme.html": b"<p>"}
SIX_FILES = (
    "must be there, because it is one of the six binary files of CIFAR-10; it is missing. "
    "Download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz again, unpack it, and give "
    "its folder cifar-10-batches-bin."
)
BY_HAND = (
    "Pass another address with --url; or download it by hand, unpack it, and pass its folder "
    "cifar-10-batches-bin with --dir."
)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pack(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """A .tar.gz of a folder, these files, and then members without content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(member(NAME, tarfile.DIRTYPE))
        for name, content in files.items():
            info = member(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return packed.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


ARCHIVE = pack(FILES)


class Server(ThreadingHTTPServer):
    """Answers every request with ``content``, cut off after ``cut`` bytes if that is set."""

    content, cut, status, requests = ARCHIVE, None, 200, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar-10-binary.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Callable[..., Path]:
    """Downloads what the server has to the folder ``data``, by default with the right checksum."""

    def fetch(checksum: str | None = None) -> Path:
        wanted = checksum or md5(server.content)
        return download_cifar10(tmp_path / "data", server.url, wanted, progress=False)

    return fetch


@pytest.fixture
def refused(fetch: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    """The message of a download that fails; and nothing is left of it anywhere."""

    def refused(*arguments: str) -> str:
        with pytest.raises(DownloadError) as caught:
            fetch(*arguments)
        assert list(tmp_path.rglob("*")) == [tmp_path / "data"]
        return str(caught.value)

    return refused


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """What unpacking by hand makes of the archive."""
    (folder / NAME).mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / NAME


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


@pytest.mark.parametrize(
    "hostile",
    [
        member("../evil"),
        member(f"{NAME}/../../../evil"),
        member("../.part-evil/evil"),
        member("/evil"),
        member("../evil", tarfile.DIRTYPE),
        member(f"{NAME}/evil", tarfile.SYMTYPE, "/etc/passwd"),
        member(f"{NAME}/evil", tarfile.SYMTYPE, "readme.html"),
        member(f"{NAME}/evil", tarfile.LNKTYPE, "/etc/passwd"),
        member(f"{NAME}/evil", tarfile.LNKTYPE, f"{NAME}/readme.html"),
        member(f"{NAME}/evil", tarfile.CHRTYPE),
        member(f"{NAME}/evil", tarfile.FIFOTYPE),
    ],
    ids=lambda hostile: f"{hostile.type.decode()}:{hostile.name}->{hostile.linkname}",
)
def test_a_hostile_member_is_refused(
    refused: Callable[..., str], server: Server, hostile: tarfile.TarInfo
) -> None:
    server.content = pack(FILES, hostile)
    assert refused() == (
        f"{server.url} must hold nothing but files and folders inside the one it is unpacked to; "
        f"it has {hostile.name!r}. Pass another address with --url."
    )
    assert not Path("/evil").exists()


@pytest.mark.parametrize("name", BINARIES)
def test_an_archive_that_lacks_a_file_is_refused(
    refused: Callable[..., str], server: Server, name: str
) -> None:
    server.content = pack({n: content for n, content in FILES.items() if n != f"{NAME}/{name}"})
    assert refused() == f"{server.url}: {NAME}/{name} {SIX_FILES}"


def test_files_in_other_folders_of_the_archive_are_not_taken(
    refused: Callable[..., str], server: Server
) -> None:
    server.content = pack({name.replace(NAME, "other"): FILES[name] for name in FILES})
    assert refused() == f"{server.url}: {NAME}/data_batch_1.bin {SIX_FILES}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>no archive</html>", "not a gzip file"),
        (ARCHIVE[:-100], "Compressed file ended before the end-of-stream marker was reached"),
    ],
)
def test_what_is_no_archive_is_refused(
    refused: Callable[..., str], server: Server, content: bytes, reason: str
) -> None:
    server.content = content
    assert refused() == (
        f"{server.url} must be a .tar.gz archive, whole; it could not be unpacked: {reason}. Pass "
        "another address with --url."
    )


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
