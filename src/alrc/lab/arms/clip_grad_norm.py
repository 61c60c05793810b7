"""The norm of the gradient, limited: what most people use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.optim import Optimizer

from alrc.lab.api import Arm, Gt

__all__ = ["ClipGradNorm"]


@dataclass
class ClipGradNorm(Arm):
    """Scales the gradient of a phase down to a norm, as ``torch.nn.utils.clip_grad_norm_`` does."""

    max_norm: Annotated[float, Gt(0), "Largest norm of the gradient."] = 1.0

    def after_backward(
        self, phase: str, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        norm = nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.norms = {f"gradient_norm.{phase}": norm}

    def logged(self) -> Mapping[str, float | Tensor]:
        return self.norms
