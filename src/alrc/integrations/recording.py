"""What the rule made of losses: kept where they are, read together, and made into rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alrc.integrations.spikes import Spike
from alrc.integrations.visits import Visit
from alrc.rule import Limited, group_index, largest_loss
from alrc.settings import Settings

Keys = Tensor | Sequence[object]


class Call(NamedTuple):
    """One call, as copies of tensors of its losses' shape, or one number for all of them."""

    number: int
    loss: Tensor
    value: Tensor | float
    factor: Tensor | float
    limited: Tensor | bool
    counted: Tensor | bool
    group: Tensor | int
    keys: Keys | None


class Losses(NamedTuple):
    """One number for each loss of several calls, on the CPU.

    Attributes:
        loss, value, factor, limited: As the rule has them, numbers in float64.
        lost: Where it was NaN, infinite, or too large for the moments.
        group: Its group; 0 without groups.
        seen: Where it belongs to the mean: finite, not masked, and of some group.
    """

    loss: Tensor
    value: Tensor
    factor: Tensor
    limited: Tensor
    lost: Tensor
    group: Tensor
    seen: Tensor


def record(
    number: int,
    loss: Tensor,
    mask: Tensor | None,
    group: Tensor | int | None,
    losses: Limited,
    keys: Keys | None,
) -> Call:
    """What a step hook of ALRC is given; copied where it is the loop's, which may change it."""
    own = loss.detach().clone()
    value = own if losses.limited is False else losses.value  # which may be the loss itself
    counted = True if mask is None else mask > 0
    index = group.clone() if isinstance(group, Tensor) else group or 0
    return Call(number, own, value, losses.factor, losses.limited, counted, index, keys)


def read(calls: list[Call], settings: Settings) -> Losses:
    """Waits for the device: the losses of all calls, one after the other."""

    def column(of: Callable[[Call], Tensor | float]) -> Tensor:
        return torch.cat([_each(of(call), call.loss) for call in calls]).cpu()

    loss = column(lambda call: call.loss).double()
    value = column(lambda call: call.value).double()
    factor = column(lambda call: call.factor).double()
    limited = column(lambda call: call.limited)
    group = column(lambda call: call.group).long()
    size = settings.num_groups or 1
    is_wanted = column(lambda call: call.counted) & (group_index(torch, group, size) < size)
    is_held = value.abs() < largest_loss(settings)
    return Losses(loss, value, factor, limited, is_wanted & ~is_held, group, is_wanted & is_held)


def sums(losses: Losses, num_groups: int | None) -> Tensor:
    """The number of losses, their sum, and that of the limited ones: a column for each group."""
    result = torch.zeros((3, num_groups or 1), dtype=torch.float64, device="cpu")
    seen = losses.seen
    columns = [x[seen] for x in (torch.ones_like(losses.loss), losses.loss, losses.value)]
    return result.index_add_(1, losses.group[seen], torch.stack(columns))


def spikes(
    calls: list[Call],
    losses: Losses,
    names: list[list[str]],
    rank: int,
    num_groups: int | None,
) -> Iterator[Spike]:
    """A row for each loss that was limited or lost; names are those of each call's examples."""
    places = (losses.limited | losses.lost).nonzero().squeeze(1)
    if not len(places):
        return
    sizes = torch.tensor([call.loss.numel() for call in calls], device="cpu")
    which = torch.arange(len(calls), device="cpu").repeat_interleave(sizes)[places]
    index = places - (sizes.cumsum(0) - sizes)[which]
    limit = losses.value.where(losses.limited, torch.nan)
    numbers = (x[places].tolist() for x in (losses.group, losses.loss, limit, losses.factor))
    for i, place, group, *rest in zip(which.tolist(), index.tolist(), *numbers, strict=True):
        call = calls[i]
        key = names[i][place * len(names[i]) // call.loss.numel()] if names[i] else ""
        own = None if num_groups is None else group
        yield Spike(call.number, rank, place, key, own, *rest)


def names_of(call: Call) -> list[str]:
    """What each example of a call is called; none if nothing named them."""
    keys: Any = () if call.keys is None else call.keys
    # A whole tensor or array at once: to read its numbers one by one would wait for each.
    keys = keys.tolist() if hasattr(keys, "tolist") else keys
    # A row stays one line, whatever the names hold.
    return [" ".join(str(key).splitlines()) for key in keys]


def visits(calls: list[Call], losses: Losses, names: list[list[str]]) -> Iterator[Visit]:
    """Rows for the named examples of each call: those with as many losses that count in one."""
    counted, end = losses.seen | losses.lost, 0
    for call, own in zip(calls, names, strict=True):
        start, end = end, end + call.loss.numel()
        if not own:
            continue
        if call.counted is True and isinstance(call.group, int):  # as many for each
            yield Visit(call.number, call.loss.numel() // len(own), own)
            continue
        numbers = counted[start:end].reshape(len(own), -1).sum(1).tolist()
        for number in sorted({*numbers} - {0}):
            keys = [key for key, n in zip(own, numbers, strict=True) if n == number]
            yield Visit(call.number, number, keys)


def _each(x: Tensor | float, loss: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x.expand(loss.shape).reshape(-1)
    dtype = torch.float64 if isinstance(x, float) else None  # on the CPU alone, as numbers are
    return torch.full((loss.numel(),), x, dtype=dtype, device=loss.device)
