"""The file of a benchmark: what it says, and what is refused in words."""

from pathlib import Path
from typing import Any

import pytest
import stackable

from alrc.lab.cli.study import PRESETS
from alrc.lab.engine.benchmark_file import Benchmark, is_benchmark

DENSE = f"{stackable.__file__}:Dense width=4"
TEXT = f"""
[arms]
all = ["off", "alrc"]
more = ["clip-grad-norm"]
[tune]
seeds = [1000, 1001]
[tune.more]
clip-grad-norm = {{ max_norm = [0.1, 1, 10] }}
[[workloads]]
name = "noisy"
part = "one"
title = "Noisy"
kind = "broken"
twin = "quiet"
family = "regression"
task = "{DENSE}"
arms = ["all", "more"]
seeds = 2
set = {{ training.steps = 40 }}
[[workloads]]
name = "quiet"
part = "two"
title = "Quiet"
kind = "calm"
family = "regression"
task = "{DENSE}"
arms = ["all"]
seeds = [3, 5]
set = {{ training.steps = 60, training.evaluate_every = 7 }}
"""


def read(folder: Path, text: str = TEXT, **options: Any) -> Benchmark:
    (folder / "some.toml").write_text(text)
    return Benchmark.read(folder / "some.toml", **options)


def test_it_says_who_is_compared_on_what(tmp_path: Path) -> None:
    noisy, quiet = read(tmp_path).workloads
    assert [arm.spelled for arm in noisy.arms] == ["off", "alrc", "clip-grad-norm"]
    assert {arm: [t.spelled for t in trials] for arm, trials in noisy.trials.items()} == {
        "clip-grad-norm": [
            "clip-grad-norm max_norm=0.1",
            "clip-grad-norm",
            "clip-grad-norm max_norm=10",
        ]
    }
    assert (noisy.seeds, quiet.seeds, quiet.trials) == ((0, 1), (3, 5), {})
    assert noisy.table["set"] == {"training.steps": 40}
    for workload, every in ((noisy, 2), (quiet, 7)):
        specs = workload.specs(workload.arms, workload.seeds)
        assert len(specs) == len(workload.arms) * len(workload.seeds)
        assert {(s.training.store, s.training.evaluate_every) for s in specs} == {("mean", every)}


def test_what_is_set_holds_for_all_workloads(tmp_path: Path) -> None:
    changes = {"seeds": 1, "training.steps": 20, "tune.seeds": [7], "tune.trials": 2}
    changed = read(tmp_path, changes=changes)
    assert changed.tuning_seeds == (7,)
    assert [workload.seeds for workload in changed.workloads] == [(0,), (0,)]
    assert [len(trials) for trials in changed.workloads[0].trials.values()] == [2]
    for workload in changed.workloads:
        assert {s.training.steps for s in workload.specs(workload.arms, (0,))} == {20}
    assert read(tmp_path, parts=["two"]).parts == ["two"]


def test_a_smaller_form_names_its_base(tmp_path: Path) -> None:
    read(tmp_path)
    small = tmp_path / "small.toml"
    small.write_text(
        'base = "some.toml"\nseeds = 1\nworkloads = ["noisy"]\narms = ["off", "clip-grad-norm"]\n'
        "set = { training.steps = 10 }\n[tune]\nseeds = [9]\ntrials = 1\n"
    )
    assert is_benchmark(small)
    (noisy,) = Benchmark.read(small).workloads
    assert [arm.spelled for arm in noisy.arms] == ["off", "clip-grad-norm"]
    assert noisy.table["set"] == {"training.steps": 10}
    (again,) = Benchmark.read(small, {"training.steps": 12, "seeds": [4]}).workloads
    assert (again.table["set"], again.seeds) == ({"training.steps": 12}, (4,))


def test_the_smallest_benchmark_has_each_task_arm_trial_and_kind_of_the_whole() -> None:
    whole, smoke = (
        Benchmark.read(PRESETS / f"{name}.toml").workloads
        for name in ("stability", "stability-smoke")
    )

    def has(workloads: Any, one_of: Any) -> set[str]:
        return {name for workload in workloads for name in one_of(workload)}

    assert has(whole, lambda w: [arm.spelled for arm in w.arms]) == has(
        smoke, lambda w: [arm.spelled for arm in w.arms]
    )
    assert has(whole, lambda w: w.trials) == has(smoke, lambda w: w.trials)
    assert has(whole, lambda w: [w.table["kind"]]) == has(smoke, lambda w: [w.table["kind"]])
    # Supersampling has a study of tiny runs of its own.
    assert has(whole, lambda w: w.table["task"].split()[:1]) == {"supersampling"} | has(
        smoke, lambda w: w.table["task"].split()[:1]
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[arms]", "x = 1\n[arms]", "keys must be among arms, tune, workloads; got x"),
        (
            'kind = "calm"',
            'kind = "quiet"',
            "workload quiet: kind must be among broken, calm, trap, aside; got quiet",
        ),
        (
            'family = "regression"\ntask = "' + DENSE + '"\narms = ["all"]',
            'family = "x"\ntask = "' + DENSE + '"\narms = ["all"]',
            "workload quiet: family must be among regression, classification, images, language, "
            "control; got x",
        ),
        (
            'twin = "quiet"',
            'twin = "silent"',
            "workload noisy: twin must be a workload; there is none called silent",
        ),
        (
            'twin = "quiet"',
            'twin = "noisy"',
            "workload noisy: twin must be a calm workload; noisy is broken",
        ),
        (
            'kind = "calm"',
            'kind = "calm"\ntwin = "quiet"',
            "workload quiet: twin must be given of a broken workload alone",
        ),
        ('name = "quiet"', 'name = "noisy"', "names of workloads must differ; two are noisy"),
        (
            'name = "quiet"',
            'name = "a b"',
            "workload a b: name must be of letters, digits and hyphens, because files are called "
            "so, and not compact; got 'a b'",
        ),
        ('title = "Quiet"\n', "", "workload quiet: title must be given"),
        ('title = "Quiet"', "title = 3", "workload quiet: title must be text; got 3"),
        (
            'arms = ["all"]',
            'arms = ["none"]',
            "workload quiet: arms must be names of lists under [arms]: all, more; got ['none']",
        ),
        (
            "[tune.more]",
            "[tune.less]",
            "keys under [tune] must be seeds, trials, or lists of arms: all, more; got less",
        ),
        (
            "max_norm = [0.1, 1, 10]",
            "max = [1]",
            "tune.more.clip-grad-norm must have trials that exist: clip-grad-norm: options must be "
            "among max_norm; got max",
        ),
        (
            "max_norm = [0.1, 1, 10]",
            "max_norm = [-1]",
            "tune.more.clip-grad-norm must have trials that exist: ClipGradNorm: max_norm must be "
            "greater than 0; got -1",
        ),
        (
            "max_norm = [0.1, 1, 10]",
            "max_norm = 3",
            "tune.more.clip-grad-norm must be one option with its trials, such as { max_norm = "
            "[0.3, 1, 3] }; got {'max_norm': 3}",
        ),
        (
            "[0.1, 1, 10]",
            "[1, 1.0]",
            "tune.more.clip-grad-norm must have different trials; got [1, 1.0]",
        ),
        (
            "seeds = [3, 5]",
            "seeds = [3, 1001]",
            "workload quiet: seeds must be others than those of [tune], so that no arm was chosen "
            "by the runs that it is judged by; 1001 is in both",
        ),
        (
            "seeds = [3, 5]",
            "seeds = 0",
            "workload quiet: seeds must be a number of seeds >= 1, or a list of different whole "
            "numbers >= 0; got 0",
        ),
        (
            "training.steps = 60",
            "steps = 60",
            "workload quiet: set must be a table with keys such as task.width and training.steps; "
            "got {'steps': 60, 'training': {'evaluate_every': 7}}",
        ),
    ],
)
def test_what_is_wrong_is_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=r"some\.toml") as caught:
        read(tmp_path, TEXT.replace(old, new))
    assert str(caught.value) == f"{tmp_path / 'some.toml'}: {words}."


def test_an_arm_or_an_option_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arm must be one of .*; got alrk"):
        read(tmp_path, TEXT.replace('"alrc"', '"alrk"'))
    with pytest.raises(ValueError, match=r"steps must be .*; got 3\."):
        read(tmp_path, changes={"training.steps": 3}).workloads[0].specs([], [0])


def test_parts_and_keys_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for options, words in (
        ({"parts": ["three"]}, "parts must be among one, two; got three"),
        (
            {"changes": {"arm.num_stddev": 2}},
            "what is set must be seeds, parts, workloads, arms, tune.seeds, tune.trials, or a key "
            "such as task.width or training.steps; got arm.num_stddev",
        ),
    ):
        with pytest.raises(ValueError, match=r"some\.toml") as caught:
            read(tmp_path, **options)
        assert str(caught.value) == f"{tmp_path / 'some.toml'}: {words}."
