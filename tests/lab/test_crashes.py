"""Crashes of the machine: nothing false is stored or trained on."""

import os
from pathlib import Path

import numpy as np
import pytest
from mishaps import after, assert_as_if_alone, paused

from alrc.lab.engine.files import Damaged, written_together
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.training import Stopped


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


def test_no_disk_is_waited_for_where_nothing_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[str]()
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    with written_together():
        pass
    assert synced == []


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
