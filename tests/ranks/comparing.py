"""What tests of ranks compare with: the oracle, and tolerances for sums made in another order."""

import functools
from typing import Any

import pytest
import torch
from ranks.streams import CASES, COUNTS, Call
from reference import Reference

SMOKE = "groups, all at once"
TWO = pytest.param(2, id="2 ranks")
FOUR = pytest.param(4, id="4 ranks", marks=pytest.mark.slow)
worlds = pytest.mark.parametrize("world", [TWO, FOUR])
# One case for four ranks in the short tier too.
cases_and_worlds = pytest.mark.parametrize(
    ("case", "world"),
    [pytest.param(case, 2, id=f"{case}-2 ranks") for case in CASES]
    + [
        pytest.param(case, 4, id=f"{case}-4 ranks", marks=[pytest.mark.slow] * (case != SMOKE))
        for case in CASES
    ],
)
same = functools.partial(torch.testing.assert_close, rtol=0.0, atol=0.0, equal_nan=True)


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def reference_step(references: list[Reference], given: Call) -> list[tuple[float, float, float]]:
    """The oracle's value, factor and closeness for each loss; one oracle for each group."""
    size = given.loss.numel()
    mask = [True] * size if given.mask is None else given.mask.tolist()
    index = [0] * size if given.group is None else given.group.tolist()
    results: list[Any] = [None] * size
    losses = given.loss.double().tolist()
    for k, reference in enumerate(references):
        chosen = [i for i in range(size) if index[i] == k]
        clipped = reference([losses[i] for i in chosen], [mask[i] for i in chosen])
        for i, one in zip(chosen, clipped, strict=True):
            results[i] = (one.value, one.factor, one.closeness)
    return results


def reference_state(references: list[Reference], grouped: bool) -> dict[str, Any]:
    names = ["mean", "variance", *COUNTS]
    numbers = {name: [getattr(reference, name) for reference in references] for name in names}
    return numbers if grouped else {name: values[0] for name, values in numbers.items()}


def references_for(settings: dict[str, Any]) -> list[Reference]:
    rest = {key: value for key, value in settings.items() if key != "num_groups"}
    return [Reference(**rest) for _ in range(settings.get("num_groups", 1))]


# float32 moments are rounded at each call; about 1 / (1 - decay) = 10 roundings are remembered.
# Where the mean is 1000 times the spread, so is the rounding of the mean to the variance.
TOLERANCE = {"rtol": 2e-6, "atol": 1e-7}
FAR = {"rtol": 5e-4, "atol": 1e-7}
