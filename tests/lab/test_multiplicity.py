"""Corrections for many tests, against closed testing by brute force over all subsets."""

from itertools import combinations

import numpy as np
import pytest

from alrc.lab.report.multiplicity import Decision, Hypothesis, gatekeeping, holm, tarone

ALPHA = 0.05


def closed(tests: list[Hypothesis]) -> set[int]:
    """Shown is what is refused in every set of hypotheses that holds it, at the set's own level.

    The level of a set: the best of a fine grid at which its tests cost no more than alpha.
    """
    grid = np.sort(
        np.concatenate([ALPHA / np.arange(1, 9), [test.least * (1 - 1e-12) for test in tests]])
    )

    def level(members: tuple[int, ...]) -> float:
        costs = [(c * sum(tests[i].least <= c for i in members), c) for c in grid if c <= ALPHA]
        return max(c for cost, c in costs if cost <= ALPHA * (1 + 1e-12))

    indices = range(len(tests))
    sets = [s for size in range(1, len(tests) + 1) for s in combinations(indices, size)]
    refused = {s for s in sets if min(tests[i].p for i in s) <= level(s)}
    return {i for i in indices if all(s in refused for s in sets if i in s)}


@pytest.mark.parametrize("seed", range(30))
def test_steps_show_what_closed_testing_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tests = []
    for _ in range(5):
        least = rng.choice([0, 0, 2.0 ** -rng.integers(3, 9), 1])
        tests.append(Hypothesis(max(least, float(rng.choice([0.2, 0.02]) * rng.random())), least))
    decisions = holm(dict(enumerate(tests)), ALPHA)
    assert {i for i, decision in decisions.items() if decision.shown} == closed(tests)


def test_holm_by_hand() -> None:
    tests = {
        "a": Hypothesis(0.01, 0),
        "b": Hypothesis(0.02, 0),
        "c": Hypothesis(0.03, 0),
        "d": Hypothesis(0.005, 0),
    }
    # 0.005 <= 0.05 / 4; 0.01 <= 0.05 / 3; 0.02 <= 0.05 / 2; 0.03 <= 0.05.
    assert all(decision.shown for decision in holm(tests, ALPHA).values())
    assert holm(tests, ALPHA)["c"].level == ALPHA
    # 0.014 > 0.05 / 4: nothing is.
    worse = {key: Hypothesis(test.p + 0.009, 0) for key, test in tests.items()}
    assert holm(worse, ALPHA) == dict.fromkeys(tests, Decision(False, ALPHA / 4))


def test_tests_that_can_show_nothing_cost_nothing() -> None:
    calm = {
        "metric": Hypothesis(0.04, 0),
        "divergence": Hypothesis(1, 1),
        "one diverged": Hypothesis(0.5, 0.5),
    }
    assert holm(calm, ALPHA)["metric"] == Decision(True, ALPHA)
    assert holm(calm | {"seven diverged": Hypothesis(0.5, 2**-6)}, ALPHA)["metric"].shown is False


def test_a_test_that_only_counts_at_a_higher_level_keeps_it_just_below() -> None:
    # At 0.05 both would count, and cost 0.1; below 0.03 only the first does.
    assert tarone([0, 0.03], ALPHA) == pytest.approx(0.03, rel=1e-12)
    assert tarone([0, 0.03], ALPHA) < 0.03
    assert tarone([0, 0.03], 0.028) == 0.028
    assert tarone([], ALPHA) == tarone([1, float("inf")], ALPHA) == ALPHA


def test_a_primary_test_has_all_of_alpha_and_hands_it_on() -> None:
    others = {i: Hypothesis(0.02, 0) for i in range(2)}
    decisions = gatekeeping({"primary": Hypothesis(0.05, 0)}, others, ALPHA)
    assert decisions["primary"] == Decision(True, ALPHA)
    assert decisions[0] == decisions[1] == Decision(True, ALPHA / 2)


@pytest.mark.parametrize(
    "primary", [Hypothesis(0.051, 0), Hypothesis(1, 1), Hypothesis(float("nan"), float("inf"))]
)
def test_behind_a_primary_test_that_shows_nothing_nothing_counts(primary: Hypothesis) -> None:
    decisions = gatekeeping({"primary": primary}, {"other": Hypothesis(0, 0)}, ALPHA)
    assert not decisions["primary"].shown
    assert decisions["other"] == Decision(False, ALPHA, counts=False)


def test_half_of_a_primary_comparison_hands_on_half() -> None:
    first = {"metric": Hypothesis(0.025, 0), "divergence": Hypothesis(0.3, 2**-9)}
    decisions = gatekeeping(first, {"at": Hypothesis(0.025, 0), "above": Hypothesis(1, 1)}, ALPHA)
    assert decisions["metric"] == decisions["at"] == Decision(True, ALPHA / 2)
    assert not decisions["divergence"].shown
    decisions = gatekeeping(first, {"other": Hypothesis(0.026, 0)}, ALPHA)
    assert decisions["other"] == Decision(False, ALPHA / 2)
