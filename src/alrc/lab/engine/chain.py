"""Several arms as one, one after another."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alrc.lab.api import Arm

__all__ = ["Chain", "limits_losses", "stacked_form"]


class Chain(Arm):
    """What the first gives goes through the second, and so on; each has a state of its own.

    Args:
        parts: The arms, at least one.
    """

    def __init__(self, parts: Sequence[Arm]) -> None:
        self.parts = parts
        self.is_baseline = all(part.is_baseline for part in parts)  # type: ignore[misc]

    def options(self) -> dict[str, Any]:
        return _told_apart(part.options() for part in self.parts)

    def begin(self, device: torch.device) -> None:
        for part in self.parts:
            part.begin(device)

    def threshold(self, name: str) -> Tensor | None:
        """The lowest of their limits: a loss above it is changed by one of them."""
        limits = [x for part in self.parts if (x := part.threshold(name)) is not None]
        return functools.reduce(_lower, limits) if limits else None

    def limit(self, name: str, losses: Tensor) -> Tensor:
        for part in self.parts:
            losses = part.limit(name, losses)
        return losses

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        """All of them look, also where one before them has said no."""
        self.step_ok = True
        for part in self.parts:
            part.step_ok = True
            part.after_backward(phase, loss, parameters, optimizer)
            self.step_ok = _both(self.step_ok, part.step_ok)

    def stacked(self, members: int) -> Arm | None:
        forms = [stacked_form(part, members) for part in self.parts]
        found = [form for form in forms if form is not None]
        return Chain(found) if len(found) == len(forms) else None

    def logged(self) -> Mapping[str, float | Tensor]:
        return _told_apart(part.logged() for part in self.parts)

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])
        return self


def stacked_form(arm: Arm, members: int) -> Arm | None:
    """Its stacked form. One that is derived from another may do something else than that's."""
    return arm.stacked(members) if "stacked" in vars(type(arm)) else None


def limits_losses(arm: Arm) -> bool:
    """Whether it may change losses."""
    if isinstance(arm, Chain):
        return any(map(limits_losses, arm.parts))
    return type(arm).limit is not Arm.limit


def _told_apart(named: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All of them; with its place in the chain, what one before it has too."""
    together: dict[str, Any] = {}
    for place, values in enumerate(named, 1):
        together |= {f"{n}-{place}" if n in together else n: x for n, x in values.items()}
    return together


def _lower(one: Tensor, other: Tensor) -> Tensor:
    """The lower of each; first axes are the same, and those that one has not are its last."""
    most = max(one.dim(), other.dim())
    one, other = (x.reshape((*x.shape, *[1] * (most - x.dim()))) for x in (one, other))
    return torch.minimum(one, other)


def _both(one: bool | Tensor, other: bool | Tensor) -> bool | Tensor:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.logical_and(torch.as_tensor(one), torch.as_tensor(other))
    return bool(one) and bool(other)
