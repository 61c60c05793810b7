"""The tasks of the paper: what to learn, with which network, judged by which loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from alrc.lab.data.images import Images
from alrc.lab.tasks.supersampling.network import SupersamplingNetwork
from alrc.lab.tasks.supersampling.preprocessing import (
    augment,
    example_order,
    halve_resolution,
    uniforms,
)

__all__ = ["Supersampling"]

SQRT_FROM = 50.0
# In the middle of each range: no flip, no change of brightness, contrast 1.
NOT_AUGMENTED = torch.tensor([1.0, 0.5, 0.5])


@dataclass(frozen=True, eq=False)
class Supersampling:
    """Restores images that were halved in size: the paper's CIFAR-10 experiment.

    Args:
        images: The 32x32 images to train on.
        power: Power p of the error, 2 (squared) or 4 (quartic).
        width: Features of the network's first layer; 64 in the paper.
        sqrt_step: Whether losses of 50 and more are replaced by their square root, as in the
            original.
        block: Examples to prepare at a time, >= 1; changes speed and memory, never the result.

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """

    images: Images
    power: int = 4
    width: int = 64
    sqrt_step: bool = True
    block: int = 256

    def network(self, seed: int) -> nn.Module:
        """The network with the initial weights that belong to a seed."""
        network = SupersamplingNetwork(self.width, seed)
        # A tenth faster than the default layout on a CPU at batch size 1.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def describe(self) -> dict[str, Any]:
        """All that fixes the task, as plain values; the images by name and checksum."""
        return {
            "task": "supersampling",
            "images": self.images.name,
            "images_sha256": self.images.sha256(),
            "power": self.power,
            "width": self.width,
            "sqrt_step": self.sqrt_step,
        }

    def batches(
        self, seed: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, both ``(batch_size, 3, 32, 32)`` float32, from step ``start`` on."""
        size = max(self.block // batch_size, 1) * batch_size
        training = self.images.training
        for first in count(start * batch_size, size):
            order = example_order(len(training), seed, first, first + size)
            random = torch.from_numpy(uniforms(seed, first, first + size))
            targets = augment(torch.from_numpy(training[order]), random)
            inputs = halve_resolution(targets)
            yield from zip(*(_batches(x, batch_size) for x in (inputs, targets)), strict=True)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """25 mean(difference^p) for each example, and its square root from 50 on.

        The paper's loss, with its jump at 50.

        Args:
            outputs: Shape ``(B, ...)``, floating.
            targets: The same shape.

        Returns:
            Shape ``(B,)``.
        """
        losses = 25 * (outputs - targets).pow(self.power).flatten(1).mean(1)
        if not self.sqrt_step:
            return losses
        # The clamp keeps the infinite slope of the root at 0 out of the branch not taken, where
        # it would turn the gradient into NaN.
        return torch.where(losses < SQRT_FROM, losses, losses.clamp(min=SQRT_FROM).sqrt())

    @torch.no_grad()
    def held_out_error(self, network: nn.Module) -> float:
        """Mean loss over the held-out images, which are standardised but not augmented."""
        device = next(network.parameters()).device
        total = 0.0
        held_out = self.images.held_out
        for first in range(0, len(held_out), self.block):
            # A copy: on a cluster these arrays are read-only.
            images = torch.tensor(held_out[first : first + self.block])
            targets = augment(images, NOT_AUGMENTED.expand(len(images), 3)).to(device)
            losses = self.losses(network(halve_resolution(targets)), targets)
            total += losses.double().sum().item()
        return total / len(held_out)


def _batches(examples: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    return torch.split(examples.contiguous(memory_format=torch.channels_last), batch_size)
