"""A smaller learning rate where the loss is above its mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Ge, Gt
from alrc.lab.arms.rows import GradientArm, RowsArm, norms

__all__ = ["Metaseq"]


@dataclass
class Metaseq(GradientArm):
    """Multiplies the learning rate of a step by (loss / mean)^-power where that is below 1.

    The exponential mean, mean <- mean + 2 / (span + 1) * (loss - mean), is that before this loss,
    and begins with the first one. It is meant for losses that are positive.

    As ``metaseq/trainer.py`` of facebookresearch/metaseq since its pull requests 546 and 547,
    after the training of OPT: there, losses above ``ewm_ratio_to_skip_batch`` times the mean may be
    kept out of it, which is no rule of steps any more; here all losses are in. Where the gradient
    is NaN or infinite, metaseq skips the step with fp16, as this arm does, and ends otherwise.

    References:
        S. Zhang et al., "OPT: open pre-trained transformer language models", 2022,
        https://arxiv.org/abs/2205.01068, whose runs came before this rule.
    """

    span: Annotated[float, Ge(1), "Of the exponential mean, in steps."] = 9.0
    power: Annotated[float, Gt(0), "How steeply the learning rate falls."] = 4.0

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        self.mean = torch.full((runs,), torch.nan, dtype=torch.float64, device=device)
        self.share = torch.ones(runs, device=device)

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> Tensor:
        ok = loss.isfinite() & norms(gradients).isfinite()
        mean = torch.where(self.mean.isnan(), loss.double(), self.mean)
        ratio = loss / mean
        self.share = torch.where(ok & (ratio > 1), ratio**-self.power, 1.0).to(loss.dtype)
        self.mean = torch.where(ok, mean + 2 / (self.span + 1) * (loss - mean), self.mean)
        self.share_step([self.share] * len(values), values, optimizer)
        return ok

    def numbers(self) -> Mapping[str, Tensor]:
        return {"share_of_learning_rate": self.share}
