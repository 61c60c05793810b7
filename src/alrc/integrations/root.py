"""What every trainer needs: to limit the gradient of a loss that it made, and to show the state."""

import torch
from torch import Tensor

from alrc.torch import ALRC


def limit_gradient(alrc: ALRC, loss: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Scales the gradient of ``loss`` as ALRC would, and leaves its value as it is.

    Trainers hand over a loss that is divided for gradient accumulation or multiplied for float16.
    ALRC has to see the loss itself, in the same unit at every step, or else its limit would move
    with the trainer's settings.

    Args:
        alrc: Keeps the moments; in ``eval()`` mode, nothing happens.
        loss: The loss whose ``backward()`` the trainer is about to call, of shape ``()``.
        scale: What makes ``loss`` the loss that ALRC sees: the number of accumulated batches, say.

    Returns:
        The factor of the gradient, at least float32, of shape ``()``.

    Example:
        >>> import torch
        >>> from alrc.torch import ALRC
        >>> from alrc.integrations.root import limit_gradient
        >>> alrc = ALRC(mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * 1
        >>> weight = torch.tensor(2.0, requires_grad=True)
        >>> loss = weight * 4 / 2  # a loss of 8, halved for two accumulated batches
        >>> limit_gradient(alrc, loss, scale=2)
        tensor(0.5000)
        >>> loss.backward()
        >>> loss.item(), weight.grad.item()
        (4.0, 1.0)
    """
    wide = loss.detach() if loss.dtype == torch.float64 else loss.detach().float()
    seen = (wide * scale).requires_grad_()
    with torch.enable_grad():
        (factor,) = torch.autograd.grad(alrc(seen), seen)
    if loss.requires_grad:
        loss.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * factor.to(gradient.dtype)
        )
    return factor


def scalars(alrc: ALRC) -> dict[str, Tensor]:
    """The state under the names that every log has, in float32 on the device of the moments.

    Returns:
        ``limit``, ``mean`` and ``stddev``, which the next losses will meet; ``clipped_fraction``,
        the share of all losses so far that were limited; and ``nonfinite``, the number of NaN and
        infinite ones. Each of the shape of the moments.

    Example:
        >>> import torch
        >>> from alrc.torch import ALRC
        >>> from alrc.integrations.root import scalars
        >>> scalars(ALRC(mu1_start=1.0, mu2_start=5.0))  # doctest: +NORMALIZE_WHITESPACE
        {'limit': tensor(7.), 'mean': tensor(1.), 'stddev': tensor(2.),
         'clipped_fraction': tensor(0.), 'nonfinite': tensor(0.)}
    """
    return {
        "limit": alrc.threshold,
        "mean": alrc.mu1,
        "stddev": alrc.variance.sqrt(),
        "clipped_fraction": alrc.num_clipped / alrc.num_losses.clamp(min=1),
        "nonfinite": alrc.num_nonfinite.float(),
    }
