"""Symmetric cross-entropy."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from alrc.lab.api import Ge
from alrc.lab.arms.rows import LossArm, RowsArm

__all__ = ["SCE"]


@dataclass
class SCE(LossArm):
    r"""Adds reverse cross-entropies to cross-entropies, which have to be one per example.

    .. math::
        L = \alpha \, CE + \beta \, A \, (1 - e^{-CE}),
        \qquad \frac{\partial L}{\partial CE} = \alpha + \beta \, A \, e^{-CE},

    where -A stands for the logarithm of 0 in the reverse one, which is :math:`A (1 - p)` for the
    probability p of the label. Defaults are the paper's for CIFAR-10. Its code has
    :math:`A = -\log 10^{-4} = 9.21`, and ``alpha`` = 0.01 for MNIST.

    References:
        Y. Wang et al., "Symmetric cross entropy for robust learning with noisy labels", ICCV 2019,
        https://arxiv.org/abs/1908.06112;
        https://github.com/YisenWang/symmetric_cross_entropy_for_noisy_labels
    """

    alpha: Annotated[float, Ge(0), "Weight of the cross-entropy."] = 0.1
    beta: Annotated[float, Ge(0), "Weight of the reverse cross-entropy."] = 1.0
    a: Annotated[float, Ge(0), "What -log(0) is taken to be."] = 4.0

    stacked = RowsArm.rows

    def change(self, name: str, losses: Tensor) -> Tensor:
        return self.alpha * losses - self.beta * self.a * torch.expm1(-losses)
