"""Arms that act on losses, against their published formulas in plain float64, at every step."""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import loss_oracles as oracles
import numpy as np
import pytest
import torch
from loss_oracles import Oracle
from scipy.special import huber as published_huber
from stackable import spec
from torch import Tensor
from torch.nn.functional import cross_entropy

from alrc.lab.api import Arm
from alrc.lab.arms import log_scale
from alrc.lab.arms.alrc import Alrc
from alrc.lab.arms.alrc_clamp import AlrcClamp
from alrc.lab.arms.alrc_drop import AlrcDrop
from alrc.lab.arms.alrc_log import AlrcLog
from alrc.lab.arms.gce import GCE
from alrc.lab.arms.huber import Huber
from alrc.lab.arms.limiter import LimiterArm
from alrc.lab.arms.loss_dropper import LossDropper
from alrc.lab.arms.rows import column
from alrc.lab.arms.sce import SCE
from alrc.lab.arms.trim import Trim
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.series import read_series
from alrc.rule import Moments

CPU = torch.device("cpu")
BELOW = {"num_stddev": 2.0, "num_stddev_below": 1.5, "decay": 0.97}
STARTS = {"mu1_start": 2.0, "mu2_start": 9.0}
CASES: dict[str, tuple[Callable[[], Arm], Callable[[], Oracle]]] = {
    "huber": (lambda: Huber(0.3), lambda: oracles.huber(0.3, 2)),
    "huber quartic": (lambda: Huber(2.0, 4.0), lambda: oracles.huber(2, 4)),
    "trim": (Trim, lambda: oracles.trim("0.1")),
    "trim more": (lambda: Trim(0.55), lambda: oracles.trim("0.55")),
    "loss-dropper": (lambda: LossDropper(memory=50), lambda: oracles.loss_dropper(0.4, 50)),
    "loss-dropper less": (lambda: LossDropper(0.1, 70), lambda: oracles.loss_dropper(0.1, 70)),
    "gce": (GCE, lambda: oracles.gce(0.7)),
    "sce": (SCE, lambda: oracles.sce(0.1, 1.0, 4.0)),
    "alrc-clamp": (lambda: AlrcClamp(2.0), lambda: oracles.alrc_clamp(num_stddev=2.0)),
    "alrc-clamp below": (lambda: AlrcClamp(**BELOW), lambda: oracles.alrc_clamp(**BELOW)),
    "alrc-drop": (lambda: AlrcDrop(1.0), lambda: oracles.alrc_drop(num_stddev=1.0)),
    "alrc-drop starts": (lambda: AlrcDrop(**STARTS), lambda: oracles.alrc_drop(**STARTS)),
    "alrc-log": (lambda: AlrcLog(1.5), lambda: oracles.alrc_log(1.5)),
    "alrc-log below": (
        lambda: AlrcLog(2.0, 0.97, num_stddev_below=1.5, warmup=3),
        lambda: oracles.alrc_log(2, 1.5, 0.97, 3),
    ),
    "alrc-log starts": (
        lambda: AlrcLog(1.0, **STARTS),
        lambda: oracles.alrc_log(1, starts=(2.0, 9.0)),
    ),
}


def stream(steps: int = 300, shape: tuple[int, ...] = (8,)) -> Iterator[Tensor]:
    """Losses that spread over decades, some of them 0, NaN, infinite, or a thousand times too
    large; once a batch of nothing else than NaN."""
    rng = np.random.default_rng(8)
    for step in range(steps):
        losses = rng.lognormal(0.0, 1.5, shape) * np.where(rng.random(shape) < 0.02, 1000, 1)
        losses[rng.random(shape) < 0.03] = 0.0
        losses.flat[0] = {20: math.nan, 40: math.inf, 60: 0.0}.get(step % 80, losses.flat[0])
        yield torch.tensor(losses if step != 150 else losses * math.nan, dtype=torch.float32)


def begun(arm: Arm) -> Arm:
    arm.begin(CPU)
    return arm


def changed(arm: Arm, losses: Tensor) -> tuple[Tensor, Tensor]:
    """The losses to train with, and the gradient of their sum."""
    leaf = losses.clone().requires_grad_()
    limited = arm.limit("loss", leaf)
    return limited.detach(), torch.autograd.grad(limited.sum(), leaf)[0]


def state_of(arm: Arm) -> Mapping[str, Any]:
    if isinstance(arm, LossDropper):
        return {"cutoff": arm.cutoff["loss"], "latest": arm.latest["loss"].sort().values}
    if isinstance(arm, AlrcLog):
        return dict(zip(("mean", "variance", "num_updates"), arm.moments["loss"], strict=True))
    if isinstance(arm, LimiterArm):
        return {**arm.limiter("loss").state_dict(), "upper": arm.threshold("loss")}
    return {}


def assert_follows(arm: Arm, oracle: Oracle) -> None:
    """Compares values, gradients and state at every step."""
    begun(arm)
    differing = 0
    for losses in stream():
        values, factors, state = oracle(losses.double().tolist())
        own = [x.double().numpy() for x in changed(arm, losses)]
        np.testing.assert_allclose(own[0], values, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(own[1], factors, rtol=2e-5, atol=1e-7)
        mine = state_of(arm)
        for name, expected in state.items():
            numbers = mine[name].double().flatten().numpy()
            wanted = np.full(numbers.shape, np.nan)  # places of the memory that are still empty
            wanted[: np.size(expected)] = expected
            np.testing.assert_allclose(numbers, wanted, rtol=1e-4, atol=1e-6, err_msg=name)
        differing += factors != [1.0] * len(factors)
    assert differing > 30


@pytest.mark.parametrize("name", CASES)
def test_an_arm_follows_its_formula_at_every_step(name: str) -> None:
    arm, oracle = CASES[name]
    assert_follows(arm(), oracle())


class HuberInUnitsOfTheLoss(Huber):
    def __post_init__(self) -> None:
        self.delta = self.delta ** (1 / self.power)


class HuberOfValueAlone(Huber):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return losses + (super().change(name, losses) - losses).detach()


class TrimmedWithoutWeight(Trim):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return torch.where(super().change(name, losses) != 0, losses, 0.0)


class TrimmedBelow(Trim):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return -super().change(name, -losses)


class DropperOfTheWrongSide(LossDropper):
    def __post_init__(self) -> None:
        self.dropc = 1 - self.dropc


class DropperWithoutThisBatch(LossDropper):
    def change(self, name: str, losses: Tensor) -> Tensor:
        before = self.cutoff.get(name, torch.full((len(losses),), math.inf))
        super().change(name, losses)
        return torch.where(losses < column(before, losses), losses, 0.0)


class DropperOfEveryStep(LossDropper):
    def look(self, name: str, rows: Tensor) -> None:
        self.since[name] = self.memory
        super().look(name, rows)


class DropperThatKeepsTheGradient(LossDropper):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return losses + (super().change(name, losses) - losses).detach().nan_to_num()


class UnscaledGCE(GCE):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return self.q * super().change(name, losses)


class SCEOfTheCode(SCE):
    def __post_init__(self) -> None:
        self.a = -math.log(1e-4)


class ClampWithGradient(AlrcClamp):
    def trained(self, losses: Tensor, limited: Tensor, runs: int = 1) -> Tensor:
        return limited


class DropWithoutWeight(AlrcDrop):
    def trained(self, losses: Tensor, limited: Tensor, runs: int = 1) -> Tensor:
        return torch.where(self.is_limited(losses, limited), 0.0, losses)


class DropWithOwnMoments(AlrcDrop):
    """Whose moments do not see what is dropped."""

    def limit(self, name: str, losses: Tensor) -> Tensor:
        limit = self.threshold(name)
        assert limit is not None
        kept = super().limit(name, torch.where(losses > limit, math.nan, losses))
        return torch.where(losses > limit, 0.0, kept)


class LogThatCountsZeros(AlrcLog):
    def change(self, name: str, losses: Tensor) -> Tensor:
        return super().change(name, losses.clamp(min=1e-7))


class LogOfUnlimitedMoments(AlrcLog):
    def change(self, name: str, losses: Tensor) -> Tensor:
        before, limited = self.moments.get(name, self.first), super().change(name, losses)
        free = replace(self.settings(), num_stddev=math.inf)
        self.moments[name] = list(log_scale.clip(losses.detach(), Moments(*before), free)[1])
        return limited


FAULTS = {
    "huber": [
        lambda: HuberInUnitsOfTheLoss(0.3),
        lambda: HuberOfValueAlone(0.3),
        lambda: Huber(0.6),
    ],
    "huber quartic": [lambda: HuberInUnitsOfTheLoss(2.0, 4.0), lambda: Huber(2.0, 2.0)],
    "trim": [TrimmedWithoutWeight, TrimmedBelow, lambda: Trim(0.2)],
    "loss-dropper less": [
        lambda: DropperOfTheWrongSide(0.1, 70),
        lambda: DropperWithoutThisBatch(0.1, 70),
        lambda: DropperOfEveryStep(0.1, 70),
        lambda: DropperThatKeepsTheGradient(0.1, 70),
    ],
    "gce": [UnscaledGCE],
    "sce": [SCEOfTheCode],
    "alrc-clamp": [lambda: ClampWithGradient(2.0), lambda: AlrcDrop(2.0), lambda: Alrc(2.0)],
    "alrc-drop": [lambda: DropWithoutWeight(1.0), lambda: DropWithOwnMoments(1.0)],
    "alrc-log": [
        lambda: LogThatCountsZeros(1.5),
        lambda: LogOfUnlimitedMoments(1.5),
        lambda: Alrc(1.5),
    ],
}


@pytest.mark.parametrize(
    ("name", "faulty"), [(name, faulty) for name, those in FAULTS.items() for faulty in those]
)
def test_a_planted_fault_is_seen(name: str, faulty: Callable[[], Arm]) -> None:
    with pytest.raises(AssertionError):
        assert_follows(faulty(), CASES[name][1]())


def test_huber_is_twice_the_published_one_of_a_residual() -> None:
    residuals = torch.linspace(-3, 3, 40, dtype=torch.float64).requires_grad_()
    losses = begun(Huber(0.7)).limit("loss", residuals.square())
    expected = 2 * published_huber(0.7, residuals.detach().numpy())
    np.testing.assert_allclose(losses.detach().numpy(), expected)
    (gradient,) = torch.autograd.grad(losses.sum(), residuals)
    np.testing.assert_allclose(gradient, 2 * residuals.detach().clamp(-0.7, 0.7))
    zero = torch.zeros(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(begun(Huber(0.7)).limit("loss", zero.square()).sum(), zero)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


def test_entropies_are_those_of_the_whole_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(32, 10, dtype=torch.float64, generator=generator)
    labels = torch.randint(10, (32,), generator=generator)
    losses = cross_entropy(logits, labels, reduction="none")
    p = logits.softmax(1)
    logs = torch.full_like(p, -4.0).scatter(1, labels[:, None], 0.0)  # of labels that are certain
    symmetric = 0.1 * losses - (p * logs).sum(1)
    torch.testing.assert_close(begun(SCE()).limit("loss", losses), symmetric)
    generalised = (1 - p[torch.arange(32), labels] ** 0.7) / 0.7
    torch.testing.assert_close(begun(GCE()).limit("loss", losses), generalised)


def test_a_batch_of_one_is_never_trimmed() -> None:
    for losses in (torch.tensor([5.0]), torch.tensor(5.0)):
        value, factor = changed(begun(Trim(0.9)), losses)
        assert torch.equal(value, losses)
        assert factor.item() == 1


def test_the_dropper_drops_from_more_than_ten_thousand_losses_on() -> None:
    arm = begun(LossDropper())
    rng = torch.Generator().manual_seed(0)
    batches = [torch.rand(16, generator=rng) for _ in range(1253)]
    cutoffs = [(arm.limit("loss", x), arm.cutoff["loss"].item())[1] for x in batches]  # type: ignore[attr-defined]
    assert [i for i in range(1, 1253) if cutoffs[i] != cutoffs[i - 1]] == [625, 1251]
    together = torch.cat(batches[:626])[-10_000:]
    assert cutoffs[625] == pytest.approx(np.quantile(together.numpy(), 0.6), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("runs", [None, 3])
def test_an_arm_goes_on_from_its_checkpoint_bit_for_bit(name: str, runs: int | None) -> None:
    def made() -> Arm:
        arm = CASES[name][0]()
        stacked = arm.stacked(runs) if runs else arm
        assert stacked is not None
        return begun(stacked)

    whole, parts = made(), made()
    for step, losses in enumerate(stream(60, (runs, 8) if runs else (8,))):
        if step == 33:
            file = io.BytesIO()
            torch.save(parts.state_dict(), file)
            file.seek(0)
            parts = made().load_state_dict(torch.load(file, weights_only=True))
        for one, other in zip(changed(whole, losses), changed(parts, losses), strict=True):
            assert one.numpy().tobytes() == other.numpy().tobytes()


ARMS = [
    "huber delta=0.3",
    "trim share=0.4",
    "loss-dropper dropc=0.3 memory=20",
    "gce",
    "sce",
    "alrc-clamp num_stddev=1.0",
    "alrc-clamp num_stddev=1.0 per=batch",
    "alrc-drop num_stddev=1.0",
    "alrc-drop num_stddev=1.0 per=batch",
    "alrc-log num_stddev=1.0",
    "alrc-log num_stddev=1.0 num_stddev_below=1.5 per=batch",
    "alrc-log num_stddev=1.0 + loss-dropper memory=30",
]


@pytest.mark.parametrize("task", ["Dense width=4", "Convolutional"])
def test_an_arm_alone_is_its_row_of_an_ensemble(task: str, tmp_path: Path) -> None:
    specs = {f"{i} {s}": spec(task, arm, s, steps=60) for i, arm in enumerate(ARMS) for s in (2, 3)}
    together = run_job(Job(specs), tmp_path / "together" / "runs")
    for name, single in specs.items():
        alone = run_job(Job({name: single}), tmp_path / "alone" / "runs")[name]
        assert together[name]["trained_with"] == len(specs)
        assert together[name]["series"].keys() == alone["series"].keys()
        for series in alone["series"]:
            folders = (tmp_path / "together" / "runs" / name, tmp_path / "alone" / "runs" / name)
            rows = [
                read_series(folder, result, series)
                for folder, result in zip(folders, (together[name], alone), strict=True)
            ]
            np.testing.assert_allclose(*rows, rtol=1e-3, atol=1e-5, err_msg=f"{name} {series}")
        changed_losses = [x for x in alone["losses"].values() if x["limited"]]
        assert changed_losses, ARMS[int(name.split()[0])]
