"""What limits would have done to a curve, whether it would have mattered, and what is refused."""

import json
import math

import numpy as np
import pytest

from alrc import Settings
from alrc.replay import replay
from alrc.replay.rules import for_rows, limits


def flat(size=600, seed=0):
    return 2 + 0.05 * np.random.default_rng(seed).normal(size=size)


def test_sums_are_those_of_the_limits_counted_by_hand():
    losses = flat()
    losses[400] = 20.0
    found = replay(losses)
    upper = limits(losses, Settings()).upper
    over = [i for i in range(600) if losses[i] > upper[i]]
    kept = sum(min(x, u) for x, u in zip(losses, upper, strict=True)) / sum(losses)
    assert found.outcome.num_limited == len(over) == found.limited.sum()
    assert found.outcome.num_losses == 600
    assert found.outcome.kept == pytest.approx(kept)
    assert 400 in over
    level = np.median(losses)
    assert found.outcome.excess_cut == pytest.approx((20.0 - upper[400]) / (20.0 - level), rel=1e-2)
    first = next(i for i in range(600) if upper[i] <= 1.2 * level)
    assert found.outcome.settled == first


def test_all_settings_of_the_table_are_replayed():
    names = [outcome.name for outcome in replay(flat()).outcomes]
    assert names == [
        *(f"ALRC(num_stddev={n})" for n in (1, 3, 4, 6, 10)),
        "ALRC(recency=4)",
        "ALRC(num_stddev=3, scale='linear')",
    ]
    asked = replay(flat(), Settings(3.0))
    assert asked.outcome.name == "ALRC(num_stddev=3)"
    assert "ALRC()" in [outcome.name for outcome in asked.outcomes]


def test_a_wider_limit_never_limits_more_of_a_flat_curve():
    found = replay(flat(3000))
    by_width = {one.settings.num_stddev: one.num_limited for one in found.outcomes[:5]}
    counts = [by_width[n] for n in (1, 3, 4, 6, 10)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10 * max(counts[-1], 1)


def test_runs_that_begin_anew_have_moments_of_their_own():
    losses = np.concatenate([flat(), 5 * flat(seed=1)])
    found = replay(losses, starts=(0, 600))
    assert np.array_equal(found.limits.upper[600:], limits(losses[600:], Settings()).upper)
    assert found.verdict.kind == "restart"


def test_rows_of_several_steps_remember_as_many_steps():
    losses = flat()
    found = replay(losses, steps_per_row=10)
    by_row = for_rows(Settings(), 10)
    assert np.array_equal(found.limits.upper, limits(losses, by_row).upper)
    assert found.notes[0] == (
        "From row to row are 10 steps, so that the rule is taken to remember decay**10 a row."
    )


def test_means_of_several_steps_cannot_answer_and_say_so():
    assert replay(flat(), steps_per_row=10, averaged=True).notes == (
        "From means it cannot be told what limits single steps would have met.",
        "From row to row are 10 steps, so that the rule is taken to remember decay**10 a row.",
        "If a row is the mean over a batch, this cannot say what a limit for each example would "
        "have done: one bad example hardly raises the mean, and is limited only with one loss per "
        "example.",
    )


def test_a_calm_curve_would_not_have_mattered():
    found = replay(flat())
    assert found.mattered[0] == ("Would it have mattered? No: there is nothing to be saved from.")
    assert found.suggestion == "alrc = ALRC()"


def test_spikes_that_are_over_at_once_hardly_matter():
    losses = flat()
    losses[[200, 431]] = 9.0, 11.0
    assert replay(losses).mattered[0] == (
        "Would it have mattered? Hardly: after each the losses were back at once, so that no harm "
        "to the weights is to be seen."
    )


def test_nan_to_the_end_is_nothing_that_limits_mend():
    losses = flat()
    losses[500:] = math.nan
    assert replay(losses).mattered[0] == (
        "Would it have mattered? No: a loss that is not finite comes back as it came, and what "
        "came before it does not stand out."
    )


def spikes_and_norms(lag):
    losses, norms = flat(), 1 + 0.05 * np.random.default_rng(5).normal(size=600)
    rows = np.array([150, 310, 477])
    losses[rows] = 9.0
    norms[rows - lag] = 30.0
    return losses, norms


def test_spikes_that_follow_the_norm_point_to_the_optimiser():
    losses, norms = spikes_and_norms(lag=2)
    assert replay(losses, gradient_norm=norms).mattered[-1] == (
        "3 of 3 follow a spike of the gradient's norm by up to 10 rows, which points to the "
        "optimiser, not the data: clipping losses will not cure that. Lower the learning rate, "
        "warm up longer or clip the norm."
    )


@pytest.mark.parametrize(
    ("lag", "words"),
    [
        (
            0,
            "3 of 3 have a spike of the gradient's norm in the same row and none before, as a bad "
            "batch has.",
        ),
        (-1, "No spike of the gradient's norm comes before any of them."),
    ],
)
def test_spikes_with_the_norm_or_before_it_do_not(lag, words):
    losses, norms = spikes_and_norms(lag)
    assert replay(losses, gradient_norm=norms).mattered[-1] == words


def test_an_excursion_that_follows_the_norm_is_hardly_a_matter_of_single_losses():
    losses, norms = flat(), 1 + 0.05 * np.random.default_rng(5).normal(size=600)
    losses[300:380] *= np.exp(1.5 * np.exp(-np.arange(80) / 25))
    without = replay(losses, gradient_norm=norms).mattered[0]
    assert without.startswith("Would it have mattered? Perhaps: if a few losses started it")
    norms[297] = 30.0
    found = replay(losses, gradient_norm=norms)
    assert found.verdict.kind == "excursions"
    assert found.mattered[0] == (
        "Would it have mattered? Hardly, though it would have met the limit."
    )


def test_rules_of_the_norm_are_compared_where_it_is_known():
    losses, norms = spikes_and_norms(lag=0)
    found = replay(losses, gradient_norm=norms)
    assert [(one.name, one.num_limited >= 3) for one in found.rivals] == [
        ("ZClip", True),
        ("skip-step", True),
    ]
    assert replay(losses).rivals == ()
    assert replay(losses, gradient_norm=np.full(600, math.nan)).rivals == ()


def test_the_text_says_all_of_it_with_the_verdict_first():
    losses, norms = spikes_and_norms(lag=2)
    found = replay(losses, gradient_norm=norms, steps=np.arange(600) * 10)
    lines = str(found).splitlines()
    assert lines[0] == found.verdict.sentence
    assert lines[0].startswith("isolated spikes: 3, at steps 1500, 3100 and 4770;")
    assert lines[-1] == f"To paste: {found.suggestion}"
    head = next(i for i, line in enumerate(lines) if line.startswith("rule "))
    rules = [line.split("  ")[0] for line in lines[head + 1 : head + 11]]
    assert rules == [outcome.name for outcome in found.rules]
    assert "ZClip and skip-step: rules that act on the gradient, by its norm." in lines


def test_the_dictionary_is_plain_json_without_nan():
    losses = flat()
    losses[300] = math.inf
    text = json.dumps(replay(losses).to_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["verdict"]["kind"] == "isolated spikes"
    assert read["verdict"]["nonfinite"] == 1
    assert read["verdict"]["findings"][0]["rows"] == [[300, 301]]
    assert read["outcome"]["name"] == "ALRC()"
    assert read["outcome"]["excess_cut"] is None


NOTHING = [math.nan] * 100 + [1.0] * 19


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"losses": NOTHING},
            "replay: at least 20 losses must be finite, because fewer show no level to judge by; "
            "got 19 among 119. Pass the losses of training steps, not those of epochs.",
        ),
        (
            {"losses": []},
            "replay: at least 20 losses must be finite, because fewer show no level to judge by; "
            "got 0 among 0. Pass the losses of training steps, not those of epochs.",
        ),
        (
            {"losses": np.ones((30, 2))},
            "replay: losses must be one number for each row, because a curve is a sequence; got "
            "float64 of shape (30, 2). Pass a list of floats or an array (N,).",
        ),
        (
            {"losses": ["1.0"] * 30},
            "replay: losses must be one number for each row, because a curve is a sequence; got "
            "<U3 of shape (30,). Pass a list of floats or an array (N,).",
        ),
        (
            {"losses": flat(), "gradient_norm": [1.0] * 599},
            "replay: gradient_norm must have as many numbers as there are losses, one for each "
            "row; got 599 for 600 losses. Put math.nan where a row has none.",
        ),
        (
            {"losses": flat(), "steps_per_row": 0},
            "replay: steps_per_row must be greater than 0 and finite, because it says how many "
            "training steps lie between rows; got 0. Pass 1 if each step has a row.",
        ),
        (
            {"losses": flat(), "starts": (0, 700)},
            "replay: starts must be rows in rising order, the first of them 0, because runs follow "
            "one another; got [0, 700] for 600 losses. Pass starts=(0,) for one run.",
        ),
        (
            {"losses": flat(), "settings": Settings(num_groups=2)},
            "replay: num_groups must be None, because a curve does not say which group a loss is "
            "of; got 2. Replay the losses of each group alone.",
        ),
    ],
)
def test_what_is_no_curve_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        replay(**arguments)
    assert str(refusal.value) == words


def test_settings_of_another_type_are_refused_in_words():
    with pytest.raises(TypeError) as refusal:
        replay(flat(), 3.0)
    assert str(refusal.value) == (
        "replay: settings must be alrc.Settings; got 3.0 of type float. Pass "
        "Settings(num_stddev=3.0), or None for the defaults."
    )


@pytest.mark.parametrize("seed", range(40))
def test_any_numbers_get_a_verdict_and_no_warning(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(60, 300))
    normal = rng.normal(size=size)
    losses = [
        normal,
        np.exp(150 * normal),
        np.zeros(size),
        np.round(np.abs(normal)),
        1e-30 * np.abs(normal),
        (normal > 1.6) * 1.0,
    ][seed % 6]
    losses[rng.random(size) < 0.1] = rng.choice([math.nan, math.inf, -math.inf])
    norms = np.where(rng.random(size) < 0.1, math.nan, np.abs(normal))
    found = replay(losses, gradient_norm=norms, starts=(0, 3, 25, 50), epochs=np.arange(size) / 9)
    assert found.verdict.num_values == size
    assert found.verdict.num_nonfinite == np.count_nonzero(~np.isfinite(losses))
    json.dumps(found.to_dict(), allow_nan=False)
    assert str(found).startswith(found.verdict.kind)


def test_a_huge_number_does_not_blind_what_comes_after_it():
    losses, norms = flat(), np.ones(600)
    losses[100], losses[500] = 1e30, 9.0
    found = replay(losses, gradient_norm=norms)
    assert found.rivals[1].num_limited == 2
    assert found.limited[[100, 500]].all()
