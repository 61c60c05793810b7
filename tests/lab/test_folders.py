"""What keeps a run from being stored, or its folder from being read: said in words."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
import tiny
from mishaps import after, assert_as_if_alone, paused

from alrc.lab.engine.files import Damaged, NotStored
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.storage import AnotherRun, RunFolder

FULL = (
    "{} must have room for what is stored in it; the disk is full. Free some space, and the same "
    "command goes on."
)


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, FULL),
        (
            errno.EIO,
            "{} must be on a disk that works; the system says: Input/output error. When it does, "
            "the same command goes on.",
        ),
    ],
)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fails_is_named_and_the_last_checkpoint_stays(
    function: str, number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path = paused(tmp_path)
    before = (path / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(number))
        with pytest.raises(NotStored) as caught:
            run_job(Job({"run": spec}), tmp_path, stop=after(2))
    assert str(caught.value) == message.format(path)
    assert caught.value.errno == number
    assert (path / "checkpoint.pt").read_bytes() == before
    assert not list(path.rglob(".*.part"))
    run_job(Job({"run": spec}), tmp_path)
    assert_as_if_alone(tmp_path, Job({"run": spec}), tmp_path / "alone")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's disk that is full")
@pytest.mark.parametrize("name", ["series/loss.raw.npy", "checkpoint.pt", "config.json"])
def test_a_disk_that_is_full_is_named_whatever_was_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *more: object, **others: object) -> object:
        is_it = path.name.removeprefix(".").startswith(Path(name).name) and set(mode) & set("wa+")
        return opened(Path("/dev/full") if is_it else path, mode, *more, **others)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(NotStored) as caught:
        run_job(tiny.job("run"), tmp_path, stop=after(2))
    assert str(caught.value) == FULL.format(tmp_path / "run")


def folder_instead(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def file_instead(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("")


@pytest.mark.parametrize(
    "name",
    ["checkpoint.pt", "config.json", "result.json", ".lock", ".x.part", "evaluation.npy"]
    + [f"series/{name}.npy" for name in ("loss.raw", "new")],
)
def test_a_folder_in_the_place_of_a_file_is_named(name: str, tmp_path: Path) -> None:
    spec, path = paused(tmp_path)
    folder_instead(path / name)
    with pytest.raises(Damaged) as caught:
        run_job(Job({"run": spec}), tmp_path)
    assert str(caught.value) == f"{path / name} must be a file; it is a folder. Move it away."


@pytest.mark.parametrize("name", ["run/series", "run/pictures", "run", "."])
def test_a_file_in_the_place_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    spec, _ = paused(tmp_path / "runs")
    file = tmp_path / "runs" / name
    file_instead(file)
    with pytest.raises(Damaged) as caught:
        run_job(Job({"run": spec}), tmp_path / "runs")
    assert str(caught.value) == (
        f"{file} must be a folder, because a run is kept in it; it is a file. Move it away, or "
        "pass another path."
    )


def test_a_folder_that_is_read_only_is_named_and_what_is_finished_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, new = tiny.job("run"), tiny.job("new")
    result = run_job(job, tmp_path)["run"]
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, **__: failing(errno.EROFS)())
    with pytest.raises(NotStored) as caught:
        run_job(new, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/new must be writable, because a run is stored there; it is not (Read-only "
        "file system). Make it so, or pass another folder."
    )
    assert run_job(job, tmp_path)["run"] == result


def test_a_lock_that_was_removed_ends_the_run_that_relied_on_it(tmp_path: Path) -> None:
    job, path = tiny.job("run"), tmp_path / "run"
    expected = run_job(job, tmp_path / "alone")["run"]
    results = []

    def step_in() -> bool:
        if not results:
            (path / ".lock").unlink()
            results.append(run_job(job, tmp_path)["run"])
        return True

    with pytest.raises(ValueError, match="replaced") as caught:
        run_job(job, tmp_path, stop=step_in)
    assert str(caught.value) == (
        f"{path}/.lock must stay there while the run is trained, because it keeps other processes "
        "away; it was replaced. Nothing was stored since. When no other process is at it, the same "
        "command goes on."
    )
    assert (
        run_job(job, tmp_path)["run"]
        == results[0]
        == {**expected, "seconds": results[0]["seconds"]}
    )


def test_a_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    def remove() -> bool:
        shutil.rmtree(tmp_path / "run")
        return True

    with pytest.raises(ValueError, match="removed") as caught:
        run_job(tiny.job("run"), tmp_path, stop=remove)
    assert str(caught.value) == (
        f"{tmp_path}/run/.lock must stay there while the run is trained, because it keeps other "
        "processes away; it was removed. Nothing was stored since. When no other process is at it, "
        "the same command goes on."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{}", '{"iterations": 10, "images": "photographs"}'])
def test_a_run_of_an_earlier_format_does_not_go_on(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(AnotherRun) as caught, RunFolder(tmp_path, tiny.spec().config):
        pass
    assert str(caught.value) == (
        f"{tmp_path} must hold a run of today's format to go on with it; its config.json is of "
        "format None. Pass another folder; alrc lab report reads a finished one."
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{}", "must be the result of this run; result.json is of format None, and this alrc "
        "reads 2"),
        ('{"format": 2}', "must be the result of this run; result.json lacks diverged, losses, "
        "metrics, pictures, series, steps"),
        ("", "must hold a JSON object; Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000, "must hold a JSON object; "),
        ("\0", "must hold a JSON object; Expecting value: line 1 column 1 (char 0)"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_not_one(content: str, fault: str, tmp_path: Path) -> None:
    spec, path = paused(tmp_path)
    (path / "result.json").write_text(content)
    with pytest.raises(Damaged) as caught:
        run_job(Job({"run": spec}), tmp_path)
    assert str(caught.value).startswith(f"{path}/result.json {fault}")
    assert str(caught.value).endswith(". Remove it, and the run is finished again.")


def test_series_whose_header_is_none_are_refused(tmp_path: Path) -> None:
    spec, path = paused(tmp_path)
    file = path / "series" / "loss.raw.npy"
    content = file.read_bytes()
    for header in (b"\x93NUMPY\x02\x00", content[:10] + b"{[(((("):
        file.write_bytes(header + content[len(header) :])
        with pytest.raises(Damaged, match=r"loss\.raw\.npy must be a \.npy file; "):
            run_job(Job({"run": spec}), tmp_path)
