"""The loss of Huber, from losses that are a power of a residual."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from alrc.lab.api import Gt
from alrc.lab.arms.rows import LossArm, RowsArm

__all__ = ["Huber"]


@dataclass
class Huber(LossArm):
    r"""Lets losses grow in proportion to their residual, from a residual of ``delta`` on.

    Of a loss :math:`L = r^p`, the residual is :math:`r = L^{1/p}`, and

    .. math::
        L' = \begin{cases}
            L & r \le \delta \\
            \delta^p + p \, \delta^{p-1} (r - \delta) & r > \delta,
        \end{cases}
        \qquad \frac{\partial L'}{\partial L} = (\delta / r)^{p-1} \text{ there.}

    For p = 2 it is twice Huber's own, :math:`2 \delta r - \delta^2`, so that small losses stay
    what they are. The residual is exact where a loss is that of one number; of an image, or of
    several numbers, it is the root of their mean power. It is in units of the target.

    References:
        P. J. Huber, "Robust estimation of a location parameter", Ann. Math. Statist. 35 (1964)
        73, https://doi.org/10.1214/aoms/1177703732
    """

    delta: Annotated[float, Gt(0), "Residual from which on losses grow in proportion to it."] = 1.0
    power: Annotated[float, Gt(1), "Of the residual in the losses, above 1: 2 for squares."] = 2.0

    stacked = RowsArm.rows

    def change(self, name: str, losses: Tensor) -> Tensor:
        delta, power = self.delta, self.power
        least = delta**power
        # Held away from 0, where the root has an infinite slope.
        residual = losses.clamp(min=least) ** (1 / power)
        beyond = least + power * delta ** (power - 1) * (residual - delta)
        return torch.where(losses > least, beyond, losses)
