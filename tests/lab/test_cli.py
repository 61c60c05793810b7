"""The command line: help, lists, a task of one's own, and words for what is not right."""

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alrc import __version__
from alrc.lab.cli.commands import app
from alrc.lab.cli.options import flowed

HEAVY = Path(__file__).parents[2] / "examples/lab/heavy.py"
WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
COMMANDS = (
    "",
    "demo",
    "demo paper",
    "replay",
    "lab",
    "lab list",
    "lab run",
    "lab run supersampling",
    "lab study",
    "lab report",
    "lab new-task",
    "lab complete",
    "lab data",
    "lab data cifar10",
)


def alrc(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env=WIDE)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def script(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The console script, after ``code``, in an interpreter of its own."""
    command = [sys.executable, "-c", f"{code}; from alrc.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_version() -> None:
    assert alrc("--version") == (0, f"alrc {__version__}\n")


def test_help_of_a_task_lists_its_options_with_their_defaults() -> None:
    code, text = alrc("lab", "run", "supersampling", "--help")
    assert code == 0
    for option, default in (
        ("--steps", "[default: 100000]"),  # the task's own default
        ("--learning-rate", "[default: 0.00078125]"),
        ("--seed", "[default: 0]"),
        ("--arm", "[default: alrc]"),
        ("--error", "[default: quartic]"),
        ("--images", "[default: photographs]"),
    ):
        line = next(line for line in text.splitlines() if option in line)
        assert default in line


def test_help_asks_for_no_value_behind_a_flag() -> None:
    _, text = alrc("lab", "run", "partial-stem", "--help")
    line = next(line for line in text.splitlines() if "--adversarial" in line)
    assert "<bool>" not in line
    assert "From half way on" in line


def test_help_of_a_task_of_ones_own_lists_its_options() -> None:
    code, text = alrc("lab", "run", f"{HEAVY}:Heavy", "--help")
    assert code == 0
    assert "Learns sin(3x) from points" in text
    line = next(line for line in text.splitlines() if "--freedom" in line)
    assert "Degrees of freedom; smaller has larger outliers." in line
    assert "[default: 1.5]" in line


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_its_terminal_and_cuts_nothing_off(columns: int) -> None:
    code = (
        "import shlex; from typer.testing import CliRunner; from alrc.lab.cli.commands import app\n"
        f"for words in {COMMANDS!r}:\n"
        "    print(CliRunner().invoke(app, [*shlex.split(words), '--help']).output)"
    )
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    ).stdout
    lines = told.splitlines()
    assert len(lines) > 20 * len(COMMANDS) * 40 / columns / 2
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert "…" not in told  # of a word that did not fit
    flat = " ".join(told.replace("│", " ").split())
    for option in ("--no-sqrt-step", "--compile", "--learning-rate", "--retry", "--num-stddev"):
        assert option in flat
    for summary in (
        "Train on photographs, 2 % of which are broken: plain, with a norm clip, and with ALRC.",
        "Say what the loss curve in a log shows, and whether limiting losses would have mattered.",
        "Train the paper's supersampling network twice, plain and with ALRC, and compare.",
        "Train each task of a study with each arm and seed, then write its report.",
        "Write a task of your own to start from: task.py, its test, and a study of it.",
        "Complete partial scans with a trained network, as TIFF files that ImageJ opens.",
        "Train one network; type it again to go on. PATH/FILE.py:CLASS is a task of your own.",
        "Restores images that were halved in size: the paper's CIFAR-10 experiment.",
        "Download CIFAR-10, 162 MB, once, and print the folder of its binary files.",
    ):
        assert flat.count(summary) == 2  # of the command, and in the list of them
    for line, following in itertools.pairwise(lines):
        if all(re.match(r" {1,2}[A-Za-z-]", x) for x in (line, following)) and columns == 80:
            assert len(f"{line.rstrip()} {following.split()[0]}") > columns - 1, line


def test_paragraphs_flow_lists_stay_and_code_has_no_marks() -> None:
    doc = "One ``two``\nthree.\n\nFour\nfive:\n\n- a\n- `b`\n\nArgs:\n    x: Six\n        seven."
    assert flowed(doc) == (
        "One two three.\n\nFour five:\n\n- a\n- b\n\nArgs:\n    x: Six\n        seven."
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('imported', sorted("
        "{'torch', 'numpy', 'matplotlib', 'skimage'} & set(sys.modules))))"
    )
    for words in ((), ("lab",), ("lab", "study"), ("demo",), ("demo", "paper"), ("replay",)):
        assert script(code, *words, "--help").stdout.splitlines()[-1] == "imported []"


@pytest.mark.parametrize(
    ("module", "package"),
    [("typer", "typer"), ("torch", "torch"), ("skimage", "scikit-image"), ("pydantic", "pydantic")],
)
def test_a_missing_package_is_named_in_one_line(module: str, package: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{module!r}] = None"
    result = script(code, "demo", "--steps", "10", "--out", str(tmp_path / "figure.png"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"alrc: {package} is not installed here. Install what the command line needs with: "
        'pip install "alrc[lab]"\n'
    )


def test_tasks_arms_and_studies_are_listed() -> None:
    code, text = alrc("lab", "list")
    assert code == 0
    assert "  supersampling: Restores images that were halved in size: the paper's " in text
    assert "    num_stddev: Limit, in standard deviations above the mean loss." in text
    assert "  clip-grad-norm: Scales the gradient of a phase down to a norm, as " in text
    assert "  supersampling-small: The paper's comparison at a quarter of its width " in text
    assert ", as torch.nn.utils.clip_grad_norm_ does.\n" in text
    assert "`" not in text
    assert text.endswith("alrc lab new-task DIR writes one to start from.\n")


def test_a_new_task_passes_its_own_test_and_is_not_overwritten(tmp_path: Path) -> None:
    code, text = alrc("lab", "new-task", tmp_path / "mine")
    files = [tmp_path / "mine" / name for name in ("task.py", "test_task.py", "study.toml")]
    assert code == 0
    assert text.splitlines() == [
        *map(str, files),
        f"Train it with: alrc lab study {files[2]}",
    ]
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", files[1].name],
        cwd=tmp_path / "mine",
        capture_output=True,
        text=True,
    )
    assert "1 passed" in tested.stdout
    assert alrc("lab", "new-task", tmp_path / "mine") == (
        2,
        f"alrc: {tmp_path}/mine must not hold task.py yet, because it would be overwritten; pass "
        "another folder.\n",
    )


def test_a_study_goes_to_the_folder_of_its_name_and_tells_of_other_runs_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alrc("lab", "new-task", "mine")
    words = ("lab", "study", "mine/study.toml", "--workers", 1, "--set", "seeds=1")
    code, text = alrc(*words, "--set", "training.steps=10")
    assert code == 0
    assert text.splitlines()[-1] == "studies/mine/report.html"
    assert "also holds" not in text
    code, text = alrc(*words, "--set", "training.steps=11")
    assert text.splitlines()[0] == (
        "studies/mine also holds 3 runs that this study does not ask for; its report will leave "
        "them out."
    )
    assert code == 0  # the declared comparison is there once


def test_a_run_of_a_task_of_ones_own_is_trained_and_goes_on(tmp_path: Path) -> None:
    words = ("lab", "run", f"{HEAVY}:Heavy", "--steps", 40, "--power", 4, "--out", tmp_path / "run")
    code, text = alrc(*words, "--arm", "alrc num_stddev=1", "--seed", 3)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == "heavy.py:Heavy power=4: no data of its own"
    assert lines[-3].startswith("held-out error: ")
    assert lines[-2].startswith("training loss: ")
    assert lines[-1].endswith(" of 640 limited")
    assert not lines[-1].startswith("loss: 0 ")
    again = alrc(
        *words, "--arm", "alrc num_stddev=1.0", "--seed", 3
    )  # finished, so nothing is done
    assert again[1].splitlines()[-3:] == lines[-3:]
    code, text = alrc(*words, "--arm", "off", "--seed", 4)
    assert code == 2
    assert text.splitlines()[-1].startswith(
        f"alrc: {tmp_path}/run must hold this very run to go on with it; it holds another one: got "
        "arm 'off' (there: 'alrc num_stddev=1')"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "supersamplin"), "task must be one of control, digits, heavy-tails, "),
        (("run", "none.py:Task"), "none.py must be a Python file; there is none. Check the path."),
        (
            ("run", "supersampling", "--out", "{out}", "--arm", "alrk"),
            "arm must be one of adagc, agc, alrc, alrc-clamp, alrc-drop, alrc-log, autoclip, ",
        ),
        (
            ("run", "supersampling", "--out", "{out}", "--width", "0"),
            "Supersampling: width must be greater than or equal to 1; got 0.",
        ),
        (
            ("run", "supersampling", "--out", "{out}", "--steps", "9"),
            "Training: steps must be greater than or equal to 10; got 9.",
        ),
        (
            ("run", "supersampling", "--out", "{out}", "--seed", "-1"),
            "seed must be from 0 to 2**63 - 1; got -1.",
        ),
        (
            ("run", "supersampling", "--out", "{out}", "--device", "cuda:99"),
            "device cuda:99 needs a GPU that torch can use; there are ",
        ),
        (
            ("run", "supersampling", "--out", "{out}", "--device", "banana"),
            "device must be cpu, cuda or cuda:1; got 'banana'.",
        ),
        (
            ("run", "supersampling", "--out", "{out}", "--images", "nowhere"),
            "images must be photographs, or a folder with CIFAR-10's six binary files; got ",
        ),
        (
            ("run", "supersampling", "--out", __file__),
            "must be a folder, because a run is kept in it; it is a file. Move it away, or pass ",
        ),
        (("study", "smal"), "what to train must be a .toml file or one of partial-stem, "),
        (("study", "none.toml"), "none.toml must be a TOML file that describes a study; it is "),
        (("study", "{out}.toml"), "must be a TOML file that describes a study; it is a folder."),
        (("study", "supersampling-smoke", "--set", "x"), "--set must be KEY=VALUE, such as task."),
        (("study", "supersampling-smoke", "--set", "x=1"), "what is set must be seeds, arms, "),
        (("study", "supersampling-smoke", "--workers", "0"), "--workers must be at least 1, "),
        (("study", "supersampling-smoke", "--device", "gpu"), "device must be cpu, cuda or cuda:1"),
        (("list", "{out}"), "must hold"),
        (("report", "{out}"), "must hold"),
    ],
)
def test_what_is_not_right_is_refused_in_one_line(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "out.toml").mkdir()
    words = tuple(word.replace("{out}", str(tmp_path / "out")) for word in words)
    code, text = alrc("lab", *words)
    assert code == 2
    assert len(text.splitlines()) == 1
    assert text.startswith("alrc: ")
    assert message in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_says_so_and_leaves_a_checkpoint(
    tmp_path: Path, number: int
) -> None:
    words = ("lab", "run", f"{HEAVY}:Heavy", "--steps", "100000000", "--out", str(tmp_path))
    command = [sys.executable, "-c", "from alrc.cli import main; main()", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()  # with which it begins
        while not (tmp_path / "series").exists():  # so that signals are heard
            assert process.poll() is None
        process.send_signal(number)
        said += process.communicate()[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    last = f"alrc: stopped with a checkpoint in {tmp_path}; the same command goes on from it."
    assert said.splitlines()[-1] == last
    assert (tmp_path / "checkpoint.pt").exists()
