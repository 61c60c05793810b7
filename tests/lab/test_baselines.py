"""What needs no training gives: stored with each run, and shown beside what was trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import stackable
import tiny
import torch
from fabricated_studies import ERROR, PSNR, write_run
from typer.testing import CliRunner

from alrc.lab.cli.commands import app
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.report.report import write_report

GIVEN = {"flat line": {"slope error": 2.0, "sureness": -3.5}}
FABRICATED = {
    "image mean": {"held-out error": 13.94, "PSNR": 11.5},
    "blurred *infill*": {"held-out error": 17.9, "PSNR": None},
}


@dataclass(frozen=True)
class Compared(tiny.Line):
    """Whose baselines are those of a text, in JSON."""

    given: str = json.dumps(GIVEN)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        found: dict[str, dict[str, float]] = json.loads(self.given)
        return found


@dataclass(frozen=True)
class Drawing(stackable.Dense):
    """Which draws random numbers, and counts how often."""

    calls: ClassVar[list[int]] = []

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        self.calls.append(1)
        assert not torch.is_grad_enabled()
        return {"noise": {"error": float(torch.rand(())) + np.random.rand()}}


def job(given: Any) -> Job:
    like = tiny.spec()
    task = Named("task", f"{__file__}:Compared", (("given", json.dumps(given)),))
    return Job({"run": Spec(task, like.arm, like.training, 0)})


def test_they_are_stored_with_a_run_and_without_them_nothing_changes(tmp_path: Path) -> None:
    unknown = {"NaN": {"slope error": float("nan"), "sureness": 1.0}}
    assert run_job(job(GIVEN), tmp_path / "a")["run"]["baselines"] == GIVEN
    stored = run_job(job(unknown), tmp_path / "b")["run"]["baselines"]
    assert stored == {"NaN": {"slope error": None, "sureness": 1.0}}
    assert "baselines" not in run_job(job({}), tmp_path / "c")["run"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flat": {"slope error": 1.0}}, "of 'flat' it gave slope error."),
        ({"flat": {}}, "of 'flat' it gave nothing."),
        (
            {"flat": {"slope error": 1.0, "sureness": 1.0, "x": 0.0}},
            "of 'flat' it gave slope error, sureness, x.",
        ),
    ],
)
def test_metrics_that_the_task_does_not_list_are_refused(
    given: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run_job(job(given), tmp_path)
    assert str(caught.value) == (
        "Compared.baselines must give slope error, sureness of each, because metrics lists them; "
        f"{words}"
    )


def test_they_are_the_same_for_each_seed_alone_and_together(tmp_path: Path) -> None:
    task = Named("task", f"{__file__}:Drawing", (("width", 4),))
    like = [stackable.spec("Dense", "off", seed) for seed in (0, 1, 2)]
    specs = [Spec(task, x.arm, x.training, x.seed) for x in like]
    together = run_job(Job({str(x.seed): x for x in specs[:2]}), tmp_path)
    alone = run_job(Job({"2": specs[2]}), tmp_path)
    found = [result["baselines"] for result in (*together.values(), *alone.values())]
    assert found[0] == found[1] == found[2]
    assert len(task.find().calls) == 1  # type: ignore[attr-defined]  # in this process


def test_the_command_ends_with_them(tmp_path: Path) -> None:
    words = ["lab", "run", f"{__file__}:Compared", "--out", str(tmp_path / "run"), "--steps", "10"]
    lines = CliRunner().invoke(app, words).output.splitlines()
    place = lines.index("slope error without training (flat line): 2")
    assert lines[place + 1] == "sureness without training (flat line): -3.5"
    assert lines[place - 1].startswith("sureness: ")
    assert lines[place + 2].startswith("training loss: ")


def study(folder: Path, tasks: tuple[str, ...] = ("squares",), **more: Any) -> str:
    for task in tasks:
        for arm in ("off", "alrc"):
            for seed in range(3):
                metrics = {"held-out error": 6 + seed / 10 + (arm == "off"), "PSNR": 15.0}
                write_run(
                    folder, arm, seed, metrics=metrics, listed=(ERROR, PSNR), task=task, **more
                )
    write_report(folder)
    return (folder / "report.md").read_text()


SENTENCE = (
    "What needs no training gives: image mean held-out error 13.94, PSNR 11.5 dB; blurred "
    r"\*infill\* held-out error 17.9, PSNR nan dB."
)


def test_a_report_shows_them_in_a_sentence_and_beside_the_values(tmp_path: Path) -> None:
    report = study(tmp_path, baselines=FABRICATED)
    assert f"\n\n{SENTENCE}\n\n" in report
    values = report.partition("## Values")[2].partition("## ")[0]
    rows = [line for line in values.splitlines() if line.startswith("| `squares`")]
    assert rows[-4:] == [
        "| `squares` | *image mean* | held-out error | 13.94 | lower | - | - |",
        "| `squares` | *image mean* | PSNR | 11.5 dB | higher | - | - |",
        r"| `squares` | *blurred \*infill\** | held-out error | 17.9 | lower | - | - |",
        r"| `squares` | *blurred \*infill\** | PSNR | nan dB | higher | - | - |",
    ]
    assert "*In italics*" in values
    page = (tmp_path / "report.html").read_text()
    assert "<em>image mean</em>" in page
    assert "<em>blurred *infill*</em>" in page


def test_what_is_the_same_in_all_settings_is_said_once(tmp_path: Path) -> None:
    report = study(tmp_path, ("squares", "circles"), baselines=FABRICATED)
    assert report.count(SENTENCE) == 1
    assert f"\n\n{SENTENCE}\n\n" in report


def test_each_setting_has_its_own(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        "off",
        task="plain",
        metrics={"held-out error": 1.0, "PSNR": 2.0},
        listed=(ERROR, PSNR),
    )
    study(tmp_path, ("cubes",), baselines={"zero": {"held-out error": 20.0, "PSNR": 9.0}})
    report = study(tmp_path, baselines=FABRICATED)
    bullets = [line for line in report.splitlines() if "What needs no training" in line]
    assert bullets == [
        "- `cubes`: What needs no training gives: zero held-out error 20, PSNR 9 dB.",
        f"- `squares`: {SENTENCE}",
    ]


def test_a_report_without_any_says_nothing_of_them(tmp_path: Path) -> None:
    report = study(tmp_path)
    assert "no training" not in report
    assert "italics" not in report


def test_the_report_of_a_lone_run_shows_them(tmp_path: Path) -> None:
    path = write_run(
        None,
        folder=tmp_path / "run",
        metrics={"held-out error": 6.0, "PSNR": 15.0},
        listed=(ERROR, PSNR),
        baselines=FABRICATED,
    )
    write_report(path)
    report = (path / "report.md").read_text()
    assert f" {SENTENCE} A single run is compared with nothing." in report


@pytest.mark.parametrize("broken", [3, ["a"], {"a": 1.0}])
def test_what_is_no_table_of_them_is_refused(broken: Any, tmp_path: Path) -> None:
    path = write_run(tmp_path, baselines=broken)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        write_report(tmp_path)
    assert str(caught.value) == (
        f"{path} must hold a whole run, because it has a result.json; but: baselines in "
        f"result.json is {broken!r}. Remove result.json and finish the run again, or remove the "
        "folder."
    )
