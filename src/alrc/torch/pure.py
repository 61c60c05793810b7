"""The pure functions of :mod:`alrc.torch`: the rule on tensors, which changes nothing in place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alrc import rule, state
from alrc.opaque import opaque
from alrc.rule import KINDS, Moments, Reduction, Step
from alrc.settings import Settings
from alrc.torch import inputs


def init(
    settings: Settings,
    device: torch.device | str | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Moments:
    """The moments before the first call of :func:`clip`.

    Args:
        settings: The hyperparameters.
        device: Where to keep the moments; None for torch's default device.
        saved: Where to go on from: what ``to_dict()`` returned, in any framework. The counts
            that :class:`ALRC` saves beside the moments are left out. None: a fresh start.

    Returns:
        Mean and variance, float32, and the number of updates, int64; each of shape ``()``, or
        ``(num_groups,)`` if the settings have groups. With scale ``"log"``,
        :class:`alrc.rule.LogMoments`, whose mean is the geometric one.

    Raises:
        TypeError: If ``saved`` is not a dict.
        ValueError: If ``saved`` lacks a moment, holds an impossible one, or is of another scale.

    Example:
        >>> from alrc import Settings
        >>> from alrc.torch import init
        >>> init(Settings(mu1_start=2.0, mu2_start=5.0, scale="linear"))
        Moments(mean=tensor(2.), variance=tensor(1.), num_updates=tensor(0))
        >>> saved = {"geometric_mean": 1.5, "log_variance": 0.25, "num_updates": 3}
        >>> init(Settings(), saved=saved).num_updates
        tensor(3)
    """
    mean, variance, num_updates = state.start(settings, saved)
    made: Moments = KINDS[settings.scale](
        torch.tensor(mean, dtype=torch.float32, device=device),
        torch.tensor(variance, dtype=torch.float32, device=device),
        torch.tensor(num_updates, dtype=torch.int64, device=device),
    )
    return made


def clip(
    loss: Tensor,
    moments: Moments,
    settings: Settings,
    mask: Tensor | None = None,
    group: Tensor | int | None = None,
) -> tuple[Tensor, Moments]:
    """Limits losses and returns them with the next moments; changes nothing in place.

    For ``torch.func``: ``vmap`` over models or examples, ``grad`` with ``has_aux=True``. In an
    ordinary training loop :class:`ALRC` keeps the moments for you.

    Args:
        loss: Losses of any shape, floating.
        moments: What :func:`init` or the call before returned.
        settings: The hyperparameters.
        mask: Which losses count: shape of ``loss``, True or a positive weight; None: all count.
        group: Which group the losses are in, from 0 to ``num_groups - 1``: whole numbers in the
            shape of ``loss``, or one for all; given if and only if the settings have groups.

    Returns:
        The losses, same shape and dtype, limited; and the next moments, same shapes and dtypes.
        Save the moments as ``moments.to_dict()``, plain numbers that any format takes, and go on
        from them with ``init(settings, saved=...)``.

    Raises:
        TypeError: If ``loss`` is not a floating tensor, ``moments`` not ``Moments``, ``mask`` not
            a tensor, or ``group`` not whole numbers.
        ValueError: If ``mask`` or ``group`` has another shape, ``moments`` are those of another
            number of groups or scale, or anything is on another device.

    Example:
        >>> import torch
        >>> from alrc import Settings
        >>> from alrc.torch import clip, init
        >>> settings = Settings(3, 0.999, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
        >>> losses = torch.tensor([0.5, 8.0], requires_grad=True)
        >>> clipped, moments = clip(losses, init(settings), settings)
        >>> clipped.tolist()
        [0.5, 4.0]
        >>> clipped.sum().backward()
        >>> losses.grad.tolist()
        [1.0, 0.5]

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """
    inputs.check_moments("clip", moments, settings)
    before = Moments(*moments)
    inputs.check("clip", loss, mask, before.mean.device)
    groups = inputs.groups("clip", loss, group, settings)
    limited, step, _ = observe(loss, before, settings, mask, groups, "clip")
    advanced = rule.advance(torch, before, step.summary, settings)
    pairs = zip(advanced, before, strict=True)
    return limited, KINDS[settings.scale](*(new.to(old.dtype) for new, old in pairs))


def observe(
    loss: Tensor,
    moments: Moments,
    settings: Settings,
    mask: Tensor | None,
    groups: Reduction | None,
    who: str = "ALRC",
) -> tuple[Tensor, Step, Moments]:
    """The limited losses, what is to move the moments, and the moments that limited them.

    No number is read from a tensor, but from one on the CPU whether it is below 0.
    """
    if inputs.is_readable(loss):
        inputs.look_at_signs(who, loss, mask, settings)
    losses = inputs.detached(loss)
    weights = None if mask is None else inputs.weights(mask, losses)
    largest = inputs.largest_factor(loss)
    step = rule.observe(torch, losses, weights, opaque(moments), settings, groups, largest)
    wide = loss if loss.dtype == losses.dtype else loss.to(losses.dtype)
    limited = rule.attach(torch, loss, wide, losses, step.losses, lambda x: x.to(loss.dtype))
    return limited, step, moments
