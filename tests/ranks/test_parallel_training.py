"""Training inside of DistributedDataParallel and FSDP2, and beside them."""

import functools
from typing import Any

import pytest
import torch
from ranks.comparing import TOLERANCE, joined, reference_state, same, worlds
from ranks.scenarios_training import DDP, FSDP
from ranks.streams import Net, examples, learn, limiter, parameters
from reference import Reference
from torch import nn


def oracle_follows(losses: list[torch.Tensor], states: list[dict[str, Any]]) -> int:
    """Compares states with those of the oracle that was given these losses; how many it limited."""
    reference = Reference(num_stddev=1.0, decay=0.9, mu1_start=1.0, mu2_start=1.25)
    for loss, state in zip(losses, states, strict=True):
        reference(loss.double().tolist())
        expected = reference_state([reference], grouped=False)
        torch.testing.assert_close(state, expected, **TOLERANCE)
    return reference.num_clipped


def together(world: int, step: int) -> tuple[torch.Tensor, ...]:
    """The examples of all ranks, as one batch."""
    pairs = [examples(step, rank) for rank in range(world)]
    return tuple(torch.cat(both) for both in zip(*pairs, strict=True))


@worlds
@pytest.mark.parametrize("place", DDP)
def test_ddp_learns_what_one_process_learns_from_the_whole_batch(seen, world, place) -> None:
    options = DDP[place]
    count = options.get("batches", 1)
    alrc = limiter()
    net = Net(alrc, options["inside"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    ranks = [rank[place][True] for rank in seen(world, "ddp")]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        batches = [together(world, count * step + i) for i in range(count)]
        learn(net, batches, optimizer, nn.Identity() if options["inside"] else alrc)
        for learned, state in parts:
            # Sums over ranks are made in another order, 12 steps long.
            torch.testing.assert_close(learned, parameters(net), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(state, alrc.to_dict(), rtol=1e-5, atol=1e-6)
    assert alrc.num_clipped > 10


@worlds
@pytest.mark.parametrize("place", DDP)
def test_ddp_has_the_same_state_on_every_rank_at_every_step(seen, world, place) -> None:
    ranks = seen(world, "ddp")
    for parts in zip(*(rank[place][True] for rank in ranks), strict=True):
        for part in parts:
            same(part, parts[0])


@worlds
@pytest.mark.parametrize("place", DDP)
def test_ddp_may_broadcast_buffers_while_an_exchange_is_under_way(seen, world, place) -> None:
    for rank in seen(world, "ddp"):
        for read, silent in zip(rank[place][True], rank[place][False], strict=True):
            same(silent[0], read[0])
        assert silent[1] == read[1]


@worlds
def test_ddp_goes_on_from_the_checkpoint_of_one_rank(seen, world) -> None:
    ranks = seen(world, "ddp_resumed")
    # To the last bit, but for four ranks: DDP itself adds up the gradients of its first step in
    # another order, for which the order of two does not matter.
    close = same if world == 2 else functools.partial(torch.testing.assert_close, rtol=1e-5, atol=0)
    for rank in ranks:
        assert len(rank["later"]) == 5
        close(rank["resumed"], rank["later"])
        same([rank["resumed"], rank["later"]], [ranks[0]["resumed"], ranks[0]["later"]])


@worlds
def test_ddp_under_autocast_has_the_moments_that_the_oracle_has_of_all_losses(seen, world) -> None:
    ranks = seen(world, "ddp_autocast")
    losses = [joined([part[1] for part in parts]) for parts in zip(*ranks, strict=True)]
    assert oracle_follows(losses, [part[2] for part in ranks[0]]) > 5
    for rank in ranks:
        for part, first in zip(rank, ranks[0], strict=True):
            same([part[0], part[2]], [first[0], first[2]])
            assert part[3] == [torch.float32] * 2 + [torch.int64] * 4


@worlds
def test_fsdp2_accumulates_what_one_process_accumulates(seen, world) -> None:
    alrc = limiter()
    net = Net(alrc, inside=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    ranks = seen(world, "fsdp2_accumulated")
    for step, parts in enumerate(zip(*ranks, strict=True)):
        learn(net, [together(world, 3 * step + i) for i in range(3)], optimizer)
        for learned, state in parts:
            torch.testing.assert_close(learned, parameters(net), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(state, alrc.to_dict(), rtol=1e-5, atol=1e-6)
            assert state == parts[0][1]
    assert alrc.num_clipped > 10


@worlds
@pytest.mark.parametrize("place", FSDP)
def test_fsdp2_keeps_the_state_float32_and_the_same_on_every_rank(seen, world, place) -> None:
    ranks = [rank[place]["steps"] for rank in seen(world, "fsdp2")]
    for parts in zip(*ranks, strict=True):
        for learned, _, state, kinds in parts:
            same(learned, parts[0][0])
            assert state == parts[0][2]
            assert kinds == [("Tensor", torch.float32)] * 2 + [("Tensor", torch.int64)] * 4


@worlds
@pytest.mark.parametrize("place", FSDP)
def test_fsdp2_has_the_moments_that_the_oracle_has_of_all_losses(seen, world, place) -> None:
    ranks = [rank[place]["steps"] for rank in seen(world, "fsdp2")]
    losses = [joined([part[1] for part in parts]) for parts in zip(*ranks, strict=True)]
    assert losses[0].dtype == (FSDP[place][1] or torch.float32)
    assert oracle_follows(losses, [part[2] for part in ranks[0]]) > 5


@worlds
@pytest.mark.parametrize("place", ["inside, float32", "beside, float32"])
def test_fsdp2_learns_what_one_process_learns_from_the_whole_batch(seen, world, place) -> None:
    alrc = limiter()
    net = Net(alrc, inside=False)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step, part in enumerate(seen(world, "fsdp2")[0][place]["steps"]):
        learn(net, [together(world, step)], optimizer, alrc)
        torch.testing.assert_close(part[0], parameters(net), rtol=1e-4, atol=1e-5)


@worlds
@pytest.mark.parametrize("place", FSDP)
def test_a_distributed_checkpoint_goes_on_to_the_last_bit_on_every_rank(seen, world, place) -> None:
    for rank in seen(world, "fsdp2"):
        assert len(rank[place]["later"]) == 5
        same([part[:3] for part in rank[place]["resumed"]], [p[:3] for p in rank[place]["later"]])
