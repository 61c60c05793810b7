"""The rules of the gradient's norm, against loops from their descriptions."""

import math
import statistics

import numpy as np

from alrc.replay.rivals import skip_step, zclip


def norms_with_spikes(size=500):
    rng = np.random.default_rng(2)
    norms = 1 + 0.1 * rng.normal(size=size) ** 2
    norms[[60, 200, 201, 333]] *= 8
    return norms


def test_zclip_clips_what_its_description_does():
    norms = norms_with_spikes()
    mean, variance = statistics.fmean(norms[:25]), statistics.pvariance(norms[:25])
    expected = []
    for i, norm in enumerate(norms[25:].tolist(), start=25):
        sd = variance**0.5
        z = (norm - mean) / (sd + 1e-6)
        counts = mean + 2.5 * 2.5 / z * sd if z > 2.5 else norm
        if counts != norm:
            expected.append(i)
        mean = 0.97 * mean + 0.03 * counts
        variance = 0.97 * variance + 0.03 * (counts - mean) ** 2
    assert np.flatnonzero(zclip(norms)).tolist() == expected
    assert {60, 200, 333} <= set(expected)


def test_zclip_leaves_out_rows_without_a_norm_and_waits_for_enough():
    norms = norms_with_spikes()
    holes = np.insert(norms, [10, 100], [math.nan, math.inf])
    there = np.isfinite(holes)
    assert np.array_equal(zclip(holes)[there], zclip(norms))
    assert not zclip(norms[:24]).any()


def test_skip_step_skips_what_its_description_does():
    norms = norms_with_spikes()
    losses = 1e6 + norms_with_spikes()[::-1]
    expected = []
    for i in range(63, 500):
        for numbers in (losses, norms):
            past = numbers[max(0, i - 128) : i]
            if numbers[i] - statistics.fmean(past) > 6 * statistics.stdev(past):
                expected.append(i)
                break
    assert np.flatnonzero(skip_step(losses, norms)).tolist() == expected
    assert 200 in expected


def test_skip_step_skips_what_is_not_finite_and_goes_on():
    norms, losses = norms_with_spikes(), np.ones(500)
    losses[300] = math.nan
    skipped = skip_step(losses, norms)
    assert skipped[300]
    assert not skipped[301:330].any()
    assert skip_step(np.full(200, math.nan), norms[:200])[63:].all()
