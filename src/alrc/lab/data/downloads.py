"""CIFAR-10 from the network, whole or not at all."""

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, cast

import pooch
import requests  # what pooch downloads with, and whose errors it lets through
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from alrc.lab.data.images import (
    CIFAR10_HELD_OUT,
    CIFAR10_TRAINING,
    CIFAR10_URL,
    RECORD,
    read_cifar10,
)

__all__ = ["DownloadError", "download_cifar10"]

CIFAR10_CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # from CIFAR-10's own page
CIFAR10_FOLDER = "cifar-10-batches-bin"  # as the archive calls it
CIFAR10_FILES = CIFAR10_TRAINING + CIFAR10_HELD_OUT
CIFAR10_OTHERS = ("batches.meta.txt", "readme.html")  # names of the classes; an address
BATCH = 10_000 * RECORD  # bytes of each of the six files
BESIDE = 2**20  # bytes for all that an archive has beside them: the others, headers, padding
CHUNK = 2**16  # bytes
TIMEOUT = 30.0  # seconds without a byte

ELSEWHERE = "Pass another address with --url"


class DownloadError(OSError):
    """A download that left nothing behind; the message says why, and what to do."""


def download_cifar10(
    folder: Path,
    url: str = CIFAR10_URL,
    checksum: str = CIFAR10_CHECKSUM,
    progress: bool = True,
) -> Path:
    """The folder of CIFAR-10's six binary files, downloaded if they are not there yet.

    They appear in ``folder / "cifar-10-batches-bin"`` all at once, after everything has been
    checked: call it again after any interruption. Files that are there are read as a check, and
    never fetched again or overwritten.

    Args:
        folder: Where to put them; made if it is missing. It may also hold them already, itself or
            in ``cifar-10-batches-bin``. A download needs about 350 MB there, half of it for good.
        url: Of the binary archive, 162 MB, a ``.tar.gz``; HTTP or HTTPS.
        checksum: Of the archive, as ``algorithm:digits``.
        progress: Whether to show it on standard error.

    Returns:
        What :func:`alrc.lab.data.read_cifar10` takes.

    Raises:
        DownloadError: If the archive cannot be fetched, written or unpacked, has another checksum,
            lacks one of the six files, has a member that is a link, a device or outside, or is
            larger than CIFAR-10 is, packed or unpacked.
        NotADirectoryError: If ``folder`` is a file.
        FileNotFoundError, ValueError: If some files are there, but ``read_cifar10`` refuses them.

    References:
        A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html, which also gives the checksum.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} must be a folder, because CIFAR-10 is put into it; it is a file. "
            "Pass a folder with --dir."
        )
    unpacked = any((folder / name).exists() for name in CIFAR10_FILES)
    target = folder if unpacked else folder / CIFAR10_FOLDER
    if target.exists():
        try:
            read_cifar10(target)
        except (FileNotFoundError, ValueError) as refusal:
            raise type(refusal)(
                f"{refusal} Or move {target} away, and it is downloaded anew."
            ) from None
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".part-", dir=folder) as part:
            archive, files = Path(part, "archive"), Path(part, CIFAR10_FOLDER)
            _fetch(url, archive, progress)
            _check(url, archive, checksum)
            _unpack(url, archive, files)
            try:
                os.replace(files, target)
            except OSError:
                if not target.is_dir():  # else another process was faster
                    raise
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{folder} must be a folder to write to, with 350 MB free, because CIFAR-10 is "
            f"unpacked there; {error.strerror or error}. Pass another folder with --dir."
        ) from error
    return target


def _fetch(url: str, archive: Path, progress: bool) -> None:
    """Downloads to ``archive``, which may be partial if this raises."""
    try:
        with ExitStack() as stack, open(archive, "wb") as file, _bar(progress) as bar:

            def close_at_end(response: requests.Response, **_: object) -> None:
                stack.callback(response.close)  # pooch leaves it open when anything goes wrong

            download = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=CHUNK,
                timeout=TIMEOUT,
                hooks={"response": close_at_end},
            )
            # Packed, the files are hardly larger than they are, whatever they hold.
            download(url, _Limited(file, len(CIFAR10_FILES) * BATCH + BESIDE, url), None)
    except requests.RequestException as error:
        raise DownloadError(
            f"{url} must be reachable, because CIFAR-10 is downloaded from there; "
            f"{_reason(error)}. {ELSEWHERE}; or download it by hand, unpack it, and pass its "
            f"folder {CIFAR10_FOLDER} with --dir."
        ) from error


def _reason(error: requests.RequestException) -> str:
    """Why a download failed, in a few words."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    cause: BaseException | None = error  # its own text is a nest of representations
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            return cause.strerror or str(cause)
        cause = cause.__context__
    return str(error)


def _check(url: str, archive: Path, checksum: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    found = pooch.file_hash(str(archive), alg=algorithm)
    if found != expected.lower():
        raise DownloadError(
            f"{url} must have the {algorithm} checksum {expected}, because that is CIFAR-10's; "
            f"what came has {found}, and was removed. Try again. {ELSEWHERE} if it stays so."
        )


class _Limited:
    """A file of which at most ``left`` bytes are read or written; it then refuses the address."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, left: int, url: str) -> None:
        self.left, self.flush = left, file.flush
        self._file, self._url = file, url

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(size))

    def write(self, content: bytes) -> None:
        self._file.write(self._counted(content))

    def _counted(self, content: bytes) -> bytes:
        self.left -= len(content)
        if self.left < 0:
            raise _too_large(self._url, "it has more")
        return content


def _too_large(url: str, found: str) -> DownloadError:
    return DownloadError(
        f"{url} must hold no more than CIFAR-10 does, {len(CIFAR10_FILES)} files of up to "
        f"{BATCH:,} bytes and {BESIDE:,} bytes beside them, because all of it would be written to "
        f"the disk; {found}. {ELSEWHERE}."
    )


def _unpack(url: str, archive: Path, files: Path) -> None:
    """Unpacks what the archive has in ``cifar-10-batches-bin`` to ``files``, and reads it."""
    files.mkdir()
    try:
        with gzip.open(archive) as stream:
            content = _Limited(stream, BESIDE, url)
            _unpack_members(url, content, files)
            while content.read(CHUNK):  # to the end, where gzip has its checksum
                pass
    # Beside its own errors, tarfile lets through what its parsing of hostile headers runs into.
    except (
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        ValueError,
        RecursionError,
    ) as error:
        raise DownloadError(
            f"{url} must be a .tar.gz archive, whole; it could not be unpacked: {error}. "
            f"{ELSEWHERE}."
        ) from error
    try:
        read_cifar10(files)
    except (FileNotFoundError, ValueError) as refusal:
        raise DownloadError(str(refusal).replace(str(files), f"{url}: {files.name}")) from None


def _unpack_members(url: str, stream: _Limited, files: Path) -> None:
    """Unpacks a ``.tar`` as it is read, once and forwards, so that no header leads it in circles.

    ``stream`` may give so much as is for what lies beside the six files, each of which adds its
    own size: so neither headers, nor many members, nor large ones that are not taken, go on.
    """
    expected = set(CIFAR10_FILES)
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as members:
        # Neither extracted nor followed, so that no Python older than 3.11.4 needs a filter.
        for member in members:
            if not _is_harmless(member, files):
                raise DownloadError(
                    f"{url} must hold nothing but plain files and folders inside the one it is "
                    f"unpacked to; it has {member.name!r}. {ELSEWHERE}."
                )
            path = PurePosixPath(member.name)
            name = path.name if path.parent == PurePosixPath(CIFAR10_FOLDER) else ""
            if member.size > (BATCH if name in expected else BESIDE):
                raise _too_large(url, f"it has {member.name!r} of {member.size:,} bytes")
            if name in expected:
                expected.remove(name)
                stream.left += member.size
            if name in CIFAR10_FILES + CIFAR10_OTHERS and (content := members.extractfile(member)):
                with content, open(files / name, "wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)


def _is_harmless(member: tarfile.TarInfo, files: Path) -> bool:
    parent = files.parent.resolve()
    inside = (parent / member.name).resolve().is_relative_to(parent)
    # A sparse file is as large as it says, however little the archive has of it.
    return inside and (member.isdir() or (member.isfile() and not member.issparse()))


class _Bar:
    """What pooch asks of a progress bar, for a bar of rich."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, size: int) -> None:
        self._progress.update(self._task, total=size or None)  # 0: the server did not say

    def update(self, size: int) -> None:
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        pass


@contextmanager
def _bar(wanted: bool) -> Iterator[_Bar | None]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not wanted) as progress:
        yield _Bar(progress, progress.add_task("CIFAR-10", total=None)) if wanted else None
