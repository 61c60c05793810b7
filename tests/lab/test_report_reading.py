"""Which folders are reported: whole ones; all others are refused in words."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from fabricated_studies import ERROR, PSNR, write_run
from reading_reports import draw_nothing, markdown

from alrc.lab.engine.jobs import run_job
from alrc.lab.report.reading import read_study
from alrc.lab.report.report import write_report

MEND = "Remove result.json and finish the run again, or remove the folder."


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def refusal(folder: Path) -> str:
    """Why a folder is refused; nothing is written then."""
    before = files(folder)
    with pytest.raises(ValueError, match="must") as error:
        write_report(folder)
    assert files(folder) == before
    return str(error.value)


def change(path: Path, *removed: str, **changes: Any) -> None:
    """Changes a JSON file, and removes some keys."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in removed}))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for seed in range(2):
        write_run(folder, "off", seed, name=f"off-{seed}")
        write_run(folder, "alrc", seed, limit=4.0, name=f"alrc-{seed}")
    return folder


def test_runs_are_listed_without_opening_a_series(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    original = Path.open

    def watch(path: Path, *given: Any, **options: Any) -> Any:
        opened.append(path.name)
        return original(path, *given, **options)

    monkeypatch.setattr(np, "load", None)
    monkeypatch.setattr(Path, "open", watch)
    read = read_study(study)
    assert set(opened) == {"config.json", "result.json"}
    assert [(run.arm, run.seed, run.limited > 0) for run in read.runs] == [
        ("off", 0, False),
        ("off", 1, False),
        ("alrc", 0, True),
        ("alrc", 1, True),
    ]


def test_failed_and_unfinished_runs_are_named(study: Path) -> None:
    for name in ("off-1", "alrc-1"):
        (study / "runs" / name / "result.json").unlink()
    (study / "runs" / "off-1" / "log.txt").write_text("Traceback")
    (study / "runs" / "begun").mkdir()
    text = markdown(study)
    assert "5 runs: 2 finished, of which 0 diverged; 1 failed and 2 unfinished" in text
    assert "Failed: `off-1`." in text
    assert "Unfinished: `alrc-1`, `begun`." in text


def damage_json(run: Path) -> str:
    (run / "config.json").write_text("")
    return "config.json is not JSON (Expecting value: line 1 column 1 (char 0))"


def damage_kind(run: Path) -> str:
    (run / "result.json").write_text("[]")
    return "result.json holds no JSON object"


def lack(run: Path) -> str:
    change(run / "config.json", "metrics", "seed")
    return "config.json lacks metrics, seed"


def newer(run: Path) -> str:
    change(run / "config.json", format=3)
    return "config.json is of format 3, and this alrc reads 2"


def other_steps(run: Path) -> str:
    change(run / "result.json", steps=7)
    return "result.json is of 7 steps and config.json of 200"


def short_summary(run: Path) -> str:
    change(run / "result.json", losses={"loss": {"training_loss": 1.0}})
    return "loss in result.json lacks count, kept, largest, limited, nonfinite"


def other_direction(run: Path) -> str:
    change(run / "config.json", metrics=[{"name": "x", "unit": "", "better": "more"}])
    return "better in config.json is 'more'"


def missing(run: Path) -> str:
    (run / "series" / "loss.raw.npy").unlink()
    return "series/loss.raw.npy is missing"


def short(run: Path) -> str:
    file = run / "series" / "loss.raw.npy"
    file.write_bytes(file.read_bytes()[:1000])
    return "series/loss.raw.npy has 1,000 bytes of more than 1,600"


@pytest.mark.parametrize(
    "damage",
    [
        damage_json,
        damage_kind,
        lack,
        newer,
        other_steps,
        short_summary,
        other_direction,
        missing,
        short,
    ],
)
def test_a_finished_run_that_is_not_whole_is_refused(
    study: Path, damage: Callable[[Path], str]
) -> None:
    run = study / "runs" / "off-1"
    fault = damage(run)
    assert refusal(study) == (
        f"{run} must hold a whole run, because it has a result.json; but: {fault}. {MEND}"
    )


def test_a_series_that_was_changed_is_refused(study: Path) -> None:
    file = study / "runs" / "alrc-0" / "series" / "loss.raw.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert refusal(study).startswith(f"{file} must have the checksum ")


def test_a_damaged_evaluation_is_refused(study: Path) -> None:
    file = study / "runs" / "off-0" / "evaluation.npy"
    np.save(file, np.zeros((3, 5)))
    assert refusal(study) == (
        f"{file} must hold a row of 2 float64 numbers for each evaluation; it has float64 of shape "
        f"(3, 5). {MEND}"
    )


def test_an_evaluation_that_was_changed_or_removed_is_refused(tmp_path: Path) -> None:
    run_job(tiny.job("run"), tmp_path)
    file = tmp_path / "run" / "evaluation.npy"
    rows = np.load(file)
    np.save(file, 2 * rows)
    with pytest.raises(ValueError, match="evaluation") as caught:
        read_study(tmp_path / "run").runs[0].evaluations  # noqa: B018
    stored = json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]["crc32"]
    words = f"{file} must hold a row of 3 float64 numbers for each evaluation; "
    found = f"{zlib.crc32(file.read_bytes()):08x}"
    assert str(caught.value) == f"{words}its checksum is {found} instead of {stored}. {MEND}"
    file.unlink()
    with pytest.raises(ValueError, match="missing") as caught:
        read_study(tmp_path / "run").runs[0].evaluations  # noqa: B018
    assert str(caught.value) == f"{words}it is missing. {MEND}"


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_damaged_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    run = write_run(tmp_path, pictures={"sample": "words"})
    file = run / "pictures" / "sample.png"
    file.write_bytes(content)
    assert refusal(tmp_path) == (
        f"{file} must be a PNG file of at most 4 MiB, because result.json lists it; it has "
        f"{len(content)} bytes. Remove result.json and finish the run again."
    )


def test_pictures_from_elsewhere_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    change(run / "result.json", pictures=[{"file": "../../secret.png", "caption": ""}])
    assert refusal(tmp_path) == (
        f"{run / 'result.json'} must name pictures within the run's folder; it names "
        "../../secret.png. Remove result.json and finish the run again."
    )


def test_a_copy_of_a_run_is_refused(study: Path) -> None:
    shutil.copytree(study / "runs" / "off-1", study / "runs" / "off-1-copy")
    assert refusal(study) == (
        f"{study} must hold each run once, because a copy would count as a repeat; off-1 and "
        "off-1-copy have the same settings and seed. Remove one of them."
    )


@pytest.mark.parametrize(
    ("options", "name", "values"),
    [
        ({"task_facts": {"data": "other"}}, "task_facts.data", ("made up", "other")),
        ({"task_options": {"width": 32}}, "task_options.width", (16, 32)),
        ({"sources": {"own.py": "2"}}, "sources.own.py", ("1", "2")),
    ],
)
def test_other_tasks_in_one_comparison_are_refused(
    tmp_path: Path, options: dict[str, Any], name: str, values: tuple[Any, Any]
) -> None:
    write_run(tmp_path, "off", sources={"own.py": "1"}, name="a")
    write_run(tmp_path, "alrc", limit=4.0, name="b", **({"sources": {"own.py": "1"}} | options))
    assert refusal(tmp_path) == (
        f"{tmp_path} must not mix tasks in one comparison (squares), because their metrics mean "
        f"different things; a has {name} {values[0]!r}, b has {values[1]!r}. Keep them in separate "
        "folders."
    )


def test_other_options_of_an_arm_of_one_name_are_refused(tmp_path: Path) -> None:
    for seed, decay in enumerate((0.9, 0.99)):
        options = {"decay": decay}
        write_run(tmp_path, "alrc", seed, arm_options=options, limit=4.0, name=f"run{seed}")
    assert refusal(tmp_path) == (
        f"{tmp_path} must not mix arms in one comparison (squares), because their metrics mean "
        "different things; run0 has arm_options.decay 0.9, run1 has 0.99. Keep them in separate "
        "folders."
    )


def test_other_metrics_in_one_comparison_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "off")
    write_run(tmp_path, "alrc", listed=[PSNR], limit=4.0)
    assert "off-seed0" in refusal(tmp_path)
    assert f"has metrics {[ERROR]!r}" in refusal(tmp_path)


def test_a_primary_comparison_that_names_several_is_refused(study: Path) -> None:
    write_run(study, "alrc", training={"batch_size": 4}, limit=4.0)
    (study / "study.toml").write_text('primary = {arm = "alrc"}')
    assert refusal(study) == (
        f"{study}: the study's primary must name one comparison, because its verdict is to be "
        "believed as it stands; it names 2. Add keys of the setting, such as task.width or "
        "training.batch_size."
    )
    (study / "study.toml").write_text('primary = {arm = "alrc", "training.batch_size" = 4}')
    assert len(read_study(study).primary) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("study.toml", "primary = "), ("study.json", "[]"), ("study.toml", "primary = 3")],
)
def test_a_damaged_file_of_the_study_is_refused(study: Path, name: str, content: str) -> None:
    (study / name).write_text(content)
    message = refusal(study)
    assert message.startswith(
        f"{study / name} must say what was asked of the study, with primary, if at all, as a "
        "table; but: "
    )
    assert message.endswith(". Mend it, or remove it: runs are reported without.")


def test_runs_that_the_study_does_not_ask_for_are_left_out(study: Path) -> None:
    asked = [run.name for run in read_study(study).runs]
    (study / "study.json").write_text(json.dumps({"runs": asked}))
    write_run(study, "alrc", training={"batch_size": 4}, limit=4.0)
    found = read_study(study)
    assert [run.name for run in found.runs] == asked
    assert found.others == 1
    (study / "study.json").unlink()
    assert read_study(study).others == 0
    assert len(read_study(study).runs) == len(asked) + 1
