"""What is kept of losses where only the means of each step are stored.

Facts about each loss by itself, such as how many were limited, are added up while training.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alrc.lab.engine.series import ABSENT

__all__ = ["Tallies", "row_means"]

SAME = 1e-6  # relative difference of two ways to compute the mean of a batch
Rows = Tensor | slice


class Tallies:
    """Facts about the losses of runs beside each other, by the name of the loss.

    Args:
        runs: How many.
        device: Where their losses are.
    """

    def __init__(self, runs: int, device: torch.device) -> None:
        self.runs, self.device = runs, device
        self.sums: dict[str, dict[str, Tensor]] = {}

    def add(self, name: str, rows: Rows, raw: Tensor, limited: Tensor) -> tuple[Tensor, Tensor]:
        """Takes in a step.

        Args:
            name: Of the loss.
            rows: Which runs.
            raw: Their losses before limiting, of shape ``(runs, ...)``.
            limited: Those that they are trained with, of that shape, or reduced.

        Returns:
            Of each run, the mean of the limited losses and the share that was limited.
        """
        x, y = (
            z.detach().flatten(1) if z.dim() > 1 else z.detach()[:, None] for z in (raw, limited)
        )
        x, y = x.double(), y.double()
        if raw.shape != limited.shape:  # as one loss per batch, whose mean was rounded
            x, y = (z.mean(1, keepdim=True) for z in (x, y))
            y = torch.where(torch.isclose(y, x, rtol=SAME, atol=0), x, y)
        finite = x.isfinite()
        changed = ((x != y) & finite).sum(1).double()
        sums = self.sums.setdefault(name, self._nothing())
        sums["count"][rows] += x.shape[1]
        sums["limited"][rows] += changed
        sums["nonfinite"][rows] += (~finite).sum(1)
        sums["total"][rows] += torch.where(finite, x, 0).sum(1)
        sums["kept"][rows] += torch.where(finite, y, 0).sum(1)
        largest = torch.where(finite, x, -torch.inf).amax(1)
        sums["largest"][rows] = torch.maximum(sums["largest"][rows], largest)
        return y.mean(1).float(), (changed / x.shape[1]).float()

    def of(self, run: int) -> dict[str, dict[str, float]]:
        """The facts of a run, by the name of the loss, as result.json has them."""
        found = {}
        for name, sums in self.sums.items():
            own = {key: float(x[run]) for key, x in sums.items()}
            kept = own["kept"] / own["total"] if own["total"] else 1.0
            counts = {key: int(own[key]) for key in ("count", "limited", "nonfinite")}
            found[name] = {"largest": own["largest"], "kept": kept, **counts}
        return found

    def _nothing(self) -> dict[str, Tensor]:
        names = ("count", "limited", "nonfinite", "total", "kept")
        sums = {key: self._filled(0.0) for key in names}
        return {**sums, "largest": self._filled(-torch.inf)}

    def _filled(self, value: float) -> Tensor:
        return torch.full((self.runs,), value, dtype=torch.float64, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        return {name: dict(sums) for name, sums in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, sums in state.items():
            self.sums[name] = {key: x.to(self.device) for key, x in sums.items()}


def row_means(rows: Tensor) -> Tensor:
    """The mean of what each run has, ``(runs, ...)`` to ``(runs,)``; what is absent stays so."""
    rows = rows.detach()
    if rows.dim() == 1:
        return rows
    flat = rows.float().flatten(1)
    is_absent = flat[:, 0].contiguous().view(torch.int32) == int(ABSENT.view(np.int32))
    return torch.where(is_absent, flat[:, 0], flat.double().mean(1).float())
