"""STEM supersampling: whole micrographs from a regular grid of their pixels."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from alrc.lab.api import Ge, Le, Lt, Networks, Outcome, Picture, Task, Training
from alrc.lab.data.order import batches_of, uniforms
from alrc.lab.data.stem import paths
from alrc.lab.data.stem.crops import random_crops, tiles
from alrc.lab.data.stem.damage import damage
from alrc.lab.data.stem.scans import Scans, load_scans
from alrc.lab.tasks.stem.judging import METRICS, in_parts, scores
from alrc.lab.tasks.stem.losses import block_losses
from alrc.lab.tasks.stem.sheets import sheet
from alrc.lab.tasks.stem.supersampler import Supersampler

__all__ = ["StemSupersampling"]

BLOCK = 128  # examples to prepare at a time
SHOWN = 5
CROP, DAMAGE = range(2)  # beside the seed
WEIGHT_DECAY = 1e-5
EARLY_BETA, LATE_BETA = 0.9, 0.5  # of Adam's mean gradient, in the first and second half


@dataclass(frozen=True)
class StemSupersampling(Task):
    """Completes electron micrographs from a regular grid of their pixels.

    One network, batches of 16, a loss for each example: 200 times the mean squared difference to
    a slightly blurred target. From half way on, batch normalisation keeps its statistics.

    References:
        J. M. Ede, "Deep learning supersampled scanning transmission electron microscopy" (2019),
        https://arxiv.org/abs/1910.10467
    """

    scans: Annotated[
        str, "simulated, or a folder of scans: TIFF, .npy, .dm3 or .dm4, or a pattern with *."
    ] = "simulated"
    average: Annotated[int, Ge(1), "Average scans over squares of so many pixels a side."] = 2
    split: Annotated[
        Literal["columns", "scans"], "Hold out a quarter of each scan, or 15 % of the scans."
    ] = "columns"
    side: Annotated[int, Ge(32), "Side of an example in pixels; 512 in the paper."] = 64
    stride: Annotated[int, Ge(2), "Pixels from one that is visited to the next, in a row."] = 5
    width: Annotated[int, Ge(4), "Features of the widest layers; 128 in the paper."] = 32
    statistics_decay: Annotated[
        float, Ge(0), Lt(1), "Share of old statistics that batch normalisation keeps; 0.999 there."
    ] = 0.99
    damaged: Annotated[float, Ge(0), Le(1), "Share of training examples that are damaged."] = 0.0

    metrics: ClassVar = METRICS
    places: ClassVar = ("scans",)
    defaults: ClassVar = {"steps": 2_000, "batch_size": 16, "learning_rate": 1e-3}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 16:
            raise ValueError(
                "StemSupersampling: side must be a multiple of 16, because the network doubles it "
                f"four times; got {self.side}. Pass {max(round(self.side / 16), 2) * 16}."
            )

    @property
    def data(self) -> Scans:
        return load_scans(self.scans, self.average, self.split)

    def describe(self) -> Mapping[str, Any]:
        """The scans by name and checksum."""
        return {"scans": self.data.name, "scans_sha256": self.data.sha256()}

    def build(self, seed: int) -> Networks:
        network = Supersampler(self.side, self.stride, self.width, self.statistics_decay, seed)
        return {"network": network}

    def pairs(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """What was visited, ``(N, s, s)``, and targets, ``(N, S, S)``.

        The visited pixels are scaled to the range from -1 to 1, and the target with them, which
        may go beyond; by a twentieth of the crop's range where their own is less, so that what was
        not visited does not become huge.
        """
        visited = paths.subsample(crops, self.stride)
        least, most = visited.amin((-2, -1), keepdim=True), visited.amax((-2, -1), keepdim=True)
        whole = crops.amax((-2, -1), keepdim=True) - crops.amin((-2, -1), keepdim=True)
        half = torch.maximum(most - least, paths.LEAST_RANGE * whole).clamp(min=2e-6) / 2
        inputs, targets = ((x - (least + most) / 2) / half for x in (visited, crops))
        return inputs, paths.blur(targets, size=3, sigma=1.5)

    def batches(
        self, seed: int, batch_size: int, start: int = 0, block: int = BLOCK
    ) -> Iterator[tuple[Tensor, ...]]:
        """Inputs ``(B, s, s)`` and targets ``(B, S, S)``, from step ``start`` on."""

        def examples(first: int, last: int) -> Sequence[Tensor]:
            def harm(crops: Any) -> Any:
                return damage(crops, uniforms(seed, first, last, stream=DAMAGE), self.damaged)

            random = uniforms(seed, first, last, stream=CROP)
            images = self.data.training
            crops = random_crops(images, self.side, random, harm if self.damaged else None)
            return self.pairs(torch.from_numpy(crops))

        return batches_of(examples, batch_size, start, block)

    def phases(self, step: int, training: Training) -> Sequence[str]:
        return ("step",) if step < training.steps // 2 else ("frozen",)

    def optimizers(self, networks: Networks, training: Training) -> Mapping[str, Optimizer]:
        optimizer = training.make_optimizer(networks["network"].parameters())
        return {"step": optimizer, "frozen": optimizer}

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        """Halved after an eighth and after a quarter of the steps, as the paper's."""
        schedule = _Halving(optimizers["step"], training.steps)
        return {"step": schedule, "frozen": schedule}

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Outcome:
        """A loss for each example; beside them, what keeps the weights small."""
        inputs, targets = batch
        network = networks["network"]
        outputs = network(inputs[:, None])[:, 0]
        squares = sum(p.square().sum() for p in network.parameters())
        return Outcome(
            {"loss": block_losses(outputs, targets)},
            unlimited={"weight decay": WEIGHT_DECAY / 2 * torch.as_tensor(squares)},
        )

    def frozen(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> Outcome:
        """The same, with batch normalisation as it was half way."""
        networks["network"].eval()
        return self.step(networks, batch)

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Means over the tiles of the held-out scans."""
        inputs, targets = _held_out(self)
        return scores(_completed(networks, inputs), targets)

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The mean of the truth itself, and two ways to enlarge what was visited."""
        inputs, targets = _held_out(self)
        means = targets.mean((1, 2), keepdim=True).expand_as(targets)
        visited = paths.grid(self.side, self.stride)
        whole = torch.zeros_like(targets)
        whole[:, torch.from_numpy(visited)] = inputs.flatten(1)
        smooth = interpolate(inputs[:, None], self.side, mode="bicubic", align_corners=True)[:, 0]
        made = {
            "image mean": means.contiguous(),
            "nearest pixel": paths.infill(whole, visited),
            "bicubic": smooth,
        }
        return {name: scores(images, targets) for name, images in made.items()}

    def pictures(self, networks: Networks) -> Iterator[Picture]:
        """Held-out tiles: what was visited, the truth, and what the network makes of it."""
        inputs, targets = _held_out(self)
        chosen = slice(None, None, max(len(inputs) // SHOWN, 1))
        inputs, targets = inputs[chosen][:SHOWN], targets[chosen][:SHOWN]
        shown = (inputs, targets, _completed(networks, inputs))
        rows = list(zip(*(x.numpy() for x in shown), strict=True))
        yield Picture(
            "held-out",
            "Held-out tiles: the pixels that were visited, the truth, what the network made of "
            "them, and its error.",
            sheet(rows, ("visited", "truth", "completion"), self.data.pixel_size),
        )


@functools.lru_cache(maxsize=4)  # a task holds options alone
def _held_out(task: StemSupersampling) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all held-out tiles."""
    return task.pairs(torch.from_numpy(tiles(task.data.held_out, task.side)))


class _Halving(LambdaLR):
    """The paper's learning rate; and its change of Adam's decay of the mean gradient, half way."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self.steps = steps
        super().__init__(optimizer, _Halves(steps))

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        beta = EARLY_BETA if self.last_epoch < self.steps // 2 else LATE_BETA
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (beta, group["betas"][1])


@dataclass(frozen=True)
class _Halves:
    """1, 1/2 from an eighth of the steps on, 1/4 from a quarter on."""

    steps: int

    def __call__(self, step: int) -> float:
        return 0.5 ** sum(step >= self.steps // part for part in (8, 4))


def _completed(networks: Networks, inputs: Tensor) -> Tensor:
    network = networks["network"]
    device = next(network.parameters()).device
    return in_parts(lambda x: network(x[:, None])[:, 0], inputs, device)
