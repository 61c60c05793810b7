"""Saving, loading, resuming, copying."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from alrc import Settings
from alrc.torch import ALRC, clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


def training(seed: int):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    alrc = ALRC(num_stddev=1.0, decay=0.9, scale="linear")
    return net, alrc, torch.optim.Adam(net.parameters(), 0.01)


def train(net, alrc, optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 3, generator=generator)
        loss = alrc((net(x) - x.sum(1, keepdim=True)).pow(4).mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_resumed_from_a_state_dict_is_bit_for_bit_the_uninterrupted_run() -> None:
    whole = train(*training(0), range(100))
    first = training(0)
    losses = train(*first, range(50))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = training(1)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert losses + train(*second, range(50, 100)) == whole
    assert second[1].num_clipped > 0


DAMAGED = {
    "nan mean": ("mean", torch.tensor(math.nan), "finite in float32; got nan"),
    "infinite mean": ("mean", torch.tensor(-math.inf), "finite in float32; got -inf"),
    "overflowing mean": ("mean", torch.tensor(1e60).double(), None),
    "negative variance": ("variance", torch.tensor(-0.5), "at least 0; got -0.5"),
    "nan variance": ("variance", torch.tensor(math.nan), "finite in float32; got nan"),
    "shape": ("mean", torch.ones(2), "a real tensor of shape (); got shape (2,)"),
    "no tensor": ("mean", 3.0, "a real tensor of shape (); got 3.0"),
    "negative count": ("num_losses", torch.tensor(-1), "a count, 0 or more, in int64; got -1"),
    "count beyond int64": (
        "num_updates",
        torch.tensor(2.0**63),
        "a count, 0 or more, in int64; got 9.223372036854776e+18",
    ),
    "complex": ("mean", torch.tensor(1 + 1j), "a real tensor of shape (); got shape ()"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_checkpoint_is_refused_in_words_and_nothing_is_taken_over(case) -> None:
    name, value, problem = DAMAGED[case]
    model = nn.ModuleDict(
        {"alrc": ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")}
    )
    before = copy.deepcopy(model.state_dict())
    damaged = ALRC(mu1_start=5.0, mu2_start=26.0, num_stddev=3, scale="linear").state_dict(
        prefix="alrc."
    ) | {f"alrc.{name}": value}
    problem = problem or f"finite in float32; got {value.item()}"
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(damaged)
    assert str(error.value) == (
        "Error(s) in loading state_dict for ModuleDict:\n\t"
        f"ALRC: alrc.{name} must be {problem}. The checkpoint is damaged or not one of ALRC's: "
        "load another, or remove ALRC's keys from it and load it with strict=False to start "
        "afresh."
    )
    assert model.state_dict() == before


def test_a_checkpoint_with_only_half_the_state_is_not_taken_over() -> None:
    alrc, other = (
        ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear"),
        ALRC(mu1_start=5.0, mu2_start=26.0, num_stddev=3, scale="linear"),
    )
    half = {"mean": other.mean}
    with pytest.raises(RuntimeError, match=r'Missing key.*"variance", "num_updates"'):
        alrc.load_state_dict(half)
    result = alrc.load_state_dict(half | {"mu1": other.mean}, strict=False)
    assert result.unexpected_keys == ["mu1"]
    missing = result.missing_keys
    assert missing == ["variance", "num_updates", "num_losses", "num_clipped", "num_nonfinite"]
    assert alrc.mean == 1.0


def test_state_keeps_structure_shapes_dtypes_and_device_for_losses_of_any_dtype_and_shape() -> None:
    alrc, settings = ALRC(num_stddev=3, scale="linear"), Settings(num_stddev=3, scale="linear")
    moments = init(settings)

    def structure(state) -> list:
        return [(name, x.shape, x.dtype, x.device) for name, x in state.items()]

    first = structure(alrc.state_dict()), structure(moments._asdict())
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((), (1,), (0,), (2, 3)):
            for loss in (torch.ones(shape), torch.full(shape, math.nan), torch.zeros(shape)):
                alrc(loss.to(dtype))
                _, moments = clip(loss.to(dtype), moments, settings)
                assert (structure(alrc.state_dict()), structure(moments._asdict())) == first


def test_pickle_and_deepcopy_continue_with_the_same_numbers() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    alrc(torch.tensor(3.0))
    twins = copy.deepcopy(alrc), pickle.loads(pickle.dumps(alrc))
    expected = [alrc(torch.tensor(loss)) for loss in (2.0, 9.0, 9.0)]
    for twin in twins:
        assert twin.settings == alrc.settings
        assert twin.num_losses == 1
        assert [twin(torch.tensor(loss)) for loss in (2.0, 9.0, 9.0)] == expected
        assert twin.state_dict() == alrc.state_dict()


@pytest.mark.parametrize("strict", [True, False])
def test_checkpoints_averaged_in_floats_load_with_their_counts_cut(strict) -> None:
    alrc, states = ALRC(**START), []
    for loss in (1.0, 9.0, 2.0):
        alrc(torch.tensor(loss))
        states.append(copy.deepcopy(alrc.state_dict()))
    average = {name: sum(s[name].double() for s in states[:2]) / 2 for name in states[0]}
    assert average["num_updates"] == 1.5
    loaded = ALRC(**START)
    loaded.load_state_dict({name: x.float() for name, x in average.items()}, strict=strict)
    assert loaded.num_updates == 1
    assert loaded.mean.item() == pytest.approx((states[0]["mean"] + states[1]["mean"]).item() / 2)
