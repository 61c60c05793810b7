"""Losses left out that are large among the last ones: loss truncation."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from alrc.lab.api import Ge, Lt
from alrc.lab.arms.rows import LossArm, RowsArm, column

__all__ = ["LossDropper"]


@dataclass
class LossDropper(LossArm):
    """Drops losses above a quantile of the last 10,000, as the package ``loss_dropper`` does.

    The cutoff is the (1 - ``dropc``) quantile of the last ``memory`` losses, with those of the
    batch that is being looked at, interpolated linearly. It is first computed when more than
    ``memory`` losses were seen, and then whenever more than ``memory`` were seen since; before the
    first, none is dropped. Losses below the cutoff come back as they came; all others become 0,
    and stay in the mean, so that it is over the whole batch.

    Here losses that are NaN or infinite are dropped like large ones, and NaN is not in the
    quantile; in the package they make the batch's mean, and NaN all cutoffs, NaN.

    References:
        D. Kang and T. Hashimoto, "Improved natural language generation via loss truncation",
        ACL 2020, https://arxiv.org/abs/2004.14589; https://github.com/ddkang/loss_dropper
    """

    dropc: Annotated[float, Ge(0), Lt(1), "Share of losses that is dropped, below 1."] = 0.4
    memory: Annotated[
        int, Ge(1), "Losses that are remembered, and that are seen between two cutoffs."
    ] = 10_000

    stacked = RowsArm.rows

    def start(self, runs: int, device: torch.device) -> None:
        self.latest, self.cutoff = dict[str, Tensor](), dict[str, Tensor]()
        self.seen, self.since = dict[str, int](), dict[str, int]()  # in all, and since a cutoff

    def change(self, name: str, losses: Tensor) -> Tensor:
        self.look(name, losses.detach().reshape(len(losses), -1))
        return torch.where(losses < column(self.cutoff[name], losses), losses, 0.0)

    def look(self, name: str, rows: Tensor) -> None:
        """Remembers losses, and computes the cutoff if it is time to."""
        runs, count = rows.shape
        if name not in self.latest:
            self.latest[name] = rows.new_full((runs, self.memory), torch.nan)
            self.cutoff[name] = rows.new_full((runs,), torch.inf)
        seen, since = self.seen.get(name, 0), self.since.get(name, 0) + count
        places = torch.arange(seen, seen + count, device=rows.device)[-self.memory :]
        self.latest[name][:, places % self.memory] = rows[:, -self.memory :]
        if since > self.memory:
            self.cutoff[name], since = self.latest[name].nanquantile(1 - self.dropc, dim=1), 0
        self.seen[name], self.since[name] = seen + count, since
