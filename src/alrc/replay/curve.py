"""A loss curve as it was read from a log: numbers, where runs begin, and what the rows hide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "Floats", "Integers"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Curve:
    """The training losses of a log, in the order in which they were made.

    Args:
        name: Of the file, the run or the folder.
        column: Name of the column in the log, or of the key.
        losses: As read, with NaN and infinities where the log has them. At least one is finite.
        steps: The training step of each loss; None if the log has none. Where a log counts anew in
            each epoch, epochs are put behind one another. Steps fall back at `starts` alone.
        steps_per_row: Steps from one row to the next; 1 if the log does not tell.
        averaged: Whether a row is the mean of several steps, or examples of an epoch, rather than
            the loss of one step; None if the log does not tell.
        starts: Rows at which a run begins or is resumed; the first is 0.
        epochs: The epoch of each loss, whole or not; None if the log has none.
        gradient_norm, learning_rate: NaN where a row has none; None if the log has none.
        columns: The columns that could have been read instead, in the order of the log.
        notes: Whole sentences on what was read, what was left out and what the rows hide.
        format: What wrote the log, in words.

    Shape:
        - losses, steps, epochs, gradient_norm, learning_rate: ``(N,)``.
    """

    name: str
    column: str
    losses: Floats
    steps: Integers | None = None
    steps_per_row: float = 1.0
    averaged: bool | None = None
    starts: tuple[int, ...] = (0,)
    epochs: Floats | None = None
    gradient_norm: Floats | None = None
    learning_rate: Floats | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: str = "numbers"

    def __len__(self) -> int:
        return len(self.losses)
