"""Crashes of the machine, full disks and damaged files: nothing false is stored or trained on."""

import errno
import os
import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tiny
import torch
from mishaps import assert_as_if_alone

from alrc.lab.engine.files import Damaged
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Stopped


def after(steps: int) -> Callable[[], bool]:
    """Says stop after so many steps of a session."""
    counter = count(1)
    return lambda: next(counter) >= steps


def paused(tmp_path: Path) -> tuple[Spec, Path]:
    """A run whose checkpoint is that of step 6."""
    job = tiny.job("run")
    with pytest.raises(Stopped):
        run_job(job, tmp_path, stop=after(6))
    return job.specs["run"], tmp_path / "run"


def blank(path: Path, rows: slice) -> None:
    """As a file system leaves pages that had not reached the disk."""
    array = np.load(path, mmap_mode="r+")
    array[rows] = np.nan
    array.flush()


CRASHES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 16),
    "empty": lambda path: os.truncate(path, 0),
    "not a number": lambda path: blank(path, slice(4, None)),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("series", ["loss.raw", "loss.limited", "loss.limit", "logged.slope"])
@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_of_the_machine_makes_no_result(crash: str, series: str, tmp_path: Path) -> None:
    """The checkpoint reached the disk, and rows that it counts did not."""
    spec, path = paused(tmp_path)
    CRASHES[crash](path / "series" / f"{series}.npy")
    with pytest.raises(Damaged, match=rf"{series}.npy must .* it is trained anew\.$") as caught:
        run_job(Job({"run": spec}), tmp_path)
    assert caught.value.folder == path
    assert not (path / "result.json").exists()


def test_rows_newer_than_the_checkpoint_are_trained_again(tmp_path: Path) -> None:
    spec, path = paused(tmp_path)
    before = (path / "checkpoint.pt").read_bytes()
    with pytest.raises(Stopped):
        run_job(Job({"run": spec}), tmp_path, stop=after(3))
    (path / "checkpoint.pt").write_bytes(before)
    assert len(np.load(path / "series" / "loss.raw.npy")) == 9
    run_job(Job({"run": spec}), tmp_path)
    assert_as_if_alone(tmp_path, Job({"run": spec}), tmp_path / "alone")


def test_series_are_on_the_disk_before_their_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened, sync, replace = [], os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        happened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def note_replace(part: Path, path: Path) -> None:
        happened.append(f"-> {path.name}")
        replace(part, path)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux's /proc to see what is synced")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    paused(tmp_path)
    checkpoint = happened.index("-> checkpoint.pt")
    part = f".checkpoint.pt.{os.getpid()}.part"
    assert {p.name for p in (tmp_path / "run" / "series").iterdir()} < set(happened[:checkpoint])
    assert happened[checkpoint - 2 :] == ["series", part, "-> checkpoint.pt", "run"]


def damaged(path: Path) -> str:
    spec = tiny.spec()
    with pytest.raises(Damaged) as caught, RunFolder(path, spec.config) as folder:
        folder.load_checkpoint()
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"\0" * len(content),
        lambda content: b"\x80\x02.",
    ],
)
def test_a_checkpoint_that_is_none_is_refused(change: Callable, tmp_path: Path) -> None:
    _, path = paused(tmp_path)
    (path / "checkpoint.pt").write_bytes(change((path / "checkpoint.pt").read_bytes()))
    assert damaged(path) == (
        f"{path}/checkpoint.pt must be a checkpoint of this run; it can't be read (BadZipFile). "
        f"Remove {path}, and the run is trained anew."
    )


def test_a_checkpoint_of_which_a_bit_was_changed_is_refused(tmp_path: Path) -> None:
    """PyTorch reads it without a word."""
    _, path = paused(tmp_path)
    file = path / "checkpoint.pt"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data/1"))
        number = archive.read(name)
    content[content.index(number)] ^= 1
    file.write_bytes(content)
    torch.load(file)
    assert damaged(path).startswith(f"{file} must be a checkpoint of this run; it can't be read (")


def test_something_else_that_torch_saved_is_refused(tmp_path: Path) -> None:
    _, path = paused(tmp_path)
    torch.save({"step": 3}, path / "checkpoint.pt")
    assert "it can't be read (KeyError)" in damaged(path)
    torch.save(torch.ones(2), path / "checkpoint.pt")
    assert "it can't be read (IndexError)" in damaged(path)


def test_a_checkpoint_that_could_not_be_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path = paused(tmp_path)

    def fail(state: object, file: BinaryIO) -> None:
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None  # as PyTorch

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="No space left"):
            run_job(Job({"run": spec}), tmp_path, stop=after(2))
    assert not list(path.glob(".*.part"))
    assert torch.load(path / "checkpoint.pt")["step"] == 6
    run_job(Job({"run": spec}), tmp_path)
    assert_as_if_alone(tmp_path, Job({"run": spec}), tmp_path / "alone")


def test_series_that_could_not_be_written_leave_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _ = paused(tmp_path)
    sync = os.fsync

    def fail(descriptor: int) -> None:
        sync(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            run_job(Job({"run": spec}), tmp_path, stop=after(2))
    run_job(Job({"run": spec}), tmp_path)
    assert_as_if_alone(tmp_path, Job({"run": spec}), tmp_path / "alone")
