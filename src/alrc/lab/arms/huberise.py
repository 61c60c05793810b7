"""The square root of large losses."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from alrc.lab.api import Gt
from alrc.lab.arms.rows import LossArm, RowsArm

__all__ = ["Huberise"]


@dataclass
class Huberise(LossArm):
    r"""Takes the square root of losses above 1, as the partial-STEM networks were trained.

    Written for losses in units of ``above`` = a, so that what it gives is continuous there:

    .. math::
        L' = \begin{cases}
            L & L \le a \\
            a \sqrt{L / a + 10^{-8}} & L > a,
        \end{cases}
        \qquad \frac{\partial L'}{\partial L} = \frac{1}{2 \sqrt{L / a + 10^{-8}}} \text{ there.}

    For a = 1 it is the original's. The gradient falls from 1 to a half at ``above``, unlike that of
    Huber's loss, which is the arm ``huber``. The original limits the mean of a batch first, and
    takes its root then: ``alrc per=batch + huberise per=batch``.

    References:
        J. M. Ede and R. Beanland, "Partial scanning transmission electron microscopy with deep
        learning", Sci. Rep. 10, 8332 (2020), https://doi.org/10.1038/s41598-020-65261-0
    """

    above: Annotated[float, Gt(0), "Loss above which its root is taken."] = 1.0
    per: Annotated[Literal["loss", "batch"], "The root of each loss, or of a batch's mean."] = (
        "loss"
    )

    stacked = RowsArm.rows

    def change(self, name: str, losses: Tensor) -> Tensor:
        if self.per == "batch" and losses.dim() > 1:
            losses = losses.flatten(1).mean(1)
        # Held away from 0, where the root has an infinite slope.
        root = self.above * (losses.clamp(min=self.above) / self.above + 1e-8).sqrt()
        return torch.where(losses > self.above, root, losses)
