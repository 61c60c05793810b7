"""What a call may be given: the checks of :mod:`alrc.torch`, and their words; PyTorch only."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from alrc import state
from alrc.rule import Groups
from alrc.settings import Settings

# Not public, so it may be gone one day; then recomputation is no longer noticed.
_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def check(who: str, loss: Tensor, mask: Tensor | None, device: torch.device) -> None:
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        got = f"a {loss.dtype} tensor" if isinstance(loss, Tensor) else repr(loss)
        raise TypeError(
            f"{who}: loss must be a floating tensor, because it is scaled to its limit; got {got}. "
            "Pass what the criterion returned, before .item(), .long() or the like."
        )
    if loss.device != device:
        raise ValueError(
            f"{who}: loss must be on the device of the moments; got a loss on {loss.device} and "
            f"moments on {device}. Move the moments: alrc.to({str(loss.device)!r}), or "
            f"init(settings, device={str(loss.device)!r})."
        )
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{who}: mask must be a tensor, True or positive where a loss counts; got {mask!r}. "
            "Pass torch.tensor(mask, device=loss.device)."
        )
    if mask.shape != loss.shape:
        raise ValueError(
            f"{who}: mask must have the shape of loss, because it says which losses count; got a "
            f"mask of shape {tuple(mask.shape)} and losses of shape {tuple(loss.shape)}. Build "
            f"the criterion with reduction='none', or pass mask{_like(mask, loss)}."
        )
    if mask.device != device:
        raise ValueError(
            f"{who}: mask must be on the device of the loss; got a mask on {mask.device} and a "
            f"loss on {device}. Pass mask.to(loss.device)."
        )


def groups(who: str, loss: Tensor, group: Tensor | int | None, settings: Settings) -> Groups | None:
    """How losses in these groups meet the moments of all groups; None if there are no groups."""
    size = settings.num_groups
    if size is None and group is None:
        return None
    if size is None:
        raise ValueError(
            f"{who}: group must be left out, because the moments are shared by all losses; got "
            f"{group!r}. Build it with num_groups=K, or call it without group."
        )
    if group is None:
        raise ValueError(
            f"{who}: group must say which of the {size} groups the losses are in; got None. Pass "
            "group=index: one whole number, or one for each loss."
        )
    if isinstance(group, bool) or not isinstance(group, int | Tensor):
        raise TypeError(
            f"{who}: group must be a whole number or a tensor of them; got {group!r} of type "
            f"{type(group).__name__}. Pass torch.tensor(group, device=loss.device)."
        )
    index = torch.as_tensor(group, device=None if isinstance(group, Tensor) else loss.device)
    if index.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(
            f"{who}: group must hold whole numbers; got a {index.dtype} tensor. Pass group.long()."
        )
    if index.shape not in (loss.shape, ()):
        raise ValueError(
            f"{who}: group must be one number or have the shape of loss; got a group of shape "
            f"{tuple(index.shape)} and losses of shape {tuple(loss.shape)}. Pass "
            f"group{_like(index, loss)}."
        )
    if index.device != loss.device:
        raise ValueError(
            f"{who}: group must be on the device of the loss; got a group on {index.device} and a "
            f"loss on {loss.device}. Pass group.to(loss.device)."
        )
    if is_readable(index) and index.numel():
        low, high = index.min().item(), index.max().item()
        if not 0 <= low <= high < size:
            got = low if low == high else f"{low} to {high}"
            raise ValueError(
                f"{who}: group must be from 0 to {size - 1}, because there are {size} groups; got "
                f"{got}. Pass a larger num_groups, or other numbers."
            )
    index = index.long().expand(loss.shape)

    def add(values: Tensor) -> Tensor:
        values = values.long() if values.dtype == torch.bool else values
        sums = values.new_zeros(size)
        return sums.index_add(0, index.reshape(-1), values.reshape(-1))

    return Groups(take=lambda moment: moment[index], add=add)


def _like(given: Tensor, loss: Tensor) -> str:
    """What gives it the shape of loss: one number for each row, or for each column."""
    rows = given.dim() == 1 and loss.dim() == 2 and len(given) == len(loss)
    return "[:, None].expand_as(loss)" if rows else ".expand_as(loss)"


def check_outside_of_backward() -> None:
    if not torch.compiler.is_compiling() and _graph_task() != -1:
        raise RuntimeError(
            "ALRC: a loss must meet ALRC once, in the forward pass; got a call during the "
            "backward pass, where activation checkpointing computes again what is inside of it. "
            "Call alrc(loss) outside of torch.utils.checkpoint.checkpoint()."
        )


def is_readable(x: Tensor) -> bool:
    """True if reading a number from the tensor costs nothing and breaks no graph."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and type(x) is Tensor  # no FakeTensor, DTensor or other subclass
    )


def problem(name: str, value: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with this value for the state called ``name``, or None."""
    if not isinstance(value, Tensor) or value.shape != shape or value.is_complex():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        return f"a real tensor of shape {shape}; got {got}"
    if value.is_meta:
        return None
    problems = (state.problem(name, number) for number in value.reshape(-1).tolist())
    return next((found for found in problems if found), None)


def other_groups(values: Iterable[Any], settings: Settings) -> str | None:
    """What to say if these are the state of another number of groups, or None."""
    (shape, *others) = {getattr(value, "shape", (0, 0)) for value in values}
    if others or len(shape) > 1 or shape == settings.shape:
        return None
    saved = shape[0] if shape else None
    return (
        f"must be that of num_groups={settings.num_groups}; got that of num_groups={saved}. Build "
        f"ALRC with num_groups={saved}, or remove ALRC's keys from the checkpoint and load it with "
        "strict=False to start afresh."
    )
