"""The original repository's form, against its recursion in plain Python."""

import math

import pytest
import torch

from alrc.lab.arms.original import OriginalALRC


def test_original_follows_its_recursion() -> None:
    limiter = OriginalALRC(2.0)
    generator = torch.Generator().manual_seed(0)
    mu1, mu2, clips = 10.0, 400.0, 0
    for step in range(1500):
        batch = torch.rand(3, generator=generator) * (80 if step % 50 == 0 else 1) + 0.1
        losses = batch.requires_grad_()
        limit = mu1 + 2 * math.sqrt(mu2 - mu1 * mu1 + 1e-8)
        assert limiter.threshold.item() == pytest.approx(limit, rel=1e-4)
        limited = limiter(losses)
        limited.sum().backward()
        expected = [min(x, limit) for x in batch.tolist()]
        assert limited.tolist() == pytest.approx(expected, rel=1e-4)
        factors = [y / x for x, y in zip(batch.tolist(), expected, strict=True)]
        assert losses.grad.tolist() == pytest.approx(factors, rel=1e-4)
        clips += sum(factor < 1 for factor in factors)
        mu1 = 0.997 * mu1 + 0.001 * sum(expected) / 3
        mu2 = 0.997 * mu2 + 0.001 * sum(x * x for x in expected) / 3
    assert clips > 20


def test_original_settles_at_a_third_of_the_truth() -> None:
    limiter = OriginalALRC(3.0)
    for _ in range(5000):
        limiter(torch.tensor(6.0))
    assert limiter.mu1.item() == pytest.approx(2.0, rel=1e-3)
    assert set(limiter.state_dict()) == {"mu1", "mu2"}
