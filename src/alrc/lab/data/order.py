"""Which example comes when, and random numbers for it.

Everything is a function of a seed and of an example's position in the run, so that it does not
matter how many examples are prepared at a time, or where a run is taken up again.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["batches_of", "example_order", "uniforms"]

BLOCK = 4096  # examples to prepare at a time; more cost memory, fewer cost time


def example_order(num_examples: int, seed: int, start: int, stop: int) -> NDArray[np.int64]:
    """Indices of the examples at positions ``start`` to ``stop - 1`` of a run.

    Each pass over the examples is a permutation of its own.

    Returns:
        Shape ``(stop - start,)``, values from 0 to ``num_examples - 1``.
    """
    first, last = start // num_examples, (stop - 1) // num_examples
    passes = [
        np.random.default_rng([seed, number]).permutation(num_examples)
        for number in range(first, last + 1)
    ]
    offset = first * num_examples
    return np.concatenate(passes)[start - offset : stop - offset]


def uniforms(
    seed: int, start: int, stop: int, numbers: int = 4, stream: int = 0
) -> NDArray[np.float32]:
    """Numbers, uniform from 0 to 1, for each of the positions ``start`` to ``stop - 1``.

    Args:
        seed: Of the run.
        start: The first position.
        stop: The one behind the last.
        numbers: For each position.
        stream: Others have nothing to do with each other, as if the seed were another.

    Returns:
        Shape ``(stop - start, numbers)``.
    """
    # Philox turns its counter into four numbers, whatever was drawn before: the counter is the
    # position, or that of the first of as many fours as a position needs.
    fours = -(-numbers // 4)
    philox = np.random.Philox(key=seed + (stream << 64), counter=start * fours)
    drawn = np.random.Generator(philox).random((stop - start, 4 * fours))
    return drawn[:, :numbers].astype(np.float32)


def batches_of(
    examples: Callable[[int, int], Sequence[Tensor]],
    batch_size: int,
    start: int,
    block: int = BLOCK,
) -> Iterator[tuple[Tensor, ...]]:
    """Batches from step ``start`` on, without end, prepared many at a time.

    Args:
        examples: Gives those at so many positions of the run, from the first to before the last;
            each tensor has one row for each.
        batch_size: Of each batch.
        start: Step of the first.
        block: Examples to prepare at a time; that changes speed and memory, never the result.
    """
    size = max(block // batch_size, 1) * batch_size
    for first in count(start * batch_size, size):
        parts = examples(first, first + size)
        yield from zip(*(torch.split(part, batch_size) for part in parts), strict=True)
