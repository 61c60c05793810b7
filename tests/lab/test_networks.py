"""The network: size, initial weights, and its layers one by one."""

import math

import pytest
import torch
from torch.nn.functional import conv2d

from alrc.lab.tasks.supersampling.network import SupersamplingNetwork


@pytest.mark.parametrize(("width", "count"), [(64, 1_042_819), (16, 67_171)])
def test_number_of_parameters(width: int, count: int) -> None:
    assert sum(p.numel() for p in SupersamplingNetwork(width).parameters()) == count


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    parameters = list(SupersamplingNetwork(16).parameters())
    assert [tuple(p.shape) for p in parameters[::2]] == [
        (16, 3, 5, 5),
        (32, 16, 3, 3),
        *[(32, 32, 3, 3)] * 6,
        (16, 32, 3, 3),
        (3, 16, 5, 5),
    ]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        features_out, features_in, *kernel = weight.shape
        bound = math.sqrt(6 / ((features_in + features_out) * math.prod(kernel)))
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert (bias == 0).all()


def test_the_seed_alone_fixes_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in SupersamplingNetwork(4, seed).parameters()])

    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_forward_agrees_with_its_layers_one_by_one() -> None:
    network = SupersamplingNetwork(4)
    for parameter in network.parameters():  # biases too must count
        parameter.data.normal_(std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    parameters = iter(network.parameters())

    def convolution(x: torch.Tensor) -> torch.Tensor:
        weight, bias = next(parameters), next(parameters)
        return conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    x = convolution(images).relu()
    x = convolution(x).relu()
    for _ in range(3):
        x = x + convolution(convolution(x).relu()).relu()
    x = convolution(x).relu()
    x = convolution(x)
    assert next(parameters, None) is None
    torch.testing.assert_close(network(images), x)
