"""What torch.compile needs in order to keep gradients right; PyTorch only."""

import torch
from torch import Tensor

from alrc.rule import Moments


@torch.library.custom_op("alrc::snapshot", mutates_args=())
def snapshot(x: Tensor) -> Tensor:
    """A copy that the compiler cannot look into.

    torch.compile may compute again in the backward pass what the forward pass computed from the
    moments, and by then they have been updated: the loss is right and its gradient silently
    wrong. What is computed from the result of an opaque operator is computed from what was saved.
    See https://github.com/pytorch/pytorch/pull/197039.
    """
    return x.clone()


snapshot.register_fake(torch.empty_like)
snapshot.register_vmap(lambda info, in_dims, x: (snapshot(x), in_dims[0]))


def opaque(moments: Moments) -> Moments:
    """The moments, as copies that the compiler cannot look into where it is at work."""
    if not torch.compiler.is_compiling():
        return moments
    return Moments(*(snapshot(moment) for moment in moments))
