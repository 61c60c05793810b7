"""Arms that act on losses, against their published formulas in plain float64, at every step."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from loss_rivals import CASES, assert_follows, begun, changed, stream
from scipy.special import huber as published_huber
from stackable import spec
from torch import Tensor
from torch.nn.functional import cross_entropy

from alrc.lab.api import Arm
from alrc.lab.arms.alrc import Alrc
from alrc.lab.arms.alrc_clamp import AlrcClamp
from alrc.lab.arms.alrc_drop import AlrcDrop
from alrc.lab.arms.alrc_log import AlrcLog
from alrc.lab.arms.gce import GCE
from alrc.lab.arms.huber import Huber
from alrc.lab.arms.loss_dropper import LossDropper
from alrc.lab.arms.rows import column, mean_of_kept
from alrc.lab.arms.sce import SCE
from alrc.lab.arms.trim import Trim
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.series import read_series
from alrc.rule import LogMoments
from alrc.settings import Settings
from alrc.torch import clip


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
        kept = ~(losses > limit)
        super().limit(name, torch.where(kept, losses, math.nan))
        return mean_of_kept(losses[None], kept[None])[0]


class LogThatCountsZeros(AlrcLog):
    def limit(self, name: str, losses: Tensor) -> Tensor:
        return super().limit(name, losses.clamp(min=1e-7))


class LogOfUnlimitedMoments(AlrcLog):
    def limit(self, name: str, losses: Tensor) -> Tensor:
        before = LogMoments(*list(self.limiter(name).state_dict().values())[:3])
        before, limited = LogMoments(*map(torch.clone, before)), super().limit(name, losses)
        free = Settings(num_stddev=math.inf, scale="log")
        _, moved = clip(losses.detach(), before, free)
        self.limiter(name).load_dict(moved.to_dict())
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
    "huberise above=0.3",
    "alrc num_stddev=1.0 per=batch + huberise above=0.3",
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
    specs = {f"{i} {s}": spec(task, arm, s, steps=40) for i, arm in enumerate(ARMS) for s in (2, 3)}
    together = run_job(Job(specs), tmp_path / "together" / "runs")
    for name, single in specs.items():
        if single.seed == 2:
            continue
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
