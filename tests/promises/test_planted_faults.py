"""A test of the tests: front ends with one fault each, which other tests have to catch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from agreement import assert_agrees, stream
from frontends import (
    Mask,
    Numpy,
    Result,
    TorchGrouped,
    TorchModule,
    TorchPure,
    as_mask,
    gradient_factors,
)
from promises import test_log_scale, test_moments, test_states, test_values, test_what_counts
from table import ROWS

from alrc import rule
from alrc.rule import Moments
from alrc.torch import clip


class ZeroGradient(Numpy):
    """A clipped loss pulls no more, as with a plain minimum."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        values, factors = super().__call__(losses, mask)
        return values, [factor if factor == 1.0 else 0.0 for factor in factors]


class UnclippedMoments(TorchPure):
    """The moments are those of the losses before they are limited."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        before = self.state
        result = super().__call__(losses, mask)
        tracking = replace(self.settings, num_stddev=float("inf"))
        _, self.state = clip(torch.tensor(losses), before, tracking, as_mask(mask))
        return result


class RawMoments(Numpy):
    """The paper's two moments as they stand, in float32."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        before = self.state
        values, factors = super().__call__(losses, mask)
        decay = np.float32(min(self.settings.decay, before.num_updates / (before.num_updates + 1)))
        mu1, mu2 = before.mean, before.variance + before.mean**2
        new = np.asarray(values, np.float32)
        mu1 = decay * mu1 + (1 - decay) * new.mean()
        mu2 = decay * mu2 + (1 - decay) * (new**2).mean()
        self.state = Moments(mu1, mu2 - mu1**2, self.state.num_updates)
        return values, factors


class MovesInEvaluation(TorchModule):
    """Evaluation is let through but moves the moments."""

    def evaluate(self, losses: Sequence[float]) -> Result:
        gradient_factors(self.module, losses)
        return super().evaluate(losses)


class NaNEntersTheMoments(Numpy):
    """A NaN counts as any other loss."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        result = super().__call__(losses, mask)
        if np.isnan(losses).any():
            self.state = self.state._replace(mean=np.float32(np.nan))
        return result


class LimitFromTheNewMoments(TorchPure):
    """Differentiates with the limit after the update, as the compiler does if it is let."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        values, factors = super().__call__(losses, mask)
        upper = rule.limits(torch, self.state, self.settings)[1].item()
        pairs = zip(losses, factors, strict=True)
        return values, [upper / x if factor < 1 else factor for x, factor in pairs]


class IgnoresTheMask(TorchModule):
    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        return super().__call__(losses, None)


class LeakingGroups(TorchGrouped):
    """A loss of another group gets into ours."""

    ours = 0


class NeverWarmsUp(TorchModule):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.module.settings = replace(self.settings, warmup=1)


class IgnoresRecency(TorchModule):
    def __init__(self, recency: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)


class RecencyWithoutEnd(Numpy):
    """Weighs recent losses more, and never hands over to the decay."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "decay": 1 - 1e-9})


class IgnoresScale(TorchModule):
    def __init__(self, scale: str = "linear", **settings: Any) -> None:
        super().__init__(**settings)


class FaultyRule(Numpy):
    """The rule with another function in the place of one of its own."""

    name: str
    fault: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        with mock.patch.object(rule, self.name, self.fault):
            return super().__call__(*args, **kwargs)


def rule_with(kind: str, name: str, fault: Callable[..., Any]) -> type[FaultyRule]:
    return type(kind, (FaultyRule,), {"name": name, "fault": staticmethod(fault)})


own_beside, own_deviations = rule._beside, rule.deviations
LimitWithoutExp = rule_with(
    "LimitWithoutExp", "_beside", lambda xp, mean, distance, settings: xp.log(mean) + distance
)
# The floor of the standard deviation, 1e-4, taken of m as in linear scale.
FloorOfM = rule_with(
    "FloorOfM",
    "_beside",
    lambda xp, mean, distance, settings: own_beside(
        xp, mean, distance * (abs(np.log(mean)) if distance < 3.001e-4 else 1.0), settings
    ),
)
LogsInHalfPrecision = rule_with(
    "LogsInHalfPrecision",
    "deviations",
    lambda xp, losses, mean, settings: np.float32(
        own_deviations(xp, np.float16(losses), mean, settings)
    ),
)


class CountsZeros(Numpy):
    """A loss of 0 counts as a tiny one."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        values, factors = super().__call__([x or 1e-7 for x in losses], mask)
        return [v if x else x for v, x in zip(values, losses, strict=True)], factors


class SavesAsLinear(TorchModule):
    """Neither tells its scale nor looks for it."""

    def save(self) -> dict[str, float]:
        names = ("mean", "variance", "num_updates")
        numbers = list(super().save().values())
        return dict(zip(names, numbers, strict=False))

    def load(self, saved: dict[str, float]) -> None:
        super().load(dict(zip(self.module.to_dict(), saved.values(), strict=False)))


ORDINARY = {"batches": stream(), "num_stddev": 2.0, "decay": 0.9}
CLEAN = {"batches": stream(calls=200, bad=False, masked=False), "decay": 0.97}
CONSTANT = {"batches": [([x], None) for x in [1e-6] * 12 + [2e-6]]}
NARROW = {"batches": stream(calls=200, spread=1e-3, bad=False, masked=False), "decay": 0.97}


@pytest.mark.parametrize(
    ("fault", "sound", "run"),
    [
        (ZeroGradient, Numpy, ORDINARY),
        (UnclippedMoments, TorchPure, CLEAN),
        (RawMoments, Numpy, NARROW),
        (MovesInEvaluation, TorchModule, CLEAN),
        (NaNEntersTheMoments, Numpy, ORDINARY),
        (LimitFromTheNewMoments, TorchPure, CLEAN),
        (IgnoresTheMask, TorchModule, ORDINARY),
        (NeverWarmsUp, TorchModule, CLEAN),
        (LeakingGroups, TorchGrouped, CLEAN),
        (IgnoresRecency, TorchModule, {**CLEAN, "recency": 4.0}),
        (RecencyWithoutEnd, Numpy, {**CLEAN, "recency": 4.0}),
        (IgnoresScale, TorchModule, {**CLEAN, "scale": "log"}),
        (LimitWithoutExp, Numpy, {**CLEAN, "scale": "log"}),
        (FloorOfM, Numpy, {**CONSTANT, "scale": "log"}),
        (LogsInHalfPrecision, Numpy, {**CLEAN, "scale": "log"}),
        (CountsZeros, Numpy, {**ORDINARY, "scale": "log"}),
        (UnclippedMoments, TorchPure, {**CLEAN, "scale": "log"}),
        (ZeroGradient, Numpy, {**CLEAN, "scale": "log"}),
    ],
)
def test_the_agreement_tests_catch(fault, sound, run) -> None:
    assert_agrees(sound, **run)
    with pytest.raises(AssertionError, match=f"of {fault.__name__}"):
        assert_agrees(fault, **run)


GUARANTEES = {
    name: test
    for module in (test_values, test_moments, test_states, test_what_counts, test_log_scale)
    for name, test in vars(module).items()
    if name.startswith("test_")
}


class LosesNumUpdates(TorchModule):
    def save(self) -> dict[str, float]:
        return super().save() | {"num_updates": 0}


class HalfPrecisionState(TorchPure):
    """The state takes the dtype of the losses, rather than float32."""

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        result = super().__call__(losses, mask, dtype)
        mean, variance, num_updates = self.state
        half = getattr(torch, dtype)
        self.state = Moments(mean.to(half), variance.to(half), num_updates)
        return result


@pytest.mark.parametrize(
    ("fault", "test", "arguments"),
    [
        (LosesNumUpdates, "resumed_training_is_bit_for_bit_the_uninterrupted_run", [5, 1.0]),
        (LosesNumUpdates, "resumed_training_is_bit_for_bit_the_uninterrupted_run", [60, 1.0]),
        (LosesNumUpdates, "resumed_training_is_bit_for_bit_the_uninterrupted_run", [5, 4.0]),
        (IgnoresRecency, "with_recency_a_call_of_the_start_weighs_like_a_power_of_its_number", [4]),
        (
            IgnoresRecency,
            "with_recency_the_descent_of_a_training_is_forgotten_in_hundreds_of_calls",
            [],
        ),
        (
            SavesAsLinear,
            "a_state_of_the_other_scale_is_refused_in_words_and_not_taken_over",
            ["log", "linear"],
        ),
        (IgnoresScale, "limited_losses_are_exp_of_the_limit_of_their_logarithm", []),
        (IgnoresScale, "the_same_losses_are_limited_whatever_power_the_error_has", []),
        (
            HalfPrecisionState,
            "state_keeps_structure_shapes_and_dtypes_from_the_first_call_to_the_last",
            [1.0],
        ),
        (
            HalfPrecisionState,
            "moments_stay_float32_and_move_under_half_precision_losses",
            ["float16"],
        ),
    ],
)
def test_the_guarantees_catch(monkeypatch, fault, test, arguments) -> None:
    monkeypatch.setitem(ROWS, "faulty", fault)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        GUARANTEES[f"test_{test}"]("faulty", *arguments)


def test_every_guarantee_runs_for_every_row() -> None:
    for name, test in GUARANTEES.items():
        marks = [mark.args for mark in getattr(test, "pytestmark", [])]
        one_for_all = name in (
            "test_float32_state_agrees_with_float64_over_100_000_steps",
            "test_logarithms_saved_in_one_framework_go_on_in_another",
        )
        assert ("row", ROWS) in marks or one_for_all, name
    assert len(GUARANTEES) > 30
