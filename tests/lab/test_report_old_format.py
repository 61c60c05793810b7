"""Studies of the first format, one flat config.json for each run, are reported like all others."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fabricated_studies import exploding, falling, write_old_run
from reading_reports import draw_nothing, markdown

from alrc.lab.engine.outcome import judge
from alrc.lab.report.reading import read_study
from alrc.lab.report.report import write_report

HEADER = b"\x93NUMPY\x01\x00v\x00"  # of 118 bytes


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def refusal(folder: Path) -> str:
    """Why a folder is refused; nothing is written then."""
    with pytest.raises(ValueError, match="must hold a whole run") as error:
        write_report(folder)
    assert [path.name for path in folder.iterdir()] == ["runs"]
    return str(error.value)


def write_old_study(folder: Path) -> None:
    """30 runs of the first format."""
    for power in (2, 4):
        for seed in range(5):
            write_old_run(folder, 3.0 + seed, power=power, seed=seed)
            for n in (2.0, 3.0):
                held_out = (0.8 + seed / 100) * (3 + seed) if n == 2 else 3.0 + seed
                write_old_run(folder, held_out, power=power, seed=seed, num_stddev=n)


def test_a_study_of_the_first_format_is_reported_again(tmp_path: Path) -> None:
    write_old_study(tmp_path)
    text = markdown(tmp_path)
    assert "30 runs: 30 finished, of which 0 diverged; 0 failed and 0 unfinished" in text
    assert "compared with off, by held-out error (sqrt step); lower is better." in text
    for power in (2, 4):
        assert f"| `supersampling power={power}` | " in text
    assert text.count("✓ better -18.0 %") == 4  # in the matrix, and in the comparisons
    assert "- task.images: `photographs`" in text
    limited = sum(int((falling(seed) > 15).sum()) for seed in range(5))
    assert f"| loss | 5 | 2,000 | {limited} |" in text


def test_runs_of_the_first_format_diverge_too(tmp_path: Path) -> None:
    write_old_run(tmp_path, math.nan, exploding(0, 101))
    write_old_run(tmp_path, 1.0, falling(0) * np.linspace(1, 400, 200, dtype="f4")[:, None], seed=1)
    write_old_run(tmp_path, 1.0, seed=2)
    first, second, third = read_study(tmp_path).runs
    assert (first.diverged, first.diverged_step) == ("loss is NaN from step 101 on", 101)
    assert second.diverged is not None
    assert second.diverged.startswith("loss has a median of ")
    assert second.diverged_step == 200
    assert third.diverged is third.diverged_step is None


def test_a_run_of_the_first_format_is_judged_as_those_of_today(tmp_path: Path) -> None:
    run = write_old_run(tmp_path, num_stddev=3.0)
    raw, limited = np.load(run / "losses.npy"), np.load(run / "limited.npy")
    judged = judge(raw, limited, 3.0)
    assert read_study(tmp_path).runs[0].losses == {"loss": judged.numbers}
    assert judged.numbers["limited"] == (raw != limited).sum() > 0


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (
            lambda run: np.save(run / "losses.npy", np.zeros((9, 2), "f4")),
            "shape (9, 2) instead of",
        ),
        (lambda run: (run / "limits.npy").write_bytes(b""), "No data left in file"),
        (
            lambda run: (run / "losses.npy").write_bytes(HEADER + b"{[((((".ljust(118)),
            "losses.npy is no .npy file (",
        ),
        (lambda run: (run / "limited.npy").unlink(), "limited.npy is missing"),
        (
            lambda run: (run / "config.json").write_text('{"seed": 1}'),
            "config.json lacks batch_size, ",
        ),
    ],
)
def test_a_damaged_run_of_the_first_format_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], fault: str
) -> None:
    run = write_old_run(tmp_path)
    damage(run)
    message = refusal(tmp_path)
    assert message.startswith(f"{run} must hold a whole run, because it has a result.json; but: ")
    assert fault in message


def test_losses_of_the_first_format_that_were_lost_are_no_finding(tmp_path: Path) -> None:
    run = write_old_run(tmp_path)
    losses = np.load(run / "losses.npy")
    losses[100:] = 0  # as if the file had been cut and filled up again
    np.save(run / "losses.npy", losses)
    mean = falling(0)[-20:].mean(axis=1).mean(dtype=np.float64)
    assert f"ends with a mean of 0 over 20 steps, and result.json says {mean:.6g}" in refusal(
        tmp_path
    )
