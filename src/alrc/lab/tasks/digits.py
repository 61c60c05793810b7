"""Handwritten digits: wrong labels, rare classes, losses that are mostly zero."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from alrc.lab.api import Ge, Gt, Le, Metric, Networks, Task
from alrc.lab.data.order import batches_of, example_order, uniforms
from alrc.lab.data.tables import load_table, some, split
from alrc.lab.tasks.dense import DenseNetwork, Precision, rounded

__all__ = ["Digits"]

CLASSES = 10
RARE = (8, 9)  # the two that are most often mistaken
HELD_OUT = 1 / 2
EMBEDDING = 16
MARGIN = 0.2  # of the triplet loss, as in the reference


@dataclass(frozen=True)
class Digits(Task):
    """Tells handwritten digits of 8x8 pixels apart.

    Half of the examples is held out, another half for each seed, and has its true labels.

    References:
        F. Schroff, D. Kalenichenko and J. Philbin, "FaceNet", CVPR 2015, for the triplet loss;
        K. Crammer and Y. Singer, J. Mach. Learn. Res. 2 (2001) 265, for the hinge loss.
    """

    wrong: Annotated[
        float,
        Ge(0),
        Le(1),
        "Share of the training labels that are wrong, rounded up to whole examples: those that "
        "are learned last and, in the end, by heart.",
    ] = 0.0
    rare: Annotated[
        float,
        Gt(0),
        Le(1),
        "Share of the training examples of eights and nines that are kept: below 1, the largest "
        "losses are right, and metrics are means over classes.",
    ] = 1.0
    loss: Annotated[
        Literal["cross-entropy", "hinge", "triplet"],
        "What is minimised: hinge and triplet losses are 0 for whatever is right by a margin, in "
        "the end for nearly all.",
    ] = "cross-entropy"
    precision: Annotated[
        Precision, "What losses are computed in: bfloat16 keeps 3 digits, float16 ends at 65,504."
    ] = "float32"

    defaults: ClassVar = {"steps": 1500, "batch_size": 16, "learning_rate": 3e-3}
    stackable: ClassVar = True

    @property
    def metrics(self) -> Sequence[Metric]:  # type: ignore[override]
        error_rate = Metric("held-out error rate")
        if self.loss == "cross-entropy":
            return (Metric("held-out log-loss", "nats"), error_rate)
        return (error_rate,)

    def build(self, seed: int) -> Networks:
        outputs = EMBEDDING if self.loss == "triplet" else CLASSES
        return {"network": DenseNetwork((64, 32, outputs), seed)}

    def describe(self) -> Mapping[str, Any]:
        """The images and labels by checksum."""
        return {"data_sha256": load_table("digits").sha256()}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Images ``(batch_size, 64)`` and labels ``(batch_size,)``, some of them wrong; or, for
        triplets, images, others with the same label, and others with another."""
        images, labels = self.training(seed)
        others = _Others(labels.numpy())

        def examples(first: int, last: int) -> tuple[Tensor, ...]:
            order = example_order(len(labels), seed, first, last)
            if self.loss != "triplet":
                return images[order], labels[order]
            same, different = others(order, uniforms(seed, first, last))
            return images[order], images[same], images[different]

        return batches_of(examples, batch_size, start)

    def step(self, networks: Networks, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """A loss for each example, or for each triplet."""
        network = networks["network"]
        if self.loss == "triplet":
            outputs = rounded(network(torch.cat(batch)), self.precision)  # at once, which is faster
            anchors, same, different = normalize(outputs, dim=1).chunk(3)
            near = (anchors - same).square().sum(1)
            far = (anchors - different).square().sum(1)
            return {"loss": (near - far + MARGIN).relu().float()}
        images, labels = batch
        scores = rounded(network(images), self.precision)
        losses = (
            hinge if self.loss == "hinge" else functools.partial(cross_entropy, reduction="none")
        )
        return {"loss": losses(scores, labels).float()}

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """Over the held-out examples of the network's seed.

        An embedding is judged by the nearest mean of the training examples of a class, with the
        labels that they were trained with. Half an example more counts as wrong, so that error
        rates are never 0 and have ratios.
        """
        network: Any = networks["network"]
        seed, device = int(network.seed), network.seed.device
        _, (images, labels) = _parts(seed)
        scores = network(images.to(device)).cpu()
        if self.loss == "triplet":
            given, their_labels = self.training(seed)
            classes = torch.eye(CLASSES)[their_labels]
            means = classes.T @ normalize(network(given.to(device)).cpu(), dim=1)
            means = means / classes.sum(0)[:, None]
            scores = -torch.cdist(normalize(scores, dim=1), means)
        # What is NaN is wrong, but argmax would take it for the largest.
        wrong = (scores.argmax(1) != labels) | scores.isnan().any(1)
        values = [_error_rate(wrong, labels, balanced=self.rare < 1)]
        if self.loss == "cross-entropy":
            nats = cross_entropy(scores.double(), labels, reduction="none")
            values.insert(0, _mean(nats, labels, balanced=self.rare < 1))
        return {metric.name: value for metric, value in zip(self.metrics, values, strict=True)}

    def training(self, seed: int) -> tuple[Tensor, Tensor]:
        """Images and labels to train with, the wrong ones among them."""
        (images, labels), _ = _parts(seed)
        rare = torch.isin(labels, torch.tensor(RARE)).nonzero().squeeze(1)
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[rare] = False
        kept[rare[torch.from_numpy(some(len(rare), seed, self.rare))]] = True
        images, labels = images[kept], labels[kept]
        which = some(len(labels), seed, self.wrong)
        # As they are in random order, the classes they are moved by are as well.
        moves = torch.from_numpy(1 + np.arange(len(which)) % (CLASSES - 1))
        return images, labels.index_add(0, torch.from_numpy(which), moves) % CLASSES


def hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """By how much less than 1 the score of the label is above all others; of ``(N, classes)``."""
    own = scores.gather(1, labels[:, None])
    is_own = torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
    others = scores.masked_fill(is_own, -torch.inf)
    return (1 + others.amax(1) - own.squeeze(1)).relu()


class _Others:
    """Draws, for each of some examples, another with the same label and one with another.

    Args:
        labels: Of all examples, at least two with each label.
    """

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.sorted = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=CLASSES)
        self.first, self.count = (np.cumsum(counts) - counts)[labels], counts[labels]
        self.place = np.argsort(self.sorted, kind="stable")

    def __call__(
        self, which: NDArray[np.int64], random: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        first, count, place = self.first[which], self.count[which], self.place[which]
        # From those with the same label but itself, and from all but those.
        same = first + _below(count - 1, random[:, 0])
        same += same >= place
        different = _below(len(self.sorted) - count, random[:, 1])
        different += np.where(different >= first, count, 0)
        return self.sorted[same], self.sorted[different]


def _below(count: NDArray[np.int64], random: NDArray[np.float32]) -> NDArray[np.int64]:
    """Whole numbers from 0 to ``count - 1``, from uniform ones; a float32 may be rounded to 1."""
    return np.minimum((count * random).astype(np.int64), count - 1)


def _error_rate(wrong: Tensor, labels: Tensor, balanced: bool) -> float:
    if balanced:
        return float(
            np.mean([_error_rate(wrong[labels == c], labels, False) for c in range(CLASSES)])
        )
    return (wrong.sum().item() + 0.5) / (len(wrong) + 1)


def _mean(losses: Tensor, labels: Tensor, balanced: bool) -> float:
    if balanced:
        return float(np.mean([losses[labels == c].mean().item() for c in range(CLASSES)]))
    return losses.mean().item()


@functools.lru_cache(64)
def _parts(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and true labels, to train with and held out."""
    table = load_table("digits")
    images = torch.from_numpy(table.inputs.astype(np.float32))
    labels = torch.from_numpy(table.targets)
    training, held_out = split(len(labels), seed, HELD_OUT)
    return (images[training], labels[training]), (images[held_out], labels[held_out])
