"""What the rule made of losses: kept where they are, read together, and made into rows."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

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

    total = sum(call.loss.numel() for call in calls)

    def column(of: Callable[[Call], Tensor | float]) -> Tensor:
        parts = [of(call) for call in calls]
        first = parts[0]
        # Most often the same number for all of them, which is faster made at once.
        if not isinstance(first, Tensor) and all(part is first for part in parts):
            return torch.full((total,), first, dtype=_dtype(first), device="cpu")
        pairs = zip(parts, calls, strict=True)
        return torch.cat([_each(part, call.loss) for part, call in pairs]).cpu()

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
) -> Iterator[str]:
    """A line for each loss that was limited or lost, with the columns of :class:`Spike`.

    ``names`` are those of each call's examples. Lines are put together here, because csv.writer
    takes three times as long.
    """
    places = (losses.limited | losses.lost).nonzero().squeeze(1)
    if not len(places):
        return
    numels = [call.loss.numel() for call in calls]
    sizes = torch.tensor(numels, device="cpu")
    which = torch.arange(len(calls), device="cpu").repeat_interleave(sizes)[places]
    index = places - (sizes.cumsum(0) - sizes)[which]
    limit = losses.value.where(losses.limited, torch.nan)
    numbers = (x[places].tolist() for x in (losses.group, losses.loss, limit, losses.factor))
    # Of each call: its number, its names, and how many losses each of them stands for.
    heads = [
        (call.number, own, size // max(len(own), 1))
        for call, own, size in zip(calls, names, numels, strict=True)
    ]
    # Nine digits tell all float32 numbers apart, and are found in half the time.
    digits = "%r" if any(call.loss.dtype == torch.float64 for call in calls) else "%.9g"
    line = f"%d,{rank},%d,%s,%s,{digits},%s,{digits}\n"
    texts: dict[float, str] = {}  # of the limits, of which a call has few
    for i, place, group, loss, bound, factor in zip(
        which.tolist(), index.tolist(), *numbers, strict=True
    ):
        number, own, each = heads[i]
        key = own[place // each] if own else ""
        text = texts.get(bound) or texts.setdefault(bound, digits % bound)
        of = "" if num_groups is None else group
        yield line % (number, place, key, of, loss, text, factor)


def names_of(call: Call) -> list[str]:
    """What each example of a call is called, as cells of a CSV file; none if nothing named them."""
    keys: Any = () if call.keys is None else call.keys
    if hasattr(keys, "tolist"):  # at once: to read its numbers one by one would wait for each
        names = list(map(str, keys.tolist()))
    else:
        names = [str(key.tolist() if hasattr(key, "tolist") else key) for key in keys]
    return [_cell(name) for name in names] if _SPECIAL.search("\0".join(names)) else names


# What would end a cell, or a line for one of the ways to read lines.
_SPECIAL = re.compile('[",\n\r\v\f\x1c-\x1e\x85\u2028\u2029]')


def _cell(name: str) -> str:
    """A row stays one line, whatever the names hold."""
    name = " ".join(name.splitlines())
    return '"' + name.replace('"', '""') + '"' if '"' in name or "," in name else name


def visits(calls: list[Call], losses: Losses, names: list[list[str]]) -> Iterator[str]:
    """Lines for the named examples of each call: those with as many losses that count in one."""
    counted, end = losses.seen | losses.lost, 0
    for call, own in zip(calls, names, strict=True):
        start, end = end, end + call.loss.numel()
        if not own:
            continue
        if call.counted is True and isinstance(call.group, int):  # as many for each
            yield f"{call.number},{call.loss.numel() // len(own)},{','.join(own)}\n"
            continue
        numbers = counted[start:end].reshape(len(own), -1).sum(1).tolist()
        for number in sorted({*numbers} - {0}):
            keys = ",".join(key for key, n in zip(own, numbers, strict=True) if n == number)
            yield f"{call.number},{number},{keys}\n"


def _each(x: Tensor | float, loss: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x.expand(loss.shape).reshape(-1)
    return torch.full((loss.numel(),), x, dtype=_dtype(x), device=loss.device)


def _dtype(x: float) -> torch.dtype | None:
    return torch.float64 if isinstance(x, float) else None  # on the CPU alone, as numbers are
