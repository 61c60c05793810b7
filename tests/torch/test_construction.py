"""Devices, memory and dtypes: where a module is built, and where it goes."""

import math

import pytest
import torch
from torch import nn

from alrc import Settings
from alrc.torch import ALRC, Moments, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


def test_meta_device_then_to_empty_then_reset_parameters_is_a_fresh_start() -> None:
    with torch.device("meta"):
        alrc = ALRC(**START)
    assert all(buffer.is_meta for buffer in alrc.buffers())
    alrc.threshold  # noqa: B018 - can be asked for, though it has no value yet
    alrc = alrc.to_empty(device="cpu")
    alrc.reset_parameters()
    assert alrc.state_dict() == ALRC(**START).state_dict()


def test_losses_on_the_meta_device_take_the_path_of_accelerators() -> None:
    alrc = ALRC(device="meta", num_stddev=3, scale="linear")
    assert alrc(torch.empty(3, device="meta")).shape == (3,)


def test_a_checkpoint_on_the_meta_device_is_not_looked_into() -> None:
    alrc = ALRC(device="meta", num_stddev=3, scale="linear")
    alrc.load_state_dict(ALRC(device="meta", num_stddev=3, scale="linear").state_dict())
    assert alrc.mean.is_meta


def test_init_takes_a_device() -> None:
    assert all(
        moment.is_meta for moment in init(Settings(num_stddev=3, scale="linear"), device="meta")
    )


def test_moving_and_casting_at_once_moves_the_state_only() -> None:
    alrc = ALRC(num_stddev=3, scale="linear").to("meta", torch.bfloat16)
    assert all(buffer.is_meta for buffer in alrc.buffers())
    assert alrc.mean.dtype == torch.float32


def test_moments_of_the_pure_function_can_be_saved_without_pickled_classes(tmp_path) -> None:
    moments = init(Settings(**START))
    torch.save(tuple(moments), tmp_path / "moments.pt")
    assert Moments(*torch.load(tmp_path / "moments.pt", weights_only=True)) == moments


def test_assign_true_keeps_dtypes_and_buffers() -> None:
    alrc, other = ALRC(**START), ALRC(**START)
    state = {name: x.double() for name, x in other.state_dict().items()}
    state["mean"] = nn.Parameter(state["mean"])
    alrc.load_state_dict(state, assign=True)
    assert alrc(torch.tensor(8.0)) == 4.0
    alrc.load_state_dict(state, assign=True)
    assert alrc.mean == 1.0
    assert [x.dtype for x in alrc.buffers()] == [torch.float32] * 2 + [torch.int64] * 4


def test_made_in_inference_mode_it_can_be_trained_later() -> None:
    with torch.inference_mode():
        alrc = ALRC(**START)
    assert alrc(torch.tensor([8.0, 1.0])).tolist() == [4.0, 1.0]
    assert alrc.num_updates == 1


def test_shared_memory_is_moved_in_place() -> None:
    alrc = ALRC(**START).share_memory()
    address = alrc.mean.data_ptr()
    alrc(torch.tensor(8.0))
    alrc(torch.tensor([8.0, math.nan]))
    assert alrc.mean.is_shared()
    assert alrc.mean.data_ptr() == address


def test_default_dtype_does_not_reach_the_state() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        alrc = ALRC(**START)
        for loss in (torch.tensor(8.0), torch.tensor([8.0, 1.0]), torch.tensor([8.0, math.nan])):
            assert alrc(loss.float()).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert alrc.mean.dtype == torch.float32


CASTS = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "double": lambda m: m.double(),
    "bfloat16 and device": lambda m: m.to("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_moments_stay_float32_whatever_is_done_to_the_model(cast) -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), ALRC(mu1_start=1 / 3, mu2_start=2 / 3, num_stddev=3, scale="linear")
    )
    before = {name: x.clone() for name, x in model[1].state_dict().items()}
    alrc = CASTS[cast](model)[1]
    assert model[0].weight.dtype != torch.float32
    for name, value in alrc.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
