"""ALRC beside other losses and weights: each claim of docs/interplay.md."""

import math
import random
from statistics import NormalDist

import pytest
import torch
from reference import Reference
from torch.nn import functional as F
from training_steps import (
    CALM,
    F32,
    PAGE,
    PROSE,
    START,
    assert_state_is_that_of,
    gradient,
    row,
    scripted,
)

from alrc.torch import ALRC

# Huber


def test_alrc_on_huber_multiplies_the_two_bounds() -> None:
    error = torch.tensor([0.5, 2.0, 20.0], requires_grad=True)
    losses = F.huber_loss(error, torch.zeros(3), reduction="none")  # 0.125, 1.5, 19.5
    limited = ALRC(**START)(losses)
    limited.sum().backward()
    assert limited.tolist() == [0.125, 1.5, 4.0]
    assert error.grad.tolist() == pytest.approx([0.5, 1.0, 4 / 19.5], rel=F32)


@pytest.mark.parametrize("error", [10.0, 100.0, 1000.0])
def test_beyond_the_limit_a_larger_error_pulls_less(error) -> None:
    e, zero = torch.tensor(error, requires_grad=True), torch.tensor(0.0)
    pulls = []
    for loss in (F.huber_loss(e, zero), F.mse_loss(e, zero), (e - zero) ** 4):
        pulls.append(gradient(ALRC(**START)(loss), e).item())
    assert pulls == pytest.approx([4 / (error - 0.5), 2 * 4 / error, 4 * 4 / error], rel=F32)
    assert gradient(F.huber_loss(e, zero), e) == 1.0


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("quartic", lambda e: e**4, lambda e: 4 * e**3),
        ("squared", lambda e: e**2, lambda e: 2 * e),
        (
            "Huber",
            lambda e: e * e / 2 if abs(e) < 1 else abs(e) - 0.5,
            lambda e: max(-1.0, min(e, 1.0)),
        ),
    ],
    ids=["quartic", "squared", "Huber"],
)
def test_of_calm_errors_alrc_takes_next_to_nothing_away_from_huber_losses(
    name, value, slope
) -> None:
    normal = NormalDist()
    errors = [normal.inv_cdf((i + 0.5) / 4000) for i in range(4000)]
    random.Random(0).shuffle(errors)
    alrc, reference = ALRC(num_stddev=3, scale="linear"), Reference()
    whole = kept = 0.0
    for i in range(0, 4000, 8):
        batch = [value(e) for e in errors[i : i + 8]]
        clipped = reference(batch)
        leaf = torch.tensor(batch, dtype=torch.float64, requires_grad=True)
        factors = gradient(alrc(leaf).sum(), leaf).tolist()
        assert factors == pytest.approx([c.factor for c in clipped], rel=1e-5)
        pulls = [abs(slope(e)) for e in errors[i : i + 8]]
        whole += sum(pulls)
        kept += sum(pull * c.factor for pull, c in zip(pulls, clipped, strict=True))
    assert_state_is_that_of(alrc, reference)
    limited = reference.num_clipped / 4000
    assert row(name, f"{limited:.1%}", f"{1 - kept / whole:.1%}") in PAGE


def test_smooth_l1_is_huber_in_another_unit_and_gets_the_same_factors() -> None:
    torch.manual_seed(0)
    factors = []
    for criterion in (
        lambda e, zero: F.huber_loss(e, zero, reduction="none", delta=2.0),
        lambda e, zero: F.smooth_l1_loss(e, zero, reduction="none", beta=2.0),
    ):
        alrc, generator = ALRC(1.0, 0.9, scale="linear"), torch.Generator().manual_seed(0)
        for _ in range(50):
            errors = torch.randn(4, generator=generator) * 3
            leaf = criterion(errors, torch.zeros(4)).requires_grad_()
            factors.append(gradient(alrc(leaf).sum(), leaf))
    assert torch.equal(torch.stack(factors[:50]), torch.stack(factors[50:]))
    assert torch.stack(factors).min() < 1


# One loss per example, and weights


def test_a_group_of_batches_with_one_loss_per_example_is_a_sum_over_all_examples() -> None:
    alrc, reference = ALRC(decay=0.9, **START), Reference(decay=0.9, **START)
    weight, expected = torch.zeros((), dtype=torch.float64, requires_grad=True), 0.0
    batches = [[1.0, 30.0, 2.0], [50.0], [0.5, 8.0]]
    total = sum(map(len, batches))
    for batch in batches:
        losses = torch.stack([scripted(value, weight) for value in batch])
        (alrc(losses).sum() / total).backward()
        expected += sum(v * c.factor for v, c in zip(batch, reference(batch), strict=True)) / total
        assert weight.grad.item() == pytest.approx(expected, rel=1e-5)
        assert_state_is_that_of(alrc, reference)
    assert alrc.num_clipped == 3


def test_weights_go_into_the_mask_and_into_the_mean() -> None:
    alrc = ALRC(decay=0.5, **START)
    weights = torch.tensor([3.0, 0.0, 1.0])
    losses = torch.tensor([2.0, 9.0, 8.0], requires_grad=True)
    limited = alrc(losses, mask=weights)
    assert limited.tolist() == [2.0, 9.0, 4.0]  # limited, not weighted; weight 0: not limited
    ((weights * limited).sum() / weights.sum()).backward()
    assert losses.grad.tolist() == [0.75, 0.0, 0.25 * 0.5]
    assert alrc.mean.item() == 0.5 * 1 + 0.5 * (3 * 2 + 1 * 4) / 4
    assert alrc.mu2.item() == 0.5 * 2 + 0.5 * (3 * 4 + 1 * 16) / 4


def test_weighting_first_takes_a_heavy_weight_for_an_outlier() -> None:
    wrong, right = ALRC(num_stddev=3, scale="linear"), ALRC(num_stddev=3, scale="linear")
    weights = torch.tensor([1.0] * 49 + [50.0])
    for _ in range(20):
        losses = torch.tensor(CALM * 25)
        wrong(weights * losses)
        right(losses, mask=weights)
    assert wrong.num_clipped == 10  # the heavy one, in each call after the warm-up
    assert right.num_clipped == 0


# Label smoothing


def test_the_floor_of_label_smoothing_is_the_entropy_of_the_smoothed_target() -> None:
    smoothing, classes = 0.1, 10
    target = [1 - smoothing + smoothing / classes] + [smoothing / classes] * (classes - 1)
    floor = -sum(p * math.log(p) for p in target)
    best = torch.tensor([target], dtype=torch.float64).log()
    options = {"target": torch.tensor([0]), "label_smoothing": smoothing}
    assert F.cross_entropy(best, **options).item() == pytest.approx(floor, rel=1e-12)
    for shift in (-0.1, 0.1):
        other = best + shift * torch.eye(1, classes, dtype=torch.float64)
        assert F.cross_entropy(other, **options).item() > floor
    assert f"{floor:.2f} for 10 classes" in PROSE


def factor_of_a_loss(loss, settings, floor) -> float:
    """After losses of mean 0.25 + floor and standard deviation 0.25, hence limit 1 + floor."""
    mean = 0.25 + floor
    alrc = ALRC(3, mu1_start=mean, mu2_start=mean**2 + 0.0625, scale="linear", **settings)
    leaf = torch.tensor(loss + floor, requires_grad=True)
    return gradient(alrc(leaf), leaf).item()


def test_a_floor_weakens_center_zero_and_leaves_center_mean_alone() -> None:
    zero, mean = {"center": "zero"}, {"center": "mean"}
    assert factor_of_a_loss(4.0, zero, floor=0.0) == 1 / 4
    assert factor_of_a_loss(4.0, zero, floor=0.5) == pytest.approx(1.5 / 4.5, rel=F32)
    assert factor_of_a_loss(4.0, mean, floor=0.0) == pytest.approx(0.75 / 3.75, rel=F32)
    assert factor_of_a_loss(4.0, mean, floor=0.5) == pytest.approx(0.75 / 3.75, rel=F32)


def test_subtracting_the_floor_gives_the_factor_the_loss_would_have_without_it() -> None:
    alrc = ALRC(mu1_start=0.25, mu2_start=0.125, num_stddev=3, scale="linear")
    leaf = torch.tensor(4.5, requires_grad=True)
    limited = alrc(leaf - 0.5) + 0.5
    assert (limited.item(), gradient(limited, leaf).item()) == (1.5, 0.25)


# Log-likelihoods and policy gradients


def test_a_negative_log_likelihood_below_0_is_scaled_by_its_distance_to_the_mean() -> None:
    sigma, alrc, reference = (
        0.01,
        ALRC(center="mean", num_stddev=3, scale="linear"),
        Reference(center="mean"),
    )
    location = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for deviation in [0.2, -1.0, 0.5, 1.5, -0.3] * 8 + [12.0]:
        x = sigma * deviation
        loss = -torch.distributions.Normal(location, sigma).log_prob(
            torch.tensor(x, dtype=torch.float64)
        )
        by_hand = deviation**2 / 2 + math.log(sigma * math.sqrt(2 * math.pi))
        assert loss.item() == pytest.approx(by_hand, rel=1e-9)
        (clipped,) = reference([by_hand])
        got = gradient(alrc(loss), location).item()
        assert got == pytest.approx(-x / sigma**2 * clipped.factor, rel=1e-5)
        assert_state_is_that_of(alrc, reference)
    assert by_hand > 0 > reference.mean
    assert 0 < clipped.factor < 0.1
    assert reference.num_clipped == 1


def test_policy_gradients_are_limited_on_both_sides_with_num_stddev_below() -> None:
    log_prob = torch.full((4,), -2.0, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 10.0, -10.0])
    losses = -log_prob * advantage  # 2, -2, 20, -20
    moments = {"mu1_start": 0.0, "mu2_start": 4.0, "center": "mean", "scale": "linear"}
    for below, last in ((None, 1.0), (3.0, 0.3)):
        alrc = ALRC(3, num_stddev_below=below, **moments)  # limits 6 and -6
        factors = gradient(alrc(losses).sum(), log_prob, retain_graph=True) / -advantage
        assert factors.tolist() == pytest.approx([1.0, 1.0, 0.3, last], rel=F32)
