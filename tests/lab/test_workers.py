"""What a worker does with a job, and what it says when it can't."""

import errno
import json
import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
import tiny
import torch
from mishaps import Here, assert_as_if_alone, planted, run

from alrc.lab.engine.files import Damaged
from alrc.lab.engine.jobs import run_job
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Progress
from alrc.lab.exec import study, workers
from alrc.lab.exec.messages import Failed, Finished, Paused, throttled, train_job
from alrc.lab.exec.workers import choose_gpu


def never() -> bool:
    return False


def train(job: object, runs: Path, seconds: float | None = None) -> object:
    return train_job(job, runs, seconds, lambda progress: None, never)


def test_a_job_ends_with_results_and_the_seconds_of_a_step(tmp_path: Path) -> None:
    end = train(tiny.job("a"), tmp_path)
    assert isinstance(end, Finished)
    assert end.results["a"]["steps"] == 12
    assert 0 < end.pace < 60


def test_it_pauses_after_its_seconds_and_goes_on(tmp_path: Path) -> None:
    job = tiny.job("a")
    assert train(job, tmp_path, 0.0) == Paused(pytest.approx(float("nan"), nan_ok=True), False)
    assert torch.load(tmp_path / "a" / "checkpoint.pt")["step"] == 1
    assert isinstance(train(job, tmp_path), Finished)
    assert_as_if_alone(tmp_path, job, tmp_path / "alone")


def test_it_pauses_when_asked(tmp_path: Path) -> None:
    said = []
    asked = iter([False, False, True, True])
    end = train_job(tiny.job("a"), tmp_path, None, said.append, lambda: next(asked))
    assert isinstance(end, Paused)
    assert end.asked
    assert end.pace > 0
    assert torch.load(tmp_path / "a" / "checkpoint.pt")["step"] == 3
    assert said[0].step == 1


def test_reports_are_throttled() -> None:
    said = []
    report = throttled(said.append, 3600.0)
    for step in range(1, 9):
        report(Progress(step, 1.0))
    assert said == [Progress(1, 1.0)]


@pytest.mark.parametrize(
    ("mishap", "reason"),
    [("raise", "ZeroDivisionError: planted"), ("exit", "SystemExit: planted")],
)
def test_an_exception_is_told_in_a_line_and_in_full(
    mishap: str, reason: str, tmp_path: Path
) -> None:
    end = train(planted("a", tmp_path / "left", 1, mishap=mishap), tmp_path)
    assert isinstance(end, Failed)
    assert end.reason == reason
    assert end.log.startswith("Traceback (most recent call last):\n")
    assert end.log.endswith(f"{reason}\n")
    assert (end.disk_full, end.damaged) == (False, None)


def damage_checkpoint(run: Path) -> Path:
    (run / "checkpoint.pt").write_bytes(b"")
    return run / "checkpoint.pt"


def damage_series(run: Path) -> Path:
    path = run / "series" / "loss.raw.npy"
    path.write_bytes(path.read_bytes()[:-4])
    return path


def remove_series(run: Path) -> Path:
    path = run / "series" / "loss.limited.npy"
    path.unlink()
    return path


def damage_config(run: Path) -> Path:
    (run / "config.json").write_bytes(b"")
    return run / "config.json"


def replace_folder(run: Path) -> Path:
    run.rename(run.with_name("before"))
    run.touch()
    return run


REASONS = {
    damage_checkpoint: "{} must be a checkpoint of this run; it can't be read (BadZipFile). Remove "
    "{run}, and the run is trained anew",
    damage_series: "{} must have 144 bytes; it has 140. Remove the folder of this run, and it is "
    "trained anew",
    remove_series: "{} must be there, because it is part of a run; it is missing. Remove the "
    "folder of this run, and it is trained anew",
    damage_config: "{} must hold a JSON object; Expecting value: line 1 column 1 (char 0). Remove "
    "{run}, or pass another folder",
    replace_folder: "{} must be a folder, because a run is kept in it; it is a file. Move it "
    "away, or pass another path",
}


@pytest.mark.parametrize("damage", REASONS)
def test_what_is_damaged_is_told_in_words_and_retry_gets_past_it(
    damage: object, tmp_path: Path
) -> None:
    job, other = planted("a", tmp_path / "left", 1, at=9), tiny.job("b")
    out = tmp_path / "study"
    train(job, out / "runs", 0.0)
    path = damage(out / "runs" / "a")
    (tmp_path / "left").write_text("0")
    failed, lines = run([job, other], out, Here())
    assert list(failed) == ["a"]
    reason = REASONS[damage].format(path, run=out / "runs" / "a")
    where = f"see {out}/runs/a/log.txt"
    if damage is replace_folder:
        where = "and its log can't be written (Not a directory):"
    assert f"a: failed, {reason}; {where}" in lines
    assert any(line.startswith("b: finished") for line in lines)

    failed, lines = run([job, other], out, Here(), retry=True)
    assert failed == {}
    kept = out / "damaged" / "a"
    assert f"a: trained anew; what there was is now {kept} ({reason})" in lines
    assert kept.exists()
    assert_as_if_alone(out / "runs", job, tmp_path / "alone")


def test_nothing_that_was_moved_aside_is_overwritten(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        (tmp_path / "runs" / "a").mkdir(parents=True)
        (tmp_path / "runs" / "a" / "config.json").write_bytes(content)
        assert run([tiny.job("a")], tmp_path, Here(), retry=True)[0] == {}
        for path in sorted((tmp_path / "runs" / "a").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (tmp_path / "runs" / "a").rmdir()
    found = [(tmp_path / "damaged" / n / "config.json").read_bytes() for n in ("a", "a-2")]
    assert found == [b"first", b"second"]


def test_a_folder_that_is_read_only_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReadOnly(RunFolder):
        def __enter__(self) -> RunFolder:  # as a system says it to whoever is not root
            if self.path.name == "a":
                raise PermissionError(errno.EACCES, "Permission denied", str(self.path / ".lock"))
            return super().__enter__()

    monkeypatch.setattr(study, "RunFolder", ReadOnly)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    failed, lines = run([tiny.job("a"), tiny.job("b")], tmp_path, Here())
    assert failed == {"a": tmp_path / "runs" / "a" / "log.txt"}
    assert (
        f"a: failed, PermissionError: [Errno 13] Permission denied: '{tmp_path}/runs/a/.lock'; see "
        f"{failed['a']}"
    ) in lines
    assert any(line.startswith("b: finished") for line in lines)


def test_gpus_take_turns_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    jobs = {d: tiny.job("a", training={"device": d}) for d in ("cpu", "cuda", "cuda:1")}
    for number in range(5):
        choose_gpu(jobs["cuda"], number)
        choose_gpu(jobs["cuda:1"], number)  # which was asked for
        choose_gpu(jobs["cpu"], number)
    assert chosen == [0, 1, 2, 0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    choose_gpu(jobs["cuda"], 1)
    assert len(chosen) == 5


@pytest.mark.skipif(os.name != "posix", reason="signals wait on POSIX")
def test_ctrl_c_while_a_worker_is_started_is_not_lost() -> None:
    reached = []

    def start() -> None:
        with workers._signals_wait():
            # To this thread: another one, as pytest-xdist has, would take it at once.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            reached.append(1)

    # A process that a shell started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached


def test_what_is_sent_to_workers_holds_no_task(tmp_path: Path) -> None:
    job = tiny.job("a")
    spec = job.specs["a"]
    assert spec.config["task_facts"] == {"points": "generated"}
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert "config" in vars(spec)
    assert "config" not in vars(again)


def test_damage_that_was_found_names_the_folder_to_do_without(tmp_path: Path) -> None:
    job = tiny.job("a")
    run_job(job, tmp_path)
    (tmp_path / "a" / "config.json").write_text(json.dumps([1]))
    with pytest.raises(Damaged, match="it holds a list") as caught:
        run_job(job, tmp_path)
    assert caught.value.folder == tmp_path / "a"
