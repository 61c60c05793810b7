"""Files that appear whole or not at all, on disks that can less or fail."""

import errno
import os
import stat
from pathlib import Path

import pytest

from alrc.files import written_whole


@pytest.fixture
def folders_fail(monkeypatch: pytest.MonkeyPatch):
    """Makes the system answer with an error when a folder is to be brought to the disk."""
    sync = os.fsync

    def fail(number: int) -> None:
        def answer(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", answer)

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_is_written_where_folders_can_not_be_synced(
    number: int, tmp_path: Path, folders_fail
) -> None:
    folders_fail(number)
    with written_whole(tmp_path / "a.csv") as part:
        part.write_text("1")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "1"


def test_a_disk_that_fails_is_told_of(tmp_path: Path, folders_fail) -> None:
    folders_fail(errno.EIO)
    with (
        pytest.raises(OSError, match="Input/output error"),
        written_whole(tmp_path / "a.csv") as part,
    ):
        part.write_text("1")


def test_what_is_not_finished_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")

    def write_half() -> None:
        with written_whole(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    assert path.read_text() == "before"
