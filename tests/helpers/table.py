"""The table of front ends: each row runs the rule in another way, behind one small interface.

A new front end joins by adding a row, and inherits every test that is parametrised with ROWS.
"""

from collections.abc import Callable
from typing import Any

import frontends
import hypothesis
import jax_frontends
import keras_frontends
import numpy as np
import pytest
from frontends import FrontEnd
from hypothesis import strategies as st

ROWS: dict[str, type[FrontEnd]] = {
    **frontends.ROWS,
    **jax_frontends.ROWS,
    **keras_frontends.ROWS,
}
ANY_FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
# Between which a state is moved.
ONE_PER_FRAMEWORK = ["numpy", "torch", "torch-pure", "jax-jitted", *keras_frontends.ROWS]


def given_for_every_row(**strategies: Any) -> Callable[..., Any]:
    """hypothesis.given for each row, with as many examples as the row has time for."""

    def decorate(test: Callable[..., None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("row", ROWS)
        def for_every_row(row: str) -> None:
            tier = hypothesis.settings()

            @hypothesis.settings(max_examples=min(ROWS[row].examples, tier.max_examples))
            @hypothesis.given(**strategies)
            def holds(**drawn: Any) -> None:
                test(row, **drawn)

            holds()

        return for_every_row

    return decorate


def started(row: str, **settings):
    """A front end with mean 1, standard deviation 1 and so, by default, a limit of 4."""
    return ROWS[row](**{"mu1_start": 1.0, "mu2_start": 2.0, **settings})


def bits(values) -> bytes:
    return np.asarray(values, np.float32).tobytes()
