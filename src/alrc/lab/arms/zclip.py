"""The norm of the gradient, limited where it is an outlier among those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Ge, Gt, Lt
from alrc.lab.arms.rows import GradientArm, RowsArm, norms, scale

__all__ = ["ZClip"]


@dataclass
class ZClip(GradientArm):
    """Scales a gradient down whose norm n is z > z_threshold standard deviations above its mean.

    n* = mean + z_threshold * sd / (z / z_threshold), z = (n - mean) / (sd + 1e-6), and n* = n below
    the threshold; then g <- g * min(n*, max_norm) / (n + 1e-6) where n is above that.
    mean <- alpha mean + (1 - alpha) n*, and the variance likewise, about the new mean; they begin
    with those of the first norms, which max_norm alone limits.

    As ``zclip.py`` of bluorion-com/ZClip in the mode "zscore" with "adaptive_scaling", where
    max_norm is 1 by default. A norm that is NaN limits nothing, and makes mean and variance NaN for
    good, so that only max_norm is left; with an infinite one, gradients become 0, or NaN where they
    were infinite.

    References:
        A. Kumar et al., "ZClip: adaptive spike mitigation for LLM pre-training", 2025,
        https://arxiv.org/abs/2504.02507.
    """

    alpha: Annotated[float, Ge(0), Lt(1), "Share of the old mean and variance kept."] = 0.97
    z_threshold: Annotated[float, Gt(0), "Standard deviations above the mean."] = 2.5
    warmup: Annotated[int, Ge(1), "Steps that the first mean and variance are of."] = 25
    max_norm: Annotated[float | None, Gt(0), "Largest norm; without it, any."] = None

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        self.calls = 0
        self.first = torch.zeros(runs, self.warmup, dtype=torch.float64, device=device)
        self.mean, self.variance = torch.zeros(2, runs, dtype=torch.float64, device=device)

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> None:
        self.norm = norms(gradients)
        norm = self.norm.double()
        self.calls += 1
        if self.calls <= self.warmup:
            self.first[:, self.calls - 1] = norm
            if self.calls == self.warmup:
                self.mean, self.variance = self.first.mean(1), self.first.var(1, correction=0)
            if self.max_norm is not None:
                scale(gradients, (self.max_norm / (norm + 1e-6)).clamp(max=1.0))
            return
        sd = self.variance.sqrt()
        z = (norm - self.mean) / (sd + 1e-6)
        kept = torch.where(z > self.z_threshold, self.mean + self.z_threshold**2 * sd / z, norm)
        self.mean = self.alpha * self.mean + (1 - self.alpha) * kept
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (kept - self.mean) ** 2
        limit = kept if self.max_norm is None else kept.clamp(max=self.max_norm)
        scale(gradients, torch.where(norm > limit, limit / (norm + 1e-6), 1.0))

    def numbers(self) -> Mapping[str, Tensor]:
        return {"gradient_norm": self.norm}
