"""The norm of the gradient, limited: what most people use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alrc.lab.api import Arm, Gt

__all__ = ["ClipGradNorm"]


@dataclass
class ClipGradNorm(Arm):
    """Scales the gradient of a phase down to a norm, as ``torch.nn.utils.clip_grad_norm_`` does."""

    max_norm: Annotated[float, Gt(0), "Largest norm of the gradient."] = 1.0

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        self.norm = nn.utils.clip_grad_norm_(parameters, self.max_norm)

    def logged(self) -> Mapping[str, float | Tensor]:
        return {"gradient_norm": self.norm}

    def stacked(self, members: int) -> Arm:
        return _Stacked(self.max_norm)


@dataclass
class _Stacked(ClipGradNorm):
    """With a norm for each member."""

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        rows = [p.grad.flatten(1) for p in parameters if p.grad is not None]
        self.norm = torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)
        share = (self.max_norm / (self.norm + 1e-6)).clamp(max=1.0)  # as PyTorch's
        for row in rows:
            row.mul_(share[:, None])
