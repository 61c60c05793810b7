"""What keeps gradients right under torch.compile; PyTorch only, for alrc.torch and alrc.keras."""

import torch
from torch import Tensor

from alrc.rule import Moments

# Not public, so it may be gone one day; then recomputation is no longer noticed.
_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)


def opaque(moments: Moments) -> Moments:
    """The moments, as copies that the compiler cannot look into where it is at work.

    torch.compile may compute again in the backward pass what the forward pass computed from the
    moments, and by then they have been updated: the loss is right and its gradient silently
    wrong. What is computed from the result of an opaque operator is computed from what was saved.
    See https://github.com/pytorch/pytorch/pull/197039. Where the compiler is told to compute
    everything again, as by activation checkpointing, the operator itself refuses.
    """
    if not torch.compiler.is_compiling():
        return moments
    return Moments(*(snapshot(moment) for moment in moments))


def check_outside_of_backward() -> None:
    """Refuses a second look at a loss, which would meet other moments than the first."""
    if not torch.compiler.is_compiling() and _graph_task() != -1:
        raise RuntimeError(
            "ALRC: a loss must meet ALRC once, in the forward pass; got a call during the "
            "backward pass, where activation checkpointing, or a compiler short of memory, "
            "computes again what is inside of it. Call alrc(loss) outside of "
            "torch.utils.checkpoint.checkpoint(), and outside of what is compiled with an "
            "activation_memory_budget below 1."
        )


@torch.library.custom_op("alrc::snapshot", mutates_args=())
def snapshot(x: Tensor) -> Tensor:
    check_outside_of_backward()
    return x.clone()


snapshot.register_fake(torch.empty_like)
snapshot.register_vmap(lambda info, in_dims, x: (snapshot(x), in_dims[0]))
