"""ALRC in the form of the original repository; for comparison only."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from alrc.lab.api import Arm, Gt
from alrc.lab.arms.limiter import Limiter, LimiterArm

__all__ = ["Original", "OriginalALRC"]


@dataclass
class Original(LimiterArm):
    """The original repository's 0.997/0.001 form of ALRC, from 10 and 400."""

    num_stddev: Annotated[float, Gt(0), "Limit, in standard deviations above the mean loss."] = 3.0

    def make(self, device: torch.device) -> Limiter:
        return OriginalALRC(self.num_stddev).to(device)

    def stacked(self, members: int) -> Arm:
        return _Stacked(self.num_stddev, members)


class _Stacked(LimiterArm):
    """With moments for each member."""

    def __init__(self, num_stddev: float, members: int) -> None:
        self.num_stddev, self.members = num_stddev, members

    def make(self, device: torch.device) -> Limiter:
        return OriginalALRC(self.num_stddev, (self.members,)).to(device)


class OriginalALRC(nn.Module):
    """ALRC as the repository of the paper runs it in its experiments; for comparison only.

    Raw moments mu <- 0.997 mu + 0.001 mean(clipped loss^k), from 10 and 400. The weights add up to
    0.998, so that the moments settle at a third of the truth, and losses are limited more than
    ``num_stddev`` says. Elsewhere the paper's decay of 0.999 is used.

    Args:
        num_stddev: Standard deviations above the mean at which losses are limited, > 0.
        shape: Of moments and limits: one for all losses, or for each along the first axes.

    Shape:
        - losses: ``(*shape, *)``, positive. The result has the same shape.

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2,
        and its experiments with squared errors and high learning rates.
    """

    mu1: Tensor
    mu2: Tensor

    def __init__(self, num_stddev: float, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.num_stddev = num_stddev
        self.register_buffer("mu1", torch.full(shape, 10.0))
        self.register_buffer("mu2", torch.full(shape, 400.0))

    @property
    def threshold(self) -> Tensor:
        """The limit for the next losses."""
        return self.mu1 + self.num_stddev * (self.mu2 - self.mu1**2 + 1e-8).sqrt()

    def forward(self, losses: Tensor) -> Tensor:
        shape = self.mu1.shape
        limit = self.threshold.reshape((*shape, *[1] * (losses.dim() - len(shape))))
        clipped = torch.where(losses < limit, losses, losses / (losses / limit).detach())
        with torch.no_grad():
            rows = clipped.reshape((*shape, -1))
            self.mu1.mul_(0.997).add_(0.001 * rows.mean(-1))
            self.mu2.mul_(0.997).add_(0.001 * rows.square().mean(-1))
        return clipped
