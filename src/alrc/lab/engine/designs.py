"""What is done to the losses and gradients of the members of an ensemble: their arms, optimizers.

Members of one design either share an arm in its stacked form, or have an arm, an optimizer and a
schedule each, which are those of a run alone and do not know of the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alrc.lab.api import Arm, Task
from alrc.lab.engine.chain import stacked_form
from alrc.lab.engine.rows import PHASE, Rows, hyperparameters, load_state, state_of
from alrc.lab.engine.series import ABSENT
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.stacking import Stack
from alrc.lab.engine.steps import SKIPPED, act_and_step, schedules_of

__all__ = ["Design", "make_design"]

Losses = Mapping[str, Tensor]
Record = Callable[[str, Tensor], None]


class Design:
    """Members with the same arm, trained in the same way, beside each other in the stack.

    Args:
        task: What is learned.
        specs: Of its members.
        stack: The networks of all members.
        start: The first of its members in the stack.
    """

    is_stacked = False
    rows: Rows | None = None  # the optimizer that it shares; None where each member has its own

    def __init__(self, task: Task, specs: Sequence[Spec], stack: Stack, start: int) -> None:
        self.task, self.specs, self.training = task, specs, specs[0].training
        self.members = range(start, start + len(specs))
        self.limits_losses: bool = specs[0].config["losses_limited"]

    def limit(self, losses: Losses, record: Record) -> list[Losses]:
        """The limited losses of its members, along first axes."""
        raise NotImplementedError

    def after_backward(self, loss: Tensor) -> list[bool]:
        """Lets the arm change the gradients, where ``loss`` is what each member minimises.

        Returns:
            Whether the shared optimizer may take its step, for each member.
        """
        raise NotImplementedError

    def log(self, record: Record) -> None:
        """Records what the arm logs of a step that is over."""
        raise NotImplementedError

    def state_dict(self) -> Any:
        raise NotImplementedError

    def load_state_dict(self, state: Any) -> None:
        raise NotImplementedError


def make_design(task: Task, specs: Sequence[Spec], stack: Stack, start: int) -> Design:
    """The members' arm in its stacked form, if it has one, or else an arm for each."""
    stacked = stacked_form(specs[0].make_arm(), len(specs))
    if stacked is None:
        return _Separate(task, specs, stack, start)
    return _Stacked(task, specs, stack, start, stacked)


class _Stacked(Design):
    is_stacked = True

    def __init__(
        self, task: Task, specs: Sequence[Spec], stack: Stack, start: int, arm: Arm
    ) -> None:
        super().__init__(task, specs, stack, start)
        self.arm, span = arm, slice(start, start + len(specs))
        self.values = stack.views(stack.values[span])
        self.gradients = stack.views(stack.gradients[span])
        self.parameters = [nn.Parameter(value) for value in self.values]
        _bring_back(self.parameters, self.values, self.gradients)
        self.touches_gradients = type(arm).after_backward is not Arm.after_backward
        self.ok = [True] * len(specs)  # whether each may take its step
        arm.begin(stack.values.device)

    def limit(self, losses: Losses, record: Record) -> list[Losses]:
        limited = {}
        for name, x in losses.items():
            if (limit := self.arm.threshold(name)) is not None:
                record(f"{name}.limit", self._checked(limit).clone())  # it may move in place
            limited[name] = self._checked(self.arm.limit(name, x))
            if self.limits_losses:
                record(f"{name}.limited", limited[name])
        return [limited]

    def after_backward(self, loss: Tensor) -> list[bool]:
        count, arm = len(self.specs), self.arm
        if not self.touches_gradients:
            return self.ok
        assert self.rows is not None
        before = hyperparameters(self.rows.optimizer)
        arm.step_ok = True
        arm.after_backward(PHASE, loss, self.parameters, self.rows.optimizer)
        if hyperparameters(self.rows.optimizer) != before:
            raise ValueError(
                f"{self.specs[0].arm.short_name}: its stacked form must leave the optimizer as it "
                "is, because other arms share it. Return None from stacked(), and each run has an "
                "optimizer of its own."
            )
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if parameter.grad is None:
                raise ValueError(
                    f"{self.specs[0].arm.short_name}: its stacked form must leave a gradient for "
                    "each parameter; it removed one. To skip a step, set step_ok to False."
                )
            if parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
        _bring_back(self.parameters, self.values, self.gradients)
        ok = arm.step_ok
        self.ok = ok.tolist() if isinstance(ok, Tensor) and ok.dim() else [bool(ok)] * count
        return self.ok

    def log(self, record: Record) -> None:
        logged = self.arm.logged()
        for name, x in logged.items():
            record(f"arm.{name}.{PHASE}", self._checked(torch.as_tensor(x)))
        if SKIPPED not in logged:
            _record(record, f"arm.{SKIPPED}.{PHASE}", [None if ok else 1 for ok in self.ok])

    def _checked(self, x: Tensor) -> Tensor:
        if not x.dim() or len(x) != len(self.specs):
            raise ValueError(
                f"{self.specs[0].arm.short_name}: its stacked form must give a first axis of its "
                f"{len(self.specs)} members; got the shape {tuple(x.shape)}."
            )
        return x

    def state_dict(self) -> Any:
        return self.arm.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.arm.load_state_dict(state)


class _Separate(Design):
    def __init__(self, task: Task, specs: Sequence[Spec], stack: Stack, start: int) -> None:
        super().__init__(task, specs, stack, start)
        self.runs = [
            _Run(task, spec, stack, member)
            for member, spec in zip(self.members, specs, strict=True)
        ]

    def limit(self, losses: Losses, record: Record) -> list[Losses]:
        columns = {name: x.unbind() for name, x in losses.items()}
        rows = [{name: x[i] for name, x in columns.items()} for i in range(len(self.runs))]
        done = [run.limit(row) for run, row in zip(self.runs, rows, strict=True)]
        for name in losses:
            _record(record, f"{name}.limit", [limits.get(name) for _, limits in done])
            if self.limits_losses:
                _record(record, f"{name}.limited", [limited[name] for limited, _ in done])
        return [{name: x[None] for name, x in limited.items()} for limited, _ in done]

    def after_backward(self, loss: Tensor) -> list[bool]:
        for run, own in zip(self.runs, loss.unbind(), strict=True):
            run.after_backward(own)
        return []

    def log(self, record: Record) -> None:
        logged = [run.logged() for run in self.runs]
        for name in dict.fromkeys(name for numbers in logged for name in numbers):
            _record(record, f"arm.{name}.{PHASE}", [numbers.get(name) for numbers in logged])

    def state_dict(self) -> Any:
        return [run.state_dict() for run in self.runs]

    def load_state_dict(self, state: Any) -> None:
        for run, saved in zip(self.runs, state, strict=True):
            run.load_state_dict(saved)


class _Run:
    """A member's own arm, optimizer, schedules, and random numbers: those that it has alone."""

    def __init__(self, task: Task, spec: Spec, stack: Stack, member: int) -> None:
        self.arm = spec.make_arm()
        self.optimizer = task.optimizers(stack.networks[member], spec.training)[PHASE]
        self.schedules = schedules_of(task, {PHASE: self.optimizer}, spec.training)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.values = [p.detach() for p in self.parameters]
        self.gradients = [p.grad for p in self.parameters]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.arm.begin(stack.values.device)
            self.random = torch.get_rng_state()

    def limit(self, losses: Losses) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        limited, limits = {}, {}
        with _OwnRandom(self):
            for name, x in losses.items():
                if (limit := self.arm.threshold(name)) is not None:
                    limits[name] = limit.clone()
                limited[name] = self.arm.limit(name, x)
        return limited, limits

    def after_backward(self, loss: Tensor) -> None:
        with _OwnRandom(self):
            self.stepped = act_and_step(self.arm, PHASE, loss, self.parameters, self.optimizer)
        for schedule in self.schedules.values():
            schedule.step()
        _bring_back(self.parameters, self.values, self.gradients)

    def logged(self) -> Mapping[str, float | Tensor]:
        with _OwnRandom(self):
            return {**({} if self.stepped else {SKIPPED: 1}), **self.arm.logged()}

    def state_dict(self) -> dict[str, Any]:
        mine = {"arm": self.arm.state_dict(), "random": self.random}
        return {**mine, **state_of(self.optimizer, self.schedules)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.arm.load_state_dict(state["arm"])
        self.random = state["random"]
        load_state(self.optimizer, self.schedules, state)


class _OwnRandom:
    """Lets a run draw its own random numbers, not those of the others."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def __enter__(self) -> None:
        self.outside = torch.get_rng_state()
        torch.set_rng_state(self.run.random)

    def __exit__(self, *error: object) -> None:
        self.run.random = torch.get_rng_state()
        torch.set_rng_state(self.outside)


def _bring_back(
    parameters: Sequence[nn.Parameter], values: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> None:
    """Lets parameters be those of the stack again, where an arm put others in their place."""
    for parameter, value, gradient in zip(parameters, values, gradients, strict=True):
        parameter.grad = gradient
        if parameter.data_ptr() != value.data_ptr():
            value.copy_(parameter.detach())
            parameter.data = value


def _record(record: Record, name: str, rows: Sequence[Tensor | float | None]) -> None:
    """Records what may be there for some members only."""
    tensors = [None if x is None else torch.as_tensor(x).detach().float() for x in rows]
    like = next((x for x in tensors if x is not None), None)
    if like is not None:
        absent = torch.from_numpy(np.full(like.shape, ABSENT).view(np.float32)).to(like.device)
        record(name, torch.stack([absent if x is None else x for x in tensors]))
