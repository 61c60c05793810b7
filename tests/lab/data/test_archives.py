"""Archives that are broken, hostile or far too large: refused, and little written before."""

import gzip
import io
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cifar10_archives import ARCHIVE, BINARIES, FILES, NAME, SIX_FILES, Server, member, pack

from alrc.lab.data import downloads
from alrc.lab.data.images import read_cifar10

CRC = f"CRC check failed 0x0 != {zlib.crc32(gzip.decompress(ARCHIVE)):#x}"


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
        f"{server.url} must hold nothing but plain files and folders inside the one it is "
        f"unpacked to; it has {hostile.name!r}. Pass another address with --url."
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
        (b"<html>no archive</html>", "Not a gzipped file (b'<h')"),
        (ARCHIVE[:-100], "Compressed file ended before the end-of-stream marker was reached"),
        (ARCHIVE[:-8] + bytes(4) + ARCHIVE[-4:], CRC),
    ],
    ids=["a page", "cut", "changed"],
)
def test_what_is_no_archive_is_refused(
    refused: Callable[..., str], server: Server, content: bytes, reason: str
) -> None:
    server.content = content
    assert refused() == (
        f"{server.url} must be a .tar.gz archive, whole; it could not be unpacked: {reason}. Pass "
        "another address with --url."
    )


def test_what_is_left_out_is_not_written(fetch: Callable[..., Path], server: Server) -> None:
    """Whatever else an archive has; a name that no file system takes is none of ours either."""
    server.content = pack(FILES | {f"{NAME}/more.txt": b"", f"{NAME}/{'a' * 300}": b"", "b": b""})
    assert {path.name for path in fetch().iterdir()} == {Path(name).name for name in FILES}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of each file, as it was before all were removed."""
    sizes: dict[str, int] = {}
    remove = tempfile.TemporaryDirectory.cleanup

    def count(folder: tempfile.TemporaryDirectory[str]) -> None:
        files = [path for path in Path(folder.name).rglob("*") if path.is_file()]
        sizes.update({path.name: path.stat().st_size for path in files})
        remove(folder)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", count)
    return sizes


def sized(name: str, size: int, kind: bytes = tarfile.REGTYPE, /, **pax: str) -> tarfile.TarInfo:
    """A member that has no content, whatever it says."""
    info = member(f"{NAME}/{name}", kind)
    info.size, info.pax_headers = size, pax
    return info


SPARSE = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "300000000"}
MORE = 2**20 + 1


@pytest.mark.parametrize(
    ("bomb", "found"),
    [
        (
            pack({}, sized("data_batch_1.bin", 300_000_000)),
            "it has 'cifar-10-batches-bin/data_batch_1.bin' of 300,000,000 bytes",
        ),
        (
            pack({}, sized("data_batch_1.bin", 0, size="30730001")),
            "it has 'cifar-10-batches-bin/data_batch_1.bin' of 30,730,001 bytes",
        ),
        (
            pack({}, sized("readme.html", MORE)),
            "it has 'cifar-10-batches-bin/readme.html' of 1,048,577 bytes",
        ),
        (pack({}, sized("other", 10**18)), f"it has '{NAME}/other' of {10**18:,} bytes"),
        (pack({"elsewhere": bytes(2**19), "there": bytes(2**19)}), "it has more"),
        (pack({f"{NAME}/data_batch_1.bin": bytes(2**19)}, *[member("a")] * 2**11), "it has more"),
        (pack({}, sized("a", 0, comment="a" * MORE)), "it has more"),
        (pack({}, member("a" * MORE)), "it has more"),
        (gzip.compress(gzip.decompress(ARCHIVE) + bytes(MORE)), "it has more"),
        (ARCHIVE + gzip.compress(bytes(MORE)), "it has more"),
    ],
    ids=[
        "batch",
        "pax size",
        "readme",
        "seek",
        "elsewhere",
        "many",
        "pax",
        "name",
        "end",
        "second",
    ],
)
def test_a_bomb_is_refused_before_it_is_written(
    refused: Callable[..., str], server: Server, written: dict[str, int], bomb: bytes, found: str
) -> None:
    server.content = bomb
    assert refused() == (
        f"{server.url} must hold no more than CIFAR-10 does, 6 files of up to 30,730,000 bytes and "
        "1,048,576 bytes beside them, because all of it would be written to the disk; "
        f"{found}. Pass another address with --url."
    )
    assert written.pop("archive") == len(bomb)
    assert sum(written.values()) <= 2**19


@pytest.mark.parametrize(
    "sparse",
    [
        sized("data_batch_1.bin", 0, **SPARSE),
        sized("data_batch_1.bin", 0, tarfile.GNUTYPE_SPARSE),
    ],
    ids=["pax", "GNU"],
)
def test_a_file_with_holes_is_refused_before_they_are_filled(
    refused: Callable[..., str], server: Server, written: dict[str, int], sparse: tarfile.TarInfo
) -> None:
    server.content = pack({}, sparse)
    assert refused() == (
        f"{server.url} must hold nothing but plain files and folders inside the one it is unpacked "
        f"to; it has '{NAME}/data_batch_1.bin'. Pass another address with --url."
    )
    assert sum(written.values()) == len(server.content)


def test_the_same_file_twice_is_none_of_the_six(
    refused: Callable[..., str], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "BESIDE", 20_000)
    name = f"{NAME}/data_batch_1.bin"
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as archive:
        for _ in range(2):
            info = member(name)
            info.size = 30_000
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    server.content = packed.getvalue()
    assert f"it has {name!r} of 30,000 bytes" in refused()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([sized("a", 0, **{"GNU.sparse.map": "x"})], "invalid literal"),
        ([sized("a", 0, path="a\0b")], "embedded null"),
        ([sized("a", 0, tarfile.XHDTYPE)] * 1500, "maximum recursion depth exceeded"),
    ],
    ids=["number", "name", "chain"],
)
def test_headers_that_python_cannot_read_are_refused(
    refused: Callable[..., str], server: Server, headers: list[tarfile.TarInfo], reason: str
) -> None:
    server.content = pack({}, *headers)
    start, found, rest = refused().partition(reason)
    assert start == f"{server.url} must be a .tar.gz archive, whole; it could not be unpacked: "
    assert found
    assert rest.endswith(". Pass another address with --url.")


@pytest.mark.parametrize("size", ["-512", "-1024", "-2048"])
def test_a_size_below_zero_leads_no_header_in_circles(
    refused: Callable[..., str], server: Server, size: str
) -> None:
    server.content = pack({}, sized("data_batch_1.bin", 0, size=size))
    refused()  # how, depends on the version of Python


def test_files_of_the_largest_size_are_taken(
    fetch: Callable[..., Path],
    refused: Callable[..., str],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beside = len(gzip.decompress(ARCHIVE)) - 9 * 3073  # there are nine records
    monkeypatch.setattr(downloads, "BESIDE", beside - 1)
    assert "it has more" in refused()
    monkeypatch.setattr(downloads, "BESIDE", beside)
    monkeypatch.setattr(downloads, "BATCH", 2 * 3073 - 1)
    assert f"it has '{NAME}/data_batch_2.bin' of 6,146 bytes" in refused()
    monkeypatch.setattr(downloads, "BATCH", 2 * 3073)
    assert len(read_cifar10(fetch()).training) == 7


def test_an_archive_without_end_is_refused_while_it_comes(
    refused: Callable[..., str],
    server: Server,
    written: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "BATCH", 3073)
    monkeypatch.setattr(downloads, "BESIDE", 2**17)
    monkeypatch.setattr(downloads, "CHUNK", 2**12)
    server.content = bytes(2**20)
    assert refused() == (
        f"{server.url} must hold no more than CIFAR-10 does, 6 files of up to 3,073 bytes and "
        "131,072 bytes beside them, because all of it would be written to the disk; it has more. "
        "Pass another address with --url."
    )
    assert 2**17 < written["archive"] <= 2**17 + 6 * 3073
