"""Partial-STEM: whole micrographs from partial scans along a spiral."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from alrc.lab.api import Ge, Gt, Le, Networks, Outcome, Picture, Task, Training
from alrc.lab.data.order import batches_of, uniforms
from alrc.lab.data.stem import paths
from alrc.lab.data.stem.crops import normalise, random_crops, tiles
from alrc.lab.data.stem.damage import damage
from alrc.lab.data.stem.scans import Scans, load_scans
from alrc.lab.tasks.stem.adversary import NUMBERS, Adversary
from alrc.lab.tasks.stem.generator import SIZES, Generator
from alrc.lab.tasks.stem.hard_examples import HardExamples
from alrc.lab.tasks.stem.judging import METRICS, in_parts, scores
from alrc.lab.tasks.stem.losses import block_losses, staircase
from alrc.lab.tasks.stem.sheets import sheet

__all__ = ["PartialStem"]

BLOCK = 128  # examples to prepare at a time
SHOWN = 5
# Beside the seed, so that what is drawn for one purpose tells nothing of the others.
CROP, NOISE, DAMAGE, PLACE, MEMORY, ADVERSARY = range(6)
HELD_OUT_SEED = 2**32
STAGE_2_RATE = 1 / 3  # of that of the first stage


@dataclass(frozen=True)
class PartialStem(Task):
    """Completes electron micrographs from partial scans along a spiral.

    A network at half the size and one at the whole size, each with a loss of its own, both 200
    times the mean squared difference, to targets that are slightly blurred. With ``adversarial``,
    a second stage beside three discriminators follows half way.

    References:
        J. M. Ede and R. Beanland, "Partial scanning transmission electron microscopy with deep
        learning", Sci. Rep. 10 (2020) 8332, https://doi.org/10.1038/s41598-020-65261-0
    """

    scans: Annotated[
        str, "simulated, or a folder of scans: TIFF, .npy, .dm3 or .dm4, or a pattern with *."
    ] = "simulated"
    average: Annotated[int, Ge(1), "Average scans over squares of so many pixels a side."] = 2
    split: Annotated[
        Literal["columns", "scans"], "Hold out a quarter of each scan, or 15 % of the scans."
    ] = "columns"
    side: Annotated[int, Ge(32), "Side of an example in pixels; 512 in the paper."] = 64
    size: Annotated[
        Literal["XS", "S", "M", "full"], "Of the networks; full is the paper's, 106 million."
    ] = "S"
    coverage: Annotated[float, Gt(0), Le(1), "Share of the pixels that the path visits."] = 0.05
    path: Annotated[
        Literal["dwell", "infill"],
        "Of a blurred beam with noise, and how long it was at each pixel beside it; or of a sharp "
        "one, with gaps filled from the nearest pixel.",
    ] = "dwell"
    spiral_side: Annotated[
        int | None,
        Ge(32),
        "Side of the whole scans that are to be completed, if larger: examples have pieces of "
        "their spiral.",
    ] = None
    power: Annotated[Literal[2, 4], "Of the losses: 200 mean(difference^p)."] = 2
    block: Annotated[
        int | None, Ge(4), "A loss for each square of so many pixels; without it, for each image."
    ] = None
    damaged: Annotated[float, Ge(0), Le(1), "Share of training examples that are damaged."] = 0.0
    hard_examples: Annotated[bool, "Show hard examples again, as the paper did."] = False
    adversarial: Annotated[bool, "From half way on, train beside discriminators."] = False

    metrics: ClassVar = METRICS
    places: ClassVar = ("scans",)
    defaults: ClassVar = {"steps": 10_000, "batch_size": 1, "learning_rate": 3e-4}

    def __post_init__(self) -> None:
        super().__post_init__()
        step = 2 * SIZES[self.size].stride
        if self.side % step:
            raise ValueError(
                f"PartialStem: side must be a multiple of {step}, because networks of size "
                f"{self.size} halve it so often; got {self.side}. "
                f"Pass {max(round(self.side / step), 1) * step}."
            )
        if self.block and self.side % (2 * self.block):
            raise ValueError(
                "PartialStem: block must divide half of the side, because losses are of whole "
                f"blocks at both sizes; got {self.block} and a side of {self.side}."
            )
        if self.spiral_side is not None and self.spiral_side < self.side:
            raise ValueError(
                "PartialStem: spiral_side is that of whole scans, so it must be at least side, "
                f"{self.side}; got {self.spiral_side}. Leave it out if they are as large."
            )
        if self.spiral_side is not None and self.side * self.coverage < 1:
            raise ValueError(
                "PartialStem: side must be at least 1 / coverage, because turns of a spiral are as "
                "far apart, and an example between two of them shows nothing; got a side of "
                f"{self.side} and a coverage of {self.coverage:g}. Pass a larger side or coverage."
            )

    # What is learned from.

    @property
    def data(self) -> Scans:
        return load_scans(self.scans, self.average, self.split)

    @property
    def channels(self) -> int:
        return 2 if self.path == "dwell" else 1

    @property
    def visited(self) -> float:
        """Share of the pixels of a whole scan that its path touches; a blurred beam's is wider."""
        path = _path(self.spiral_side or self.side, self.coverage, self.path)
        return float((path > 0).double().mean())

    def describe(self) -> Mapping[str, Any]:
        """The scans by name and checksum."""
        return {"scans": self.data.name, "scans_sha256": self.data.sha256()}

    def masks(self, random: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
        """The path in each of N examples, from two numbers for each; ``(N, side, side)``."""
        whole = _path(self.spiral_side or self.side, self.coverage, self.path)
        room = whole.shape[0] - self.side + 1
        corners = np.minimum((random * room).astype(np.int64), room - 1)
        return torch.stack([whole[y : y + self.side, x : x + self.side] for y, x in corners])

    def units(self, targets: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Middle and half of the range that networks are told of each target, ``(N, 1, 1)``.

        Who completes a scan knows the range of its visited pixels alone. The paper's scans along a
        blurred beam have that of the whole image.
        """
        if self.path == "dwell":
            return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        return paths.visited_range(targets, masks > 0)

    def inputs(self, targets: Tensor, masks: Tensor, noise: Callable[[], Any]) -> Tensor:
        """What networks are given, ``(N, channels, S, S)``, of targets ``(N, S, S)``."""
        if self.path == "dwell":
            uniform = torch.from_numpy(noise()).view_as(targets)
            return torch.stack([paths.dwell_scan(targets, masks, uniform), masks], 1)
        if self.spiral_side is None:
            return paths.infilled_scan(targets, masks[0].numpy())[:, None]
        scans = (paths.infilled_scan(t, m.numpy()) for t, m in zip(targets, masks, strict=True))
        return torch.stack(list(scans))[:, None]

    def batches(
        self, seed: int, batch_size: int, start: int = 0, block: int = BLOCK
    ) -> Iterator[tuple[Tensor, ...]]:
        """Inputs, targets, blurred targets, those at half the size, and random numbers.

        Shapes ``(B, channels, S, S)``, ``(B, S, S)`` twice, ``(B, S/2, S/2)`` and ``(B, 10)``.
        """

        def examples(first: int, last: int) -> list[Tensor]:
            def random(stream: int, numbers: int = 4) -> np.ndarray[Any, np.dtype[np.float32]]:
                return uniforms(seed, first, last, numbers, stream)

            def harm(crops: Any) -> Any:
                return damage(crops, random(DAMAGE), self.damaged)

            images = self.data.training
            crops = random_crops(images, self.side, random(CROP), harm if self.damaged else None)
            targets = torch.from_numpy(normalise(crops))
            masks = self.masks(random(PLACE, 2))
            middle, half = self.units(targets, masks)
            targets = (targets - middle) / half
            inputs = self.inputs(targets, masks, lambda: random(NOISE, self.side**2))
            choices = np.concatenate([random(MEMORY), random(ADVERSARY, NUMBERS)], 1)
            small = paths.blur(targets[:, ::2, ::2])
            return [inputs, targets, paths.blur(targets), small, torch.from_numpy(choices)]

        return batches_of(examples, batch_size, start, block)

    # What learns.

    def build(self, seed: int) -> Networks:
        generator = Generator(self.size, self.channels, seed)
        # A seventh faster than the default layout on a CPU at batch size 1.
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks: dict[str, torch.nn.Module] = {"generator": generator}
        if self.hard_examples:
            whole, half = (self.side, self.side), (self.side // 2, self.side // 2)
            shapes = [(self.channels, *whole), whole, whole, half]
            networks["memory"] = HardExamples(shapes)
        if self.adversarial:
            networks["adversary"] = Adversary(self.side, seed)
        return networks

    def phases(self, step: int, training: Training) -> Sequence[str]:
        if not self.adversarial or step < training.steps // 2:
            return ("step",)
        return ("discriminate", "refine")

    def optimizers(self, networks: Networks, training: Training) -> Mapping[str, Optimizer]:
        if self.hard_examples and training.batch_size > 1:
            raise ValueError(
                "PartialStem: batch_size must be 1 with hard_examples, which are shown again one "
                f"by one; got {training.batch_size}. Leave out one of them."
            )
        generator = training.make_optimizer(networks["generator"].parameters())
        optimizers = {"step": generator}
        if self.adversarial:
            discriminators = training.make_optimizer(networks["adversary"].parameters())
            optimizers |= {"refine": generator, "discriminate": discriminators}
        return optimizers

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        """Constant and then in eight steps towards 0; in the second stage a third of it again."""
        of_all = training.steps if self.adversarial else 2 * training.steps
        rate = functools.partial(staircase, steps=of_all)
        generator = LambdaLR(optimizers["step"], rate)
        schedules: dict[str, LRScheduler] = {"step": generator}
        if self.adversarial:
            schedules["refine"] = generator
            schedules["discriminate"] = LambdaLR(optimizers["discriminate"], _a_third)
        return schedules

    # Losses.

    def step(self, networks: Networks, batch: Any) -> Outcome:
        """The first stage: losses of both completions, ``(B,)`` or ``(B, blocks)`` each."""
        *example, random = batch
        memory = networks.get("memory")
        if isinstance(memory, HardExamples):
            example, is_old = memory.recall(example, random[0])
        inputs, _, blurred, small = example
        inner, outer = networks["generator"](inputs)
        losses = {"inner": self._losses(inner, small), "outer": self._losses(outer, blurred)}
        if isinstance(memory, HardExamples):
            memory.learn(example, is_old, losses["outer"].mean(), random[0])
        return Outcome(losses, {"squared error": block_losses(outer.detach(), blurred)})

    def discriminate(self, networks: Networks, batch: Any) -> Outcome:
        """The second stage: discriminators learn to tell completions from what is true."""
        inputs, target, _, _, random = batch
        with torch.no_grad():
            _, outer = networks["generator"](inputs)
        places = random[:, -NUMBERS:].repeat(2, 1)
        true, made = networks["adversary"](torch.cat([target, outer]), places).chunk(2, dim=1)
        apart = (true - 1).square().mean(1) + made.square().mean(1)
        return Outcome({}, unlimited={f"discriminator {i}": x for i, x in enumerate(apart, 1)})

    def refine(self, networks: Networks, batch: Any) -> Outcome:
        """The second stage: completions are to be near the truth, and taken for true."""
        inputs, _, blurred, small, random = batch
        inner, outer = networks["generator"](inputs)
        taken_for_true = networks["adversary"](outer, random[:, -NUMBERS:])
        losses = {
            "inner": self._losses(inner, small),
            "together": self._losses(paths.blur(outer), blurred),
        }
        return Outcome(
            losses,
            {"squared error": block_losses(outer.detach(), blurred)},
            {"adversarial": (taken_for_true - 1).square().mean(1).sum()},
        )

    def _losses(self, images: Tensor, targets: Tensor) -> Tensor:
        return block_losses(images, targets, self.power, self.block)

    # How well.

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Means over the tiles of the held-out scans, beside blurred targets."""
        inputs, targets, middle, half = _held_out(self)
        return scores(middle + half * _completed(networks, inputs), paths.blur(targets))

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """The mean of the truth itself, the nearest visited pixel, and that blurred twice.

        The latter two are given more than networks are: pixels without noise, in their own units.
        """
        targets = _held_out(self)[1]
        truths = paths.blur(targets)
        masks = self.masks(uniforms(HELD_OUT_SEED, 0, len(targets), 2, PLACE))
        filled = torch.stack(
            [paths.infill(t, m.numpy() > 0) for t, m in zip(targets, masks, strict=True)]
        )
        made = {
            "image mean": truths.mean((1, 2), keepdim=True).expand_as(truths).contiguous(),
            "nearest pixel": filled,
            "nearest pixel, blurred": paths.blur(paths.blur(filled)),
        }
        return {name: scores(images, truths) for name, images in made.items()}

    def pictures(self, networks: Networks) -> Iterator[Picture]:
        """Held-out tiles: what was scanned, the truth, and what the networks make of it."""
        held_out = _held_out(self)
        chosen = range(0, len(held_out[0]), max(len(held_out[0]) // SHOWN, 1))[:SHOWN]
        inputs, targets, middle, half = (x[chosen] for x in held_out)
        outputs = middle + half * _completed(networks, inputs)
        rows = (inputs[:, 0].numpy(), paths.blur(targets).numpy(), outputs.numpy())
        yield Picture(
            "held-out",
            "Held-out tiles: the partial scan, the truth, what the networks made of it, and their "
            "error.",
            sheet(list(zip(*rows, strict=True)), pixel_size=self.data.pixel_size),
        )

    def complete(self, networks: Networks, values: Tensor, mask: Tensor) -> Tensor:
        """Completes partial scans with trained networks.

        Args:
            networks: From :meth:`build`.
            values: Shape ``(N, S, S)``, from 0 to 1 where the beam was.
            mask: The same shape: 0 where it was not. With ``path="dwell"``, how long it was there,
                as :func:`alrc.lab.data.stem.paths.dwell` gives it, and values have its noise.

        Returns:
            The same shape, from -1 to 1.
        """
        visited = mask > 0
        if self.path == "infill":
            lone = zip(values, visited.cpu(), strict=True)
            inputs = torch.stack([paths.infill(v, m.numpy()) for v, m in lone])[:, None]
        elif bool((mask == visited).all()):
            raise ValueError(
                "this network was trained with the time that the beam was at each pixel (path = "
                "dwell), and the mask says only where it was. Pass --mask with a file of times, or "
                "a run that was trained with --path infill."
            )
        else:
            largest = mask.amax(
                (-2, -1), keepdim=True
            ).square()  # of a bright pixel, d in dwell_scan
            scan = torch.where(visited, largest * (2 * values - 1), -1.0)
            inputs = torch.stack([(scan + 1) / (largest + 1), mask], 1)
        completed: Tensor = networks["generator"](inputs)[1]
        return completed


@functools.lru_cache(maxsize=4)  # a task holds options alone
def _held_out(task: PartialStem) -> tuple[Tensor, ...]:
    """Inputs, unblurred targets and units of all held-out tiles, the same for every run."""
    targets = torch.from_numpy(normalise(tiles(task.data.held_out, task.side)))
    count = len(targets)
    noise = uniforms(HELD_OUT_SEED, 0, count, task.side**2, NOISE)
    masks = task.masks(uniforms(HELD_OUT_SEED, 0, count, 2, PLACE))
    middle, half = (x.expand(count, 1, 1) for x in task.units(targets, masks))
    inputs = task.inputs((targets - middle) / half, masks, lambda: noise)
    return inputs, targets, middle, half


def _completed(networks: Networks, inputs: Tensor) -> Tensor:
    generator = networks["generator"]
    device = next(generator.parameters()).device
    return in_parts(lambda x: generator(x)[1], inputs, device)


@functools.lru_cache(maxsize=8)
def _path(side: int, coverage: float, path: str) -> Tensor:
    mask = paths.spiral(side, coverage)
    return torch.from_numpy(paths.dwell(mask) if path == "dwell" else mask)


def _a_third(step: int) -> float:
    return STAGE_2_RATE
