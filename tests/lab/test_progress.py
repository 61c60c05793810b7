"""How far runs have come: live bars on a terminal, lines elsewhere; and the time that is left."""

import io

import pytest
import tiny
from mishaps import Here
from rich.console import Console

from alrc.lab.engine.jobs import Job
from alrc.lab.engine.training import Progress
from alrc.lab.exec import progress as module
from alrc.lab.exec.progress import StudyBars, show_progress
from alrc.lab.exec.study import run_study


def screen(is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=is_terminal)


def test_lines_for_each_tenth_where_there_is_no_terminal() -> None:
    console = screen(is_terminal=False)
    with show_progress(2000, "a.py:Three: [x]", console) as show:
        for step in (1, 150, 199, 200, 350, 999, 2000):
            show(Progress(step, 1.23456))
    assert console.file.getvalue().splitlines() == [
        f"a.py:Three: [x]: {step}/2,000 loss 1.23" for step in ("200", "999", "2,000")
    ]


def test_a_run_that_goes_on_begins_with_its_next_tenth() -> None:
    console = screen(is_terminal=False)
    with show_progress(2000, "alrc", console) as show:
        for step in (1555, 1700):
            show(Progress(step, float("nan")))
    assert console.file.getvalue() == "alrc: 1,700/2,000 loss nan\n"


def test_a_live_bar_on_a_terminal() -> None:
    console = screen(is_terminal=True)
    with show_progress(2000, "alrc [x]", console) as show:
        show(Progress(1500, 0.5))
    assert "alrc [x]" in console.file.getvalue()
    assert "1,500/2,000 loss 0.5" in console.file.getvalue()


def test_bars_of_a_study_on_a_terminal(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen(is_terminal=True)
    seen = []
    shown = StudyBars.show

    def look(self: StudyBars, name: str, progress: Progress) -> None:
        shown(self, name, progress)
        self.progress.refresh()
        seen.append(progress.step)

    monkeypatch.setattr(StudyBars, "show", look)
    assert run_study([tiny.job("run:x: [x]", arm=tiny.OFF)], tmp_path, Here(), console) == {}
    text = console.file.getvalue()
    assert "12/12 loss" in text
    assert "run:x: [x]: finished, slope error" in text
    assert "1 finished, 0 running, 0 failed, 0 waiting" in text
    assert seen[-1] == 12


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> StudyBars:
    jobs = {
        "small": tiny.job("small", training={"steps": 100, "batch_size": 1}),
        "large": tiny.job("large", training={"steps": 10, "batch_size": 90}),
        "both": Job({n: tiny.spec(training={"steps": 100}, seed=s) for s, n in enumerate("ab")}),
    }
    return StudyBars(jobs, screen(is_terminal=True))


def done(bars: StudyBars) -> tuple[float, float]:
    bars.count("")
    task = bars.progress.tasks[0]
    return task.completed, task.total


def test_what_is_done_is_counted_in_examples_of_all_runs(bars: StudyBars) -> None:
    assert done(bars) == (0, 100 + 900 + 800)
    bars.show("large", Progress(1, 1.0))
    bars.show("both", Progress(1, 1.0))
    assert done(bars) == (90 + 8, 1800)
    bars.end("large", is_over=True)
    assert done(bars) == (900 + 8, 1800)
    bars.end("both", is_over=False)  # it pauses
    assert done(bars) == (900 + 8, 1800)


def test_what_was_done_before_does_not_make_this_time_look_fast(bars: StudyBars) -> None:
    bars.show("large", Progress(6, 1.0))
    assert done(bars) == (90, 1800 - 5 * 90)
    bars.show("large", Progress(3, 1.0))  # killed, and begun again from an earlier checkpoint
    assert done(bars) == (0, 1800 - 5 * 90)


def test_the_time_left_is_that_of_the_whole_study(bars: StudyBars) -> None:
    assert bars.progress.speed_estimate_period == module.OVERALL == 3600
