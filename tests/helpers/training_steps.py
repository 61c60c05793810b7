"""Small trainings and numbers that the claims of docs/interplay.md are tested with."""

from pathlib import Path

import pytest
import torch
from reference import Reference
from torch import nn

from alrc.torch import ALRC

PAGE = (Path(__file__).parents[2] / "docs/interplay.md").read_text()
PROSE = " ".join(PAGE.split())
START = {
    "num_stddev": 3,
    "scale": "linear",
    "mu1_start": 1.0,
    "mu2_start": 2.0,
}  # mean 1, standard deviation 1, limit 4
CALM = [0.75, 1.25]  # over and over: mean 1, standard deviation 0.25, limit 1.75
F32 = 2e-6  # some roundings of float32, relative
LIMIT = 2e-5  # what docs/dev/guarantees.md promises of a limit, whose state is float32


def scripted(value: float, weight: torch.Tensor) -> torch.Tensor:
    """A loss of this value, whose gradient towards the weight is the value too."""
    return value * (1 + weight - weight.detach())


def gradient(loss: torch.Tensor, *inputs: torch.Tensor, **options) -> torch.Tensor:
    return torch.autograd.grad(loss, inputs, **options)[0]


def after(losses, alrc: ALRC) -> ALRC:
    for loss in losses:
        alrc(torch.tensor(loss))
    return alrc


def toy(steps: int, spike_every: int = 4, dtype: torch.dtype = torch.float64):
    """A small net, and batches of which every fourth has targets far off."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    x, y = torch.randn(steps, 5, 3, dtype=dtype), torch.randn(steps, 5, 1, dtype=dtype)
    y[spike_every - 1 :: spike_every] += 10
    return net, list(zip(x, y, strict=True))


def assert_state_is_that_of(alrc: ALRC, reference: Reference) -> None:
    assert alrc.mean.item() == pytest.approx(reference.mean, rel=1e-5)
    assert alrc.variance.item() == pytest.approx(reference.variance, rel=1e-4, abs=1e-9)
    counts = alrc.num_updates, alrc.num_losses, alrc.num_clipped
    assert counts == (reference.num_updates, reference.num_losses, reference.num_clipped)


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
