"""Arms one after another, as one."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty
import numpy as np
import pytest
import stackable
import tiny
import torch
from mishaps import after, assert_as_if_alone
from torch import Tensor, nn

from alrc.lab.api import Arm
from alrc.lab.arms.alrc import Alrc
from alrc.lab.arms.clip_grad_norm import ClipGradNorm
from alrc.lab.arms.off import Off
from alrc.lab.engine.batched import Ensemble
from alrc.lab.engine.chain import Chain
from alrc.lab.engine.grid import Grid
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series, read_series
from alrc.lab.engine.training import Stopped
from alrc.torch import ALRC

HERE = Path(__file__).parent
ARM = "alrc num_stddev=1 + clip-grad-norm max_norm=2"


def chain(text: str) -> Named:
    return Named.parse("arm", text, HERE)


def test_it_has_one_spelling_and_the_options_of_its_parts() -> None:
    named = chain("alrc warmup=10 num_stddev=1.0 + clip-grad-norm max_norm=2")
    assert named.spelled == ARM
    assert chain(named.spelled).make().options() == named.make().options()
    assert pickle.loads(pickle.dumps(named)) == named
    config = tiny.spec(arm=named).config
    assert config["arm"] == ARM
    assert (config["arm_options"]["num_stddev"], config["arm_options"]["max_norm"]) == (1.0, 2.0)
    twice = tiny.spec(arm=chain("clip-grad-norm + off + clip-grad-norm max_norm=3")).config
    assert twice["arm_options"] == {"max_norm": 1.0, "max_norm-3": 3.0}
    assert not twice["losses_limited"]
    assert config["losses_limited"]


@pytest.mark.parametrize("text", ["+", "alrc +", "+ alrc", "alrc + + off"])
def test_nothing_between_plus_signs_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        chain(text)
    words = "arm must be NAME key=value ..., such as 'alrc num_stddev=2'; got "
    assert str(caught.value) == f"{words}{text!r}."


def test_tasks_are_not_joined() -> None:
    with pytest.raises(ValueError, match="each key once; got '\\+' in 'supersampling \\+ a'"):
        Named.parse("task", "supersampling + a", HERE)


def test_it_is_a_baseline_if_all_are() -> None:
    assert Chain([Off(), Off()]).is_baseline
    assert not Chain([Off(), Alrc()]).is_baseline


def test_all_files_of_ones_own_are_its_sources() -> None:
    paths = [Path(faulty.__file__), Path(stackable.__file__)]
    arm = chain(f"{paths[0]}:Unlimited + alrc + {paths[1]}:Wary")
    spec = tiny.spec(arm=arm)
    assert spec.config["arm"] == "faulty.py:Unlimited + alrc + stackable.py:Wary"
    assert set(paths) <= set(spec.own_files)
    assert {path.name for path in paths} <= spec.config["sources"].keys()


def test_keys_of_a_study_apply_to_each_part_that_has_the_option(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(f"""
task = "{tiny.__file__}:Line"
arms = ["off", "alrc + original + clip-grad-norm", "clip-grad-norm + clip-grad-norm"]
seeds = 1
primary = {{ arm = "alrc num_stddev=2.0 + original num_stddev=2 + clip-grad-norm max_norm=5.0" }}
[set]
training.steps = 10
arm.max_norm = 5
[cross]
arm.num_stddev = [2, 3]
""")
    named = Grid.read(tmp_path / "study.toml").named_specs()
    assert [spec.config["arm"] for spec in named.values()] == [
        "off",
        "alrc num_stddev=2 + original num_stddev=2 + clip-grad-norm max_norm=5",
        "clip-grad-norm max_norm=5 + clip-grad-norm max_norm=5",
        "alrc + original + clip-grad-norm max_norm=5",
    ]
    assert [n.rpartition("-")[0] for n in named][0:4:3] == [
        "off-seed0",
        "alrc-+-original-+-clip-grad-norm-max_norm=5-seed0",
    ]


def plain_loop(spec: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The same run in a few lines."""
    task = spec.task.make()
    networks = task.build(spec.seed)
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer, limiter = torch.optim.Adam(parameters, 1e-3, fused=True), ALRC(1.0, scale="linear")
    rows: dict[str, list[Tensor]] = {n: [] for n in ("loss.raw", "loss.limit", "loss.limited")}
    norms = []
    for _, batch in zip(range(spec.training.steps), task.batches(spec.seed, 4, 0), strict=False):
        losses = task.step(networks, batch).losses["loss"]
        limit = limiter.threshold.clone()
        limited = limiter(losses)
        optimizer.zero_grad()
        limited.mean().backward()
        norms.append(nn.utils.clip_grad_norm_(parameters, 2.0))
        optimizer.step()
        for kept, x in zip(rows.values(), (losses, limit, limited), strict=True):
            kept.append(x.detach())
    rows["arm.gradient_norm.step"] = norms
    return {name: torch.stack(x).numpy() for name, x in rows.items()}


@pytest.mark.parametrize("stops", [False, True])
def test_it_is_bit_for_bit_a_plain_loop_also_where_it_goes_on(stops: bool, tmp_path: Path) -> None:
    spec = stackable.spec("Dense width=8", ARM, 3, steps=60)
    if stops:
        with pytest.raises(Stopped):
            run_job(Job({"run": spec}), tmp_path, stop=after(31))
    result = run_job(Job({"run": spec}), tmp_path)["run"]
    expected = plain_loop(spec)
    assert {*expected, "logged.largest"} == result["series"].keys()
    for name, rows in expected.items():
        np.testing.assert_array_equal(read_series(tmp_path / "run", result, name), rows, name)
    assert (expected["loss.limited"] != expected["loss.raw"]).any()
    assert (expected["arm.gradient_norm.step"] > 2).any()


def test_parts_that_log_the_same_are_told_apart_by_their_place(tmp_path: Path) -> None:
    arm = chain("clip-grad-norm max_norm=0.1 + off + clip-grad-norm max_norm=0.01")
    job = tiny.job("run", arm=arm)
    with pytest.raises(Stopped):
        run_job(job, tmp_path / "runs", stop=after(5))
    result = run_job(job, tmp_path / "runs")["run"]
    assert_as_if_alone(tmp_path / "runs", job, tmp_path / "alone")
    names = ("arm.gradient_norm.step", "arm.gradient_norm-3.step")
    first, third = (read_series(tmp_path / "runs" / "run", result, name) for name in names)
    np.testing.assert_allclose(third, np.minimum(first, 0.1), rtol=1e-4)


def test_the_limit_is_the_lowest_of_all() -> None:
    arm = Chain([Alrc(mu1_start=4.0, mu2_start=17.0), ClipGradNorm(), Alrc(2.0, 0.5, 3.0, 10.0)])
    arm.begin(torch.device("cpu"))
    assert arm.threshold("loss").item() == pytest.approx(5.0)  # not 7
    assert arm.limit("loss", torch.tensor([1.0, 9.0])).tolist() == pytest.approx([1.0, 5.0])
    assert Chain([Off()]).threshold("loss") is None


@dataclass
class Saying(Arm):
    """Says whether a step may be taken, of one run or of several."""

    answers: list[bool] = field(default_factory=lambda: [True])

    def after_backward(self, phase: str, loss: Tensor, *_: Any) -> None:
        self.seen = (phase, loss.item())
        if self.answers != [True]:
            self.step_ok = torch.tensor(self.answers) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    ("answers", "together"),
    [
        ([[True], [True]], True),
        ([[False], [True]], False),
        ([[True], [False]], False),
        ([[False, True, True], [True]], [False, True, True]),
        ([[True], [False, True, True], [True, True, False]], [False, True, False]),
    ],
)
def test_a_step_is_taken_if_all_say_so_and_all_see_it(answers: Any, together: Any) -> None:
    arm = Chain([Saying(each) for each in answers])
    optimizer = torch.optim.SGD([torch.ones(1)])
    for expected in (together, True):
        arm.after_backward("late", torch.tensor(3.0), [], optimizer)
        ok = arm.step_ok
        assert (ok.tolist() if isinstance(ok, Tensor) else ok) == expected
        for part in arm.parts:
            part.answers = [True]  # says nothing, and what it said of the last step is forgotten
    assert [part.seen for part in arm.parts] == [("late", 3.0)] * len(answers)


def test_it_is_stacked_if_every_part_is(tmp_path: Path) -> None:
    arms = [ARM, "alrc + Wary", "off + off"]
    specs = {arm: stackable.spec("Dense width=8", arm, 0) for arm in arms}
    specs["alrc + Wary"] = stackable.spec("Dense width=8", "Wary + alrc", 0)
    ensemble = Ensemble(specs, Series(tmp_path))
    stacked = {design.specs[0].config["arm"]: design.is_stacked for design in ensemble.designs}
    assert stacked == {ARM: True, "stackable.py:Wary + alrc": False, "off + off": True}
