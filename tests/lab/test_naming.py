"""Tasks and arms by name: one way to spell them, installed or in a file of one's own."""

import sys
from pathlib import Path

import pytest

from alrc.lab.arms.alrc import Alrc
from alrc.lab.engine.naming import Named, installed, parse_value
from alrc.lab.tasks.supersampling.task import Supersampling

HERE = Path()
OWN = """
from dataclasses import dataclass
from alrc.lab.api import Arm, Task
import beside

@dataclass(frozen=True)
class Heavy(Task):
    freedom: float
    words: str = "plain"

@dataclass
class Harsh(Arm):
    level: int = beside.LEVEL

other = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "beside", raising=False)  # of another test's folder
    (tmp_path / "beside.py").write_text("LEVEL = 5\n")
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_installed_ones_are_made_from_their_spelling() -> None:
    assert {"alrc", "off", "original", "clip-grad-norm"} <= set(installed("arm"))
    assert Named.parse("arm", "alrc num_stddev=2 mu1_start=25 mu2_start=9e2", HERE).make() == Alrc(
        2.0, mu1_start=25.0, mu2_start=900.0
    )
    task = Named.parse("task", "supersampling error=squared sqrt_step=false", HERE).make()
    assert task == Supersampling(error="squared", sqrt_step=False)


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("alrc", "alrc"),
        ("alrc num_stddev=3.0 decay=0.999", "alrc"),  # the defaults
        ("alrc warmup=20 num_stddev=2.0", "alrc num_stddev=2 warmup=20"),  # in their order
        ("alrc num_stddev=2.5 num_stddev_below=none", "alrc num_stddev=2.5"),
        ("alrc center='mean'", "alrc center=mean"),
        ('alrc center="mean"', "alrc center=mean"),
    ],
)
def test_there_is_one_spelling(given: str, spelled: str) -> None:
    named = Named.parse("arm", given, HERE)
    assert named.spelled == spelled
    assert Named.parse("arm", spelled, HERE).make() == named.make()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("true", True), ("none", None), ("[1, 2]", [1, 2]), ("a/b", "a/b")],
)
def test_values_are_those_of_toml_or_else_text(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_a_file_of_ones_own_is_found_relative_to_a_folder_with_what_lies_beside_it(
    own: Path,
) -> None:
    task = Named.parse("task", "own.py:Heavy freedom=2 words='two words'", own)
    assert task.spelled == "own.py:Heavy freedom=2 words='two words'"
    assert task.make().words == "two words"
    assert task.make().freedom == 2.0
    assert Named.parse("task", task.spelled, own).make() == task.make()
    assert Named.parse("arm", "own.py:Harsh", own).make().level == 5


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("arm", "", "arm must be NAME key=value ..., such as 'alrc num_stddev=2'; got ''."),
        ("arm", "alrc 'x", "arm must be NAME key=value ..., such as 'alrc num_stddev=2'; got "),
        ("arm", "alrc x", "arm must be NAME key=value ..., each key once; got 'x' in 'alrc x'."),
        (
            "arm",
            "alrc warmup=1 warmup=2",
            "arm must be NAME key=value ..., each key once; got 'warmup=2' in ",
        ),
        ("arm", "alrk", "or one of your own as path/to/file.py:Class; got alrk."),
        ("arm", "off x=1", "off: options must be among none; got x."),
        ("arm", "original n=1", "original: options must be among num_stddev; got n."),
        ("arm", "alrc num_stddev=0", "Alrc: num_stddev must be greater than 0; got 0."),
        ("arm", "alrc mu1_start=3", "mu2_start"),
        ("task", "own.py:Heavy", "own.py:Heavy: freedom must be given, because it has no default."),
        ("task", "own.py:Harsh", "must be a subclass of alrc.lab.api.Task; it is not."),
        ("task", "own.py:other", "must be a subclass of alrc.lab.api.Task; it is not."),
        ("task", "own.py:Missing", "own.py must define Missing; it does not."),
        ("task", "none.py:Heavy", "none.py must be a Python file; there is none. Check the path."),
        ("task", "broken.py:Heavy", "broken.py must be importable; ZeroDivisionError: division"),
        ("task", "beside.txt:Heavy", "must be a Python file, whose name ends in .py."),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(
    own: Path, kind: str, text: str, message: str
) -> None:
    (own / "broken.py").write_text("1 / 0")
    (own / "beside.txt").write_text("")
    with pytest.raises(ValueError, match=r"\.$") as refusal:
        Named.parse(kind, text, own).make()
    assert message in str(refusal.value)


def test_options_that_say_where_data_are_do_not_tell_tasks_apart(tmp_path: Path) -> None:
    named = Named.parse("task", f"supersampling images={tmp_path} width=2", HERE)
    assert named.spelled == "supersampling width=2"
    assert Named("task", "supersampling", (("images", "."),)).placed().given == (
        ("images", str(Path.cwd())),
    )
