"""The supersampling task: its stream of examples and its loss."""

from itertools import islice

import numpy as np
import pytest
import torch

from alrc.lab.data.images import Images
from alrc.lab.tasks.supersampling.network import SupersamplingNetwork
from alrc.lab.tasks.supersampling.preprocessing import (
    augment,
    example_order,
    halve_resolution,
    uniforms,
)
from alrc.lab.tasks.supersampling.task import Supersampling


@pytest.fixture
def images() -> Images:
    rng = np.random.default_rng(0)
    return Images("noise", *(rng.integers(0, 256, (20, 3, 32, 32), np.uint8) for _ in range(2)))


def stream(task: Supersampling, batch_size: int, examples: int = 48, seed: int = 5):
    batches = list(islice(task.batches(seed, batch_size), examples // batch_size))
    assert all(x.shape == (batch_size, 3, 32, 32) for batch in batches for x in batch)
    return [torch.cat(part) for part in zip(*batches, strict=True)]


@pytest.mark.parametrize(("batch_size", "block"), [(1, 1), (1, 7), (1, 48), (4, 6), (16, 1)])
def test_examples_do_not_depend_on_how_many_are_prepared(
    images: Images, batch_size: int, block: int
) -> None:
    expected = stream(Supersampling(images), 1)
    for got, want in zip(
        stream(Supersampling(images, block=block), batch_size), expected, strict=True
    ):
        assert torch.equal(got, want)  # bit for bit


def test_examples_are_training_images_in_order_augmented_and_halved(images: Images) -> None:
    inputs, targets = stream(Supersampling(images), 4)
    order = example_order(20, 5, 0, 48)
    expected = augment(
        torch.from_numpy(images.training[order]), torch.from_numpy(uniforms(5, 0, 48))
    )
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(inputs, halve_resolution(expected))


def test_another_seed_gives_other_examples(images: Images) -> None:
    _, first = stream(Supersampling(images), 1, seed=0)
    _, second = stream(Supersampling(images), 1, seed=1)
    assert (first != second).flatten(1).any(1).all()


@pytest.mark.parametrize("power", [2, 4])
def test_loss_is_that_of_the_paper(power: int) -> None:
    rng = np.random.default_rng(2)
    scale = np.array([0.1, 1, 1.3, 1.5, 2, 10]).reshape(-1, 1, 1, 1)
    outputs = rng.normal(size=(6, 3, 32, 32)) * scale
    targets = rng.normal(size=(6, 3, 32, 32)) * 0.1
    expected = [
        loss if loss < 50 else loss**0.5
        for loss in (25 * np.mean((y - x) ** power) for y, x in zip(outputs, targets, strict=True))
    ]
    losses = Supersampling(None, power).losses(torch.tensor(outputs), torch.tensor(targets))
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


@pytest.mark.parametrize(("difference", "loss"), [(1.0, 25.0), (1.4, 49.0), (1.5, 56.25**0.5)])
def test_the_root_is_taken_from_50_on(difference: float, loss: float) -> None:
    outputs = torch.full((1, 3, 8, 8), difference, dtype=torch.float64)
    losses = Supersampling(None, 2).losses(outputs, torch.zeros_like(outputs))
    assert losses.tolist() == pytest.approx([loss])


def test_the_root_is_taken_at_exactly_50() -> None:
    outputs = torch.tensor([[2.0, 2.0, 0.0, 0.0]], dtype=torch.float64)  # mean square 2: loss 50
    losses = Supersampling(None, 2).losses(outputs, torch.zeros_like(outputs))
    assert losses.tolist() == pytest.approx([50**0.5])


@pytest.mark.parametrize("power", [2, 4])
def test_a_perfect_output_has_gradient_zero_not_nan(power: int) -> None:
    outputs = torch.zeros(1, 3, 8, 8, requires_grad=True)
    Supersampling(None, power).losses(outputs, torch.zeros(1, 3, 8, 8)).sum().backward()
    assert (outputs.grad == 0).all()


def test_network_has_the_weights_of_its_seed(images: Images) -> None:
    network = Supersampling(images, width=4).network(seed=7)
    for got, want in zip(
        network.parameters(), SupersamplingNetwork(4, seed=7).parameters(), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("batch_size", "start"), [(1, 13), (4, 5), (16, 2)])
def test_examples_from_a_later_step_on_are_those_of_the_whole_stream(
    images: Images, batch_size: int, start: int
) -> None:
    task = Supersampling(images, block=7)
    whole = islice(task.batches(5, batch_size), start, start + 6)
    later = islice(task.batches(5, batch_size, start), 6)
    for expected, got in zip(whole, later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))


def test_without_the_sqrt_step_large_losses_stay(images: Images) -> None:
    outputs, targets = torch.full((1, 3, 32, 32), 2.0), torch.zeros(1, 3, 32, 32)
    assert Supersampling(images).losses(outputs, targets).item() == 20.0  # sqrt(25 * 2**4)
    assert Supersampling(images, sqrt_step=False).losses(outputs, targets).item() == 400.0


def test_held_out_error_is_the_mean_loss_over_standardised_held_out_images(images: Images) -> None:
    task = Supersampling(images, block=7)
    x = images.held_out.astype(np.float64)
    x = x - x.mean((1, 2, 3), keepdims=True)
    targets = torch.from_numpy(x / x.std((1, 2, 3), keepdims=True)).float()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1, bias=False))
    network[0].weight.data = torch.eye(3)[:, :, None, None]  # hands its input on
    losses = task.losses(halve_resolution(targets), targets)
    assert task.held_out_error(network) == pytest.approx(losses.double().mean().item(), rel=1e-5)


def test_the_description_tells_other_images_apart(images: Images) -> None:
    changed = images.held_out.copy()
    changed[0, 0, 0, 0] ^= 1
    other = Images(images.name, images.training, changed)
    first, second = (Supersampling(x, 2, 8).describe() for x in (images, other))
    assert first.pop("images_sha256") != second.pop("images_sha256")
    assert (
        first
        == second
        == {
            "task": "supersampling",
            "images": "noise",
            "power": 2,
            "width": 8,
            "sqrt_step": True,
        }
    )
