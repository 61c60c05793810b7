"""Preprocessing against plain NumPy, one image and one pixel at a time."""

import numpy as np
import pytest
import torch

from alrc.lab.data.order import example_order, uniforms
from alrc.lab.tasks.supersampling.preprocessing import augment, halve_resolution


def augment_plainly(image: np.ndarray, flip: float, brightness: float, contrast: float):
    """One uint8 image ``(3, H, W)``, in float64, step by step."""
    x = image.astype(np.float64)
    if flip < 0.5:
        x = x[:, :, ::-1]
    x = x - 63 + 126 * brightness
    for channel in range(3):
        mean = x[channel].mean()
        x[channel] = (x[channel] - mean) * (0.2 + 1.6 * contrast) + mean
    return (x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))


def resize_plainly(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, the four corner pixels staying where they are; ``(C, H, W)``."""
    channels, old_height, old_width = image.shape
    result = np.empty((channels, height, width))
    for row in range(height):
        for column in range(width):
            y = row * (old_height - 1) / (height - 1)
            x = column * (old_width - 1) / (width - 1)
            top, left = min(int(y), old_height - 2), min(int(x), old_width - 2)
            a, b = y - top, x - left
            corners = image[:, top : top + 2, left : left + 2]
            result[:, row, column] = (
                (1 - a) * (1 - b) * corners[:, 0, 0]
                + (1 - a) * b * corners[:, 0, 1]
                + a * (1 - b) * corners[:, 1, 0]
                + a * b * corners[:, 1, 1]
            )
    return result


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8))


def test_augment_agrees_with_plain_numpy(images: torch.Tensor) -> None:
    random = uniforms(0, 0, len(images))
    assert {*(random[:, 0] < 0.5).tolist()} == {True, False}  # flipped and unflipped images
    result = augment(images, torch.from_numpy(random))
    assert result.dtype == torch.float32
    for image, numbers, got in zip(images, random, result, strict=True):
        expected = augment_plainly(image.numpy(), *numbers[:3].astype(np.float64))
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("extreme", [0.0, 1.0])
def test_augment_agrees_at_the_ends_of_its_ranges(images: torch.Tensor, extreme: float) -> None:
    result = augment(images[:1], torch.full((1, 3), extreme))
    expected = augment_plainly(images[0].numpy(), extreme, extreme, extreme)
    np.testing.assert_allclose(result[0], expected, atol=2e-5)


def test_an_image_of_one_colour_stays_finite() -> None:
    grey = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    result = augment(grey, torch.rand(1, 3, generator=torch.Generator().manual_seed(0)))
    assert result.abs().max() < 1e-2


def test_the_smallest_deviation_is_that_of_the_reference() -> None:
    # One of 3,072 values is one grey level up, and contrast 0.2 leaves 0.2 of that: a deviation of
    # 0.0036, below 1/sqrt(3072) = 0.018.
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[0, 1, 5, 6] = 1
    expected = (0.2 + 0.8 / 1024 - 1 / 3072) * np.sqrt(3072)
    result = augment(image, torch.tensor([[0.9, 0.5, 0.0]]))  # no flip, no shift
    assert result[0, 1, 5, 6].item() == pytest.approx(expected, rel=1e-4)


def test_halve_resolution_agrees_with_bilinear_by_hand() -> None:
    images = np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    result = halve_resolution(torch.from_numpy(images))
    for image, got in zip(images, result, strict=True):
        expected = resize_plainly(resize_plainly(image, 16, 16), 32, 32)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_each_pass_is_a_permutation_of_its_own() -> None:
    order = example_order(50, seed=3, start=0, stop=150).reshape(3, 50)
    for one_pass in order:
        assert sorted(one_pass.tolist()) == list(range(50))
    assert (order[0] != order[1]).any()
    assert (order[0] != example_order(50, seed=4, start=0, stop=50)).any()


@pytest.mark.parametrize("block", [1, 7, 50, 64])
def test_random_numbers_depend_on_seed_and_position_alone(block: int) -> None:
    starts = range(0, 128, block)
    ends = [(start, min(start + block, 128)) for start in starts]
    order = np.concatenate([example_order(50, 3, *pair) for pair in ends])
    numbers = np.concatenate([uniforms(3, *pair) for pair in ends])
    np.testing.assert_array_equal(order, example_order(50, 3, 0, 128))
    np.testing.assert_array_equal(numbers, uniforms(3, 0, 128))


def test_random_numbers_are_uniform_and_unlike_each_other() -> None:
    numbers = uniforms(0, 0, 20_000)
    assert numbers.shape == (20_000, 4)
    for column in numbers.T:
        counts, _ = np.histogram(column, bins=10, range=(0, 1))
        assert np.abs(counts - 2000).max() < 200  # 4.7 standard deviations
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.03
    assert np.abs(np.corrcoef(numbers[1:, 1], numbers[:-1, 1])[0, 1]) < 0.03
    assert (numbers != uniforms(1, 0, 20_000)).mean() > 0.99


def test_random_numbers_are_those_that_runs_of_the_past_had() -> None:
    plain = np.random.Generator(np.random.Philox(key=3)).random((8, 4)).astype(np.float32)
    np.testing.assert_array_equal(uniforms(3, 2, 8), plain[2:])


@pytest.mark.parametrize("numbers", [1, 4, 6, 64])
def test_more_random_numbers_do_not_depend_on_how_many_are_prepared(numbers: int) -> None:
    whole = uniforms(3, 0, 20, numbers)
    assert whole.shape == (20, numbers)
    parts = [uniforms(3, start, start + 5, numbers) for start in (0, 5, 10, 15)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole)) > 0.99 * whole.size  # none is used twice, but for chance


def test_streams_of_random_numbers_have_none_in_common() -> None:
    streams = [uniforms(seed, 0, 1000, stream=stream) for seed in (0, 1) for stream in (0, 1)]
    flat = np.stack([numbers.ravel() for numbers in streams])
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.06
