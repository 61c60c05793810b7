"""Generalised cross-entropy."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from alrc.lab.api import Gt, Le
from alrc.lab.arms.rows import LossArm, RowsArm

__all__ = ["GCE"]


@dataclass
class GCE(LossArm):
    r"""Makes generalised cross-entropies of cross-entropies, which have to be one per example.

    .. math::
        L_q = \frac{1 - p^q}{q} = \frac{1 - e^{-q \, CE}}{q},
        \qquad \frac{\partial L_q}{\partial CE} = p^q,

    where p is the probability that the network gives to the label, :math:`CE = -\log p`. It is the
    form without truncation. Of a sequence with one loss, p is the geometric mean over its tokens.

    References:
        Z. Zhang and M. R. Sabuncu, "Generalized cross entropy loss for training deep neural
        networks with noisy labels", NeurIPS 2018, https://arxiv.org/abs/1805.07836
    """

    q: Annotated[float, Gt(0), Le(1), "Near 0 cross-entropy, at 1 the mean absolute error."] = 0.7

    stacked = RowsArm.rows

    def change(self, name: str, losses: Tensor) -> Tensor:
        return -torch.expm1(-self.q * losses) / self.q
