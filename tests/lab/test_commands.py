"""The command line, from its help to a figure on disk."""

import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import NoReturn

import mishaps
import numpy as np
import pytest
import skimage.io
from typer.testing import CliRunner

from alrc import __version__
from alrc.lab.cli import side_by_side as demo
from alrc.lab.cli.commands import app
from alrc.lab.cli.side_by_side import RunError, Timed
from alrc.lab.engine.training import Run, RunConfig
from alrc.lab.report import figures
from alrc.lab.tasks.supersampling.task import Supersampling

WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def alrc(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments], env=WIDE)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The console script, after ``code``, in an interpreter of its own."""
    code += "; from alrc.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Supersampling]:
    """The tasks that the command trains, in no time."""
    trained: list[Supersampling] = []

    def run(config: RunConfig) -> Run:
        losses = np.ones((config.iterations, config.batch_size), np.float32)
        return Run(config, losses, losses[:, 0] + 1, losses.clip(max=1), np.zeros(1))

    def run_side_by_side(task: Supersampling, configs: dict[str, RunConfig], console: object):
        trained.append(task)
        return {name: Timed(run(config), 0.0) for name, config in configs.items()}

    monkeypatch.setattr(demo, "run_side_by_side", run_side_by_side)
    return trained


def test_version() -> None:
    assert alrc("--version") == (0, f"alrc {__version__}\n")


def test_help_lists_the_options_with_their_defaults() -> None:
    code, text = alrc("demo", "--help")
    assert code == 0
    for option, default in (
        ("--iterations", "[default: 10000]"),
        ("--seed", "[default: 0]"),
        ("--error", "[default: quartic]"),
        ("--batch-size", "[default: 1]"),
        ("--num-stddev", "[default: 3.0]"),
        ("--learning-rate", "[default: 0.00078125]"),
        ("--optimizer", "[default: adam]"),
        ("--out", "[default: alrc-demo.png]"),
    ):
        line = next(line for line in text.splitlines() if option in line)
        assert default in line
    assert "--cifar10" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('imported', sorted("
        "{'torch', 'numpy', 'matplotlib', 'skimage'} & set(sys.modules))))"
    )
    assert script(code, "--help").stdout.splitlines()[-1] == "imported []"


@pytest.mark.parametrize(
    ("module", "package"),
    [
        *((name, name) for name in ("typer", "rich", "torch", "matplotlib")),
        ("skimage", "scikit-image"),
    ],
)
def test_a_missing_package_is_named_in_one_line(module: str, package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{module!r}] = None"
    result = script(code, "demo", "--out", str(tmp_path / "figure.png"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"alrc: {package} is not installed here. Install what the command line needs with: "
        'pip install "alrc[lab]"\n'
    )


def test_demo_trains_twice_and_writes_a_figure(tmp_path: Path) -> None:
    out = tmp_path / "figure.png"
    code, text = alrc("demo", "--iterations", "20", "--out", str(out))
    assert code == 0
    assert "mean error, last 2" in text
    assert "one seed is a lead, not a result." in text
    assert text.splitlines()[-1] == f"Figure: {out}"
    assert skimage.io.imread(out).shape[:2] == (750, 1350)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_options_reach_task_runs_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: list[Supersampling]
) -> None:
    drawn = []
    draw = figures.draw_comparison

    def spy(plain: Run, alrc: Run, title: str, label: str):
        drawn.append((plain.config, alrc.config, title, label))
        return draw(plain, alrc, title, label)

    monkeypatch.setattr(figures, "draw_comparison", spy)
    options = {
        "--iterations": "30",
        "--seed": "4",
        "--error": "squared",
        "--batch-size": "2",
        "--num-stddev": "2.5",
        "--optimizer": "sgd",
        "--learning-rate": "0.01",
        "--out": str(tmp_path / "figure.png"),
    }
    code, _ = alrc("demo", *chain.from_iterable(options.items()))
    assert code == 0
    assert drawn == [
        (
            RunConfig(30, 2, "sgd", 0.01, seed=4),
            RunConfig(30, 2, "sgd", 0.01, num_stddev=2.5, seed=4),
            "Supersampling photographs with squared error\n"
            "batch size 2, SGD at 0.01, ALRC at 2.5 standard deviations, seed 4",
            "training error: 25 mean (difference)${}^2$",
        )
    ]
    assert [(task.power, task.width, task.images.name) for task in tasks] == [
        (2, 16, "photographs")
    ]


@pytest.mark.parametrize(("arguments", "power"), [([], 4), (["--error", "quartic"], 4)])
def test_quartic_error_is_the_default(
    arguments: list[str], power: int, tmp_path: Path, tasks: list[Supersampling]
) -> None:
    alrc("demo", *arguments, "--out", str(tmp_path / "figure.png"))
    assert [task.power for task in tasks] == [power]


def test_cifar10_is_read_from_its_folder(tmp_path: Path, tasks: list[Supersampling]) -> None:
    for number in range(5):
        (tmp_path / f"data_batch_{number + 1}.bin").write_bytes(bytes(3073))
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073))
    out = tmp_path / "figure.png"
    assert alrc("demo", "--cifar10", str(tmp_path), "--out", str(out))[0] == 0
    assert [task.images.training.shape for task in tasks] == [(5, 3, 32, 32)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--iterations", "9"],
            "iterations must be at least 10, because a run is judged by its last tenth; got 9.",
        ),
        (
            ["--batch-size", "0"],
            "batch_size must be at least 1, because it counts the examples of a step; got 0.",
        ),
        (
            ["--learning-rate", "-1"],
            "learning_rate must be greater than 0 and finite, because it is the size of a step; "
            "got -1.0.",
        ),
        (
            ["--num-stddev", "0"],
            "ALRC: num_stddev must be greater than 0, because it counts the standard deviations "
            "above the mean at which losses are limited; got 0.0. Pass num_stddev=3.0, or "
            "num_stddev=math.inf to limit nothing on that side.",
        ),
        (["--seed", "-1"], "seed must be from 0 to 2**63 - 1; got -1."),
        (
            ["--out", "figure.pdf"],
            "--out must end in .png, because the figure is a PNG; got figure.pdf.",
        ),
        (
            ["--out", "nowhere/figure.png"],
            "--out must name a file in an existing folder that can be written to; got "
            "nowhere/figure.png.",
        ),
        (
            ["--cifar10", "nowhere"],
            "images must be photographs, or a folder with CIFAR-10's six binary files; got "
            "'nowhere', which is not there. Type alrc lab data cifar10: it downloads them once, "
            "and prints their folder.",
        ),
    ],
)
@pytest.mark.usefixtures("tasks")
def test_bad_values_are_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert alrc("demo", *arguments) == (2, f"alrc: {message}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RunError("the plain run failed."), 1, "the plain run failed."),
        (KeyboardInterrupt(), 130, "stopped; no figure was written."),
    ],
)
def test_a_run_without_result_leaves_no_figure(
    error: BaseException,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> NoReturn:
        raise error

    monkeypatch.setattr(demo, "run_side_by_side", fail)
    monkeypatch.chdir(tmp_path)
    assert alrc("demo") == (code, f"alrc: {message}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tasks")
def test_results_are_shown_even_if_the_figure_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> NoReturn:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    code, text = alrc("demo", "--out", str(tmp_path / "figure.png"))
    assert code == 1
    assert "No gain with this seed" in text
    assert text.splitlines()[-1] == "alrc: the figure could not be written: disk full"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="sends an interrupt as a terminal does on POSIX")
def test_ctrl_c_stops_both_runs(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.path.insert(0, sys.argv.pop(1)); from mishaps import hold; hold(step=8); "
        "from alrc.cli import main; main()"
    )
    helpers = str(Path(mishaps.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", code, helpers, "demo", "--iterations", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = (
                process.stdout.readline()
            )  # a tenth of one run is done, and no run goes on to its end
            assert line.split()[0] in ("plain", "ALRC")
            os.killpg(process.pid, signal.SIGINT)
            # The output ends only when the last process that could write to it has.
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert output.splitlines()[-1] == "alrc: stopped; no figure was written."
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())
