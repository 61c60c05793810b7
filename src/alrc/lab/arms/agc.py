"""Adaptive gradient clipping, unit by unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Ge, Gt
from alrc.lab.arms.rows import GradientArm, RowsArm

__all__ = ["AGC"]


@dataclass
class AGC(GradientArm):
    """Holds the gradient of each unit to a share of the unit's weights.

    g <- g * limit / max(|g|, 1e-6) where |g| > limit = clipping * max(|w|, eps), with norms over
    all weights of an output unit, along PyTorch's first axis; of a vector, as a bias, over all of
    it.

    All parameters are clipped, which is the default of ``SGD_AGC`` in ``nfnets/optim.py`` of
    google-deepmind/deepmind-research; the paper's experiments leave out the last linear layer. A
    gradient that is NaN stays; of a unit with an infinite one, that becomes NaN and all others 0.

    References:
        A. Brock et al., "High-performance large-scale image recognition without normalization",
        ICML 2021, https://arxiv.org/abs/2102.06171.
    """

    clipping: Annotated[float, Gt(0), "Largest norm of a gradient, in norms of its weights."] = 0.01
    eps: Annotated[float, Ge(0), "Smallest norm that weights are taken to have."] = 1e-3

    stacked = RowsArm.rows

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> None:
        for gradient, value in zip(gradients, values, strict=True):
            limit = self.clipping * _unit_norms(value).clamp(min=self.eps)
            norm = _unit_norms(gradient)
            gradient.mul_(torch.where(norm > limit, limit / norm.clamp(min=1e-6), 1.0))


def _unit_norms(rows: Tensor) -> Tensor:
    """Of what belongs to each unit of each run, along the first two axes."""
    if rows.dim() == 1:  # a number for each run
        return rows.abs()
    is_vector = sum(length > 1 for length in rows.shape[1:]) <= 1
    axes = tuple(range(1 if is_vector else 2, rows.dim()))
    norms: Tensor = torch.linalg.vector_norm(rows, dim=axes, keepdim=True)
    return norms
