"""The paper's CIFAR-10 experiment: what to learn, with which network, judged by which loss."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR

from alrc.lab.api import Ge, Metric, Networks, Outcome, Picture, Task, Training
from alrc.lab.data.images import Bytes, Images, load_images
from alrc.lab.data.order import batches_of, example_order, uniforms
from alrc.lab.tasks.supersampling.network import SupersamplingNetwork
from alrc.lab.tasks.supersampling.preprocessing import augment, halve_resolution

__all__ = ["Supersampling"]

SQRT_FROM = 50.0
BLOCK = 256  # examples to prepare at a time
# In the middle of each range: no flip, no change of brightness, contrast 1.
NOT_AUGMENTED = torch.tensor([1.0, 0.5, 0.5])


@dataclass(frozen=True)
class Supersampling(Task):
    """Restores images that were halved in size: the paper's CIFAR-10 experiment.

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """

    images: Annotated[
        str,
        "photographs, which come with scikit-image, or a folder with CIFAR-10's six binary files.",
    ] = "photographs"
    error: Annotated[
        Literal["squared", "quartic"], "Error to train with: 25 mean(difference^p), p = 2 or 4."
    ] = "quartic"
    width: Annotated[int, Ge(1), "Features of the first layer; 64 in the paper."] = 64
    sqrt_step: Annotated[
        bool, "Replace losses of 50 and more by their square root, as the paper."
    ] = True

    metrics: ClassVar = (
        Metric("held-out error"),
        Metric("held-out loss"),
        Metric("held-out PSNR", "dB", better="higher"),
    )
    places: ClassVar = ("images",)
    defaults: ClassVar = {"steps": 100_000, "batch_size": 1, "learning_rate": 0.1 / 128}

    @property
    def power(self) -> int:
        return {"squared": 2, "quartic": 4}[self.error]

    @property
    def data(self) -> Images:
        return load_images(self.images)

    def build(self, seed: int) -> Networks:
        network = SupersamplingNetwork(self.width, seed)
        # A tenth faster than the default layout on a CPU at batch size 1.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return {"network": network}

    def describe(self) -> dict[str, Any]:
        """The images by name and checksum."""
        return {"images": self.data.name, "images_sha256": self.data.sha256()}

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        """The paper's: a tenfold fall after each 3.5 million examples."""
        steps = max(int(10_000 / training.batch_size * 350), 1)
        return {"step": StepLR(optimizers["step"], steps, gamma=0.1)}

    def batches(
        self, seed: int, batch_size: int, start: int = 0, block: int = BLOCK
    ) -> Iterator[tuple[Tensor, ...]]:
        """Inputs and targets, both ``(batch_size, 3, 32, 32)`` float32, from step ``start`` on.

        ``block`` examples are prepared at a time; that changes speed and memory, never the result.
        """

        def examples(first: int, last: int) -> list[Tensor]:
            training = self.data.training
            order = example_order(len(training), seed, first, last)
            random = torch.from_numpy(uniforms(seed, first, last))
            targets = augment(torch.from_numpy(training[order]), random)
            parts = (halve_resolution(targets), targets)
            return [x.contiguous(memory_format=torch.channels_last) for x in parts]

        return batches_of(examples, batch_size, start, block)

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Outcome:
        """A loss for each example, and beside it the error, which has no jump at 50."""
        inputs, targets = batch
        errors = self.errors(networks["network"](inputs), targets)
        return Outcome({"loss": self.losses(errors)}, {"error": errors.detach()})

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """25 mean(difference^p) for each example; of ``(B, ...)``, shape ``(B,)``."""
        return 25 * (outputs - targets).pow(self.power).flatten(1).mean(1)

    def losses(self, errors: Tensor) -> Tensor:
        """What is trained with: the error, and its square root from 50 on.

        The paper's loss, with its jump at 50, where it falls although the error rises.
        """
        if not self.sqrt_step:
            return errors
        # The clamp keeps the infinite slope of the root at 0 out of the branch not taken, where
        # it would turn the gradient into NaN.
        return torch.where(errors < SQRT_FROM, errors, errors.clamp(min=SQRT_FROM).sqrt())

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Means over the held-out images, which are standardised but not augmented.

        The PSNR takes 2 standard deviations of each image, which are 2 here, as its peak.
        """
        device = next(networks["network"].parameters()).device
        error = loss = psnr = 0.0
        held_out = self.data.held_out
        for first in range(0, len(held_out), BLOCK):
            inputs, targets = (x.to(device) for x in _prepared(held_out[first : first + BLOCK]))
            outputs = networks["network"](inputs)
            errors = self.errors(outputs, targets)
            squares = (outputs - targets).square().flatten(1).mean(1)
            error += errors.double().sum().item()
            loss += self.losses(errors).double().sum().item()
            psnr += (10 * torch.log10(4 / squares.double())).sum().item()
        count = len(held_out)
        return {
            "held-out error": error / count,
            "held-out loss": loss / count,
            "held-out PSNR": psnr / count,
        }

    def pictures(self, networks: Networks) -> Iterator[Picture]:
        """Eight held-out images: halved in size, restored, and as they were."""
        device = next(networks["network"].parameters()).device
        held_out = self.data.held_out
        inputs, targets = _prepared(held_out[:: max(len(held_out) // 8, 1)][:8])
        outputs = networks["network"](inputs.to(device)).cpu()
        rows = [torch.cat(list(x), dim=2) for x in (inputs, outputs, targets)]
        yield Picture(
            "held-out",
            "Eight held-out images: halved in size (top), restored by the network (middle), and "
            "as they were (bottom).",
            (torch.cat(rows, dim=1).permute(1, 2, 0) / 4 + 0.5).numpy(),
        )


def _prepared(images: Bytes) -> tuple[Tensor, Tensor]:
    """Inputs and targets of images that are not augmented."""
    # A copy: on a cluster these arrays are read-only.
    targets = augment(torch.tensor(images), NOT_AUGMENTED.expand(len(images), 3))
    return halve_resolution(targets), targets
