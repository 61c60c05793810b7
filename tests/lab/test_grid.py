"""A study's file: what is crossed with what, and what the runs are called."""

import json
from pathlib import Path
from typing import Any

import pytest

from alrc.lab.engine.benchmark_file import Benchmark
from alrc.lab.engine.grid import Grid

PRESETS = Path(__file__).parents[2] / "src/alrc/lab/presets"
BENCHMARKS = ("stability", "stability-smoke")
OWN = """
from dataclasses import dataclass
from typing import ClassVar
from alrc.lab.api import Metric, Task

@dataclass(frozen=True)
class Heavy(Task):
    freedom: float = 1.5
    words: str = "a"
    metrics: ClassVar = (Metric("error"),)

@dataclass(frozen=True)
class Light(Task):
    freedom: float = 3.0
    metrics: ClassVar = (Metric("error"),)
"""
PLAIN = """
task = "./own.py:Heavy"
arms = ["off", "alrc num_stddev=2"]
seeds = 2
[set]
training.steps = 10
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def read(folder: Path, text: str, changes: dict[str, Any] | None = None) -> Grid:
    (folder / "study.toml").write_text(text)
    return Grid.read(folder / "study.toml", changes)


def designs(grid: Grid) -> list[tuple[Any, ...]]:
    """Task, arm, seed, and the options of training that are not the default."""
    rows = []
    for spec in grid.specs():
        config = spec.config
        rows.append((config["task"], config["arm"], spec.seed, config["training"]["batch_size"]))
    return rows


def test_every_arm_meets_every_seed(folder: Path) -> None:
    assert designs(read(folder, PLAIN)) == [
        ("own.py:Heavy", "off", 0, 1),
        ("own.py:Heavy", "off", 1, 1),
        ("own.py:Heavy", "alrc num_stddev=2", 0, 1),
        ("own.py:Heavy", "alrc num_stddev=2", 1, 1),
    ]


def test_options_are_crossed_and_go_together_as_written(folder: Path) -> None:
    grid = read(
        folder,
        """
tasks = ["./own.py:Heavy", "./own.py:Light"]
arms = ["off", "alrc", "original"]
seeds = [7]
[set]
training.steps = 10
[cross]
task.words = ["a", "b c"]
arm.num_stddev = [2, 3]
[zip]
training.batch_size = [1, 4]
training.learning_rate = [0.1, 0.2]
""",
    )
    rows = designs(grid)
    assert len(rows) == len(set(rows)) == (2 + 1) * (1 + 2 + 2) * 2  # what they have is crossed
    assert {row[0] for row in rows} == {
        "own.py:Heavy",
        "own.py:Heavy words='b c'",
        "own.py:Light",
    }
    arms = {"off", "alrc num_stddev=2", "alrc", "original num_stddev=2", "original"}
    assert {row[1] for row in rows} == arms
    rates = {(s.training.batch_size, s.training.learning_rate) for s in grid.specs()}
    assert rates == {(1, 0.1), (4, 0.2)}


def test_changes_take_the_place_of_what_the_file_says(folder: Path) -> None:
    changes = {"seeds": [4], "task.freedom": [1, 2], "training.batch_size": 8, "arms": ["off"]}
    assert designs(read(folder, PLAIN, changes)) == [
        ("own.py:Heavy freedom=1", "off", 4, 8),
        ("own.py:Heavy freedom=2", "off", 4, 8),
    ]


def test_names_tell_what_varies_and_stay(folder: Path) -> None:
    first = read(folder, PLAIN + '[cross]\ntask.words = ["a", "b/c d"]\n').named_specs()
    names = [name.rpartition("-")[0] for name in first]
    assert names[:2] == ["a-off-seed0", "a-off-seed1"]
    assert names[-1] == "b-c-d-alrc-num_stddev=2-seed1"
    assert len({name.rpartition("-")[2] for name in first}) == len(first) == 8
    assert list(read(folder, PLAIN + '[cross]\ntask.words = ["a", "b/c d"]\n').named_specs()) == (
        list(first)
    )
    # The same runs in another study, which varies less, keep the folders they have.
    again = read(folder, PLAIN).named_specs(there=first)
    assert set(again) == {name for name in first if name.startswith("a-")}


def test_names_tell_what_varies_of_each_task(folder: Path) -> None:
    text = 'tasks = ["./own.py:Heavy", "./own.py:Light"]\narms = ["off"]\nseeds = 1\n'
    text += '[set]\ntraining.steps = 10\n[cross]\ntask.words = ["a", "b"]\n'
    names = [name.rpartition("-")[0] for name in read(folder, text).named_specs()]
    assert names == [
        "own.py-Heavy-a-seed0",
        "own.py-Heavy-b-seed0",
        "own.py-Light-seed0",
    ]


def test_what_does_not_change_training_does_not_change_the_name(folder: Path) -> None:
    plain = read(folder, PLAIN).named_specs()
    evaluated = read(folder, PLAIN, {"training.evaluate_every": 5}).named_specs()
    assert list(plain) == list(evaluated)
    assert {spec.training.evaluate_every for spec in evaluated.values()} == {5}


def test_a_change_of_the_file_of_a_task_is_another_run(folder: Path) -> None:
    before = read(folder, PLAIN).specs()[0].config
    (folder / "changed").mkdir()
    (folder / "changed/own.py").write_text(OWN + "# changed\n")
    after = read(folder / "changed", PLAIN).specs()[0].config
    assert before.pop("sources") != after.pop("sources")
    assert before == after


def test_the_primary_comparison_is_spelled_like_everything_else(folder: Path) -> None:
    text = 'primary = { arm = "alrc num_stddev=2.0", task.words = "a" }\n' + PLAIN
    record = read(folder, text).record()
    assert record["primary"] == {
        "arm": "alrc num_stddev=2",
        "task.words": "a",
    }
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("primary", ['arm = "alrc"', 'arm = "off", task.words = "b"'])
def test_a_primary_comparison_that_the_study_does_not_make_is_refused(
    folder: Path, primary: str
) -> None:
    with pytest.raises(ValueError, match="primary must be one of the comparisons of the study; "):
        read(folder, f"primary = {{ {primary} }}\n" + PLAIN).named_specs()


@pytest.mark.parametrize(
    ("preset", "count", "steps"),
    [
        ("supersampling-smoke", 8, 30),
        ("supersampling-small", 120, 10_000),
        ("supersampling-small-high-learning-rate", 80, 3_000),
        ("supersampling-paper", 320, 100_000),
        ("supersampling-high-learning-rate", 40, 100_000),
        ("partial-stem", 132, 10_000),
        ("partial-stem-quartic", 48, 10_000),
        ("partial-stem-large", 18, 6_000),
        ("partial-stem-paper", 4, 500_000),
        ("stem-supersampling-small", 60, 4_000),
        ("stem-smoke", 8, 12),
    ],
)
def test_presets(preset: str, count: int, steps: int) -> None:
    specs = Grid.read(PRESETS / f"{preset}.toml").specs()
    assert len(specs) == count
    assert {spec.training.steps for spec in specs} == {steps}
    assert {spec.make_arm().is_baseline for spec in specs} == {True, False}


@pytest.mark.parametrize("preset", BENCHMARKS)
def test_presets_of_benchmarks_are_read(preset: str) -> None:
    benchmark = Benchmark.read(PRESETS / f"{preset}.toml")
    kinds = {workload.table["kind"] for workload in benchmark.workloads}
    assert kinds == {"broken", "calm", "trap", "aside"}
    assert all("off" in {arm.spelled for arm in w.arms} for w in benchmark.workloads)


def test_every_preset_is_tested() -> None:
    tested = {args[0] for args in test_presets.pytestmark[0].args[1]} | set(BENCHMARKS)
    assert tested == {file.stem for file in PRESETS.glob("*.toml")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "./own.py:Heavy"', "", "either task or tasks must be given, to say what is "),
        ('task = "./own.py:Heavy"', "task = 3", "tasks must be a list such as "),
        ("arms = [", "arm = [", "keys must be among task, tasks, arms, seeds, primary, "),
        ('["off", "alrc num_stddev=2"]', "[]", 'arms must be a list such as ["off", "alrc"]; got'),
        ("seeds = 2", "seeds = 0", "seeds must be a number of seeds >= 1, or a list of "),
        ("seeds = 2", "seeds = [1, 1]", "seeds must be a number of seeds >= 1, or a list of "),
        ("seeds = 2", "seeds = true", "seeds must be a number of seeds >= 1, or a list of "),
        ("[set]\n", "", "keys must be among task, tasks, arms, seeds, "),
        ("training.steps", "steps", "keys under [set] must be task.NAME, arm.NAME or training."),
        ("training.steps = 10", "", "training.steps must be given, because own.py:Heavy has no "),
        ("training.steps", "training.stps", "options of training must be among steps, batch_size"),
        ("[set]", "[cross]\ntask.words = 3\n[set]", "cross.task.words must be a list of values; "),
        (
            "[set]",
            "[zip]\ntask.words = ['a']\ntask.freedom = [1, 2]\n[set]",
            "all lists under [zip] must have the same length.",
        ),
        (
            "[set]",
            "[cross]\ntraining.steps = [10, 20]\n[set]",
            "training.steps must be in one of [set], [cross] and [zip]; it is in two.",
        ),
        ("[set]", "[set]\ntask.wrds = 'a'", "task.wrds must be an option of a task or an arm of "),
        ("seeds", "primary = 'alrc'\nseeds", "primary must be a table such as { arm = "),
        ("seeds", "ensembles = 3\nseeds", "ensembles must be true or false; got 3."),
        ("seeds = 2", "seeds =", "must be a TOML file; Invalid value"),
    ],
)
def test_what_cannot_be_a_study_is_refused_with_its_file(
    folder: Path, old: str, new: str, message: str
) -> None:
    assert old in PLAIN
    with pytest.raises(ValueError, match=r"study\.toml") as refusal:
        read(folder, PLAIN.replace(old, new)).specs()
    assert message in str(refusal.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "none.toml", "missing")):
        with pytest.raises(ValueError, match="must be a TOML file") as refusal:
            Grid.read(path)
        assert str(refusal.value) == (
            f"{path} must be a TOML file that describes a study; it is {kind}."
        )
