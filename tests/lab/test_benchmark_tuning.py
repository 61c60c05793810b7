"""Which trial is chosen, on fabricated results."""

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from alrc.lab.engine.tuning import Better, Ended, best, target
from alrc.lab.report.compact import spikes


def runs(*values: float, better: Better = "lower", diverged: int = 0) -> list[Ended]:
    """Runs that end with these values, so many of them diverged."""
    config = {"metrics": [{"name": "error", "unit": "", "better": better}]}
    return [
        Ended(
            Path(),
            config,
            {"diverged_step": 1 if i < diverged else None},
            np.array([[1.0, 9.0], [2.0, value]]),
        )
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("chosen", "trials"),
    [
        ("b", {"a": runs(1, 100), "b": runs(5, 5), "c": runs(50, 3)}),  # by the log: 10, 5, 12
        ("a", {"a": runs(1, 9), "b": runs(4, 5), "c": runs(9, 9)}),  # the plain mean says b
        ("b", {"a": runs(2, 3), "b": runs(1, 2), "c": runs(2, 1)}),  # the first of two
        ("c", {"a": runs(1, 1, diverged=1), "b": runs(1, 1, diverged=2), "c": runs(9, 9)}),
        ("b", {"a": runs(nan, 1), "b": runs(7, 7), "c": runs(inf, 1)}),
        ("a", {"a": runs(2, 2, diverged=1), "b": runs(3, 1e9, diverged=2)}),
        ("a", {"a": runs(nan, nan, diverged=2), "b": runs(inf, inf, diverged=2)}),
        ("b", {"a": runs(0.5, better="higher"), "b": runs(0.9, better="higher")}),
        ("b", {"a": runs(nan, better="higher"), "b": runs(0.1, better="higher")}),
        ("b", {"a": runs(0.0, 1.0, better="higher"), "b": runs(0.1, 0.1, better="higher")}),
        ("a", {"a": runs(0.0, 1.0), "b": runs(0.1, 0.1)}),  # an error of 0 is as good as can be
        ("b", {"a": runs(-9, 1, better="higher"), "b": runs(-3, -3, better="higher")}),
    ],
)
def test_the_best_trial_is_chosen(chosen: str, trials: dict[str, list[Ended]]) -> None:
    assert best(trials) == chosen


def test_the_target_is_the_median_with_broken_runs_as_the_worst() -> None:
    assert target([3, 1, 2], "lower") == 2
    assert target([nan, 1, 2], "lower") == 2
    assert target([nan, 1, 2], "higher") == 1
    assert target([nan, inf, 2], "lower") is None


def test_spikes_are_counted_from_the_129th_step_on() -> None:
    calm = np.tile([1.0, 3.0], 100)  # mean 2, standard deviation 1
    assert spikes(calm) == 0
    for at, share in ((5, 0), (127, 0), (128, 1 / 72), (199, 1 / 72)):
        above, below = calm.copy(), calm.copy()
        above[at], below[at] = 8.01, 7.99
        assert (spikes(above), spikes(below)) == (share, 0), at
    infinite = calm.copy()
    infinite[150] = inf
    assert spikes(infinite) == 1 / 72
    assert np.isnan(spikes(calm[:128]))


def test_a_run_whose_loss_only_rose_is_judged_by_its_metrics() -> None:
    (ended,) = runs(7.0)
    rose = replace(ended, result={"diverged": "has a median of 9", "diverged_step": None})
    assert not rose.diverged
    assert runs(nan)[0].diverged
    assert runs(7.0, diverged=1)[0].diverged
