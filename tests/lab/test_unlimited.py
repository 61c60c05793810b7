"""Losses that no arm limits: trained with as they are, and stored, alone, together, in phases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import stackable
import tiny
import torch
from mishaps import after
from torch import Tensor, nn
from torch.optim import Optimizer

from alrc.lab.api import Networks, Outcome, Training
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import is_present, read_series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.training import Stopped
from alrc.lab.report.report import write_report
from alrc.torch import ALRC

STEPS = 40
ARMS = ["off", "alrc num_stddev=1.0", "alrc num_stddev=1.0 per=batch", "Wary"]


@dataclass(frozen=True)
class Penalised(stackable.Dense):
    """Beside its losses, a penalty for each example that is not limited, with a weight."""

    weight: float = 0.5

    def step(self, networks: Any, batch: Any) -> Outcome:
        losses = super().step(networks, batch).losses
        penalty = networks["head"](networks["body"](batch["x"])).square().sum(1)
        return Outcome(losses, unlimited={"penalty": penalty})

    def combine(self, phase: str, losses: Mapping[str, Tensor]) -> Tensor:
        assert list(losses) == ["loss", "penalty"]
        return losses["loss"].mean() + self.weight * losses["penalty"].mean()


@dataclass(frozen=True)
class Adversary(tiny.Line):
    """A judge, all of whose losses are unlimited, comes before the line, and late."""

    fault: str = ""

    def build(self, seed: int) -> Networks:
        return {**super().build(seed), "judge": nn.Linear(1, 1)}

    def phases(self, step: int, training: Training) -> Sequence[str]:
        early = ("judge",) if self.fault == "never limited" else ("step",)
        return early if step < training.steps // 2 else ("judge", "step")

    def optimizers(self, networks: Networks, training: Training) -> dict[str, Optimizer]:
        names = {"judge": "judge", "step": "line"}
        return {p: training.make_optimizer(networks[n].parameters()) for p, n in names.items()}

    def judge(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Outcome:
        x, y = batch
        judged = networks["judge"](y), networks["judge"](x)
        verdict = {"real": (judged[0] - 1).square(), "fake": (judged[1] + 1).square()}
        return Outcome({}, unlimited=verdict)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Outcome:
        loss = super().step(networks, batch).losses["loss"]
        faults: dict[str, Any] = {
            "as a loss": Outcome({"loss": loss}, unlimited={"loss": loss}),
            "as logged": Outcome({"loss": loss}, {"x": loss}, {"x": loss}),
            "empty": Outcome({"loss": loss}, unlimited={"x": loss[:0]}),
            "a number": Outcome({"loss": loss}, unlimited={"x": 1.0}),  # type: ignore[dict-item]
            "a list": Outcome({"loss": loss}, unlimited=[loss]),  # type: ignore[arg-type]
            "nothing at all": Outcome({}),
            "slash": Outcome({"loss": loss}, unlimited={"a/b": loss}),
        }
        whole = Outcome({"loss": loss}, unlimited={"sum": networks["line"](batch[0]).mean()})
        return faults.get(self.fault, whole)


def penalised(arm: str, seed: int = 0, **training: Any) -> Spec:
    like = stackable.spec("Dense width=8", arm, seed, steps=STEPS, **training)
    return Spec(
        Named("task", f"{__file__}:Penalised", (("width", 8),)), like.arm, like.training, seed
    )


def adversary(fault: str = "", **training: Any) -> Job:
    spec = tiny.spec(training={"steps": STEPS, **training})
    task = Named("task", f"{__file__}:Adversary", (("fault", fault),))
    return Job({"run": Spec(task, spec.arm, spec.training, 0)})


def loop(spec: Spec, limiter: ALRC | None, is_all_limited: bool = False) -> dict[str, Any]:
    """The same run in a few lines."""
    task = spec.task.make()
    networks = task.build(spec.seed)
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = torch.optim.Adam(parameters, spec.training.learning_rate, fused=True)
    rows: dict[str, list[Tensor]] = {"loss.raw": [], "loss.limited": [], "logged.penalty": []}
    for batch in islice(task.batches(spec.seed, 4, 0), STEPS):
        outputs = networks["head"](networks["body"](batch["x"]))
        losses = (outputs - batch["y"]).square().mean(1)
        penalty = networks["head"](networks["body"](batch["x"])).square().sum(1)
        limited = losses if limiter is None else limiter(losses)
        penal = limiter(penalty) if is_all_limited and limiter is not None else penalty
        optimizer.zero_grad()
        (limited.mean() + 0.5 * penal.mean()).backward()
        optimizer.step()
        for kept, x in zip(rows.values(), (losses, limited, penalty), strict=True):
            kept.append(x.detach())
    return {name: torch.stack(x).numpy() for name, x in rows.items()}


@pytest.mark.parametrize("stops", [False, True])
def test_they_are_added_as_they_are_beside_limited_ones(stops: bool, tmp_path: Path) -> None:
    spec = penalised(ARMS[1])
    if stops:
        with pytest.raises(Stopped):
            run_job(Job({"run": spec}), tmp_path, stop=after(17))
    result = run_job(Job({"run": spec}), tmp_path)["run"]
    expected = loop(spec, ALRC(1.0, scale="linear"))
    assert result["series"].keys() == {*expected, "loss.limit"}
    assert result["losses"].keys() == {"loss"}
    for name, rows in expected.items():
        np.testing.assert_array_equal(read_series(tmp_path / "run", result, name), rows, name)
    other = loop(spec, ALRC(1.0, scale="linear"), is_all_limited=True)
    assert (other["loss.raw"] != expected["loss.raw"]).any()


@pytest.mark.parametrize("store", ["each", "mean"])
def test_a_run_alone_is_its_row_of_an_ensemble(store: str, tmp_path: Path) -> None:
    specs = {
        f"{i} {seed}": penalised(arm, seed, store=store)
        for i, arm in enumerate(ARMS)
        for seed in (0, 1)
    }
    together = run_job(Job(specs), tmp_path / "together")
    for name, spec in specs.items():
        alone = run_job(Job({name: spec}), tmp_path / "alone")[name]
        assert together[name]["trained_with"] == len(specs)
        assert together[name]["series"].keys() == alone["series"].keys()
        for series in alone["series"]:
            rows = [
                read_series(tmp_path / folder / name, result, series)
                for folder, result in (("together", together[name]), ("alone", alone))
            ]
            np.testing.assert_allclose(*rows, rtol=1e-3, atol=1e-5, err_msg=f"{name} {series}")
        if spec.arm.name == "off" and store == "each":
            expected = loop(spec, None)["logged.penalty"]
            stored = read_series(tmp_path / "alone" / name, alone, "logged.penalty")
            np.testing.assert_array_equal(stored, expected)


def test_a_phase_may_have_nothing_else(tmp_path: Path) -> None:
    result = run_job(adversary(), tmp_path)["run"]
    series = {n: read_series(tmp_path / "run", result, n) for n in result["series"]}
    assert series.keys() == {"loss.raw", "loss.limit", "loss.limited"} | {
        f"logged.{name}" for name in ("real", "fake", "sum")
    }
    for name in ("logged.real", "logged.fake"):
        np.testing.assert_array_equal(is_present(series[name]), np.arange(STEPS) >= STEPS // 2)
    task = Adversary()
    judge = task.build(0)["judge"]
    optimizer = torch.optim.Adam(judge.parameters(), 0.05, fused=True)
    for step, (x, y) in enumerate(islice(task.batches(0, 4, STEPS // 2), STEPS // 2), STEPS // 2):
        real, fake = (judge(y) - 1).square(), (judge(x) + 1).square()
        np.testing.assert_array_equal(series["logged.real"][step], real.detach())
        np.testing.assert_array_equal(series["logged.fake"][step], fake.detach())
        optimizer.zero_grad()
        (real.mean() + fake.mean()).backward()
        optimizer.step()


def test_the_report_shows_them_with_what_is_logged(tmp_path: Path) -> None:
    for arm in ARMS[:2]:
        run_job(Job({f"{arm[:4]}": penalised(arm)}), tmp_path / "runs")
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    section = report.partition("Logged by the task")[2]
    assert "penalty is " in section
    assert "training loss penalty" not in report


GIVEN = "Adversary.step must give its losses by name, each a tensor that is not empty; it gave "
TWICE = "Adversary.step must give unlimited losses names of their own, by which they are combined "


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("as a loss", f"{TWICE}and stored; 'loss' is in losses too. Rename one."),
        ("as logged", f"{TWICE}and stored; 'x' is in logged too. Rename one."),
        ("empty", f"{GIVEN}'x' as a tensor of shape (0,)."),
        ("a number", f"{GIVEN}'x' as a float."),
        ("a list", f"{GIVEN}a list."),
        ("nothing at all", f"{GIVEN}nothing."),
        (
            "slash",
            "logged.a/b must be the name of a file, without / and \\; if it begins with logged. or "
            "arm., it must not end in .raw, .limited or .limit, by which losses are told. Rename "
            "the loss, or what is logged.",
        ),
        (
            "never limited",
            "Adversary must give a loss that an arm may limit in its first step, because by it "
            "runs are compared; all that it gave were unlimited.",
        ),
    ],
)
def test_what_can_not_be_told_apart_or_compared_is_refused(
    fault: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run_job(adversary(fault), tmp_path)
    assert str(caught.value) == message


@dataclass(frozen=True)
class AllUnlimited(Penalised):
    def step(self, networks: Any, batch: Any) -> Outcome:
        return Outcome({}, unlimited=super().step(networks, batch).losses)

    combine: ClassVar = stackable.Dense.combine


def test_an_ensemble_needs_a_loss_that_can_be_limited_too(tmp_path: Path) -> None:
    specs = {}
    for seed in (0, 1):
        spec = penalised("off", seed)
        task = Named("task", f"{__file__}:AllUnlimited")
        specs[str(seed)] = Spec(task, spec.arm, spec.training, seed)
    with pytest.raises(ValueError, match="AllUnlimited must give a loss that an arm may limit"):
        run_job(Job(specs), tmp_path)
