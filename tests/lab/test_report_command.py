"""``alrc lab report`` of a study and of a run."""

from pathlib import Path

import pytest
import typer
from fabricated_studies import falling, write_run
from reading_reports import draw_nothing, markdown
from typer.testing import CliRunner

from alrc.lab.cli.report import report
from alrc.lab.report.report import write_report


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def command(folder: Path) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(report)
    result = CliRunner().invoke(app, [str(folder)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_command_names_the_files_it_wrote(tmp_path: Path) -> None:
    write_run(study := tmp_path / "study")
    names = ("runs.csv", "comparisons.csv", "report.md", "report.html")
    assert command(study) == (0, "".join(f"{study / name}\n" for name in names))


def test_command_refuses_folders_without_runs_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert command(folder) == (
            2,
            f"alrc: {folder} must hold at least one run, as runs/NAME/, because a report is drawn "
            "from stored results; it holds none. Pass the folder of a study, or of a run.\n",
        )
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    assert command(tmp_path) == (
        2,
        f"alrc: {tmp_path} must hold at least one finished run, because a report is drawn from "
        "stored results; none of its 1 has a result.json. Let one of them finish.\n",
    )


def test_the_folder_of_a_run_is_reported_alone(tmp_path: Path) -> None:
    run = write_run(None, "alrc", 3, limit=4.0, folder=tmp_path / "alone")
    limited = int((falling(3) > 4).sum())
    loss = falling(3)[-20:].mean()
    text = markdown(run)
    assert (
        "This is one run: `squares` with `alrc`, seed 3, 200 steps. It did not diverge. At the "
        f"end: held-out error 1.3; training loss {loss:.4g}. {limited} of 400 losses were limited. "
        "A single run is compared with nothing."
    ) in text
    assert "## Comparisons" not in text
    assert not (run / "comparisons.csv").exists()
    (run / "result.json").unlink()
    with pytest.raises(ValueError, match="must hold a finished run") as error:
        write_report(run)
    assert str(error.value) == (
        f"{run} must hold a finished run, because a report is drawn from stored results; it has no "
        "result.json. Let it finish."
    )
