"""The verdict names what was planted, and what a person sees on real logs."""

import collections
import functools
import math
import statistics

import numpy as np
import pytest
from replay.synthetic import KINDS, curve

from alrc.replay import periods, replay, verdict
from alrc.replay.signals import median_of, signals

# Other seeds than those by which thresholds were chosen, which are from 1000 on.
SEEDS = range(29)


@functools.cache
def judged(kind, seed):
    planted = curve(kind, seed)
    seen = signals(planted.losses, planted.starts)
    return planted, verdict.verdict(planted.losses, seen, planted.starts)


def share_right(kinds=KINDS, seeds=SEEDS):
    right = [judged(kind, seed)[1].kind == kind for kind in kinds for seed in seeds]
    return sum(right) / len(right)


def test_the_verdict_is_right_on_95_of_100_curves_with_planted_phenomena():
    assert len(KINDS) * len(SEEDS) >= 200
    assert share_right() >= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_is_right_on_fewer_than_85_of_100_curves(kind):
    assert share_right([kind]) >= 0.85


def test_places_and_periods_are_those_that_were_planted():
    near = collections.Counter()
    for kind in ("isolated spikes", "excursions", "divergence", "level shift"):
        for seed in SEEDS:
            planted, found = judged(kind, seed)
            first = [span.first for span, _ in found.events]
            slack = 0.02 * planted.losses.size + 3
            near[kind] += any(abs(planted.places[0] - row) <= slack for row in first)
    for seed in SEEDS:
        planted, found = judged("periodic", seed)
        near["periodic"] += (
            found.period is not None and abs(found.period.length / planted.period - 1) < 1e-3
        )
    # A divergence that sets in slowly is seen late.
    assert {kind: number / len(SEEDS) >= 0.6 for kind, number in near.items()} == dict.fromkeys(
        near, True
    )
    assert near["isolated spikes"] / len(SEEDS) >= 0.9
    assert near["periodic"] / len(SEEDS) >= 0.9


@pytest.mark.parametrize(
    ("kind", "module", "name", "value"),
    [
        ("isolated spikes", "signals", "threshold", lambda score: 1e9),  # nothing ever stands out
        ("calm", "signals", "threshold", lambda score: 2.0),  # everything does
        ("restart", "events", "_begins_again", lambda *_: False),
        ("periodic", "periods", "CERTAIN", math.inf),
        ("divergence", "verdict", "LEAST_FACTOR", math.inf),
    ],
)
def test_planted_faults_make_the_verdict_wrong(kind, module, name, value, monkeypatch):
    monkeypatch.setattr(f"alrc.replay.{module}.{name}", value)
    judged.cache_clear()
    try:
        assert share_right([kind], range(5)) < 0.85
    finally:
        judged.cache_clear()


def test_scaling_the_losses_changes_no_verdict():
    for kind in KINDS:
        planted, found = judged(kind, 3)
        seen = signals(1e-5 * planted.losses, planted.starts)
        assert verdict.verdict(1e-5 * planted.losses, seen, planted.starts).kind == found.kind


def flat(size=600, seed=0):
    return 2 + 0.05 * np.random.default_rng(seed).normal(size=size)


def test_a_run_that_ends_in_nan_has_diverged_even_on_its_last_row():
    losses = flat()
    losses[-1] = math.nan
    assert replay(losses).verdict.sentence == (
        "divergence: from row 599 to the end no loss is finite (1 row); the last one before was "
        f"{losses[-2]:.4g}."
    )


def test_a_nan_on_the_way_is_never_calm():
    losses = flat()
    losses[300] = math.nan
    found = replay(losses).verdict
    assert found.kind == "isolated spikes"
    assert found.sentence == (
        "isolated spikes: 1, at row 300; it is not finite. The losses are back within 1 row."
    )
    assert found.num_nonfinite == 1


def test_a_constant_is_called_what_it_is():
    assert replay(np.full(50, 0.5)).verdict.sentence == (
        "calm: all 50 values are 0.5, which is hardly a loss that is trained."
    )


def test_losses_of_either_sign_are_judged_too():
    losses = flat() - 2
    losses[400] = 3.0
    found = replay(losses)
    assert found.verdict.kind == "isolated spikes"
    assert found.outcome.name == "ALRC(num_stddev=3, center='mean', scale='linear')"
    assert found.limited[400]


def test_the_last_row_of_each_epoch_is_named():
    losses, epochs = flat(), np.arange(600) // 50
    losses[49::50] *= 2
    found = replay(losses, epochs=epochs).verdict
    assert found.sentence == (
        "periodic: every 50 rows, first at row 49, a row stands out (each of 12 times); it is the "
        "last row of an epoch, often a short batch."
    )


def test_a_period_that_is_no_whole_number_of_rows_is_found():
    losses = flat(2000)
    rows = np.round(np.arange(1, 50) * 39.06).astype(int)
    losses[rows] *= 2
    found = replay(losses).verdict
    assert found.kind == "periodic"
    assert found.period.length == pytest.approx(39.06, abs=0.05)


def test_starts_that_are_given_are_restarts_and_never_spikes():
    first = 2 + 3 * np.exp(-np.arange(300) / 40)
    losses = np.concatenate([first, first]) * flat() / 2
    found = replay(losses, starts=(0, 300)).verdict
    assert found.sentence == "restart: the run begins again once, at row 300, which is no spike."


def test_the_synthetic_curves_are_what_they_say():
    for kind in KINDS:
        one, again = curve(kind, 1), curve(kind, 1)
        assert np.array_equal(one.losses, again.losses, equal_nan=True)
        assert one.kind == kind
        assert one.losses.size >= 398
    assert set(KINDS) == set(verdict.KINDS)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (50, "it is the first row of an epoch."),
        (20, "it is not where the epochs in this log begin or end."),
    ],
)
def test_rows_of_a_period_elsewhere_in_an_epoch_are_told_too(first, words):
    losses, epochs = flat(), np.arange(600) // 50
    losses[first::50] *= 2
    found = replay(losses, epochs=epochs).verdict
    assert found.kind == "periodic"
    assert found.sentence.endswith(f" times); {words}")


def test_where_most_rows_stand_out_there_is_no_period():
    """For any length, as many rows fit as would by chance, or fewer."""
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(rng.random(400) < 0.9)
    assert periods.period(rng.permutation(rows), 400) is None


def test_rows_on_the_way_that_are_not_finite_are_called_so():
    losses = flat()
    losses[300:310] = math.nan
    assert replay(losses).verdict.sentence == (
        "excursions: 1; from row 300 no loss is finite for 10 rows."
    )
    losses[100:130] = 9.0  # with a number, and so the largest
    told = replay(losses).verdict.sentence
    assert told.startswith(
        "excursions: 2, at rows 100 and 300; from row 100 the losses stood above"
    )
    assert " and reached 9 where 1.9" in told


def test_a_run_without_a_finite_loss_does_not_keep_the_others_from_being_judged():
    losses = flat()
    losses[:60] = math.nan
    found = replay(losses, starts=(0, 60)).verdict
    assert [finding.sentence for finding in found.findings] == [
        "excursions: 1; from row 0 no loss is finite for 60 rows.",
        "restart: the run begins again once, at row 60, which is no spike.",
    ]


def test_spikes_beside_dips_that_come_periodically_are_isolated_ones():
    losses = flat()
    losses[49::50] *= 0.5  # few and easy examples in the last batch
    assert replay(losses).verdict.kind == "periodic"
    losses[[120, 333, 471]] = 9.0
    found = replay(losses).verdict
    assert found.sentence.startswith("isolated spikes: 3, at rows 120, 333 and 471;")
    assert found.period is None


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 10, 40])
def test_a_running_median_is_that_of_as_many_blocks_as_there_are(size):
    numbers = np.random.default_rng(size).normal(size=size)
    around = [numbers[max(0, i - 4) : i + 5] for i in range(size)]
    assert median_of(numbers, 9).tolist() == [statistics.median(some) for some in around]
