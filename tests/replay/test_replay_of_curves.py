"""A curve that was read is replayed with all that it brings; rows are called what is unique."""

import dataclasses

import numpy as np
import pytest

from alrc import Settings
from alrc.replay import Curve, replay


def flat(size=600, seed=0):
    return 2 + 0.05 * np.random.default_rng(seed).normal(size=size)


def curve(**changed) -> Curve:
    losses = flat()
    losses[[200, 431]] = 9.0, 11.0
    norms = np.ones(600)
    norms[[198, 429]] = 50.0
    whole = Curve(
        "run.log",
        "loss",
        losses,
        steps=10 * np.arange(600),
        steps_per_row=10.0,
        averaged=True,
        epochs=np.arange(600) / 100,
        gradient_norm=norms + 0.01 * flat(seed=1),
    )
    return dataclasses.replace(whole, **changed)


@pytest.mark.parametrize("settings", [None, Settings(4.0)])
def test_a_curve_brings_along_what_was_read(settings) -> None:
    one = curve()
    by_hand = replay(
        one.losses,
        settings,
        gradient_norm=one.gradient_norm,
        steps_per_row=10,
        averaged=True,
        epochs=one.epochs,
        steps=one.steps,
    )
    found = replay(one, settings)
    assert str(found) == str(by_hand)
    assert "at steps 2000 and 4310;" in found.verdict.sentence
    assert np.array_equal(found.limits.upper, by_hand.limits.upper)
    assert len(found.rivals) == 2


def test_a_curve_with_something_beside_it_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="replay: ") as refusal:
        replay(curve(), steps_per_row=5)
    assert str(refusal.value) == (
        "replay: a curve must be given alone or with settings, because it brings steps, starts and "
        "all else along; got more. To change what it brings, pass dataclasses.replace(curve, "
        "steps_per_row=10)."
    )


def test_an_array_beside_a_curve_is_refused_too() -> None:
    with pytest.raises(ValueError, match="a curve must be given alone"):
        replay(curve(), gradient_norm=np.ones(600))


def test_rows_whose_steps_come_again_are_called_by_row_and_step() -> None:
    steps = np.concatenate([np.arange(300), np.arange(300)])
    found = replay(curve(steps=steps, starts=(0, 300), gradient_norm=None))
    sentences = [finding.sentence for finding in found.verdict.findings]
    assert "at rows 200 (step 200) and 431 (step 131);" in sentences[0]
    assert sentences[1] == (
        "restart: the run begins again once, at row 300 (step 0), which is no spike."
    )


def test_losses_that_follow_the_norm_are_not_to_be_cured_by_a_limit_first() -> None:
    assert replay(curve()).remedy == (
        "What to do: calm the optimiser first, as said above; a limit comes second."
    )


def test_what_to_do_tells_of_losses_that_are_not_finite() -> None:
    losses = flat()
    losses[300] = np.nan
    assert replay(losses).remedy.endswith(
        "better in the benchmark. Skip steps whose loss is not finite: no limit can scale them."
    )


def test_no_setting_on_another_scale_is_suggested() -> None:
    for seed in range(5):
        losses = flat(2000, seed) * (1 + 20 * np.exp(-np.arange(2000) / 200))
        losses[500:520] *= 1.6
        found = replay(losses)
        assert "linear" not in found.suggestion
