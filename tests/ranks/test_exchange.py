"""The exchange that is under way: reading, copying and setting the state; one collective a call."""

import pytest
import torch
from ranks.comparing import TOLERANCE, same, worlds
from ranks.scenarios_alone import READERS
from ranks.streams import CASES, SAVED, WRITERS, met, whole

from alrc.torch import ALRC


@worlds
@pytest.mark.parametrize("reader", READERS)
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
    case = CASES["given start"]
    alrc = ALRC(**case.settings)
    for step in range(8):
        met(alrc, whole(case, step, world))
    read = seen(world, "reading")[0]
    torch.testing.assert_close(read["to_dict", True][0], alrc.to_dict(), **TOLERANCE)
    assert read["repr", True][0] == (
        "ALRC(num_stddev=2, decay=0.9, mu1_start=1, mu2_start=1.5, center='zero', "
        "scale='linear', sync=True, "
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
@pytest.mark.parametrize("writer", WRITERS)
def test_setting_the_state_drops_what_is_under_way(seen, world, writer) -> None:
    start = ALRC(**CASES["given start"].settings).to_dict()
    for rank in seen(world, "writing"):
        state, later = rank[writer, True]
        assert state == (start if writer == "reset_parameters" else SAVED)
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
