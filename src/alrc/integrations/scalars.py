"""The state under the names that every log has."""

import torch
from torch import Tensor

from alrc.torch import ALRC


def scalars(alrc: ALRC) -> dict[str, Tensor]:
    """The state under the names that every log has, in float32 on the device of the moments.

    Returns:
        ``limit``, ``mean`` and ``stddev``, which the next losses will meet; ``clipped_fraction``,
        the share of all losses so far that were limited; and ``nonfinite``, the number of NaN and
        infinite ones. Each of the shape of the moments, and in the unit of the loss.

    Example:
        >>> import torch
        >>> from alrc.torch import ALRC
        >>> from alrc.integrations.scalars import scalars
        >>> alrc = ALRC(3, mu1_start=1.0, mu2_start=5.0, scale="linear")
        >>> scalars(alrc)  # doctest: +NORMALIZE_WHITESPACE
        {'limit': tensor(7.), 'mean': tensor(1.), 'stddev': tensor(2.),
         'clipped_fraction': tensor(0.), 'nonfinite': tensor(0.)}
    """
    mean, variance = alrc._of_losses()
    return {
        "limit": alrc.threshold,
        "mean": mean,
        "stddev": variance.sqrt(),
        "clipped_fraction": alrc.num_clipped / alrc.num_losses.clamp(min=1),
        "nonfinite": alrc.num_nonfinite.float(),
    }


class Kept:
    """What the limits left of the losses since one last looked: ``kept`` in every log.

    Sums stay on the device of the losses. NaN, infinite and masked losses are for the caller to
    leave out, as a weight of 0.

    Args:
        shape: ``()``, or ``(num_groups,)`` for a share of each group.

    Example:
        >>> import torch
        >>> from alrc.integrations.scalars import Kept
        >>> kept = Kept()
        >>> kept.add(torch.tensor(8.0), torch.tensor(4.0))
        >>> kept.add(torch.tensor(2.0), torch.tensor(2.0))
        >>> kept.take(), kept.take()  # the second: of no losses
        (tensor(0.6000), tensor(1.))
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.shape = shape
        self._sums: Tensor | None = None  # raw and limited

    def add(self, loss: Tensor, limited: Tensor) -> None:
        """Adds sums of losses, before and after limiting; NaN and infinite ones count as 0."""
        sums = torch.stack([loss, limited]).float()
        sums = sums.where(sums.isfinite(), 0.0)
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> Tensor:
        """Limited over raw sum since the last time; 1 where there was nothing to limit."""
        sums, self._sums = self._sums, None
        if sums is None:
            return torch.ones(self.shape)
        raw, limited = sums
        return torch.where(raw != 0, limited / raw, 1.0)
