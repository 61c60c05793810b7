"""What a study says before most of it is trained: its data, and how long it takes."""

import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from mishaps import Here, run

from alrc.lab.engine.jobs import Job
from alrc.lab.exec import messages, study
from alrc.lab.exec.estimate import data_lines, duration, estimate, first_of_each_setting, setting_of

TAIL = ", as fast as the first steps; evaluations come on top"


def job(name: str, batch_size: int = 4, steps: int = 3600, **settings: Any) -> Job:
    training = {"batch_size": batch_size, "steps": steps, **settings.pop("training", {})}
    return tiny.job(name, training=training, **settings)


def named(*jobs: Job) -> dict[str, Job]:
    return {job.name: job for job in jobs}


def test_each_task_is_named_with_its_data() -> None:
    class WithFacts:
        def __init__(self, spelled: str, facts: dict[str, Any]) -> None:
            self.config = {"task": spelled, "task_facts": facts}
            self.task = tiny.spec().task

    images = {"images": "photographs", "sha256": "0123456789abcdef" * 4, "count": 3}
    specs = [
        WithFacts("t width=1", images),
        WithFacts("t width=2", images),
        WithFacts("t width=2", {"images": "cifar10"}),
        WithFacts("t width=3", {}),
    ]
    assert data_lines(specs) == [
        "tiny.py:Line in 2 settings: images photographs, sha256 01234567, count 3",
        "t width=2: images cifar10",
        "t width=3: no data of its own",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "1 second"),
        (59.4, "59 seconds"),
        (60.0, "1.0 minutes"),
        (3599.0, "60.0 minutes"),
        (3600.0, "1.0 hours"),
        (1e6, "277.8 hours"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
    assert duration(7200.0, "core-") == "2.0 core-hours"


def test_seeds_and_arms_are_of_one_setting() -> None:
    first = setting_of(job("a"))
    assert first == setting_of(job("b", seed=1, arm=tiny.OFF))
    others = [job("c", 5), job("d", noise=0.2), job("e", training={"optimizer": "sgd"})]
    assert len({first, *map(setting_of, others)}) == 4


def test_the_first_of_each_setting_and_of_many_those_with_the_most_examples() -> None:
    jobs = [job(f"{size}-{seed}", size, seed=seed) for size in range(1, 12) for seed in (0, 1)]
    chosen = [job.name for job in first_of_each_setting(jobs, 1)]
    assert chosen == [f"{size}-0" for size in range(11, 3, -1)]
    assert [job.name for job in first_of_each_setting(jobs[:3], 9)] == ["1-0", "2-0", "1-1"]


def test_core_hours_follow_from_the_pace_of_each_setting() -> None:
    jobs = named(job("a"), job("b", seed=1), job("c", 8))
    paces = {setting_of(jobs["a"]): 1.0, setting_of(jobs["c"]): 4.0}
    assert estimate(jobs, {}, paces, 2) == f"about 6.0 core-hours, 4.0 hours on 2 workers{TAIL}"
    assert estimate(jobs, {}, paces, 1) == f"about 6.0 core-hours, 6.0 hours on 1 worker{TAIL}"
    assert estimate(jobs, {}, paces, None) == f"about 6.0 core-hours{TAIL}"
    half = {"a": 1800, "c": 2700}
    assert estimate(jobs, half, paces, 1) == f"about 2.5 core-hours, 2.5 hours on 1 worker{TAIL}"


def test_a_setting_whose_pace_is_not_known_takes_as_long_an_example() -> None:
    jobs = named(job("a"), job("c", 8))
    paces = {setting_of(jobs["a"]): 1.0, setting_of(jobs["c"]): float("nan")}
    assert estimate(jobs, {}, paces, None) == f"about 3.0 core-hours{TAIL}"
    assert estimate(jobs, {}, {}, None) is None


def test_runs_that_are_trained_together_take_the_time_of_one_job() -> None:
    together = Job({n: tiny.spec(seed=s, training={"steps": 3600}) for s, n in enumerate("abc")})
    assert estimate(named(together), {}, {setting_of(together): 1.0}, 1) == (
        f"about 1.0 core-hours, 1.0 hours on 1 worker{TAIL}"
    )


def test_hours_on_a_gpu_are_not_called_those_of_a_core() -> None:
    jobs = named(job("a", training={"device": "cuda"}))
    assert estimate(jobs, {}, {setting_of(jobs["a"]): 1.0}, None) == (
        f"about 1.0 device-hours{TAIL}"
    )


def test_it_is_said_once_after_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_SECONDS", 1e-9)  # two steps
    # However busy the machine is, a step takes 2 ms.
    clock = SimpleNamespace(perf_counter=count(0, 0.002).__next__, monotonic=time.monotonic)
    monkeypatch.setattr(messages, "time", clock)
    failed, lines = run([tiny.job(n, seed=s) for s, n in enumerate("ab")], tmp_path, Here())
    assert failed == {}
    assert lines[:2] == [
        "tiny.py:Line: points generated",
        "2 runs: 0 finished and 0 failed earlier, 2 to do",
    ]
    assert lines[2].startswith("about 1 core-second, 1 second on 1 worker")
    assert [line.split(",")[0] for line in lines[3:]] == ["a: finished", "b: finished"]
