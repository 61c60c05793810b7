"""Steps whose loss or gradient is an outlier, skipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.optim import Optimizer

from alrc.lab.api import Ge, Gt
from alrc.lab.arms.rows import GradientArm, RowsArm, norms

__all__ = ["SkipStep"]

LEAST = 20


@dataclass
class SkipStep(GradientArm):
    """Skips a step whose loss or gradient norm is far above those of the last steps.

    A step is taken if x - mean <= num_stddev * sd for both, with mean and sample standard deviation
    of the ``window`` steps before it. All enter these, also skipped ones; the step itself does not.
    Before it is step max(20, window / 2), counted from 1, all are taken.

    As ``src/olmo_core/optim/skip_step_optimizer.py`` of allenai/OLMo-core; a version of that file
    compares |x - mean|, and so skips steps that are far below, too. Where a loss or norm is NaN or
    infinite, the step is skipped, and so are all that are compared with it.
    """

    window: Annotated[int, Ge(LEAST), "Steps before that it is compared with."] = 128
    num_stddev: Annotated[float, Gt(0), "Standard deviations above their mean."] = 6.0

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        self.calls = 0
        self.past = torch.zeros(runs, 2, self.window, device=device)  # losses and norms

    def change(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        values: Sequence[Tensor],
        optimizer: Optimizer,
    ) -> Tensor | None:
        seen, ok = min(self.calls, self.window), None
        latest = torch.stack([loss, norms(gradients)], dim=1)
        if seen + 1 >= max(LEAST, self.window // 2):
            sd, mean = torch.std_mean(self.past[:, :, :seen], dim=2)
            ok = (latest - mean <= self.num_stddev * sd).all(dim=1)
        self.past[:, :, self.calls % self.window] = latest
        self.calls += 1
        return ok
