"""ALRC's limit, with the losses above it left out."""

from dataclasses import dataclass

from torch import Tensor

from alrc.lab.arms.alrc import Alrc
from alrc.lab.arms.rows import mean_of_kept

__all__ = ["AlrcDrop"]


@dataclass
class AlrcDrop(Alrc):
    r"""Has the limit, moments and options of ``alrc``; losses that are limited are left out.

    Of n losses in a batch, k are within the limit T:

    .. math:: L' = L \, n / k \text{ where } L \le T, \text{ else } 0,

    so that the mean is that of the k losses, and the gradient is its gradient. Without this weight
    it would have the gradients of ``alrc-clamp``. If there are none, loss and gradient are 0.
    Moments move by the limited losses, as in ALRC, so that the limit is the same.

    References:
        The limit: J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes
        learning", Mach. Learn.: Sci. Technol. 1 (2020) 015011,
        https://doi.org/10.1088/2632-2153/ab81e2
    """

    stacked = Alrc.stacked

    def trained(self, losses: Tensor, limited: Tensor, runs: int = 1) -> Tensor:
        kept = ~self.is_limited(losses, limited)
        rows = mean_of_kept(losses.reshape(runs, -1), kept.reshape(runs, -1))
        return rows.view_as(losses)
