"""Where :mod:`alrc.integrations.gradients` and :mod:`alrc.integrations.scalars` used to be."""

from torch import Tensor

from alrc.integrations.gradients import hang_gradient
from alrc.integrations.scalars import scalars as scalars
from alrc.torch import ALRC


def limit_gradient(alrc: ALRC, loss: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """:func:`alrc.integrations.gradients.hang_gradient`, of which it returns the factor."""
    seen, _ = hang_gradient(alrc, loss, scale)
    return seen.factor
