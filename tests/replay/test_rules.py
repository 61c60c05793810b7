"""The limits of a whole curve are those that the rule sets call by call."""

import math

import numpy as np
import pytest

from alrc import Settings, rule
from alrc.replay import rules

EVERY_KIND = [
    Settings(),
    Settings(1.0),
    Settings(10.0),
    Settings(math.inf),
    Settings(recency=4),
    Settings(1.0, recency=50),
    Settings(3.0, scale="linear"),
    Settings(3.0, scale="linear", num_stddev_below=1.0),
    Settings(3.0, num_stddev_below=1.0),
    Settings(2.0, 0.9),
    Settings(2.0, 0.1),
    Settings(2.0, 0.0),
    Settings(1.0, 0.99, 1.0, 1.5),
    Settings(1.0, 0.99, 1.0, 1.5, scale="linear"),
    Settings(1.0, 0.5, 1.0, 1.5),
    Settings(warmup=1),
    Settings(warmup=400),
    Settings(2.0, scale="linear", center="mean", num_stddev_below=2.0),
]


def call_by_call(losses, settings):
    """The same from the rule itself, one call after another."""
    moments = rule.Moments(*map(np.float64, settings.start), 0)
    lower, upper, limited = [], [], []
    with np.errstate(all="ignore"):
        for loss in losses:
            bounds = rule.limits(np, moments, settings)
            step, moments = rule.step(np, np.float64(loss), None, moments, settings)
            lower.append(bounds[0])
            upper.append(bounds[1])
            limited.append(step.losses.limited)
    return np.array(lower), np.array(upper), np.array(limited)


def a_curve(size=1300, seed=0):
    """A descent with spikes, an excursion, and all that is no loss."""
    rng = np.random.default_rng(seed)
    losses = np.exp(-np.arange(size) / 200) * 5 + 1
    losses *= np.exp(0.2 * rng.normal(size=size))
    losses[700] *= 50
    losses[900:960] *= 8
    losses[[3, 77, 920]] = math.nan, math.inf, -math.inf
    losses[[99, 800]] = 0.0
    return losses


def assert_same(found, expected):
    with np.errstate(invalid="ignore"):
        off = np.where(
            found == expected, 0, np.abs(found - expected) / np.maximum(np.abs(expected), 0.1)
        )
    assert np.nanmax(off) < 1e-7
    assert not np.isnan(found).any()


@pytest.mark.parametrize("settings", EVERY_KIND, ids=str)
def test_limits_are_those_of_the_rule_call_by_call(settings):
    losses = a_curve()
    found = rules.limits(losses, settings)
    lower, upper, limited = call_by_call(losses, settings)
    assert_same(found.lower, lower)
    assert_same(found.upper, upper)
    assert (rules.is_limited(losses, found, settings) == limited).all()


@pytest.mark.parametrize("settings", [EVERY_KIND[-1], Settings(3.0, scale="linear")], ids=str)
def test_limits_of_negative_losses_are_those_of_the_rule(settings):
    losses = a_curve() - 2.0
    found = rules.limits(losses, settings)
    lower, upper, limited = call_by_call(losses, settings)
    assert_same(found.lower, lower)
    assert_same(found.upper, upper)
    assert (rules.is_limited(losses, found, settings) == limited).all()


@pytest.mark.parametrize(
    "settings", [Settings(1.0), Settings(3.0, scale="linear"), Settings(2.0, num_stddev_below=0.6)]
)
def test_heavy_tails_and_constant_runs_do_not_break_the_guesses(settings):
    rng = np.random.default_rng(1)
    losses = np.concatenate(
        [np.full(300, 2.0), rng.pareto(0.7, 1000) + 1e-3, np.full(200, 2.0), 2.0 ** np.arange(60)]
    )
    found = rules.limits(losses, settings)
    lower, upper, limited = call_by_call(losses, settings)
    assert_same(found.lower, lower)
    assert_same(found.upper, upper)
    assert (rules.is_limited(losses, found, settings) == limited).all()


def test_logarithms_are_cut_off_as_in_the_rule():
    losses = a_curve()
    losses[[40, 850]] = 1e-300
    _, upper, _ = call_by_call(losses, Settings())
    assert_same(rules.limits(losses, Settings()).upper, upper)


@pytest.mark.parametrize("settings", [Settings(3.0, scale="linear"), Settings()], ids=str)
def test_losses_too_large_for_moments_count_where_they_are_limited(settings):
    losses = a_curve()
    losses[[5, 600]] = 1e30
    _, upper, _ = call_by_call(losses, settings)
    assert_same(rules.limits(losses, settings).upper, upper)


def test_a_curve_with_nothing_to_count_meets_no_limit():
    found = rules.limits(np.full(30, math.nan), Settings())
    assert (found.upper == math.inf).all()
    assert (found.lower == -math.inf).all()


def test_a_limit_never_depends_on_losses_that_come_later():
    losses = a_curve()
    whole = rules.limits(losses, Settings(1.0)).upper
    assert_same(whole[:923], rules.limits(losses[:923], Settings(1.0)).upper)


@pytest.mark.parametrize("fault", ["passes", "weights", "memory"])
def test_planted_faults_in_the_blocks_are_caught(fault, monkeypatch):
    if fault == "passes":  # the first guess, unchecked
        monkeypatch.setattr(rules, "ROUNDING", math.inf)
    elif fault == "weights":  # a decay that is a little off
        of = rules._Weights.of
        monkeypatch.setattr(rules._Weights, "of", lambda shares: of(shares * 1.001))
    else:  # limits that know of the loss they are for
        monkeypatch.setattr(
            rules._Run,
            "_limits",
            lambda run, mean, variance, was=rules._Run._limits: was(
                run, np.roll(mean, -1), np.roll(variance, -1)
            ),
        )
    losses = a_curve()
    _, upper, _ = call_by_call(losses, Settings(1.0))
    with pytest.raises(AssertionError):
        assert_same(rules.limits(losses, Settings(1.0)).upper, upper)


def test_rows_that_stand_for_several_steps_remember_as_many():
    by_row = rules.for_rows(Settings(decay=0.999), 10)
    assert by_row.decay == pytest.approx(0.999**10)
    assert by_row.warmup == Settings().warmup


def test_losses_too_large_for_moments_never_count_where_nothing_is_limited_above():
    settings = Settings(math.inf, scale="linear", num_stddev_below=1.0)
    losses = a_curve()
    losses[[5, 600]] = 1e30
    lower, _, _ = call_by_call(losses, settings)
    assert np.isfinite(lower[700:]).all()
    assert_same(rules.limits(losses, settings).lower, lower)
