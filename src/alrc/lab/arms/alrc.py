"""ALRC as this library has it, on the losses themselves."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from alrc.lab.api import Arm, Ge, Gt
from alrc.lab.arms.limiter import LimiterArm
from alrc.torch import ALRC

__all__ = ["Alrc", "RuleArm"]


class RuleArm(LimiterArm):
    """What arms with ALRC's rule share; those that derive from one say ``stacked``."""

    scale: ClassVar[Literal["linear", "log"]] = "linear"
    per: Literal["loss", "batch"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make(torch.device("cpu"))  # checks the options together and words the error

    def make(self, device: torch.device, num_groups: int | None = None) -> ALRC:
        settings = {name: x for name, x in self.options().items() if name != "per"}
        return ALRC(**settings, scale=self.scale, num_groups=num_groups, device=device)

    def limit(self, name: str, losses: Tensor) -> Tensor:
        losses = losses if self.per == "loss" else losses.mean()
        return self.trained(losses, super().limit(name, losses))

    def trained(self, losses: Tensor, limited: Tensor, runs: int = 1) -> Tensor:
        """What to train with, from losses of so many runs and what ALRC made of them.

        For arms that have its limit, and do something else to losses beyond it.
        """
        return limited

    @staticmethod
    def is_limited(losses: Tensor, limited: Tensor) -> Tensor:
        """Where a loss was changed; NaN never is, nor is it equal to itself."""
        return (limited < losses) | (limited > losses)

    def stacked(self, members: int) -> Arm:
        return _Stacked(self, members)


class _Stacked(LimiterArm):
    """With a group for each member."""

    def __init__(self, arm: RuleArm, members: int) -> None:
        self.arm, self.members = arm, members

    def make(self, device: torch.device) -> ALRC:
        return self.arm.make(device, self.members)

    def limit(self, name: str, losses: Tensor) -> Tensor:
        if self.arm.per == "batch":
            losses = losses.flatten(1).mean(1) if losses.dim() > 1 else losses
        group = torch.arange(self.members, device=losses.device)
        group = group.view(-1, *[1] * (losses.dim() - 1)).expand(losses.shape)
        limiter: ALRC = self.limiter(name)  # type: ignore[assignment]
        return self.arm.trained(losses, limiter(losses, group=group), self.members)


@dataclass
class Alrc(RuleArm):
    """Limits losses to standard deviations above their running mean, each name by itself.

    The paper's rule; the library's default is ``alrc-log num_stddev=2``.
    """

    num_stddev: Annotated[float, Gt(0), "Limit, in standard deviations above the mean loss."] = 3.0
    decay: Annotated[float, Ge(0), "Share of the old moments kept at each step, below 1."] = 0.999
    mu1_start: Annotated[float | None, "First mean loss; without it, automatic."] = None
    mu2_start: Annotated[float | None, "First mean squared loss, with mu1_start."] = None
    num_stddev_below: Annotated[float | None, "The same below; without it, no lower limit."] = None
    warmup: Annotated[int, Ge(1), "Steps before the first limit, without a start."] = 10
    recency: Annotated[float, Ge(1), "More weight for recent steps, without a start."] = 1.0
    center: Annotated[Literal["zero", "mean"], "What gradients are scaled towards."] = "zero"
    per: Annotated[Literal["loss", "batch"], "Limit each loss, or the mean of a batch."] = "loss"

    stacked = RuleArm.stacked
