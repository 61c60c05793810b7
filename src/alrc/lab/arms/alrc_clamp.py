"""ALRC's limit without its gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alrc.lab.arms.alrc import Alrc

__all__ = ["AlrcClamp"]


@dataclass
class AlrcClamp(Alrc):
    r"""Has the limit, moments and options of ``alrc``; losses that are limited have no gradient.

    .. math::
        L' = \min(L, T), \qquad \frac{\partial L'}{\partial L} = 1 \text{ where } L \le T,
        \text{ else } 0,

    as with ``torch.clamp`` at ALRC's limit T, in the place of ALRC's T / L; also where a loss is
    raised by ``num_stddev_below``.

    References:
        The limit: J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes
        learning", Mach. Learn.: Sci. Technol. 1 (2020) 015011,
        https://doi.org/10.1088/2632-2153/ab81e2
    """

    stacked = Alrc.stacked

    def trained(self, losses: Tensor, limited: Tensor, runs: int = 1) -> Tensor:
        return torch.where(self.is_limited(losses, limited), limited.detach(), limited)
