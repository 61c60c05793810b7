"""Tasks with several phases: what they must give, and what arms log of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from alrc.lab.api import Arm, Metric, Networks, Task, Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import is_present, read_series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Stopped, train

STEPS = 12
EXAMPLES = Path(__file__).parents[2] / "examples" / "lab"


class Slope(nn.Module):
    """Has a parameter that no loss depends on."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight, self.unused = (nn.Parameter(torch.tensor(value)) for _ in range(2))


@dataclass(frozen=True)
class Both(Task):
    """The first weight falls by 3 in each step, the second, from the middle on, by 5."""

    metrics: ClassVar = (Metric("sum"),)

    def build(self, seed: int) -> Networks:
        return {"first": Slope(0.0), "second": Slope(0.0)}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Tensor]:
        return repeat(torch.zeros(()))

    def phases(self, step: int, training: Training) -> tuple[str, ...]:
        return ("step", "late") if step >= training.steps // 2 else ("step",)

    def optimizers(self, networks: Networks, training: Training) -> Mapping[str, Optimizer]:
        return {
            phase: training.make_optimizer(network.parameters())
            for phase, network in zip(("step", "late"), networks.values(), strict=True)
        }

    def step(self, networks: Networks, batch: Tensor) -> Mapping[str, Tensor]:
        return {"first": 3 * networks["first"].weight}

    def late(self, networks: Networks, batch: Tensor) -> Mapping[str, Tensor]:
        return {"second": 5 * networks["second"].weight}

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        return {"sum": sum(network.weight.item() for network in networks.values())}


class Together(Both):
    """Both phases have the same optimizer."""

    def optimizers(self, networks: Networks, training: Training) -> Mapping[str, Optimizer]:
        parameters = [p for network in networks.values() for p in network.parameters()]
        return dict.fromkeys(("step", "late"), training.make_optimizer(parameters))


@dataclass
class Counting(Arm):
    """Counts the steps that it sees, and looks at what is minimised."""

    def begin(self, device: torch.device) -> None:
        self.steps = 0

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        assert loss.shape == ()
        assert not loss.requires_grad
        self.steps, self.loss = self.steps + 1, loss

    def logged(self) -> Mapping[str, float | Tensor]:
        return {"steps": self.steps, "loss": self.loss}


class NoMethod(Both):
    def phases(self, step: int, training: Training) -> tuple[str, ...]:
        return ("step", "later")


class NoOptimizer(Both):
    def optimizers(self, networks: Networks, training: Training) -> Mapping[str, Optimizer]:
        return {"step": training.make_optimizer(networks["first"].parameters())}


class Misspelt(Both):
    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        return {"setp": ConstantLR(optimizers["step"])}


def run(path: Path, task: str, arm: str = "off", **more: Any) -> dict[str, Any]:
    training = Training(STEPS, optimizer="sgd", learning_rate=0.01)
    named = Named.parse("arm", arm, EXAMPLES)
    spec = Spec(Named("task", f"{__file__}:{task}"), named, training, 0)
    with RunFolder(path, spec.config) as folder:
        return train(spec, folder, **more)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "NoMethod",
            "NoMethod must have a method later(networks, batch), because its phases name it.",
        ),
        (
            "NoOptimizer",
            "NoOptimizer.optimizers must give one for each phase; it gave step, and none for late.",
        ),
        (
            "Misspelt",
            "Misspelt.schedules must give them by phase, of which there are step, late; it gave "
            "one for setp.",
        ),
    ],
)
def test_phases_have_methods_and_optimizers_and_schedules_have_phases(
    task: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        run(tmp_path, task)
    assert str(caught.value) == message


@pytest.mark.parametrize("arm", ["clip-grad-norm max_norm=100", "zscore.py:ZScore"])
def test_what_an_arm_logs_is_kept_for_each_phase(arm: str, tmp_path: Path) -> None:
    result = run(tmp_path, "Both", arm)
    first, late = (
        read_series(tmp_path, result, f"arm.gradient_norm.{phase}") for phase in ("step", "late")
    )
    np.testing.assert_array_equal(first, np.full(STEPS, 3.0))
    np.testing.assert_array_equal(is_present(late), np.arange(STEPS) >= STEPS // 2)
    np.testing.assert_array_equal(late[STEPS // 2 :], np.full(STEPS // 2, 5.0))


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(
    ("task", "late"), [("Both", [1, 2, 3, 4, 5, 6]), ("Together", [8, 10, 12, 14, 16, 18])]
)
def test_an_arm_sees_the_phases_of_one_optimizer(
    task: str, late: list[int], stops: bool, tmp_path: Path
) -> None:
    arm, asked = f"{__file__}:Counting", itertools.count(1)
    if stops:
        with pytest.raises(Stopped):
            run(tmp_path, task, arm, stop=lambda: next(asked) == 9)
    result = run(tmp_path, task, arm)
    series = read_series(tmp_path, result, "arm.steps.late")
    np.testing.assert_array_equal(series[STEPS // 2 :], late)
    for phase, loss in (("step", "first"), ("late", "second")):
        pair = (read_series(tmp_path, result, n) for n in (f"arm.loss.{phase}", f"{loss}.raw"))
        np.testing.assert_array_equal(*pair)
