"""The supersampling task: its stream of examples and its loss."""

from itertools import islice

import numpy as np
import pytest
import torch

from alrc.lab.data import Images
from alrc.lab.networks import SupersamplingNetwork
from alrc.lab.preprocessing import augment, example_order, halve_resolution, uniforms
from alrc.lab.tasks import Supersampling


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
