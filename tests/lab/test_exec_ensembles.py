"""Jobs of several runs in a study: stopped, damaged and taken up again as a whole."""

import signal
from pathlib import Path

import pytest
import stackable
import tiny
import torch
from mishaps import Here, Signalled, assert_as_if_alone, run

from alrc.lab.engine.jobs import Job
from alrc.lab.exec import study
from alrc.lab.exec.stopping import StudyStopped


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_SECONDS", 0.0)  # a single step
    monkeypatch.setattr(study, "ANSWER_SECONDS", 3600.0)


def together() -> Job:
    return Job({n: tiny.spec("Dense", stackable.__file__, seed=s) for s, n in enumerate("abc")})


def test_a_signal_lets_all_of_them_leave_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StudyStopped) as caught:
        run([together()], tmp_path, Signalled("a", signal.SIGTERM))
    assert str(caught.value) == (
        "stopped; 0 of 3 runs finished, 3 left a checkpoint of all that was done; the same command "
        "goes on."
    )
    (checkpoint,) = tmp_path.glob("ensembles/*/checkpoint.pt")
    assert torch.load(checkpoint)["step"] == 2  # one in the trial
    failed, lines = run([together()], tmp_path, Here())
    assert failed == {}
    assert [line.split(":")[0] for line in lines[-3:]] == ["a", "b", "c"]
    assert_as_if_alone(tmp_path / "runs", together(), tmp_path / "alone" / "runs")


def test_a_damaged_checkpoint_fails_all_and_retry_gets_past_it(tmp_path: Path) -> None:
    with pytest.raises(StudyStopped):
        run([together()], tmp_path, Signalled("a", signal.SIGTERM))
    (checkpoint,) = tmp_path.glob("ensembles/*/checkpoint.pt")
    checkpoint.write_bytes(b"")
    failed, _ = run([together()], tmp_path, Here())
    assert sorted(failed) == ["a", "b", "c"]
    reason = (
        f"{checkpoint} must be a checkpoint of this run; it can't be read (BadZipFile). Remove "
        f"{checkpoint.parent}, and the run is trained anew"
    )
    failed, lines = run([together()], tmp_path, Here(), retry=True)
    assert failed == {}
    place = tmp_path / "damaged" / checkpoint.parent.name
    assert f"a and 2 more: trained anew; what there was is now {place} ({reason})" in lines
    assert_as_if_alone(tmp_path / "runs", together(), tmp_path / "alone" / "runs")
