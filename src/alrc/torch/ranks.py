"""One limit for all ranks: the exchange of what each rank's losses tell the moments; PyTorch only.

What is gathered is combined by every rank in the same order, so that moments are the same on all of
them to the last bit, which a sum made along the way need not be.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from alrc import rule, state
from alrc.rule import Column, Counts, Floats, Summary

_is_initialized = dist.is_initialized if dist.is_available() else lambda: False
Sync = Any  # bool or ProcessGroup, which a build of PyTorch without torch.distributed lacks


def check(sync: Sync) -> None:
    if isinstance(sync, bool) or (dist.is_available() and isinstance(sync, dist.ProcessGroup)):
        return
    if dist.is_available() and _is_no_member(sync):
        raise ValueError(
            "ALRC: sync must be a process group that this rank belongs to; got one that it does "
            "not. Give each rank the group that it is in."
        )
    raise TypeError(
        "ALRC: sync must be True for all ranks, False, or the process group of the ranks that "
        f"share one limit; got {sync!r} of type {type(sync).__name__}. Pass sync=True, or what "
        "torch.distributed.new_group() returned."
    )


def _is_no_member(sync: Sync) -> bool:
    """True for what new_group() returns on a rank that is not in the group, which is a number."""
    other = dist.GroupMember.NON_GROUP_MEMBER
    return type(sync) is type(other) and bool(sync == other)


def check_picklable(sync: Sync) -> None:
    if not isinstance(sync, bool):
        raise TypeError(
            "ALRC: sync must be True or False where the module is pickled, because a process group "
            f"lives in one program; got sync={type(sync).__name__}. Save alrc.state_dict() "
            "instead, or set alrc.sync again after loading. copy.deepcopy(alrc) shares the group."
        )


def many(sync: Sync) -> bool:
    """True if there are other ranks to share a limit with; a program started as one has none.

    Args:
        sync: Anything but False.
    """
    check(sync)
    if not _is_initialized():
        if not torch.compiler.is_compiling() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise RuntimeError(
                "ALRC: with sync, torch.distributed must be initialised before the first call, "
                f"because this process is one of {os.environ['WORLD_SIZE']}, as WORLD_SIZE says. "
                "Call torch.distributed.init_process_group(), or pass sync=False for a limit for "
                "each process."
            )
        return False
    return dist.get_world_size(_group(sync)) != 1


def is_of_numbers(summary: Summary) -> bool:
    """True if it is made of Python numbers, as of losses that were read on the CPU."""
    return isinstance(summary.shift, float)


class Exchange:
    """The one collective of a call, from its start to when its numbers are needed.

    Args:
        summary, counts: Of the losses of this rank.
        sync: The ranks that share one limit.
        async_op: True to go on before the others have sent theirs.
    """

    def __init__(self, summary: Summary, counts: Counts, sync: Sync, async_op: bool) -> None:
        group = _group(sync)
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        # Each rank's numbers in a row of its own: a sum with zeros is exact, and every backend and
        # the compiler know it, which is not so of the ways to gather. In float64, in which counts
        # are exact too; fewer numbers would not arrive any sooner.
        if is_of_numbers(summary):
            own = [float(number) for number in (*summary, *counts)]
            none = [0.0] * len(own)
            table = [own if i == rank else none for i in range(size)]
            self._rows = torch.tensor(table, dtype=torch.float64, device="cpu")
        else:
            numbers = torch.stack([number.double() for number in (*summary, *counts)])
            self._rows = numbers.new_zeros(size, *numbers.shape)
            self._rows[rank] = numbers
        try:
            self._work = dist.all_reduce(self._rows, group=group, async_op=async_op)
        except RuntimeError as error:
            raise _failure(error) from error

    def wait(self) -> tuple[Summary, Counts]:
        """The summary and the counts of all ranks, once they are there."""
        if self._work is not None:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "ALRC: with sync, a call outside of torch.compile has left an exchange of "
                    "moments under way, for which a compiled graph cannot wait. Call alrc.wait() "
                    "before the graph is called, or pass async_op=False."
                )
            try:
                self._work.wait()
            except RuntimeError as error:
                raise _failure(error) from error
        rows = self._rows
        # Decided by what is the same on every rank, so that their numbers are too.
        if rows.dim() == 2 and rows.device.type == "cpu" and not torch.compiler.is_compiling():
            # Ten times faster than small tensors.
            columns = [Column(column) for column in zip(*rows.tolist(), strict=True)]
            summary = rule.combine(Floats, Summary(*columns[:3]))
            return summary, Counts(*(int(sum(column)) for column in columns[3:]))
        unbound = rows.unbind(1)
        sums = (column.sum(0).long() for column in unbound[3:])
        return rule.combine(torch, Summary(*unbound[:3])), Counts(*sums)


# Called, not traced, where something is compiled.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def keep_out_of_broadcast(kind: Any) -> None:
    """Sees that every rank keeps its own moments in DistributedDataParallel, if they are to.

    Before each forward pass it overwrites all buffers by those of rank 0. It has no public way
    for a module inside of it to say which ones not to.
    """
    if not _is_initialized():
        return
    ddp: Any = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if ddp is None or getattr(ddp, "_alrc_is_kept_out", False):
        return
    ddp._alrc_is_kept_out = True
    modules = ddp.module.named_modules()
    own = {name: x.settings for name, x in modules if isinstance(x, kind) and x.sync is not True}
    if own:
        for prefix, settings in own.items():
            names = state.saved_names(settings.scale)
            ddp.parameters_to_ignore.update(f"{prefix}.{name}".lstrip(".") for name in names)
        ddp._assign_modules_buffers()


def _group(sync: Sync) -> Any:
    return None if sync is True else sync


def _failure(error: RuntimeError) -> RuntimeError:
    return RuntimeError(
        "ALRC: with sync, every rank must make the same calls in training; the exchange of moments "
        f"failed: {error} If that tells of a connection or a timeout, a rank has died, or made no "
        "call within the process group's timeout: look for the first error of the other ranks. A "
        "rank without losses still calls alrc(loss) with an empty loss. Moments are as before "
        "that call."
    )
