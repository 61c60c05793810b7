"""Restoring photographs, some of which were taken with a broken detector: small and fast."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alrc.lab.api import Ge, Le, Lt, Metric, Networks, Picture, Task
from alrc.lab.data.images import Images, load_images
from alrc.lab.data.order import batches_of, example_order, uniforms
from alrc.lab.tasks.supersampling.preprocessing import augment, halve_resolution

__all__ = ["Photographs", "RestoringNetwork"]

SIDE, SQUARE = 32, 8  # pixels of an image, and of the square that is hot in some targets
SLOPE = 0.1  # of the activations below zero, so that no unit is lost for good
NOISE = 0.5  # standard deviations of the image
BLOCK = 256  # examples to prepare at a time
HELD_OUT = 130  # images to evaluate with, evenly from all that are held out
SHOWN = 6
# Beside the seed, so that what is drawn for one purpose tells nothing of the others.
BROKEN_STREAM, NOISE_STREAM, HELD_OUT_STREAM = 1, 2, 3
# In the middle of each range: no flip, no change of brightness, contrast 1.
NOT_AUGMENTED = torch.tensor([1.0, 0.5, 0.5])


class RestoringNetwork(nn.Module):
    """Adds to an image what four convolutions make of it, at half its size with four times the
    channels, which takes a quarter of the time. Before training that is nothing.

    Args:
        width: Features of the layers within, >= 1.
        seed: Fixes the initial weights: Glorot-uniform, those of the last layer and
            biases zero.

    Shape:
        - images: ``(N, 3, H, W)``, floating, H and W even.
        - result: the same.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        features = (12, width, width, width, 12)
        convolutions = [nn.Conv2d(i, o, 3, padding="same") for i, o in pairwise(features)]
        inner = (layer for c in convolutions[:-1] for layer in (c, nn.LeakyReLU(SLOPE)))
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2), *inner, convolutions[-1], nn.PixelShuffle(2)
        )
        generator = torch.Generator().manual_seed(seed)
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight, generator=generator)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(convolutions[-1].weight)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = images + self.layers(images)
        return result


@dataclass(frozen=True)
class Photographs(Task):
    """Restores patches of photographs, where some training targets have a hot square.

    It is as if a few of the images came from a broken detector: a square of 8x8 pixels in them is
    far too bright, always the same one. Held-out images have none.
    """

    restore: Annotated[
        Literal["denoising", "supersampling"], "From noise, or from half the size."
    ] = "denoising"
    broken: Annotated[float, Ge(0), Le(1), "Share of training targets with a hot square."] = 0.02
    hot: Annotated[
        float, Ge(0), Lt(np.inf), "Value of the square, in standard deviations of the image."
    ] = 4.0
    power: Annotated[Literal[2, 4], "Of the error: 25 mean(difference^p)."] = 4
    width: Annotated[int, Ge(1), "Features of the layers."] = 16

    metrics: ClassVar = (
        Metric("held-out error"),
        Metric("held-out PSNR", "dB", better="higher"),
    )
    defaults: ClassVar = {"steps": 1200, "batch_size": 8, "learning_rate": 3e-3}
    # An untrained network changes nothing, and hot squares make it worse than that: the held-out
    # error tells how much, which a run that counts as diverged would keep from being compared.
    diverged_above: ClassVar = 1000.0
    stackable: ClassVar = True

    @property
    def data(self) -> Images:
        return load_images("photographs")

    def build(self, seed: int) -> Networks:
        return {"network": RestoringNetwork(self.width, seed)}

    def describe(self) -> dict[str, Any]:
        """The images by name and checksum."""
        return {"images": self.data.name, "images_sha256": self.data.sha256()}

    def hot_squares(self, seed: int) -> NDArray[np.int64]:
        """The first row and column of the hot square of each training image; -1 without one."""
        return _hot_squares(len(self.data.training), self.broken, seed)

    def batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Inputs and targets, both ``(batch_size, 3, 32, 32)`` float32, from step ``start`` on."""
        training, squares = self.data.training, self.hot_squares(seed)

        def examples(first: int, last: int) -> tuple[Tensor, Tensor]:
            order = example_order(len(training), seed, first, last)
            random = torch.from_numpy(uniforms(seed, first, last))
            images = augment(torch.from_numpy(training[order]), random)
            inputs = self._inputs(images, [seed, NOISE_STREAM], first)
            return inputs, torch.where(_inside(squares[order]), self.hot, images)

        return batches_of(examples, batch_size, start, BLOCK)

    def _inputs(self, images: Tensor, stream: list[int], first: int) -> Tensor:
        """What is to be restored, of images at the positions from ``first`` on."""
        if self.restore == "supersampling":
            return halve_resolution(images)
        noise = [
            np.random.default_rng([*stream, position]).standard_normal(images.shape[1:], np.float32)
            for position in range(first, first + len(images))
        ]
        return images + NOISE * torch.from_numpy(np.stack(noise))

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """A loss for each example."""
        inputs, targets = batch
        return {"loss": self.errors(networks["network"](inputs), targets)}

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """25 mean(difference^p) for each example; of ``(B, ...)``, shape ``(B,)``."""
        return 25 * (outputs - targets).pow(self.power).flatten(1).mean(1)

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of so many held-out images, evenly from all; none is hot."""
        return _held_out(self, number)

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Means over held-out images, as they are: neither augmented nor hot.

        The PSNR takes 2 standard deviations of each image, which are 2 here, as its peak.
        """
        device = next(networks["network"].parameters()).device
        inputs, targets = (x.to(device) for x in self.held_out(HELD_OUT))
        outputs = networks["network"](inputs)
        squares = (outputs - targets).double().square().flatten(1).mean(1)
        return {
            "held-out error": self.errors(outputs, targets).double().mean().item(),
            "held-out PSNR": (10 * torch.log10(4 / squares)).mean().item(),
        }

    def pictures(self, networks: Networks) -> Iterator[Picture]:
        """A few held-out images: what there was to restore, restored, and as they were."""
        device = next(networks["network"].parameters()).device
        inputs, targets = self.held_out(SHOWN)
        outputs = networks["network"](inputs.to(device)).cpu()
        rows = [torch.cat(list(x), dim=2) for x in (inputs, outputs, targets)]
        given = "halved in size" if self.restore == "supersampling" else "with noise"
        yield Picture(
            "held-out",
            f"Held-out images: {given} (top), restored by the network (middle), and as they were "
            "(bottom).",
            (torch.cat(rows, dim=1).permute(1, 2, 0) / 4 + 0.5).numpy(),
        )


@functools.lru_cache(maxsize=64)
def _hot_squares(count: int, share: float, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng([seed, BROKEN_STREAM])
    squares = random.integers(0, SIDE - SQUARE + 1, (count, 2))
    squares[random.permutation(count)[round(share * count) :]] = -1
    return squares


def _inside(squares: NDArray[np.int64]) -> Tensor:
    """Which pixels are hot, ``(B, 1, 32, 32)``."""
    distance = np.arange(SIDE) - squares[:, :, None]
    rows, columns = ((distance >= 0) & (distance < SQUARE)).transpose(1, 0, 2)
    inside = rows[:, :, None] & columns[:, None, :] & (squares[:, :1, None] >= 0)
    return torch.from_numpy(inside)[:, None]


@functools.lru_cache(maxsize=8)
def _held_out(task: Photographs, number: int) -> tuple[Tensor, Tensor]:
    """Prepared once in each process, for it is asked for in every evaluation."""
    images = task.data.held_out
    chosen = images[np.linspace(0, len(images) - 1, min(number, len(images))).astype(np.int64)]
    targets = augment(torch.from_numpy(chosen), NOT_AUGMENTED.expand(len(chosen), 3))
    return task._inputs(targets, [0, HELD_OUT_STREAM], 0), targets
