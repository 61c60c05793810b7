"""Which ranks share a limit; and what happens where one of them makes no call, or ends."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks.comparing import (
    TOLERANCE,
    joined,
    reference_state,
    reference_step,
    references_for,
    same,
    worlds,
)
from ranks.scenarios_alone import Collectives
from ranks.streams import CASES, SAVED, STEPS, WRITERS, Call, call, met

from alrc.torch import ALRC

# Failures

FAILED = (
    "ALRC: with sync, every rank must make the same calls in training; the exchange of moments "
    "failed: "
)
WHY = (
    " If that tells of a connection or a timeout, a rank has died, or made no call within the "
    "process group's timeout: look for the first error of the other ranks. A rank without losses "
    "still calls alrc(loss) with an empty loss. Moments are as before that call."
)


@worlds
@pytest.mark.parametrize("async_op", [True, False], ids=["asynchronous", "blocking"])
def test_a_skipped_call_is_an_error_and_leaves_the_state_as_it_was(seen, world, async_op) -> None:
    for before, error, after, saved in [rank[async_op] for rank in seen(world, "skipped")][:-1]:
        assert error[0] == "RuntimeError"
        assert error[1].startswith(FAILED)
        assert error[1].endswith(WHY)
        assert after == before
        assert saved == before
        assert before["num_updates"] == 4


@worlds
@pytest.mark.parametrize("writer", WRITERS)
def test_when_a_rank_dies_the_others_fail_in_words_and_can_save_and_load(
    seen, world, writer
) -> None:
    start = ALRC(**CASES["given start"].settings).to_dict()
    for rank in seen(world, "died"):
        before, error, after, saved, loading, loaded = rank[writer]
        assert error[0] == "RuntimeError"
        assert error[1].startswith(FAILED)
        assert error[1].endswith(WHY)
        assert after == before
        assert saved == before
        assert loading[0] == "none"
        assert loaded == (start if writer == "reset_parameters" else SAVED)


# Process groups


def test_two_groups_of_ranks_have_two_limits(seen) -> None:
    ranks = seen(4, "groups_of_two")
    case = CASES["given start"]
    for pair in ((0, 1), (2, 3)):
        references = references_for(case.settings)
        for step in range(STEPS):
            losses = [call(case, step, rank, 4).loss for rank in pair]
            values, factors, _ = zip(*reference_step(references, Call(joined(losses))), strict=True)
            seen_here = [ranks[rank]["steps"][step] for rank in pair]
            got = joined([part[0] for part in seen_here])
            torch.testing.assert_close(got, torch.tensor(values), **TOLERANCE)
            got = joined([part[1] for part in seen_here])
            torch.testing.assert_close(got, torch.tensor(factors), **TOLERANCE)
            state = reference_state(references, grouped=False)
            for part in seen_here:
                torch.testing.assert_close(part[2], state, **TOLERANCE)
                assert part[2] == seen_here[0][2]
    assert not math.isclose(ranks[0]["steps"][-1][2]["mean"], state["mean"], rel_tol=1e-2)


NOT_MINE = (
    "ALRC: sync must be a process group that this rank belongs to; got one that it does not. Give "
    "each rank the group that it is in."
)
PICKLED = (
    "ALRC: sync must be True or False where the module is pickled, because a process group lives "
    "in one program; got sync=ProcessGroup. Save alrc.state_dict() instead, or set alrc.sync "
    "again after loading. copy.deepcopy(alrc) shares the group."
)


def test_a_group_without_this_rank_is_refused(seen) -> None:
    for rank in seen(4, "groups_of_two"):
        assert rank["refused"][:2] == [("ValueError", NOT_MINE)] * 2


def test_a_deep_copy_shares_the_process_group_and_a_pickle_is_refused(seen) -> None:
    for rank in seen(4, "groups_of_two"):
        original, twin = rank["twins"]
        assert original == twin
        assert rank["shared"]
        assert rank["refused"][2] == ("TypeError", PICKLED)


@pytest.mark.parametrize(
    ("sync", "words"),
    [
        ("all", "'all' of type str"),
        (1, "1 of type int"),
        (None, "None of type NoneType"),
        ([0, 1], "[0, 1] of type list"),
    ],
)
def test_a_sync_of_the_wrong_type_is_refused(sync, words) -> None:
    message = (
        "ALRC: sync must be True for all ranks, False, or the process group of the ranks that "
        f"share one limit; got {words}. Pass sync=True, or what torch.distributed.new_group() "
        "returned."
    )
    with pytest.raises(TypeError) as error:
        ALRC(sync=sync, num_stddev=3, scale="linear")
    assert str(error.value) == message
    alrc = ALRC(num_stddev=3, scale="linear")
    alrc.sync = sync
    with pytest.raises(TypeError) as error:
        alrc(torch.ones(2, requires_grad=True))
    assert str(error.value) == message


def behaves_as_without_sync(sync: Any) -> None:
    for case in CASES.values():
        alrc, plain = ALRC(sync=sync, **case.settings), ALRC(**case.settings)
        with Collectives() as counted:
            for step in range(12):
                for rank in range(2):
                    given = call(case, step, rank, 2)
                    expected = met(plain, call(case, step, rank, 2))
                    same(met(alrc, given), expected)
                    assert alrc.to_dict() == plain.to_dict()
        assert counted.names == []


def test_without_torch_distributed_sync_changes_nothing() -> None:
    assert not dist.is_initialized()
    behaves_as_without_sync(True)


def test_a_process_of_many_that_has_no_group_yet_is_refused_in_words(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    alrc = ALRC(sync=True, num_stddev=3, scale="linear")
    before = alrc.to_dict()
    for losses in (torch.tensor(1.0), torch.tensor([1.0, math.nan])):
        with pytest.raises(RuntimeError) as error:
            alrc(losses.requires_grad_())
        assert str(error.value) == (
            "ALRC: with sync, torch.distributed must be initialised before the first call, because "
            "this process is one of 2, as WORLD_SIZE says. Call "
            "torch.distributed.init_process_group(), or pass sync=False for a limit for each "
            "process."
        )
        assert alrc.to_dict() == before
    alrc.sync = False
    assert alrc(torch.tensor(1.0, requires_grad=True)) == 1.0


def test_in_a_world_of_one_rank_sync_changes_nothing(world_of_one) -> None:
    behaves_as_without_sync(True)
    behaves_as_without_sync(dist.group.WORLD)
