"""A small language model, of characters, that reads Python's help texts."""

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pydoc_data import topics
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from alrc.lab.api import Ge, Le, Metric, Networks, Task, Training

__all__ = ["ALPHABET", "GPT", "Language", "characters", "read_texts"]

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
HELD_OUT = 0.1  # share of the text
WINDOWS = 96  # of the held-out text, in which predictions are judged
WARMUP = 0.05  # share of the steps in which the learning rate rises

Characters = NDArray[np.int64]


@functools.cache
def read_texts() -> tuple[str, str]:
    """Python's help texts, what ``help("topics")`` lists: those to train with, those held out.

    Paragraphs that occur several times are kept once, so that none is on both sides.
    """
    texts = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    paragraphs = dict.fromkeys(texts.encode("ascii", "replace").decode().split("\n\n"))
    whole = "\n\n".join(paragraphs)
    cut = whole.index("\n\n", int(len(whole) * (1 - HELD_OUT)))
    return whole[:cut], whole[cut + 2 :]


def characters(text: str) -> Characters:
    """The places of its characters in the alphabet."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64)
    return np.where(codes == ord("\n"), 0, codes - 31)


@functools.cache
def _training_text() -> Characters:
    return characters(read_texts()[0])


@functools.cache
def _windows(length: int) -> Tensor:
    """Evenly spread over the held-out text, ``(windows, length)``: none that can be known.

    A stretch of 32 characters or more that the training text has word for word is left out.
    """
    training, held_out = read_texts()
    size = max(length, 32)
    stretches = [held_out[i : i + size] for i in range(0, len(held_out) - size, size)]
    new = [text for text in stretches if text not in training]
    some = (new[i] for i in np.linspace(0, len(new) - 1, WINDOWS).astype(int))
    return torch.from_numpy(np.stack([characters(text[:length]) for text in some]))


@dataclass(frozen=True)
class Language(Task):
    """Predicts the next character of Python's help texts with a small GPT.

    A loss is the cross-entropy of a sequence, the mean over its characters. The learning rate
    rises linearly for the first twentieth of the steps, then falls to a tenth along a cosine.
    """

    garbage: Annotated[float, Ge(0), Le(1), "Share of sequences with random characters."] = 0.0
    width: Annotated[int, Ge(1), "Features of a character; a multiple of heads."] = 48
    layers: Annotated[int, Ge(1), "Transformer blocks."] = 2
    heads: Annotated[int, Ge(1), "Heads of each attention."] = 2
    context: Annotated[int, Ge(2), "Characters that are predicted in a sequence."] = 32

    metrics: ClassVar = (
        Metric("held-out log-loss", "nats per character"),
        Metric("held-out accuracy", better="higher"),
    )
    defaults: ClassVar = {
        "steps": 500,
        "batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
    }
    stackable: ClassVar = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(
                f"Language: width must be a multiple of heads, because each has an equal part of "
                f"it; got width={self.width}, heads={self.heads}. Use "
                f"width={math.ceil(self.width / self.heads) * self.heads}."
            )

    def describe(self) -> dict[str, Any]:
        """The checksum of the text, which differs between versions of Python."""
        text = "\n\n".join(read_texts())
        return {"characters": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}

    def build(self, seed: int) -> Networks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {"gpt": GPT(self.width, self.layers, self.heads, self.context)}

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        """Of the learning rate: a linear rise, then a cosine."""
        warmup = max(round(WARMUP * training.steps), 1)

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            fallen = (step - warmup) / max(training.steps - warmup, 1)
            return 0.55 + 0.45 * math.cos(math.pi * min(fallen, 1))

        return {"step": LambdaLR(optimizers["step"], share)}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Tensor]:
        """Sequences ``(batch_size, context + 1)``; where they begin does not depend on garbage."""
        text = _training_text()
        places = np.arange(self.context + 1)
        for step in count(start):
            random = np.random.default_rng([seed, step])
            first = random.integers(len(text) - self.context, size=(batch_size, 1))
            is_garbage = random.random((batch_size, 1)) < self.garbage
            sequences = text[first + places]
            if is_garbage.any():
                anything = random.integers(len(ALPHABET), size=sequences.shape)
                sequences = np.where(is_garbage, anything, sequences)
            yield torch.from_numpy(sequences)

    def step(self, networks: Networks, batch: Tensor) -> dict[str, Tensor]:
        """A loss for each sequence."""
        return {"loss": _log_losses(networks["gpt"](batch[:, :-1]), batch[:, 1:]).mean(1)}

    def evaluate(self, networks: Networks) -> dict[str, float]:
        """Means over the characters of windows of the held-out text."""
        device = next(networks["gpt"].parameters()).device
        windows = self.windows().to(device)
        scores, targets = networks["gpt"](windows[:, :-1]), windows[:, 1:]
        return {
            "held-out log-loss": _log_losses(scores, targets).double().mean().item(),
            "held-out accuracy": (scores.argmax(2) == targets).double().mean().item(),
        }

    def windows(self) -> Tensor:
        """Sequences of the held-out text, ``(windows, context + 1)``."""
        return _windows(self.context + 1)


def _log_losses(scores: Tensor, targets: Tensor) -> Tensor:
    """Of each character, in nats."""
    return cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


class GPT(nn.Module):
    """Scores of the next character, ``(B, T, alphabet)``, from characters ``(B, T)``.

    References:
        A. Radford et al., "Language models are unsupervised multitask learners" (2019)
    """

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), width)
        self.places = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, len(ALPHABET), bias=False)
        # GPT-2's 0.02 at its width, 768, and as much of a signal at this one; what adds to the
        # stream is smaller, the more blocks there are.
        std = 0.02 * math.sqrt(768 / width)
        for name, x in self.named_parameters():
            if x.dim() == 2:
                adds = name.endswith("out.weight")
                nn.init.normal_(x, std=std / math.sqrt(2 * layers) if adds else std)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.characters(x) + self.places[: x.shape[1]]
        scores: Tensor = self.scores(self.norm(self.blocks(stream)))
        return scores


class _Block(nn.Module):
    """Attention to earlier characters, then a layer for each by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.attend_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.inner_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend_out(self.attention(self.attend(self.norm(x))))
        added: Tensor = self.inner_out(gelu(self.inner(self.inner_norm(x)), approximate="tanh"))
        return x + added

    def attention(self, x: Tensor) -> Tensor:
        """Means of values, ``(B, T, width)``, of queries, keys and values ``(B, T, 3 width)``."""
        batch, length, _ = x.shape
        # Spelled out, because under vmap the fused form is slower.
        q, k, v = x.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(later, -math.inf)
        means: Tensor = scores.softmax(-1) @ v
        return means.transpose(1, 2).reshape(batch, length, -1)
