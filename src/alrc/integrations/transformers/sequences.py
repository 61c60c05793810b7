"""One limit for each sequence of a batch, whose losses are computed again from the logits."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alrc.integrations.transformers.targets import IGNORED, Targets
from alrc.torch import ALRC


class Sequences(NamedTuple):
    """The losses of a batch, by sequence."""

    sums: Tensor  # of the losses of a sequence's targets
    counts: Tensor  # of these targets

    def total(self, divisor: Tensor) -> Tensor:
        return self.sums.sum() / divisor


def sequences_of(outputs: Any, targets: Targets | None) -> Sequences:
    """The cross entropy of each sequence; refuses in words outputs and labels that give none."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    labels = None if targets is None else targets.labels
    if logits is not None and targets is not None and targets.shifted:
        logits = logits[..., :-1, :]
    if (
        logits is None
        or labels is None
        or labels.is_floating_point()
        or labels.shape != logits.shape[:-1]
    ):
        raise ValueError(
            "ALRCTrainerMixin: alrc_per='sequence' needs logits, and the number of a class as "
            "the label of each position, because they make the loss of each sequence; got "
            f"{_described(logits)} as logits and {_described(labels)} as labels. Pass "
            "alrc_per='batch'."
        )
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return Sequences(
        losses.view(len(labels), -1).sum(1),
        labels.ne(IGNORED).view(len(labels), -1).sum(1),
    )


def are_those_of(loss: Tensor, sequences: Sequences, divisor: Tensor) -> bool:
    """Refuses in words a loss that is not that of the sequences; waits for the device.

    Returns:
        Whether this loss could tell; one that is not finite can't.
    """
    if loss.is_leaf or not sequences.sums.requires_grad:
        raise ValueError(
            "ALRCTrainerMixin: alrc_per='sequence' needs a loss whose gradient goes through the "
            "logits, because that is where the gradient of each sequence is limited; got one "
            "that is cut off from them, as losses with cached gradients are. Pass "
            "alrc_per='batch'."
        )
    given, own = loss.item(), sequences.total(divisor).item()
    if abs(given - own) > 1e-2 * abs(given):
        raise ValueError(
            "ALRCTrainerMixin: alrc_per='sequence' needs a model whose loss is the cross "
            "entropy of its logits, because it is computed again for each sequence; got a "
            f"loss of {given:.4g}, and {own:.4g} from the logits. Pass alrc_per='batch'."
        )
    return math.isfinite(given)


class SeenSequences(NamedTuple):
    """Mean losses of the sequences that have targets; detached."""

    loss: Tensor  # their mean
    total: Tensor  # the sum of those that are finite,
    limited: Tensor  # and what ALRC made of it


def limit_sequences(
    alrc: ALRC, loss: Tensor, sequences: Sequences, divisor: Tensor
) -> tuple[Tensor, SeenSequences]:
    """The same loss, with the gradient that it has when each sequence is limited by itself."""
    sums, counts = sequences
    has_targets = counts > 0
    means = (sums.detach() / counts.clamp_min(1)).requires_grad_()
    limited = alrc(means, mask=has_targets)
    (factor,) = torch.autograd.grad(limited.sum(), means)
    # Adds the change of the gradient and no value; where there is none, exactly nothing.
    change = (torch.where(factor != 1, sums, 0.0) * (factor - 1)).sum() / divisor
    loss = loss + (change - change.detach()).to(loss.dtype)
    seen, limited = means.detach(), limited.detach()
    # Without targets, the loss of a sequence is 0 here.
    total, limited = (x.where(seen.isfinite(), 0.0).sum() for x in (seen, limited))
    return loss, SeenSequences(seen.sum() / has_targets.sum(), total, limited)


def _described(x: Any) -> str:
    return f"a {x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else "nothing"
