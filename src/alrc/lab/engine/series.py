"""What happens in a run, step by step: arrays that grow on the disk and are verified when opened.

A series is a ``.npy`` file whose first axis is the training step. New rows wait in memory until
:meth:`Series.commit` appends them, flushes them, and gives a manifest: shape, type and checksum of
each. The manifest is part of the checkpoint, which is written after it. So whatever a crash leaves
behind, a run goes on from rows that are those of its checkpoint, or refuses.
"""

import os
import re
import tokenize
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from alrc.lab.engine.files import Damaged, sync_folder

__all__ = ["Manifest", "Series", "is_present", "read_series"]

Manifest = Mapping[str, Mapping[str, Any]]
CHUNK = 2**24  # bytes to read at a time
# Stands for what did not occur in a step: a NaN that arithmetic does not make.
ABSENT = np.uint32(0x7FC0AB5E)

# Some are told by their ends: a loss called logged.x would look like a logged number called x.raw.
BAD_NAME = re.compile(
    r".*[/\\\0].*|(all\.|\d{4}\.)?(logged|arm)\..*\.(raw|limited|limit)", re.DOTALL
)

MEND = "Remove the folder of this run, and it is trained anew."


class Series:
    """The series of one run, written.

    Args:
        folder: Where the files are; made if it is not there.
        manifest: What of them counts; rows that came after it are removed.

    Raises:
        Damaged: If a file is not what the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        self.folder, self.step, self.size = folder, 0, 0
        folder.mkdir(parents=True, exist_ok=True)
        self.files = {n: _File.open(folder, n, m) for n, m in (manifest or {}).items()}
        for path in folder.glob("*.npy"):
            if path.name.removesuffix(".npy") not in self.files:
                path.unlink()  # begun after the manifest was written

    def record(self, step: int, name: str, row: Tensor | float) -> None:
        """Keeps a row, for the step counted from 0."""
        # A copy: it may be changed in place, as weights and the state of an arm are.
        row = row.detach().clone() if isinstance(row, Tensor) else torch.tensor(row)
        if name not in self.files:
            _check_name(name)
            self.files[name] = _File(self.folder / f"{name}.npy", tuple(row.shape))
        file = self.files[name]
        if file.shape != row.shape:
            raise ValueError(
                f"{name} must have the same shape in each step, because it is stored as an array; "
                f"got {tuple(row.shape)} in step {step} and {file.shape} before."
            )
        file.fill(step)
        if file.rows + len(file.waiting) > step:
            raise ValueError(
                f"{name} must occur once in a step, because it is stored step by step; it came "
                f"twice in step {step}. Give the losses of each phase names of their own."
            )
        file.waiting.append(row)
        self.size += 4 * row.numel()

    def write(self, name: str, rows: NDArray[np.float32]) -> None:
        """Stores a whole series; :func:`alrc.lab.engine.files.sync_all` brings it to the disk."""
        file = self.files[name] = _File(self.folder / f"{name}.npy", rows.shape[1:])
        file.append(rows, flushed=False)

    def latest(self, name: str, count: int) -> float:
        """The mean of the last rows of those that are still in memory; NaN without any."""
        rows = self.recent(name, count)
        return float(torch.stack(rows).mean()) if rows else float("nan")

    def recent(self, name: str, count: int) -> list[Tensor]:
        """The last rows of those that are still in memory."""
        return self.files[name].waiting[-count:] if name in self.files else []

    def commit(self, steps: int) -> Manifest:
        """Brings all rows of so many steps to the disk, and says what is there."""
        for file in self.files.values():
            file.fill(steps)
            file.commit()
        sync_folder(self.folder)
        self.size = 0
        return self.manifest

    @property
    def manifest(self) -> Manifest:
        """What is on the disk."""
        return {name: file.manifest for name, file in self.files.items()}


class _File:
    """One growing .npy file."""

    def __init__(self, path: Path, shape: tuple[int, ...], rows: int = 0, crc: int = 0) -> None:
        self.path, self.shape, self.rows, self.crc = path, shape, rows, crc
        self.waiting: list[Tensor] = []

    @classmethod
    def open(cls, folder: Path, name: str, manifest: Mapping[str, Any]) -> "_File":
        path = folder / f"{name}.npy"
        rows, *shape = manifest["shape"]
        with _refusing(path), path.open("rb+") as stream:
            start = _check(stream, path, manifest, exact=False)
            file = cls(path, tuple(shape), rows, int(manifest["crc32"], 16))
            stream.truncate(start + rows * file.row_size)
            file._write_header(stream)
        return file

    @property
    def row_size(self) -> int:
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "shape": [self.rows, *self.shape],
            "dtype": "float32",
            "crc32": f"{self.crc:08x}",
        }

    def fill(self, steps: int) -> None:
        """Rows for the steps in which this did not occur."""
        missing = steps - self.rows - len(self.waiting)
        if missing > 0:
            absent = torch.from_numpy(np.full(self.shape, ABSENT).view(np.float32))
            self.waiting += [absent] * missing

    def commit(self) -> None:
        if not self.waiting:
            return
        rows = torch.stack([row.to("cpu", torch.float32) for row in self.waiting])
        self.append(rows.numpy(), flushed=True)
        self.waiting = []

    def append(self, rows: NDArray[np.float32], flushed: bool) -> None:
        content = rows.astype("<f4", copy=False).tobytes()
        with self.path.open("rb+" if self.rows else "wb+") as stream:
            if not self.rows:
                self._write_header(stream)
            stream.seek(0, os.SEEK_END)
            stream.write(content)
            self.rows, self.crc = self.rows + len(rows), zlib.crc32(content, self.crc)
            self._write_header(stream)
            if flushed:
                stream.flush()
                os.fsync(stream.fileno())

    def _write_header(self, stream: BinaryIO) -> None:
        """NumPy leaves room in it for a first axis of any length, so that its size stays."""
        stream.seek(0)
        shape = (self.rows, *self.shape)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(stream, header)


def read_series(folder: Path, result: Mapping[str, Any], name: str) -> NDArray[np.float32]:
    """A series of a finished run, memory-mapped, after it was verified.

    Args:
        folder: Of the run.
        result: Its result.json, which holds the manifest.
        name: Of the series, such as ``"loss.raw"``.

    Returns:
        Shape ``(steps, ...)``.

    Raises:
        Damaged: If the file is missing, of another size, shape or type, or was changed.
        KeyError: If the run has no such series.
    """
    path = folder / "series" / f"{name}.npy"
    manifest = result["series"][name]
    with _refusing(path), path.open("rb") as stream:
        _check(stream, path, manifest, exact=True)
    array: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return array


def is_present(series: NDArray[np.float32]) -> NDArray[np.bool_]:
    """In which steps something occurred; shape ``(steps,)``. In all others its rows are NaN."""
    first = np.ascontiguousarray(series.reshape(len(series), -1)[:, :1])
    present: NDArray[np.bool_] = (first.view(np.uint32) != ABSENT).all(axis=1)
    return present


class _refusing:  # noqa: N801 - used like a function
    """Says in words that a file is missing or is no array."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise Damaged(
                f"{self.path} must be there, because it is part of a run; it is missing. {MEND}"
            ) from None


def _check(stream: BinaryIO, path: Path, manifest: Mapping[str, Any], exact: bool) -> int:
    """Verifies what the manifest says, and returns where the rows begin."""
    shape, size = tuple(manifest["shape"]), os.fstat(stream.fileno()).st_size
    try:
        if (version := npy.read_magic(stream)) != (1, 0):
            raise ValueError(f"its format is {version}")
        found, fortran, dtype = npy.read_array_header_1_0(stream)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        raise _damaged(path, f"be a .npy file; {error}") from None
    start = stream.tell()
    expected = start + 4 * int(np.prod(shape, dtype=np.int64))
    rows_fit = found[:1] == shape[:1] if exact else found[:1] >= shape[:1]
    if dtype != np.dtype("<f4") or fortran or found[1:] != shape[1:] or not rows_fit:
        raise _damaged(path, f"hold float32 numbers of shape {shape}; it has {dtype} {found}")
    if size < expected or (exact and size != expected):
        raise _damaged(path, f"have {expected:,} bytes; it has {size:,}")
    crc, left = 0, expected - start
    while left and (chunk := stream.read(min(left, CHUNK))):
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    if f"{crc:08x}" != manifest["crc32"]:
        raise _damaged(
            path, f"have the checksum {manifest['crc32']}; it has {crc:08x}, so it was changed"
        )
    return start


def _check_name(name: str) -> None:
    if BAD_NAME.fullmatch(name):
        raise ValueError(
            f"{name} must be the name of a file, without / and \\; if it begins with logged. or "
            "arm., it must not end in .raw, .limited or .limit, by which losses are told. Rename "
            "the loss, or what is logged."
        )


def _damaged(path: Path, what: str) -> Damaged:
    return Damaged(f"{path} must {what}. {MEND}")
