"""A memory of examples with large losses, which are shown again."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["HardExamples"]

SLOTS = 50
RECALLED = 0.2  # share of the steps
KEPT = 0.2  # share of fresh examples to store
DECAY = 0.99
SPREAD = 5.0  # standard deviations


class HardExamples(nn.Module):
    """Shows hard examples again, in a fifth of the steps, and stores about a fifth of new ones.

    A fresh example whose loss is above a limit takes the place of a stored one. The limit moves
    towards 5 standard deviations below the mean loss where fewer than a fifth of the examples are
    stored, and otherwise towards as many above. The first 50 are all stored.

    Args:
        shapes: Of the tensors of an example, without the axis of the batch.

    All that it knows is in buffers, so that a checkpoint has it.
    """

    mean: Tensor
    square: Tensor
    share: Tensor
    limit: Tensor
    seen: Tensor

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.count = len(shapes)
        for number, shape in enumerate(shapes):
            self.register_buffer(f"slots{number}", torch.zeros(SLOTS, *shape))
        for name, start in {"mean": 1.5, "square": 4.0, "share": KEPT, "limit": 0.0}.items():
            self.register_buffer(name, torch.tensor(start))
        self.register_buffer("seen", torch.tensor(0))

    @property
    def slots(self) -> list[Tensor]:
        """Stored examples, with an axis of 50 first."""
        return [self.get_buffer(f"slots{number}") for number in range(self.count)]

    def recall(self, fresh: Sequence[Tensor], random: Tensor) -> tuple[list[Tensor], Tensor]:
        """The example to train with: a fresh one, or one that was stored.

        Args:
            fresh: Tensors of a batch with one example.
            random: Shape ``(3,)``, uniform from 0 to 1: whether and which to recall, and where to
                store.

        Returns:
            The example, and whether it was recalled.
        """
        is_old = (random[0] < RECALLED) & (self.seen >= SLOTS)
        slot = _slot(random[1])
        chosen = [
            torch.where(is_old, slots.index_select(0, slot), example)
            for slots, example in zip(self.slots, fresh, strict=True)
        ]
        return chosen, is_old

    @torch.no_grad()
    def learn(
        self, example: Sequence[Tensor], is_old: Tensor, loss: Tensor, random: Tensor
    ) -> None:
        """Stores an example whose loss is large, and moves the limit; NaN and inf do nothing."""
        is_finite = loss.isfinite()
        is_first = self.seen < SLOTS
        slot = torch.where(is_first, self.seen.clamp(max=SLOTS - 1), _slot(random[2])).view(1)
        is_kept = is_finite & ~is_old & (is_first | (loss > self.limit))
        for slots, x in zip(self.slots, example, strict=True):
            slots.index_copy_(0, slot, torch.where(is_kept, x, slots.index_select(0, slot)))
        self._follow(self.mean, loss, is_finite)
        self._follow(self.square, loss.square(), is_finite)
        self._follow(self.share, is_kept.to(loss.dtype), is_finite)
        stddev = (self.square - self.mean.square()).clamp(min=0).sqrt()
        sign = torch.where(self.share < KEPT, -SPREAD, SPREAD)
        self._follow(self.limit, self.mean + sign * stddev, is_finite)
        self.seen.add_(is_finite)

    @staticmethod
    def _follow(average: Tensor, value: Tensor, is_finite: Tensor) -> None:
        average.copy_(torch.where(is_finite, DECAY * average + (1 - DECAY) * value, average))


def _slot(random: Tensor) -> Tensor:
    return (random * SLOTS).long().clamp(max=SLOTS - 1).view(1)
