"""Each number of the gradient, limited."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Gt
from alrc.lab.arms.rows import GradientArm, RowsArm

__all__ = ["ClipGradValue"]


@dataclass
class ClipGradValue(GradientArm):
    """Holds each number of the gradient in a range: g <- min(max(g, -clip_value), clip_value).

    As ``torch.nn.utils.clip_grad_value_``: infinite ones are limited, and NaN stays.
    """

    clip_value: Annotated[float, Gt(0), "Largest size of a number of the gradient."] = 1.0

    stacked = RowsArm.rows

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> None:
        for gradient in gradients:
            gradient.clamp_(-self.clip_value, self.clip_value)
