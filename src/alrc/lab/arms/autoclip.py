"""The norm of the gradient, limited by those before it."""

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Ge, Le
from alrc.lab.arms.rows import GradientArm, RowsArm, norms, scale

__all__ = ["AutoClip"]


@dataclass
class AutoClip(GradientArm):
    """Scales the gradient down to a percentile of its norms so far, this step's among them.

    g <- g * min(1, limit / (|g| + 1e-6)), as ``autoclip.py`` of pseeth/autoclip does with NumPy's
    percentile and PyTorch's clip_grad_norm_. It has no window; the later ``QuantileClip`` there has
    one, of 1,000 norms, without this step's. A norm that is NaN makes the limit NaN, and with it
    all gradients, for as long as it is remembered; an infinite norm counts as the largest.

    References:
        P. Seetharaman et al., "AutoClip: adaptive gradient clipping for source separation
        networks", MLSP 2020, https://arxiv.org/abs/2007.14469.
    """

    percentile: Annotated[float, Ge(0), Le(100), "Of the norms, in percent."] = 10.0
    window: Annotated[int | None, Ge(1), "Norms that are remembered; without it, all."] = None

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        # Lists: in a sorted one the next norm finds its place in a microsecond.
        self.ordered: list[list[float]] = [[] for _ in range(runs)]
        self.recent: list[list[float]] = [[] for _ in range(runs)]  # by time, if there is a window
        self.nans = [0] * runs

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> None:
        self.norm = norms(gradients)
        limits = [self._limit(run, norm) for run, norm in enumerate(self.norm.tolist())]
        scale(gradients, (self.norm.new_tensor(limits) / (self.norm + 1e-6)).clamp(max=1.0))

    def numbers(self) -> Mapping[str, Tensor]:
        return {"gradient_norm": self.norm}

    def _limit(self, run: int, norm: float) -> float:
        ordered, recent = self.ordered[run], self.recent[run]
        self._count(run, norm, 1)
        if self.window is not None:
            recent.append(norm)
            if len(recent) > self.window:
                self._count(run, recent.pop(0), -1)
        if self.nans[run]:
            return math.nan
        place = (len(ordered) - 1) * self.percentile / 100
        below = ordered[int(place)]
        above = ordered[min(int(place) + 1, len(ordered) - 1)]
        return below + (above - below) * (place % 1) if above > below else below

    def _count(self, run: int, norm: float, times: int) -> None:
        """Remembers a norm, or forgets it."""
        if math.isnan(norm):  # has no place in an order
            self.nans[run] += times
        elif times > 0:
            insort(self.ordered[run], norm)
        else:
            del self.ordered[run][bisect_left(self.ordered[run], norm)]
