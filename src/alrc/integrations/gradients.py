"""What every trainer needs: the gradient of a loss that it made limited, and its value left."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alrc.torch import ALRC


class Seen(NamedTuple):
    """One loss in the unit in which ALRC saw it; detached, at least float32, of shape ``()``.

    Attributes:
        loss: The loss itself.
        limited: What ALRC made of it.
        factor: What its gradient is multiplied by.
    """

    loss: Tensor
    limited: Tensor
    factor: Tensor


def look(alrc: ALRC, loss: Tensor, scale: float | Tensor = 1.0) -> Seen:
    """Shows ALRC one training loss; the loss and its gradient stay as they are.

    Trainers hand over a loss that is divided for gradient accumulation or multiplied for float16.
    ALRC has to see the loss itself, in the same unit at every step, or else its limit would move
    with the trainer's settings.

    Args:
        alrc: Keeps the moments; in ``eval()`` mode, nothing happens.
        loss: The trainer's loss, of shape ``()``.
        scale: What makes ``loss`` the loss that ALRC sees: the number of accumulated batches, say.
    """
    wide = loss.detach() if loss.dtype == torch.float64 else loss.detach().float()
    seen = (wide * scale).requires_grad_()
    with torch.enable_grad():
        limited = alrc(seen)
        (factor,) = torch.autograd.grad(limited, seen)
    return Seen(seen.detach(), limited.detach(), factor)


def limit_gradient(alrc: ALRC, loss: Tensor, scale: float | Tensor = 1.0) -> tuple[Tensor, Seen]:
    """The same loss with the gradient that ALRC would give it, to be trained on instead of it.

    The factor stands in the graph, in front of whatever the loss does with its gradient: also of
    a hook on the loss that runs the real backward pass, as losses with cached gradients have.

    Args:
        alrc, loss, scale: As for :func:`look`.

    Returns:
        The loss, with the same value, shape and dtype; and what ALRC saw and made of it.

    Example:
        >>> import torch
        >>> from alrc.torch import ALRC
        >>> from alrc.integrations.gradients import limit_gradient
        >>> alrc = ALRC(3, 0.999, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
        >>> weight = torch.tensor(2.0, requires_grad=True)
        >>> loss = weight * 4 / 2  # a loss of 8, halved for two accumulated batches
        >>> loss, seen = limit_gradient(alrc, loss, scale=2)
        >>> seen.loss.item(), seen.limited.item(), seen.factor.item()
        (8.0, 4.0, 0.5)
        >>> loss.backward()
        >>> loss.item(), weight.grad.item()
        (4.0, 1.0)
    """
    seen = look(alrc, loss, scale)
    scaled: Tensor = _ScaledGradient.apply(loss, seen.factor)  # type: ignore[no-untyped-call]
    return scaled, seen


def hang_gradient(
    alrc: ALRC,
    loss: Tensor,
    scale: float | Tensor = 1.0,
    *,
    came: Callable[[], object] = lambda: None,
) -> tuple[Seen, Callable[[], None]]:
    """The same for a loss that cannot be replaced: its factor is hung on the tensor itself.

    In front of all hooks that it has already, one of which may run the real backward pass.

    Args:
        alrc, loss, scale: As for :func:`look`.
        came: Called when the first gradient has come by.

    Returns:
        What ALRC saw and made of it; and what takes the factor off again, so that another
        backward pass of the same loss may be given one of its own.
    """
    seen = look(alrc, loss, scale)
    if not loss.requires_grad:
        return seen, lambda: None
    waiting = [came]

    def hook(gradient: Tensor) -> Tensor:
        if waiting:
            waiting.pop()()
        return gradient * seen.factor.to(gradient.dtype)

    earlier = dict(loss._backward_hooks or {})
    handle = loss.register_hook(hook)  # type: ignore[no-untyped-call]
    hooks: Any = loss._backward_hooks
    hooks.clear()  # hooks run in the order in which they were put in
    hooks.update({handle.id: hook, **earlier})
    return seen, handle.remove


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return loss.clone()  # a view could not be changed in place, as trainers do

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor.to(gradient.dtype), None
