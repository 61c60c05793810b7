"""Arms over settings that have no common unit, against numbers by hand."""

import math
import re

import pytest

from alrc.lab.report.across import average_ranks, performance_profile, ranks, survival, typical

TABLE = {
    "a": {"off": 3.0, "alrc": 1.0, "clip": 2.0},
    "b": {"off": math.nan, "alrc": 4.0, "clip": math.inf},
    "c": {"clip": 5.0, "alrc": 5.0, "off": 1.0},
}


def test_ranks_share_ties_and_are_worst_where_an_arm_diverged() -> None:
    assert ranks(TABLE) == {
        "a": {"off": 3, "alrc": 1, "clip": 2},
        "b": {"off": 2.5, "alrc": 1, "clip": 2.5},
        "c": {"off": 1, "alrc": 2.5, "clip": 2.5},
    }


def test_ranks_of_a_metric_that_should_be_high_are_worst_where_an_arm_diverged_too() -> None:
    row = {"off": 3.0, "alrc": 1.0, "clip": math.nan, "up": math.inf, "down": -math.inf}
    assert ranks({"a": row}, "higher") == {
        "a": {"off": 1, "alrc": 2, "clip": 4, "up": 4, "down": 4}
    }


def test_average_ranks_begin_with_the_best_arm() -> None:
    averages = average_ranks(ranks(TABLE))
    assert averages == pytest.approx({"alrc": 4.5 / 3, "off": 6.5 / 3, "clip": 7 / 3})
    assert list(averages) == ["alrc", "off", "clip"]
    assert average_ranks({}) == {}


def test_settings_without_all_arms_have_no_ranks_and_no_ratios() -> None:
    table = {**TABLE, "d": {"alrc": 1.0}}
    assert ranks(table) == ranks(TABLE)
    assert performance_profile(table) == performance_profile(TABLE)


def test_profile_is_how_many_times_worse_than_the_best() -> None:
    assert performance_profile(TABLE) == {
        "off": (1, 3, math.inf),
        "alrc": (1, 1, 5),
        "clip": (2, 5, math.inf),
    }


def test_profile_of_a_metric_that_should_be_high() -> None:
    table = {"a": {"off": 0.5, "on": 1.0}, "b": {"off": 0.9, "on": 0.0}}
    assert performance_profile(table, "higher") == {"off": (1, 2), "on": (1, math.inf)}


def test_profile_where_nothing_is_left_to_improve_or_all_diverged() -> None:
    assert performance_profile({"a": {"off": 0.0, "on": 0.1, "also": 0.0}}) == {
        "off": (1,),
        "on": (math.inf,),
        "also": (1,),
    }
    nobody = {"a": {"off": math.nan, "on": math.inf}}
    assert performance_profile(nobody) == {"off": (math.inf,), "on": (math.inf,)}
    assert performance_profile({}) == {}


def test_profile_of_negative_values_is_refused() -> None:
    words = (
        "performance_profile: values must be >= 0, because ratios of others mean nothing; got -1.5 "
        "for on in a. Show their ranks instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        performance_profile({"a": {"off": 2.0, "on": -1.5}})


def test_a_typical_run_counts_those_that_diverged_as_worst() -> None:
    assert typical([5.0, 1.0, 2.0]) == 2
    assert typical([5.0, 1.0, 2.0, 3.0]) == 2.5
    assert typical([1.0, 2.0, math.nan]) == 2
    assert typical([1.0, 2.0, math.nan], "higher") == 1
    assert typical([1.0, math.inf]) == math.inf
    assert typical([1.0, math.nan], "higher") == -math.inf
    assert math.isnan(typical([]))


def test_survival_falls_with_each_run_that_diverges() -> None:
    assert survival([50, None, 50, 10], 100) == [(0, 1), (10, 0.75), (50, 0.25), (100, 0.25)]
    assert survival([None, None], 100) == [(0, 1), (100, 1)]
    assert survival([0, 100], 100) == [(0, 0.5), (100, 0)]
    assert survival([], 100) == []
