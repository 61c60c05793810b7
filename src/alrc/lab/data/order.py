"""Which example comes when, and random numbers for it.

Everything is a function of a seed and of an example's position in the run, so that it does not
matter how many examples are prepared at a time, or where a run is taken up again.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["example_order", "uniforms"]


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


def uniforms(seed: int, start: int, stop: int) -> NDArray[np.float32]:
    """Four numbers, uniform from 0 to 1, for each of the positions ``start`` to ``stop - 1``.

    Returns:
        Shape ``(stop - start, 4)``.
    """
    # Philox turns its counter into four numbers, whatever was drawn before: the counter is the
    # position.
    generator = np.random.Generator(np.random.Philox(key=seed, counter=start))
    return generator.random((stop - start, 4)).astype(np.float32)
