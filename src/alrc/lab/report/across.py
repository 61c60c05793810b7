"""Arms over several settings or tasks, whose values have no common unit; and what becomes of runs.

A table has a row for each setting: the value of each arm. NaN or inf is an arm that diverged.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Literal, TypeVar

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

__all__ = ["average_ranks", "performance_profile", "ranks", "survival", "typical"]

Better = Literal["lower", "higher"]
Arm = TypeVar("Arm", bound=Hashable)
Setting = TypeVar("Setting", bound=Hashable)
Table = Mapping[Setting, Mapping[Arm, float]]


def typical(values: Iterable[float], better: Better = "lower") -> float:
    """Median of runs, of which those that diverged count as the worst; inf or -inf if half did.

    A mean of the others would flatter an arm that diverges often.

    Example:
        >>> typical([3.0, 1.0, float("nan")]), typical([1.0, 2.0, float("nan"), float("nan")])
        (3.0, inf)
    """
    worst = math.inf if better == "lower" else -math.inf
    ordered = sorted(value if math.isfinite(value) else worst for value in values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2


def ranks(table: Table[Setting, Arm], better: Better = "lower") -> dict[Setting, dict[Arm, float]]:
    """Rank of each arm in each setting: 1 is the best, ties share theirs, diverged is the worst.

    Settings without all arms are left out: among fewer arms a rank is easier to get.

    Example:
        >>> ranks({"a": {"off": 2.0, "on": 1.0}, "b": {"off": 5.0, "on": 5.0}, "c": {"on": 1.0}})
        {'a': {'off': 2.0, 'on': 1.0}, 'b': {'off': 1.5, 'on': 1.5}}
    """
    return {
        setting: dict(zip(row, map(float, stats.rankdata(_costs(row, better))), strict=True))
        for setting, row in _complete(table).items()
    }


def average_ranks(ranked: Table[Setting, Arm]) -> dict[Arm, float]:
    """Mean rank of each arm over the settings of `ranks`, the best arm first."""
    rows = list(ranked.values())
    arms = rows[0] if rows else {}
    averages = {arm: sum(row[arm] for row in rows) / len(rows) for arm in arms}
    return dict(sorted(averages.items(), key=lambda item: item[1]))


def performance_profile(
    table: Table[Setting, Arm], better: Better = "lower"
) -> dict[Arm, tuple[float, ...]]:
    """How many times worse than the best arm of a setting each arm is, in rising order.

    The profile of Dolan and Moré (2002) is a staircase: at the k-th of n ratios it climbs to k / n,
    the share of settings in which the arm is no further than this from the best. The ratio is inf
    where an arm diverged, and where the best is 0 and it is not. Settings without all arms are left
    out.

    Raises:
        ValueError: If a value is negative, because its ratios mean nothing.

    Example:
        >>> performance_profile({"a": {"off": 2.0, "on": 1.0}, "b": {"off": 4.0, "on": 6.0}})
        {'off': (1.0, 2.0), 'on': (1.0, 1.5)}
    """
    profile: dict[Arm, list[float]] = {}
    for setting, row in _complete(table).items():
        for arm, value in row.items():
            if -math.inf < value < 0:
                raise ValueError(
                    f"performance_profile: values must be >= 0, because ratios of others mean "
                    f"nothing; got {value} for {arm} in {setting}. Show their ranks instead."
                )
        costs = _costs(row, better)
        with np.errstate(divide="ignore", invalid="ignore"):
            worse = costs / costs.min() if better == "lower" else costs.min() / costs
        ratios = np.where(np.isfinite(costs), np.where(costs == costs.min(), 1, worse), math.inf)
        for arm, ratio in zip(row, ratios, strict=True):
            profile.setdefault(arm, []).append(float(ratio))
    return {arm: tuple(sorted(found)) for arm, found in profile.items()}


def survival(diverged: Iterable[int | None], total: int) -> list[tuple[int, float]]:
    """Share of runs that have not diverged: a staircase of (step, share from there on).

    Args:
        diverged: For each run the step from which on it diverged, or None.
        total: Steps of a run, where the staircase ends.

    Example:
        >>> survival([None, 300, None, 20], total=1000)
        [(0, 1.0), (20, 0.75), (300, 0.5), (1000, 0.5)]
    """
    given = list(diverged)
    steps = sorted(step for step in given if step is not None)
    stairs = {0: 1.0} if given else {}
    stairs |= {step: 1 - (k + 1) / len(given) for k, step in enumerate(steps)}
    if given:
        stairs[total] = 1 - len(steps) / len(given)
    return list(stairs.items())


def _complete(table: Table[Setting, Arm]) -> Table[Setting, Arm]:
    """The rows that hold every arm, all in one order."""
    arms = list(dict.fromkeys(arm for row in table.values() for arm in row))
    return {s: {a: row[a] for a in arms} for s, row in table.items() if len(row) == len(arms)}


def _costs(
    row: Mapping[Arm, float], better: Better
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Values as costs: lower is better, and inf is an arm that diverged."""
    costs = np.array([*row.values()], np.float64) * (1 if better == "lower" else -1)
    return np.where(np.isfinite(costs), costs, math.inf)
