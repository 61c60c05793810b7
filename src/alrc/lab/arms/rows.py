"""Arms that are written once, for any number of runs beside each other: one in a run alone.

All that their methods see has a first axis of runs, and what is done to one run does not depend on
the others. A run alone is a row of its own.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from alrc.lab.api import Arm

__all__ = [
    "GradientArm",
    "LossArm",
    "RowsArm",
    "column",
    "each_norm",
    "mean_of_kept",
    "norms",
    "scale",
]


class RowsArm(Arm):
    """What both kinds share. A class that derives from one says ``stacked = RowsArm.rows``."""

    runs: int | None = None  # None is a run alone, whose losses have no axis of runs

    def start(self, runs: int, device: torch.device) -> None:
        """Makes the state with which so many runs begin: each tensor has a first axis of them."""

    def numbers(self) -> Mapping[str, Tensor]:
        """Numbers of the last phase for the report, each of shape ``(runs,)``."""
        return {}

    def begin(self, device: torch.device) -> None:
        self.start(self.runs or 1, device)

    def logged(self) -> Mapping[str, Tensor]:
        return {name: x if self.runs else x[0] for name, x in self.numbers().items()}

    def rows(self, members: int) -> Arm:
        """The same arm for so many runs."""
        arm = copy.copy(self)
        arm.runs = members
        return arm


class LossArm(RowsArm):
    """Changes losses."""

    def change(self, name: str, losses: Tensor) -> Tensor:
        """The losses to train with: ``(runs, ...)``, of the same shape, or one for each run."""
        raise NotImplementedError

    def limits(self, name: str) -> Tensor | None:
        """The limit of each run's next losses for the report, ``(runs,)``; None without one."""
        return None

    def threshold(self, name: str) -> Tensor | None:
        limits = self.limits(name)
        return limits if limits is None or self.runs else limits[0]

    def limit(self, name: str, losses: Tensor) -> Tensor:
        return self.change(name, losses) if self.runs else self.change(name, losses[None])[0]


class GradientArm(RowsArm):
    """Changes gradients, or says which runs may take a step, or how much of it."""

    hook: RemovableHandle | None = None  # what share_step left with the optimizer

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> Tensor | None:
        """Changes gradients in place.

        Args:
            loss: What each run minimises, ``(runs,)``.
            gradients: Of each parameter, ``(runs, ...)``.
            values: The parameters, in the same order.
            optimizer: Takes its step afterwards, unless the result says no.

        Returns:
            Which runs may take the step, ``(runs,)``; None if all may.
        """
        raise NotImplementedError

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        values = [p.detach() for p in parameters if p.grad is not None]
        if self.runs is None:
            loss, gradients, values = (
                loss[None],
                [g[None] for g in gradients],
                [v[None] for v in values],
            )
        with torch.no_grad():
            ok = self.change(loss, gradients, values, optimizer)
        if ok is not None:
            self.step_ok = ok if self.runs else bool(ok[0])

    def share_step(
        self, shares: Sequence[Tensor], values: Sequence[Tensor], optimizer: Optimizer
    ) -> None:
        """Lets the step that follows go only a share of its way.

        With Adam, AdamW and SGD it is the step with that share of the learning rate. The learning
        rate itself stays: it belongs to a schedule, and to the other runs of an ensemble.

        Args:
            shares: For each parameter, that of each run, ``(runs,)``.
            values: The parameters.
            optimizer: Takes the step.
        """
        if self.hook is not None:
            self.hook.remove()  # that of the last step, whether it was taken or skipped
            self.hook = None
        if all(bool((share == 1).all()) for share in shares):
            return
        before = [value.clone() for value in values]

        def go_back(*_: object) -> None:
            for value, start, share in zip(values, before, shares, strict=True):
                value.copy_(torch.lerp(start, value, column(share, value)))

        self.hook = optimizer.register_step_post_hook(go_back)

    def state_dict(self) -> dict[str, Any]:
        return {name: x for name, x in super().state_dict().items() if name != "hook"}


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """One number for each run, shaped to meet a tensor ``(runs, ...)``."""
    return numbers.view(-1, *[1] * (like.dim() - 1))


def each_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of the gradient of each parameter, ``(runs, parameters)``."""
    return torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients], dim=1)


def mean_of_kept(losses: Tensor, kept: Tensor) -> Tensor:
    """Losses of which only some are kept, weighted so that the mean of all is that of those.

    The others become 0, without a gradient. A run that keeps none has a mean of 0.

    Args:
        losses: Of each run, ``(runs, ...)``.
        kept: Which of them are, of the same shape.
    """
    rows = kept.reshape(len(kept), -1)
    weight = rows.shape[1] / rows.sum(1).clamp(min=1)
    return torch.where(kept, losses * column(weight, losses), 0.0)


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of the whole gradient of each run, ``(runs,)``."""
    whole: Tensor = each_norm(gradients).norm(dim=1)
    return whole


def scale(gradients: Sequence[Tensor], shares: Tensor) -> None:
    """Multiplies gradients by a number for each run, ``(runs,)``, in place."""
    for gradient in gradients:
        gradient.mul_(column(shares.to(gradient.dtype), gradient))
