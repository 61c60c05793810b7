"""Tables that scikit-learn's wheel ships: nothing is downloaded.

- ``diabetes``: B. Efron et al., "Least angle regression", Ann. Statist. 32 (2004) 407. Ten
  measurements of 442 patients, and how far their disease went on in a year.
- ``breast-cancer``: W. N. Street et al., "Nuclear feature extraction for breast tumor diagnosis"
  (1993), UCI Machine Learning Repository, CC BY 4.0. The mean of ten features of the cell nuclei
  in each of 569 images; to predict: the mean area of the three largest nuclei.
- ``digits``: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits" (1998), UCI
  Machine Learning Repository, CC BY 4.0. 1,797 images of 8x8 pixels, scaled to 0 to 1.
"""

import functools
import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table", "load_table", "some", "split"]

# With a seed, what generators draw from: unlike those of the order of the examples, whose second
# number is that of a pass.
SPLIT, SOME = 2**32 - 1, 2**32 - 2


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of each example, and what is to be predicted.

    Attributes:
        inputs: Shape ``(examples, features)``, float64.
        targets: Shape ``(examples,)``: float64, or int64 for classes.
    """

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64] | NDArray[np.int64]

    def sha256(self) -> str:
        """A checksum of all values."""
        parts = (np.ascontiguousarray(x).tobytes() for x in (self.inputs, self.targets))
        return hashlib.sha256(b"".join(parts)).hexdigest()


@functools.cache
def load_table(name: str) -> Table:
    """One of the tables of this file, by its name."""
    from sklearn import datasets  # type: ignore[import-untyped] # takes a second to import

    match name:
        case "diabetes":
            x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
        case "breast-cancer":
            data = datasets.load_breast_cancer()
            x, y = data.data[:, :10], data.data[:, list(data.feature_names).index("worst area")]
        case "digits":
            x, y = datasets.load_digits(return_X_y=True)
            return Table(x / 16, y.astype(np.int64))
        case _:
            raise ValueError(
                f"load_table: name must be diabetes, breast-cancer or digits; got {name!r}."
            )
    return Table(x, y.astype(np.float64))


def split(num_examples: int, seed: int, held_out: float) -> tuple[NDArray[np.int64], ...]:
    """Indices of examples to train with and of those held out, another choice for each seed.

    Args:
        num_examples: How many there are.
        seed: Fixes the choice.
        held_out: Share of those held out, rounded down to whole examples.
    """
    order = np.random.default_rng([seed, SPLIT]).permutation(num_examples)
    count = int(held_out * num_examples)
    return np.sort(order[count:]), np.sort(order[:count])


def some(num_examples: int, seed: int, share: float) -> NDArray[np.int64]:
    """Indices of a share of the examples, rounded up to whole ones, another choice for each seed;
    those of a smaller share are among them."""
    # 0.1 * 30 is a little more than 3.
    count = math.ceil(round(share * num_examples, 6))
    return np.random.default_rng([seed, SOME]).permutation(num_examples)[:count]
