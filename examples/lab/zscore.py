"""An arm of one's own: gradient norms are limited by their running z-score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alrc.lab.api import Arm, Ge, Gt, Lt


@dataclass
class ZScore(Arm):
    """Scales a gradient down whose norm is more than z standard deviations above its mean."""

    z: Annotated[float, Gt(0), "Standard deviations above the mean norm."] = 2.5
    decay: Annotated[float, Ge(0), Lt(1), "Of the moments of the norm."] = 0.97
    warmup: Annotated[int, Ge(1), "Steps before the first limit."] = 25

    def begin(self, device: torch.device) -> None:
        # All that is set on the arm beside its options is its state, and is kept in checkpoints.
        self.seen: list[float] = []
        self.mean, self.variance, self.norm = 0.0, 0.0, 0.0

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.norm = nn.utils.get_total_norm(gradients).item()
        if len(self.seen) < self.warmup:
            self.seen.append(self.norm)
            norms = torch.tensor(self.seen, dtype=torch.float64)
            self.mean, self.variance = norms.mean().item(), norms.var(correction=0).item()
            return
        limit = self.mean + self.z * self.variance**0.5
        if self.norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / self.norm)
        norm = min(self.norm, limit)
        self.mean = self.decay * self.mean + (1 - self.decay) * norm
        self.variance = self.decay * self.variance + (1 - self.decay) * (norm - self.mean) ** 2

    def logged(self) -> Mapping[str, float | Tensor]:
        return {"gradient_norm": self.norm}
