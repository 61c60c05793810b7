"""The exchange inside of a compiled graph."""

import shutil

import pytest
import torch
from ranks.comparing import TOLERANCE

from alrc.rule import Counts, Summary
from alrc.torch.ranks import Exchange

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
    "for which a compiled graph cannot wait. Call alrc.wait() before the graph is called, or pass "
    "async_op=False."
)


def test_a_graph_cannot_wait_for_what_a_call_outside_of_it_has_begun(seen) -> None:
    for rank in seen(2, "compiled_after_eager"):
        name, message = rank["one graph"]
        assert name == "Unsupported"
        assert UNDER_WAY in message
        assert rank["after the error"]["num_updates"] == 1


def test_what_a_graph_cannot_wait_for_is_said_word_for_word(world_of_one, monkeypatch) -> None:
    exchange = Exchange(Summary(1, 0.0, 0.0), Counts(1, 0, 0), sync=True, async_op=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        with pytest.raises(RuntimeError) as error:
            exchange.wait()
    assert str(error.value) == UNDER_WAY
    assert exchange.wait() == (Summary(1.0, 0.0, 0.0), Counts(1, 0, 0))
