"""PyTorch's own optimizers, for many networks at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from alrc.lab.api import Task, Training
from alrc.lab.engine.stacking import Stack
from alrc.lab.engine.steps import schedules_of

__all__ = ["PHASE", "Rows", "hyperparameters", "load_state", "state_of"]

PHASE = "step"  # the only one of tasks that are stackable


class Rows:
    """The optimizer of all members with a stacked arm and the same options of training.

    A member's parameters are one row, which is one parameter for PyTorch's own optimizer, and
    which it leaves alone, with its state, where there is no gradient.

    Args:
        task: What is learned.
        training: How.
        stack: The networks.
        members: Whose rows.
    """

    def __init__(self, task: Task, training: Training, stack: Stack, members: list[int]) -> None:
        self.rows = [nn.Parameter(stack.values[i]) for i in members]
        self.gradients = [stack.gradients[i] for i in members]
        self.optimizer = training.make_optimizer(self.rows)
        self.schedules = schedules_of(task, {PHASE: self.optimizer}, training)

    def advance(self, steps_ok: Sequence[bool]) -> None:
        """One step of the optimizer, for those members that may take it."""
        for row, gradient, ok in zip(self.rows, self.gradients, steps_ok, strict=True):
            row.grad = gradient if ok else None
        self.optimizer.step()
        for schedule in self.schedules.values():
            schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return state_of(self.optimizer, self.schedules)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.optimizer, self.schedules, state)


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {name: x for name, x in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def state_of(optimizer: Optimizer, schedules: Mapping[str, Any]) -> dict[str, Any]:
    saved = {name: schedule.state_dict() for name, schedule in schedules.items()}
    return {"optimizer": optimizer.state_dict(), "schedules": saved}


def load_state(
    optimizer: Optimizer, schedules: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    optimizer.load_state_dict(state["optimizer"])
    for name, schedule in schedules.items():
        schedule.load_state_dict(state["schedules"][name])
