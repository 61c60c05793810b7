"""The state as plain numbers by name: what is refused, and in which words."""

import pytest
import torch

from alrc import Settings, state
from alrc.jax import init as jax_init
from alrc.torch import ALRC
from alrc.torch import init as torch_init

SOUND = {"mean": 1.5, "variance": 0.25, "num_updates": 7}
REFUSED = {
    "no dict": (
        [1.5, 0.25, 7],
        TypeError,
        "init: the saved state must be a dict of numbers by name; got [1.5, 0.25, 7]. Pass what "
        "to_dict() returned.",
    ),
    "nothing": (
        {},
        ValueError,
        "init: the saved state must have mean, variance, num_updates; mean, variance, num_updates "
        "is missing from it. Pass what to_dict() returned.",
    ),
    "another name": (
        {**SOUND, "mu1": 1.0},
        ValueError,
        "init: the saved state must have no names but mean, variance, num_updates, num_losses, "
        "num_clipped, num_nonfinite; got mu1. Pass what to_dict() returned.",
    ),
    "complex": (
        {**SOUND, "mean": 1 + 1j},
        ValueError,
        "init: the saved mean must be a number; got (1+1j). The state is damaged or not one of "
        "ALRC's: load another, or start afresh.",
    ),
    "truth": (
        {**SOUND, "num_updates": True},
        ValueError,
        "init: the saved num_updates must be a number; got True. The state is damaged or not one "
        "of ALRC's: load another, or start afresh.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_is_refused_in_words(case) -> None:
    saved, error_type, message = REFUSED[case]
    for init in (torch_init, jax_init):
        with pytest.raises(error_type) as error:
            init(Settings(num_stddev=3, scale="linear"), saved=saved)
        assert str(error.value) == message


def test_numbers_come_back_as_float_and_int_in_order_and_counts_default_to_0() -> None:
    checked = state.checked("init", {"num_updates": 7.0, "variance": 0, "mean": 2**100})
    assert list(checked.items()) == [
        ("mean", 2.0**100),
        ("variance", 0.0),
        ("num_updates", 7),
        ("num_losses", 0),
        ("num_clipped", 0),
        ("num_nonfinite", 0),
    ]
    assert [type(number) for number in checked.values()] == [float] * 2 + [int] * 4


def test_init_takes_the_moments_and_leaves_the_counts() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    alrc(torch.tensor([3.0, 9.0]))
    saved = alrc.to_dict()
    moments = {name: saved[name] for name in state.MOMENTS}
    for init in (torch_init, jax_init):
        assert init(alrc.settings, saved=saved).to_dict() == moments
    assert all(moment.is_meta for moment in torch_init(alrc.settings, "meta", saved))


def test_a_count_beyond_int32_is_held_at_its_largest_in_jax() -> None:
    saved = {**SOUND, "num_updates": 2**63 - 1}
    assert jax_init(Settings(num_stddev=3, scale="linear"), saved=saved).num_updates == 2**31 - 1
    assert torch_init(Settings(num_stddev=3, scale="linear"), saved=saved).num_updates == 2**63 - 1


def test_load_dict_sets_counts_that_were_not_saved_to_0() -> None:
    alrc = ALRC(num_stddev=3, scale="linear")
    alrc(torch.tensor([3.0, 9.0]))
    alrc.load_dict(SOUND)
    assert alrc.to_dict() == SOUND | dict.fromkeys(state.COUNTS, 0)
