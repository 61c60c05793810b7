"""One limit for all ranks: the exchange of what each rank's losses tell the moments; PyTorch only.

What is gathered is combined by every rank in the same order, so that moments are the same on all of
them to the last bit, which a sum made along the way need not be.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

from alrc import rule
from alrc.rule import Counts, Summary

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
    """True if there are other ranks to share a limit with; a program started as one has none."""
    check(sync)
    if sync is False:
        return False
    if not (dist.is_available() and dist.is_initialized()):
        if not torch.compiler.is_compiling() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise RuntimeError(
                "ALRC: with sync, torch.distributed must be initialised before the first call, "
                f"because this process is one of {os.environ['WORLD_SIZE']}, as WORLD_SIZE says. "
                "Call torch.distributed.init_process_group(), or pass sync=False for a limit for "
                "each process."
            )
        return False
    return dist.get_world_size(_group(sync)) != 1


def exchange(
    summary: Summary, counts: Counts, sync: Sync, async_op: bool
) -> Callable[[], tuple[Summary, Counts]]:
    """Starts the one collective of a call.

    Returns:
        What waits for it and returns the summary and the counts of all ranks.
    """
    group = _group(sync)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    # Each rank's numbers in a row of its own: a sum with zeros is exact, and every backend and the
    # compiler know it, which is not so of the ways to gather. In float64, in which counts are
    # exact too; fewer numbers would not arrive any sooner.
    if isinstance(summary.total, int):  # Python numbers, of losses on the CPU
        own = [float(number) for number in (*summary, *counts)]
        none = [0.0] * len(own)
        table = [own if i == rank else none for i in range(size)]
        rows = torch.tensor(table, dtype=torch.float64, device="cpu")
    else:
        numbers = torch.stack([number.double() for number in (*summary, *counts)])
        rows = numbers.new_zeros(size, *numbers.shape)
        rows[rank] = numbers
    try:
        work = dist.all_reduce(rows, group=group, async_op=async_op)
    except RuntimeError as error:
        raise _failure(error) from error

    def wait() -> tuple[Summary, Counts]:
        if work is not None:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "ALRC: with sync, a call outside of torch.compile has left an exchange of "
                    "moments under way, for which a compiled graph cannot wait. Read the state "
                    "before the graph is called, for example alrc.num_updates, or pass "
                    "async_op=False."
                )
            try:
                work.wait()
            except RuntimeError as error:
                raise _failure(error) from error
        # Decided by what is the same on every rank, so that their numbers are too.
        if rows.dim() == 2 and rows.device.type == "cpu" and not torch.compiler.is_compiling():
            return _combine(rows.tolist())
        columns = rows.unbind(1)
        sums = (column.sum(0).long() for column in columns[3:])
        return rule.combine(torch, *columns[:3]), Counts(*sums)

    return wait


def _group(sync: Sync) -> Any:
    return None if sync is True else sync


def _combine(rows: list[list[float]]) -> tuple[Summary, Counts]:
    """:func:`alrc.rule.combine` of Python floats, ten times faster than of small tensors."""
    totals, shifts, spreads, *counts = zip(*rows, strict=True)
    total = sum(totals)

    def mean(values: Iterable[float]) -> float:
        weighted: float = sum(x * y for x, y in zip(totals, values, strict=True))
        return weighted / (total or 1.0)

    shift = mean(shifts)
    pairs = zip(shifts, spreads, strict=True)
    spread = mean(within + (own - shift) * (own - shift) for own, within in pairs)
    return Summary(total, shift, spread), Counts(*(int(sum(column)) for column in counts))


def _failure(error: RuntimeError) -> RuntimeError:
    return RuntimeError(
        "ALRC: with sync, every rank must make the same calls in training; the exchange of moments "
        "failed, because a rank has died, or made no call within the process group's timeout. "
        "Look for the first error of the other ranks; a rank without losses still calls "
        f"alrc(loss) with an empty loss. Moments are as before that call. [{error}]"
    )
