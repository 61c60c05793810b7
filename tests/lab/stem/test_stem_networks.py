"""The networks of both tasks, held to plain NumPy, and to numbers of the originals."""

import math

import numpy as np
import pytest
import torch

from alrc.lab.tasks.stem.adversary import Adversary, Discriminator, SpectralConvolution
from alrc.lab.tasks.stem.generator import SIZES, Generator
from alrc.lab.tasks.stem.layers import Convolution, ResidualBlock, Transposed, initialise
from alrc.lab.tasks.stem.supersampler import Supersampler


def seeded(layer: torch.nn.Module) -> torch.nn.Module:
    """With weights, g and biases that are all different."""
    generator = torch.Generator().manual_seed(0)
    initialise(layer, generator)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))
    return layer


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def array(x: torch.Tensor | None) -> np.ndarray:
    assert x is not None
    return x.detach().double().numpy().copy()


def by_loops(layer: Convolution, x: np.ndarray) -> np.ndarray:
    """A convolution with TensorFlow's "SAME": the input's missing pixels are zeros, and of an odd
    number of them one more lies behind than in front."""
    v, stride = array(layer.v), layer.stride
    size = v.shape[-1]
    if layer.g is not None:
        for o in range(len(v)):
            v[o] *= layer.g[o].item() / math.sqrt((v[o] ** 2).sum())
    height, width = (-(-n // stride) for n in x.shape[2:])
    before = [
        max((n - 1) * stride + size - m, 0) // 2
        for n, m in zip((height, width), x.shape[2:], strict=True)
    ]
    out = np.zeros((len(x), len(v), height, width))
    for i in range(height):
        for j in range(width):
            for a in range(size):
                for b in range(size):
                    y, z = i * stride + a - before[0], j * stride + b - before[1]
                    if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                        out[:, :, i, j] += x[:, :, y, z] @ v[:, :, a, b].T
    return finished(layer, out)


def transposed_by_loops(layer: Transposed, x: np.ndarray) -> np.ndarray:
    """TensorFlow's gradient of a convolution of stride 2: each pixel is spread over 3x3."""
    v, g = array(layer.v), array(layer.g)
    for i in range(len(v)):
        v[i] *= g[:, None, None] / math.sqrt((v[i] ** 2).sum())
    count, _, height, width = x.shape
    out = np.zeros((count, v.shape[1], 2 * height + 1, 2 * width + 1))
    for i in range(height):
        for j in range(width):
            for a in range(3):
                for b in range(3):
                    out[:, :, 2 * i + a, 2 * j + b] += x[:, :, i, j] @ v[:, :, a, b]
    return finished(layer, out[:, :, :-1, :-1])


def finished(layer: Convolution, out: np.ndarray) -> np.ndarray:
    for channel, bias in enumerate(array(layer.bias)):
        if layer.normalisation == "mean":
            out[:, channel] -= out[:, channel].mean((1, 2), keepdims=True)
        out[:, channel] += bias
    return np.where(out < 0, layer.slope * out, out)


@pytest.mark.parametrize("normalisation", ["none", "weight", "mean"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1)])
def test_a_convolution_is_what_plain_loops_make_of_it(
    normalisation: str, size: int, stride: int
) -> None:
    layer = seeded(Convolution((3, 4), size, stride, normalisation, slope=0.1))
    x = numbers(2, 3, 8, 6)
    np.testing.assert_allclose(array(layer(x)), by_loops(layer, array(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["weight", "mean"])
def test_a_transposed_convolution_is_what_plain_loops_make_of_it(normalisation: str) -> None:
    layer = seeded(Transposed((3, 5), normalisation))
    x = numbers(2, 3, 4, 3)
    expected = transposed_by_loops(layer, array(x))
    assert expected.shape == (2, 5, 8, 6)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-4, atol=1e-5)


def test_filters_have_norm_1_at_the_start_and_means_are_0() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution, transposed = Convolution((4, 6), normalisation="mean", slope=1), Transposed((6, 3))
    for layer in (convolution, transposed):
        initialise(layer, generator)
        norms = layer.weight().flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    means = convolution(numbers(2, 4, 8, 8)).mean((2, 3))
    torch.testing.assert_close(means, torch.zeros(2, 6), rtol=0, atol=1e-6)


def test_a_mean_of_zero_is_that_of_each_image_in_evaluation_too_and_gradients_flow_through_it() -> (
    None
):
    layer = seeded(Convolution((2, 3), normalisation="mean", slope=1)).eval()
    x = numbers(2, 2, 6, 6).requires_grad_()
    layer(x).sum().backward()
    means = layer(numbers(2, 2, 6, 6)).mean((2, 3))
    torch.testing.assert_close(means, layer.bias.expand(2, 3), rtol=1e-4, atol=1e-5)
    # The sum is that of the biases, whatever x is.
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_an_image_is_completed_as_if_it_were_alone(channels: int) -> None:
    """Trained with batches of one, networks would make less of images that come together."""
    generator = Generator("XS", channels)
    x = numbers(3, channels, 32, 32) * torch.tensor([0.1, 1, 10])[:, None, None, None]
    for together, alone in zip(
        generator(x), zip(*map(generator, x[:, None]), strict=True), strict=True
    ):
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_residual_block_adds_what_three_convolutions_make() -> None:
    block = seeded(ResidualBlock(4))
    x = numbers(1, 4, 5, 5)
    inner = array(x)
    for layer in block.layers:
        inner = by_loops(layer, inner)
    np.testing.assert_allclose(array(block(x)), array(x) + inner, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "channels", "parameters"),
    [
        ("XS", 2, 93_460),
        ("S", 2, 370_084),
        ("M", 2, 1_794_364),
        ("full", 2, 106_180_900),  # what the original has
        # A channel fewer in both 5x5 convolutions, and a g for each feature of the first.
        ("S", 1, 370_084 - 25 * 32 + 16),
    ],
)
def test_generators_have_the_parameters_of_their_size(
    size: str, channels: int, parameters: int
) -> None:
    assert sum(p.numel() for p in Generator(size, channels).parameters()) == parameters


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", ["XS", "S", "M"])
def test_a_generator_completes_at_half_the_size_and_at_the_whole(size: str, channels: int) -> None:
    side = 4 * SIZES[size].stride
    inner, whole = Generator(size, channels)(numbers(2, channels, side, side))
    assert inner.shape == (2, side // 2, side // 2)
    assert whole.shape == (2, side, side)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_generator_is_what_plain_loops_make_of_it(channels: int) -> None:
    network = seeded(Generator("XS", channels)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    x = numbers(1, channels, 16, 16).double()

    def through(layers: torch.nn.Sequential, y: np.ndarray) -> np.ndarray:
        for layer in layers:
            if isinstance(layer, ResidualBlock):
                y = y + through(layer.layers, y)
            else:
                loops = transposed_by_loops if isinstance(layer, Transposed) else by_loops
                y = loops(layer, y)
        return y

    features = through(network.inner, array(x)[..., ::2, ::2])
    first = network.inner[0]
    assert (first.normalisation, first.slope) == (("none", "mean")[channels == 1], 0.1)
    assert [layer.slope for layer in network.enter] == [0.1, 0.1]
    inner, whole = network(x)
    np.testing.assert_allclose(array(inner)[:, None], through(network.trainer, features), rtol=1e-8)
    entered = through(network.enter, array(x))
    np.testing.assert_allclose(
        array(whole)[:, None], through(network.leave, entered + features), rtol=1e-8
    )


def test_weights_of_a_seed_are_the_same_whatever_torch_s_generator_is_at() -> None:
    for make in (
        lambda seed: Generator("XS", 2, seed),
        lambda seed: Adversary(64, seed),
        lambda seed: Supersampler(32, 5, 8, 0.9, seed),
    ):
        one, again, other = (list(make(seed).parameters()) for seed in (3, 3, 4))
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_spectral_weights_have_the_norm_1_that_an_svd_finds() -> None:
    layer = SpectralConvolution((3, 8), torch.Generator().manual_seed(0))
    for _ in range(200):  # each call is one power iteration
        layer(numbers(1, 3, 8, 8))
    matrix = array(layer.weight).reshape(8, -1)
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert layer.largest().item() == pytest.approx(singular[0], rel=1e-4)
    before = layer.u.clone()
    layer.eval()(numbers(1, 3, 8, 8))
    assert torch.equal(layer.u, before)  # evaluation changes nothing


def test_the_gradient_of_a_spectral_weight_takes_the_singular_vectors_as_constants() -> None:
    layer = SpectralConvolution((2, 3), torch.Generator().manual_seed(0))
    for _ in range(50):
        layer.largest()
    (gradient,) = torch.autograd.grad(layer.largest(), layer.weight)
    left, _, right = np.linalg.svd(array(layer.weight).reshape(3, -1))
    expected = np.outer(left[:, 0], right[0]).reshape(layer.weight.shape)
    np.testing.assert_allclose(array(gradient), expected, rtol=1e-3, atol=1e-4)


def test_discriminators_give_a_number_for_each_image_at_each_scale() -> None:
    small, large = Adversary(64), Adversary(512)
    assert small(numbers(3, 64, 64), torch.rand(3, 6)).shape == (2, 3)
    assert large(numbers(1, 512, 512), torch.rand(1, 6)).shape == (3, 1)
    sizes, x = [], numbers(1, 1, 70, 70)
    for layer in Discriminator((1, 4, 4, 4, 4), torch.Generator()).layers:
        x = layer(x)
        sizes.append(x.shape[-1])
    assert sizes == [34, 16, 7, 2]


def test_a_discriminator_sees_the_piece_that_the_random_numbers_say() -> None:
    """At the second scale every second pixel, of an image reflected beyond its edges."""
    adversary, image = Adversary(64).eval(), numbers(1, 64, 64)
    padded = np.pad(array(image)[0], 44, mode="reflect")
    for number, stride in ((0, 1), (1, 2)):
        side = 22 * stride
        for place in (0.0, 0.4, 1.0):
            top = min(int(place * (152 - side + 1)), 152 - side)
            piece = padded[top : top + side : stride, :side:stride]
            random = torch.zeros(1, 6)
            random[0, 2 * number] = place
            expected = adversary.discriminators[number](torch.from_numpy(piece)[None, None].float())
            torch.testing.assert_close(adversary(image, random)[number], expected)


def test_the_supersampler_is_as_large_as_the_original_s_layers() -> None:
    """Counted from the layers: 3x3 convolutions with biases but for the last, and a shift for each
    feature that is normalised."""
    pairs = [(1, 32), (32, 64), (64, 128), *[(128, 128)] * 12]
    pairs += [(128, 128), (128, 96), (96, 64), (64, 32)]
    expected = sum(9 * i * o + o for i, o in pairs) + sum(i for i, _ in pairs) + 9 * 32 + 32
    network = Supersampler(512, 5, 128)
    assert sum(p.numel() for p in network.parameters()) == expected
    shapes = []
    for layer in network.layers:
        layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert network(numbers(1, 1, 103, 103)).shape == (1, 1, 512, 512)
    wanted = [(32, 103, 103), (32, 57, 57), (64, 57, 57), (64, 32, 32), (128, 32, 32)]
    wanted += [(128, 64, 64), (96, 128, 128), (64, 256, 256), (32, 512, 512), (1, 512, 512)]
    remaining = iter(shapes)
    assert all(shape in remaining for shape in wanted), shapes  # in this order


def test_the_supersampler_keeps_its_statistics_in_evaluation_and_only_there() -> None:
    network = Supersampler(32, 5, 8, 0.5)

    def statistics() -> list[torch.Tensor]:
        return [b.clone() for name, b in network.named_buffers() if "running" in name]

    before = statistics()
    network.eval()(numbers(2, 1, 7, 7))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(), strict=True))
    network.train()(numbers(2, 1, 7, 7))
    mean = network.layers[0].running_mean
    assert mean is not None
    assert mean.item() == pytest.approx(numbers(2, 1, 7, 7).mean().item() / 2, abs=1e-6)
