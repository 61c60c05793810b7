"""What a call of :mod:`alrc.torch` may be given: the checks, and what is made of it."""

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from alrc import refusals, rule, state
from alrc.rule import KINDS, Reduction
from alrc.settings import Settings

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check(who: str, loss: Tensor, mask: Tensor | None, device: torch.device) -> None:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        got = f"a {loss.dtype} tensor" if isinstance(loss, Tensor) else repr(loss)
        mend = "Pass what the criterion returned, before .item(), .long() or the like."
        raise refusals.loss(who, got, mend, kind="tensor")
    if hasattr(loss, "full_tensor"):
        mend = "Pass loss.full_tensor(), which every rank then limits alike."
        raise refusals.loss(who, f"a {type(loss).__name__}, a part on each rank", mend, "tensor")
    if loss.device != device:
        raise ValueError(
            f"{who}: loss must be on the device of the moments; got a loss on {loss.device} and "
            f"moments on {device}. Move the moments: alrc.to({str(loss.device)!r}), or "
            f"init(settings, device={str(loss.device)!r})."
        )
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise refusals.mask_kind(
            who, mask, "Pass torch.tensor(mask, device=loss.device).", kind="a tensor"
        )
    if mask.shape != loss.shape:
        mend = f"Build the criterion with reduction='none', or pass {_like('mask', mask, loss)}."
        raise refusals.mask_shape(who, tuple(mask.shape), tuple(loss.shape), mend)
    if mask.device != device:
        raise ValueError(
            f"{who}: mask must be on the device of the loss; got a mask on {mask.device} and a "
            f"loss on {device}. Pass mask.to(loss.device)."
        )


def check_moments(who: str, moments: Any, settings: Settings) -> None:
    kinds = tuple(KINDS.values())
    if not isinstance(moments, kinds) or not all(isinstance(x, Tensor) for x in moments):
        raise TypeError(
            f"{who}: moments must be Moments of tensors, which init() makes; got {moments!r}. "
            "Pass what init() or the call before returned; of numbers by name, "
            "init(settings, saved=numbers)."
        )
    if other := state.other_scale(moments._fields, settings.scale):
        raise state.scale_refusal(who, "the state in moments", settings.scale, other)
    for name, moment in zip(moments._fields[:2], moments, strict=False):
        if moment.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{who}: moments must be float32 at least, in which they can move; got a {name} in "
                f"{moment.dtype}. Keep them out of casts, or pass init(settings, "
                "saved=moments.to_dict())."
            )
    shapes = [tuple(x.shape) for x in moments]
    if shapes != [settings.shape] * 3:
        raise ValueError(
            f"{who}: moments must have the shape {settings.shape} of num_groups="
            f"{settings.num_groups}; got {shapes[0]}, {shapes[1]} and {shapes[2]}. Pass what "
            "init(settings) made with these settings."
        )


def groups(
    who: str, loss: Tensor, group: Tensor | int | None, settings: Settings
) -> Reduction | None:
    """How losses in these groups meet the moments of all groups; None if there are no groups."""
    build, needed = "Build it with num_groups=K", ": one whole number, or one for each loss."
    size = refusals.check_group(who, group, settings.num_groups, build, needed)
    if size is None or group is None:
        return None
    index, checked = _index(who, loss, group, size)
    index = index.long()
    if not checked:
        index = rule.group_index(torch, index, size)
    index = index.expand(loss.shape)

    def take(moment: Tensor) -> Tensor:
        if not checked:
            moment = torch.cat([moment, moment.new_full((1,), math.nan)])  # that of no group
        return moment[index]

    def add(values: Tensor) -> Tensor:
        values = values.long() if values.dtype == torch.bool else values
        sums = values.new_zeros(size if checked else size + 1)
        return sums.index_add(0, index.reshape(-1), values.reshape(-1))[:size]

    return Reduction(take, add)


def _index(who: str, loss: Tensor, group: Tensor | int, size: int) -> tuple[Tensor, bool]:
    """The group, or groups, on the device of the loss; and whether all of them are known to be."""
    if isinstance(group, bool) or not isinstance(group, int | Tensor):
        raise TypeError(
            f"{who}: group must be a whole number or a tensor of them; got {group!r} of type "
            f"{type(group).__name__}. Pass torch.tensor(group, device=loss.device)."
        )
    if isinstance(group, int):
        if not 0 <= group < size:
            raise refusals.group_range(who, size, group, group)
        return torch.full((), group, device=loss.device), True  # no copy from the host, no wait
    if group.dtype not in _WHOLE:
        raise refusals.group_kind(who, f"a {group.dtype} tensor", "Pass group.long().")
    if group.shape not in (loss.shape, ()):
        mend = f"Pass {_like('group', group, loss)}."
        raise refusals.group_shape(who, tuple(group.shape), tuple(loss.shape), mend)
    if group.device != loss.device:
        raise ValueError(
            f"{who}: group must be on the device of the loss; got a group on {group.device} and a "
            f"loss on {loss.device}. Pass group.to(loss.device)."
        )
    if is_readable(group) and group.numel():
        try:
            low, high = int(group.min().item()), int(group.max().item())
        except RuntimeError:
            return group, False  # no number to read: a call under vmap
        if not 0 <= low <= high < size:
            raise refusals.group_range(who, size, low, high)
        return group, True
    return group, False


def _like(name: str, given: Tensor, loss: Tensor) -> str:
    """What gives it the shape of loss: of one number for each row, or column; if anything does."""
    missing = loss.dim() - given.dim()
    if missing > 0 and given.dim() > 0 and given.shape == loss.shape[: given.dim()]:
        return f"{name}[{', '.join([':'] * given.dim() + ['None'] * missing)}].expand_as(loss)"
    sizes = zip(reversed(given.shape), reversed(loss.shape), strict=False)
    if missing >= 0 and all(size in (1, wanted) for size, wanted in sizes):
        return f"{name}.expand_as(loss)"
    return f"a {name} with one number for each loss"


def look_at_signs(who: str, loss: Tensor, mask: Tensor | None, settings: Settings) -> None:
    """Warns of losses that the logarithmic scale has no limit for; waits for the device."""
    is_captured = loss.is_cuda and torch.cuda.is_current_stream_capturing()  # where none can wait
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if settings.scale == "linear" or is_captured or is_traced:
        return
    losses = loss.detach()
    below = (losses < 0) & (losses > -math.inf)  # infinite ones are broken on either scale
    with suppress(RuntimeError):  # no number to read: a call under vmap
        if bool((below if mask is None else below & (mask > 0)).any()):
            refusals.warn_of_signs(who)


def detached(loss: Tensor) -> Tensor:
    """The losses as the rule takes them: without gradient, and in float32 at least."""
    wide = loss.dtype in (torch.float32, torch.float64)
    return loss.detach() if wide else loss.detach().float()


def weights(mask: Tensor, losses: Tensor) -> Tensor:
    """The mask in a dtype that holds its smallest weight, too; none is wider than float64."""
    if mask.dtype == torch.float64:
        return mask.detach()
    return mask.detach().to(losses.dtype)


def largest_factor(loss: Tensor) -> float:
    """What the gradient of a loss may be multiplied by and stay finite in its dtype."""
    return rule.LARGEST_FACTOR_FLOAT16 if loss.dtype == torch.float16 else rule.LARGEST_FACTOR


def is_readable(x: Tensor) -> bool:
    """True if reading a number from the tensor costs nothing and breaks no graph."""
    return (
        type(x) is Tensor  # no FakeTensor, DTensor or other subclass
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )
