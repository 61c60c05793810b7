"""ALRC on the logarithms of losses."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from alrc.lab.api import Ge, Gt
from alrc.lab.arms.alrc import RuleArm

__all__ = ["AlrcLog"]


@dataclass
class AlrcLog(RuleArm):
    r"""Limits losses to standard deviations of their logarithm above its running mean.

    With the mean m and the standard deviation s of log(L), at least 1e-4, by ALRC's rule:

    .. math::
        T = e^{m + n s}, \qquad L' = \min(L, T), \qquad
        \frac{\partial L'}{\partial L} = T / L \text{ where } L > T, \text{ else } 1,

    and below in the same way. So the same losses are limited whatever power the error has. Only
    finite losses above 0 count; others come back as they came. Starts are raw moments of the loss,
    of which a log-normal has :math:`v = \log(\mu_2 / \mu_1^2)` and :math:`m = \log \mu_1 - v / 2`.

    References:
        After J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """

    scale: ClassVar = "log"
    num_stddev: Annotated[float, Gt(0), "Limit, in standard deviations above the mean log."] = 3.0
    decay: Annotated[float, Ge(0), "Share of the old moments kept at each step, below 1."] = 0.999
    mu1_start: Annotated[float | None, "First mean loss; without it, automatic."] = None
    mu2_start: Annotated[float | None, "First mean squared loss, with mu1_start."] = None
    num_stddev_below: Annotated[float | None, "The same below; without it, no lower limit."] = None
    warmup: Annotated[int, Ge(1), "Steps before the first limit, without a start."] = 10
    recency: Annotated[float, Ge(1), "More weight for recent steps, without a start."] = 1.0
    per: Annotated[Literal["loss", "batch"], "Limit each loss, or the mean of a batch."] = "loss"

    stacked = RuleArm.stacked
