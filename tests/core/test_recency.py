"""recency in the rule itself: 1 is bit for bit what was there before, and every share is one."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alrc import Settings, rule
from alrc.rule import Floats, Moments, Summary
from alrc.torch import clip, init

SHIFT = 0.7
# Beyond 2**24, a number of updates plus 1 is not exact in float32.
UPDATES = [*range(3000), *range(2**24 - 9, 2**24 + 9), 2**28 + 1, 2**31 - 2]


def before_there_was_recency(xp, one, updates, decay):
    """The share of a call in the moments, as the rule had it."""
    average, share = xp.divide(one, updates + 1), 1.0 - decay
    return xp.where(average > share, average, share * one)


def moved(xp, one, updates, settings) -> Moments:
    """A mean of 0 after losses whose mean is SHIFT: their share times SHIFT."""
    summary = Summary(one, SHIFT * one, 0.0 * one)
    return rule.advance(xp, Moments(0.0 * one, 0.0 * one, updates), summary, settings)


def arrays(kind: str):
    """The array module, a 1 for each number of updates, and those."""
    name, _, dtype = kind.partition(" ")
    if name == "torch":
        ones = torch.ones(len(UPDATES), dtype=getattr(torch, dtype))
        return torch, ones, torch.tensor(UPDATES)
    if name == "jax":
        return jnp, jnp.ones(len(UPDATES), dtype), jnp.array(UPDATES, "int32")
    return np, np.ones(len(UPDATES), dtype), np.array(UPDATES)


@pytest.mark.parametrize(
    "kind", ["numpy float32", "numpy float64", "torch float32", "torch float64", "jax float32"]
)
@pytest.mark.parametrize("decay", [0.9, 0.999, 1 - 1e-12])
def test_a_recency_of_1_is_bit_for_bit_the_plain_average(kind, decay) -> None:
    xp, ones, updates = arrays(kind)
    expected = before_there_was_recency(xp, ones, updates, decay) * (SHIFT * ones)
    mean = moved(
        xp, ones, updates, Settings(decay=decay, recency=1, num_stddev=3, scale="linear")
    ).mean
    assert np.asarray(mean).tobytes() == np.asarray(expected).tobytes()
    for number in UPDATES:
        share = before_there_was_recency(Floats, 1.0, number, decay)
        assert (
            moved(Floats, 1.0, number, Settings(decay=decay, num_stddev=3, scale="linear")).mean
            == share * SHIFT
        )


@pytest.mark.parametrize("kind", ["torch float32", "jax float32"])
@pytest.mark.parametrize("recency", [1.3, 2.0, 4.0, 10.0, 1e6, 1e30, 1e300])
def test_a_share_is_recency_over_updates_plus_recency_and_at_first_exactly_1(kind, recency) -> None:
    xp, ones, updates = arrays(kind)
    settings = Settings(decay=1 - 1e-12, recency=recency, num_stddev=3, scale="linear")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, variance, _ = map(np.asarray, moved(xp, ones, updates, settings))
        exact = [moved(Floats, 1.0, number, settings) for number in UPDATES]
    shares = 1 / (np.array(UPDATES) / recency + 1)
    np.testing.assert_allclose(mean, SHIFT * shares, rtol=1e-6)
    np.testing.assert_allclose([one.mean for one in exact], SHIFT * shares, rtol=1e-12)
    assert (mean[0], exact[0].mean) == (np.float32(SHIFT), SHIFT)
    assert variance[0] == exact[0].variance == 0
    assert min(variance.min(), *(one.variance for one in exact)) >= 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moments_are_the_same_whatever_pytorchs_default_dtype(dtype) -> None:
    settings, states = Settings(recency=4.0, num_stddev=3, scale="linear"), []
    for default in (torch.float32, dtype):
        torch.set_default_dtype(default)
        try:
            moments = init(settings)
            for number in range(400):
                _, moments = clip(torch.tensor([1.0 + number % 7]).float(), moments, settings)
        finally:
            torch.set_default_dtype(torch.float32)
        states.append(moments.to_dict())
    assert states[0] == states[1]


def test_a_state_saved_with_another_recency_goes_on_with_the_share_of_this_one() -> None:
    saved = {"mean": 0.0, "variance": 0.0, "num_updates": 12}
    for recency, mean in ((1.0, 1 / 13), (4.0, 4 / 16), (12.0, 1 / 2)):
        settings = Settings(recency=recency, num_stddev=3, scale="linear")
        _, moments = clip(torch.ones(1), init(settings, saved=saved), settings)
        assert moments.mean.item() == pytest.approx(mean, rel=1e-6)
