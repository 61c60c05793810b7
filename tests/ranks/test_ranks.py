"""Data-parallel training: real processes under torchrun, on gloo, with one limit for all ranks.

One launch for each number of ranks runs every scenario of rank_workers.py; the tests here compare
what its ranks saw with each other, with the oracle and with one process that sees the whole batch.
"""

import functools
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import rank_workers as workers
import torch
import torch.distributed as dist
from launching import TORCHRUN, run
from reference import Reference
from torch import nn

from alrc import ranks, rule
from alrc.rule import Counts, Summary
from alrc.torch import ALRC

WORLDS = [2, 4]
worlds = pytest.mark.parametrize("world", WORLDS, ids=[f"{world} ranks" for world in WORLDS])
cases = pytest.mark.parametrize("case", workers.CASES)
same = functools.partial(torch.testing.assert_close, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each rank saw of a scenario, by number of ranks and name; starts them when asked."""

    @functools.cache
    def launched(world: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("ranks")
        options = {"launcher": TORCHRUN, "ranks": world, "PYTHONWARNINGS": "error"}
        done = run(workers.__file__, folder, cwd=folder, **options)
        return folder, done.stderr

    @functools.cache
    def load(world: int, scenario: str) -> list[Any]:
        folder, stderr = launched(world)
        errors = [path.read_text() for path in sorted(folder.glob("*.error"))]
        survivors = world - (scenario == "died")
        paths = [folder / f"{scenario}.{rank}.pt" for rank in range(survivors)]
        assert all(path.exists() for path in paths), "\n".join([*errors, stderr[-3000:]])
        return [torch.load(path, weights_only=False) for path in paths]

    return load


@pytest.fixture
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# ALRC alone


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def reference_step(
    references: list[Reference], given: workers.Call
) -> list[tuple[float, float, float]]:
    """The oracle's value, factor and closeness for each loss; one oracle for each group."""
    size = given.loss.numel()
    mask = [True] * size if given.mask is None else given.mask.tolist()
    index = [0] * size if given.group is None else given.group.tolist()
    results: list[Any] = [None] * size
    losses = given.loss.double().tolist()
    for k, reference in enumerate(references):
        chosen = [i for i in range(size) if index[i] == k]
        clipped = reference([losses[i] for i in chosen], [mask[i] for i in chosen])
        for i, one in zip(chosen, clipped, strict=True):
            results[i] = (one.value, one.factor, one.closeness)
    return results


def reference_state(references: list[Reference], grouped: bool) -> dict[str, Any]:
    names = ["mean", "variance", *workers.COUNTS]
    numbers = {name: [getattr(reference, name) for reference in references] for name in names}
    return numbers if grouped else {name: values[0] for name, values in numbers.items()}


def references_for(settings: dict[str, Any]) -> list[Reference]:
    rest = {key: value for key, value in settings.items() if key != "num_groups"}
    return [Reference(**rest) for _ in range(settings.get("num_groups", 1))]


# float32 moments are rounded at each call; about 1 / (1 - decay) = 10 roundings are remembered.
# Where the mean is 1000 times the spread, so is the rounding of the mean to the variance.
TOLERANCE = {"rtol": 2e-6, "atol": 1e-7}
FAR = {"rtol": 5e-4, "atol": 1e-7}


@worlds
@cases
def test_ranks_together_do_what_the_oracle_does_with_the_whole_batch(seen, world, case) -> None:
    ranks = [rank[case]["read"] for rank in seen(world, "alone")]
    table = workers.CASES[case]
    references = references_for(table.settings)
    coarse = {"rtol": 1e-2, "atol": 1e-2} if table.dtype == torch.bfloat16 else TOLERANCE
    limited = 0
    for step, parts in enumerate(zip(*ranks, strict=True)):
        given = workers.whole(table, step, world)
        expected = reference_step(references, given)
        values, factors = joined([part[0] for part in parts]), joined([part[1] for part in parts])
        wanted, factor, close = (torch.tensor([one[i] for one in expected]) for i in range(3))
        assert (close > 1e-5).all()  # no loss so near a limit that rounding decides
        assert values.dtype == table.dtype
        torch.testing.assert_close(values.float(), wanted, **coarse, equal_nan=True)
        torch.testing.assert_close(factors.float(), factor, **coarse)
        limited += int((factor < 1).sum())
        state = reference_state(references, "num_groups" in table.settings)
        tolerance = FAR if case == "far from zero" else TOLERANCE
        for name, number in parts[0][2].items():
            torch.testing.assert_close(
                torch.tensor(number, dtype=torch.float64),
                torch.tensor(state[name], dtype=torch.float64),
                **({"rtol": 0.0, "atol": 0.0} if name in workers.COUNTS else tolerance),
                msg=lambda text, name=name, step=step: f"{name} at step {step}: {text}",
            )
    assert limited > 3


@worlds
@cases
def test_ranks_together_do_what_one_process_does_with_the_whole_batch(seen, world, case) -> None:
    ranks = [rank[case]["read"] for rank in seen(world, "alone")]
    table = workers.CASES[case]
    alrc = ALRC(**table.settings)
    tolerance = FAR if case == "far from zero" else TOLERANCE
    coarse = {"rtol": 1e-2, "atol": 1e-2} if table.dtype == torch.bfloat16 else tolerance
    for step, parts in enumerate(zip(*ranks, strict=True)):
        limited, factors = workers.met(alrc, workers.whole(table, step, world))
        torch.testing.assert_close(
            joined([part[0] for part in parts]), limited, **coarse, equal_nan=True
        )
        torch.testing.assert_close(joined([part[1] for part in parts]), factors, **coarse)
        torch.testing.assert_close(parts[0][2], alrc.to_dict(), **tolerance)


@worlds
@cases
def test_every_rank_has_the_same_state_at_every_step_to_the_last_bit(seen, world, case) -> None:
    ranks = [rank[case] for rank in seen(world, "alone")]
    for mode in ("read", "blocking"):
        for states in zip(*([one[2] for one in rank[mode]] for rank in ranks), strict=True):
            assert all(state == states[0] for state in states)
        assert states[0] != ALRC(**workers.CASES[case].settings).to_dict()


@worlds
@cases
def test_reading_the_state_at_every_step_changes_nothing(seen, world, case) -> None:
    for rank in seen(world, "alone"):
        for read, silent in zip(rank[case]["read"], rank[case]["silent"], strict=True):
            same(silent[:2], read[:2])
        assert silent[2] == read[2]


@worlds
@cases
def test_blocking_gives_the_same_numbers_to_the_last_bit(seen, world, case) -> None:
    for rank in seen(world, "alone"):
        same(rank[case]["blocking"], rank[case]["read"])


def test_the_limits_of_ranks_apart_are_others() -> None:
    """Without it the tests above might compare what would be the same without sync."""
    for case in workers.CASES.values():
        thresholds = []
        for rank in range(2):
            alrc = ALRC(**case.settings)
            for step in range(workers.STEPS):
                workers.met(alrc, workers.call(case, step, rank, 2))
            thresholds.append(alrc.threshold)
        assert not torch.isclose(*thresholds, rtol=1e-3).any()


# What is under way


@worlds
@pytest.mark.parametrize("reader", workers.READERS)
def test_reading_waits_for_what_is_under_way(seen, world, reader) -> None:
    ranks = seen(world, "reading")
    for rank in ranks:
        value, later = rank[reader, True]
        blocking_value, blocking_later = rank[reader, False]
        if reader == "repr":
            assert value == blocking_value
        else:
            same(value, blocking_value)
        same(later, blocking_later)
        assert str(value) == str(ranks[0][reader, True][0])
        assert later[1] == ranks[0][reader, True][1][1]


@worlds
def test_what_was_read_is_the_state_after_the_last_call(seen, world) -> None:
    case = workers.CASES["given start"]
    alrc = ALRC(**case.settings)
    for step in range(8):
        workers.met(alrc, workers.whole(case, step, world))
    read = seen(world, "reading")[0]
    torch.testing.assert_close(read["to_dict", True][0], alrc.to_dict(), **TOLERANCE)
    assert read["repr", True][0] == (
        "ALRC(num_stddev=2, decay=0.9, mu1_start=1, mu2_start=1.5, center='zero', sync=True, "
        f"threshold={alrc.threshold.item():g})"
    )


@worlds
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_made_while_an_exchange_is_under_way_goes_on_like_its_original(
    seen, world, way
) -> None:
    for rank in seen(world, "copies"):
        original, twin = rank[way]
        assert original == twin
        assert original[1:] == (True, True)
        assert original == seen(world, "copies")[0][way][0]


@worlds
@pytest.mark.parametrize("writer", workers.WRITERS)
def test_setting_the_state_drops_what_is_under_way(seen, world, writer) -> None:
    start = ALRC(**workers.CASES["given start"].settings).to_dict()
    for rank in seen(world, "writing"):
        state, later = rank[writer, True]
        assert state == (start if writer == "reset_parameters" else workers.SAVED)
        assert later == rank[writer, False][1]
        assert later["num_updates"] == state["num_updates"] + 1


# How many collectives

COLLECTIVES = {
    "a vector, a scalar": 2,
    "nothing that counts": 3,
    "groups": 2,
    "blocking": 3,
    "switched on later": 2,
    "switched off later": 0,
    "not asked for": 0,
    "evaluation": 0,
    "no_grad": 0,
}


@worlds
@pytest.mark.parametrize("calls", COLLECTIVES)
def test_one_collective_per_call_if_asked_for_and_else_none(seen, world, calls) -> None:
    for rank in seen(world, "collectives"):
        assert rank[calls] == ["allreduce_.default"] * COLLECTIVES[calls]


# Inside of what trains in parallel


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
    pairs = [workers.examples(step, rank) for rank in range(world)]
    return tuple(torch.cat(both) for both in zip(*pairs, strict=True))


@worlds
@pytest.mark.parametrize("place", workers.DDP)
def test_ddp_learns_what_one_process_learns_from_the_whole_batch(seen, world, place) -> None:
    options = workers.DDP[place]
    count = options.get("batches", 1)
    alrc = workers.limiter()
    net = workers.Net(alrc, options["inside"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    ranks = [rank[place][True] for rank in seen(world, "ddp")]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        batches = [together(world, count * step + i) for i in range(count)]
        workers.learn(net, batches, optimizer, nn.Identity() if options["inside"] else alrc)
        for learned, state in parts:
            # Sums over ranks are made in another order, 12 steps long.
            torch.testing.assert_close(learned, workers.parameters(net), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(state, alrc.to_dict(), rtol=1e-5, atol=1e-6)
    assert alrc.num_clipped > 10


@worlds
@pytest.mark.parametrize("place", workers.DDP)
def test_ddp_has_the_same_state_on_every_rank_at_every_step(seen, world, place) -> None:
    ranks = seen(world, "ddp")
    for parts in zip(*(rank[place][True] for rank in ranks), strict=True):
        for part in parts:
            same(part, parts[0])


@worlds
@pytest.mark.parametrize("place", workers.DDP)
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
    alrc = workers.limiter()
    net = workers.Net(alrc, inside=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    ranks = seen(world, "fsdp2_accumulated")
    for step, parts in enumerate(zip(*ranks, strict=True)):
        workers.learn(net, [together(world, 3 * step + i) for i in range(3)], optimizer)
        for learned, state in parts:
            torch.testing.assert_close(learned, workers.parameters(net), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(state, alrc.to_dict(), rtol=1e-5, atol=1e-6)
            assert state == parts[0][1]
    assert alrc.num_clipped > 10


@worlds
@pytest.mark.parametrize("place", workers.FSDP)
def test_fsdp2_keeps_the_state_float32_and_the_same_on_every_rank(seen, world, place) -> None:
    ranks = [rank[place]["steps"] for rank in seen(world, "fsdp2")]
    for parts in zip(*ranks, strict=True):
        for learned, _, state, kinds in parts:
            same(learned, parts[0][0])
            assert state == parts[0][2]
            assert kinds == [("Tensor", torch.float32)] * 2 + [("Tensor", torch.int64)] * 4


@worlds
@pytest.mark.parametrize("place", workers.FSDP)
def test_fsdp2_has_the_moments_that_the_oracle_has_of_all_losses(seen, world, place) -> None:
    ranks = [rank[place]["steps"] for rank in seen(world, "fsdp2")]
    losses = [joined([part[1] for part in parts]) for parts in zip(*ranks, strict=True)]
    assert losses[0].dtype == (workers.FSDP[place][1] or torch.float32)
    assert oracle_follows(losses, [part[2] for part in ranks[0]]) > 5


@worlds
@pytest.mark.parametrize("place", ["inside, float32", "beside, float32"])
def test_fsdp2_learns_what_one_process_learns_from_the_whole_batch(seen, world, place) -> None:
    alrc = workers.limiter()
    net = workers.Net(alrc, inside=False)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step, part in enumerate(seen(world, "fsdp2")[0][place]["steps"]):
        workers.learn(net, [together(world, step)], optimizer, alrc)
        torch.testing.assert_close(part[0], workers.parameters(net), rtol=1e-4, atol=1e-5)


@worlds
@pytest.mark.parametrize("place", workers.FSDP)
def test_a_distributed_checkpoint_goes_on_to_the_last_bit_on_every_rank(seen, world, place) -> None:
    for rank in seen(world, "fsdp2"):
        assert len(rank[place]["later"]) == 5
        same([part[:3] for part in rank[place]["resumed"]], [p[:3] for p in rank[place]["later"]])


# torch.compile

BACKENDS = ["aot_eager"] + (["inductor"] if shutil.which("g++") else [])
compilers = pytest.mark.parametrize("backend", BACKENDS)


@compilers
def test_a_graph_with_the_exchange_inside_has_the_gradients_of_eager(seen, backend) -> None:
    for rank, _ in seen(2, "compiled"):
        for graph, eager in zip(rank[backend], rank["eager"], strict=True):
            torch.testing.assert_close(graph[0], eager[0], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(graph[1], eager[1], rtol=1e-5, atol=0.0)
        assert eager[1]["num_clipped"] > 10


@compilers
def test_a_graph_leaves_the_same_state_on_every_rank_at_every_step(seen, backend) -> None:
    ranks = [rank[backend] for rank, _ in seen(2, "compiled")]
    for parts in zip(*ranks, strict=True):
        assert all(part[1] == parts[0][1] for part in parts)


def test_a_graph_has_one_collective(seen) -> None:
    for _, names in seen(2, "compiled"):
        assert len(names) == 1
        assert "all_reduce" in names[0]


@pytest.mark.parametrize("kind", ["read before", "with graph breaks"])
def test_calls_inside_and_outside_of_a_graph_may_take_turns(seen, kind) -> None:
    for rank in seen(2, "compiled_after_eager"):
        torch.testing.assert_close(rank[kind], rank["eager"], **TOLERANCE)
        assert rank[kind] == seen(2, "compiled_after_eager")[0][kind]


UNDER_WAY = (
    "ALRC: with sync, a call outside of torch.compile has left an exchange of moments under way, "
    "for which a compiled graph cannot wait. Read the state before the graph is called, for "
    "example alrc.num_updates, or pass async_op=False."
)


def test_a_graph_cannot_wait_for_what_a_call_outside_of_it_has_begun(seen) -> None:
    for rank in seen(2, "compiled_after_eager"):
        name, message = rank["one graph"]
        assert name == "Unsupported"
        assert UNDER_WAY in message
        assert rank["after the error"]["num_updates"] == 1


def test_what_a_graph_cannot_wait_for_is_said_word_for_word(world_of_one, monkeypatch) -> None:
    wait = ranks.exchange(Summary(1, 0.0, 0.0), Counts(1, 0, 0), sync=True, async_op=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        with pytest.raises(RuntimeError) as error:
            wait()
    assert str(error.value) == UNDER_WAY
    assert wait() == (Summary(1.0, 0.0, 0.0), Counts(1, 0, 0))


# Failures

FAILED = (
    "ALRC: with sync, every rank must make the same calls in training; the exchange of moments "
    "failed, because a rank has died, or made no call within the process group's timeout. Look "
    "for the first error of the other ranks; a rank without losses still calls alrc(loss) with an "
    "empty loss. Moments are as before that call. ["
)


@worlds
@pytest.mark.parametrize("async_op", [True, False], ids=["asynchronous", "blocking"])
def test_a_skipped_call_is_an_error_and_leaves_the_state_as_it_was(seen, world, async_op) -> None:
    for before, error, after, saved in [rank[async_op] for rank in seen(world, "skipped")][:-1]:
        assert error[0] == "RuntimeError"
        assert error[1].startswith(FAILED)
        assert error[1].endswith("]")
        assert after == before
        assert saved == before
        assert before["num_updates"] == 4


@worlds
@pytest.mark.parametrize("writer", workers.WRITERS)
def test_when_a_rank_dies_the_others_fail_in_words_and_can_save_and_load(
    seen, world, writer
) -> None:
    start = ALRC(**workers.CASES["given start"].settings).to_dict()
    for rank in seen(world, "died"):
        before, error, after, saved, loading, loaded = rank[writer]
        assert error[0] == "RuntimeError"
        assert error[1].startswith(FAILED)
        assert error[1].endswith("]")
        assert after == before
        assert saved == before
        assert loading[0] == "none"
        assert loaded == (start if writer == "reset_parameters" else workers.SAVED)


# Process groups


def test_two_groups_of_ranks_have_two_limits(seen) -> None:
    ranks = seen(4, "groups_of_two")
    case = workers.CASES["given start"]
    for pair in ((0, 1), (2, 3)):
        references = references_for(case.settings)
        for step in range(workers.STEPS):
            losses = [workers.call(case, step, rank, 4).loss for rank in pair]
            values, factors, _ = zip(
                *reference_step(references, workers.Call(joined(losses))), strict=True
            )
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
        ALRC(sync=sync)
    assert str(error.value) == message
    alrc = ALRC()
    alrc.sync = sync
    with pytest.raises(TypeError) as error:
        alrc(torch.ones(2, requires_grad=True))
    assert str(error.value) == message


def behaves_as_without_sync(sync: Any) -> None:
    for case in workers.CASES.values():
        alrc, plain = ALRC(sync=sync, **case.settings), ALRC(**case.settings)
        with workers.Collectives() as counted:
            for step in range(12):
                for rank in range(2):
                    given = workers.call(case, step, rank, 2)
                    expected = workers.met(plain, workers.call(case, step, rank, 2))
                    same(workers.met(alrc, given), expected)
                    assert alrc.to_dict() == plain.to_dict()
        assert counted.names == []


def test_without_torch_distributed_sync_changes_nothing() -> None:
    assert not dist.is_initialized()
    behaves_as_without_sync(True)


def test_a_process_of_many_that_has_no_group_yet_is_refused_in_words(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    alrc = ALRC(sync=True)
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


@pytest.mark.parametrize("seed", range(5))
def test_python_floats_are_combined_as_the_rule_combines_arrays(seed) -> None:
    random = torch.Generator().manual_seed(seed)
    rows = torch.rand(4, 6, generator=random, dtype=torch.float64) * 10.0 ** (3 * seed)
    rows[:, 3:] = rows[:, 3:].floor()
    rows[seed % 4] = 0.0  # a rank without losses
    summary, counts = ranks._combine(rows.tolist())
    expected = rule.combine(torch, *rows.unbind(1)[:3])
    torch.testing.assert_close(torch.tensor(summary, dtype=torch.float64), torch.stack(expected))
    assert list(counts) == rows[:, 3:].sum(0).long().tolist()
    assert ranks._combine([[0.0] * 6] * 2) == (Summary(0, 0, 0), Counts(0, 0, 0))
