"""AdamW whose steps are limited where its second moments are out of date."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from alrc.lab.arms.rows import GradientArm, RowsArm

__all__ = ["StableAdamW"]


@dataclass
class StableAdamW(GradientArm):
    """Divides the learning rate of AdamW by max(1, RMS), for each parameter tensor in each step.

    RMS^2 = mean(g^2 / max(v, eps^2)), with the second moments v of AdamW after this gradient and
    its correction for their start. Learning rate, betas, eps and weight decay are the optimizer's;
    Adam without weight decay is AdamW too.

    The decay of the weights is divided too, as a part of the step; in the authors' code,
    https://gist.github.com/mitchellnw/d42e22a0b9ec02ceaf4f7b4457f51423, it is not.
    A gradient that is NaN or infinite makes parameters NaN, as with AdamW.

    References:
        M. Wortsman et al., "Stable and low-precision training for large-scale vision-language
        models", NeurIPS 2023, https://arxiv.org/abs/2304.13013.
    """

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        self.calls = 0
        self.squares: list[Tensor] = []  # second moments of each parameter, once they are known

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> None:
        group = optimizer.param_groups[0]
        if not isinstance(optimizer, AdamW) and not (
            isinstance(optimizer, Adam) and group["weight_decay"] == 0
        ):
            raise ValueError(
                "StableAdamW: the optimizer must be AdamW, or Adam without weight decay, because "
                "it is AdamW's step that is limited; got "
                f"{type(optimizer).__name__} with a weight decay of {group['weight_decay']}. Train "
                'with training.optimizer = "adamw".'
            )
        (_, beta2), eps = group["betas"], group["eps"]
        self.squares = self.squares or [torch.zeros_like(gradient) for gradient in gradients]
        self.calls += 1
        shares = []
        for gradient, square in zip(gradients, self.squares, strict=True):
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            moment = (square / (1 - beta2**self.calls)).clamp(min=eps**2)
            ratios = (gradient**2 / moment).reshape(len(gradient), -1)
            shares.append(1 / ratios.mean(dim=1).sqrt().clamp(min=1.0))
        self.share_step(shares, values, optimizer)
