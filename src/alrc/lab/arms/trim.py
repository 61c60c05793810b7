"""The largest losses of each batch left out."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from alrc.lab.api import Ge, Lt
from alrc.lab.arms.rows import LossArm, RowsArm, mean_of_kept

__all__ = ["Trim"]


@dataclass
class Trim(LossArm):
    r"""Drops the largest losses of each batch; the mean is that of the others.

    Of n losses the :math:`\max(1, \lfloor (1 - \text{share}) \, n \rfloor)` smallest are kept: 14
    of 16 for a share of 0.1, and the one of a batch of 1. Those that are dropped become 0; the
    others are multiplied by n over their number, and so is the gradient. Losses that are NaN or
    infinite are the largest.

    References:
        Y. Shen and S. Sanghavi, "Learning with bad training data via iterative trimmed loss
        minimization", ICML 2019, https://arxiv.org/abs/1810.11874, with batches in the place of
        all data; B. Han et al., "Co-teaching", NeurIPS 2018, https://arxiv.org/abs/1804.06872,
        selects the small losses of a batch in the same way.
    """

    share: Annotated[float, Ge(0), Lt(1), "Share of a batch that is dropped, below 1."] = 0.1

    stacked = RowsArm.rows

    def change(self, name: str, losses: Tensor) -> Tensor:
        rows = losses.detach().reshape(len(losses), -1)
        # A little more, since 0.45 * 20 is 9 but (1 - 0.55) * 20 is not.
        keep = max(1, math.floor((1 - self.share) * rows.shape[1] + 1e-9))
        smallest = rows.argsort(dim=1, stable=True)[:, :keep]
        kept = torch.zeros_like(rows, dtype=torch.bool).scatter(1, smallest, True)
        return mean_of_kept(losses, kept.view_as(losses))
