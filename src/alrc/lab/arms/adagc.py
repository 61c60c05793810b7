"""The gradient of each parameter, limited by its own norms before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Ge, Gt, Lt
from alrc.lab.arms.rows import GradientArm, RowsArm, column, each_norm

__all__ = ["AdaGC"]

EPS = 1e-6


@dataclass
class AdaGC(GradientArm):
    """Holds the norm n of each parameter's gradient near the exponential mean of those before.

    g <- g * limit / (n + 1e-6) where n > limit = ratio * usual, and then
    usual <- beta * usual + (1 - beta) * min(n, limit). During warm-up the norm of the whole
    gradient is held to max_norm instead, and ``usual`` is the smallest n that was left of it; a
    parameter whose gradient was 0 in one of these steps is never trained afterwards.

    As ``megatron-gpt2.patch`` of lishuai-97/AdaGC, whose defaults are 1.04 and 0.99, with the
    paper's 1.05 and 0.98. A gradient with NaN stays as it is, and after warm-up its parameter is
    never limited again; of an infinite one there is NaN left where it was infinite, and else 0.

    References:
        G. Wang et al., "AdaGC: enhancing LLM pretraining stability via adaptive gradient
        clipping", 2025, https://arxiv.org/abs/2502.11034.
    """

    ratio: Annotated[float, Gt(0), "Largest norm, in usual norms of the parameter."] = 1.05
    beta: Annotated[float, Ge(0), Lt(1), "Share of the usual norm kept at each step."] = 0.98
    warmup: Annotated[int, Ge(0), "Steps with the norm of the whole gradient limited."] = 100
    max_norm: Annotated[float, Gt(0), "Largest norm of the whole gradient in these."] = 1.0

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        self.calls = 0
        self.usual = torch.empty(runs, 0, device=device)  # of each parameter, once they are known

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> None:
        norm = each_norm(gradients)
        self.calls += 1
        if self.calls <= self.warmup:
            share = self.max_norm / (norm.norm(dim=1, keepdim=True) + EPS)
            shares = torch.where(share < 1, share, 1.0).expand_as(norm)
            left = norm * shares
            usual = left if self.calls == 1 else self.usual
            self.usual = torch.where(left < usual, left, usual)
        else:
            usual = norm if self.calls == 1 else self.usual
            limit = self.ratio * usual
            shares = torch.where(norm > limit, limit / (norm + EPS), 1.0)
            left = torch.where(norm > limit, limit, norm)
            self.usual = self.beta * usual + (1 - self.beta) * left
        for gradient, share in zip(gradients, shares.unbind(1), strict=True):
            gradient.mul_(column(share, gradient))
