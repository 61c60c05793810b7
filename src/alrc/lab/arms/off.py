"""Plain training, which all other arms are compared with."""

from dataclasses import dataclass
from typing import ClassVar

from alrc.lab.api import Arm

__all__ = ["Off"]


@dataclass
class Off(Arm):
    """Nothing is done to losses and gradients."""

    is_baseline: ClassVar[bool] = True

    def stacked(self, members: int) -> Arm:
        return self
