"""ALRC beside what else a training loop uses: each claim of docs/interplay.md."""

import copy
import math
import random
import re
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from reference import Reference
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

from alrc.torch import ALRC

PAGE = (Path(__file__).parents[2] / "docs/interplay.md").read_text()
PROSE = " ".join(PAGE.split())
START = {"mu1_start": 1.0, "mu2_start": 2.0}  # mean 1, standard deviation 1, limit 4
CALM = [0.75, 1.25]  # over and over: mean 1, standard deviation 0.25, limit 1.75
F32 = 2e-6  # some roundings of float32, relative
LIMIT = 2e-5  # what docs/guarantees.md promises of a limit, whose state is float32


def scripted(value: float, weight: torch.Tensor) -> torch.Tensor:
    """A loss of this value, whose gradient towards the weight is the value too."""
    return value * (1 + weight - weight.detach())


def gradient(loss: torch.Tensor, *inputs: torch.Tensor, **options) -> torch.Tensor:
    return torch.autograd.grad(loss, inputs, **options)[0]


def after(losses, alrc: ALRC) -> ALRC:
    for loss in losses:
        alrc(torch.tensor(loss))
    return alrc


def toy(steps: int, spike_every: int = 4, dtype: torch.dtype = torch.float64):
    """A small net, and batches of which every fourth has targets far off."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    x, y = torch.randn(steps, 5, 3, dtype=dtype), torch.randn(steps, 5, 1, dtype=dtype)
    y[spike_every - 1 :: spike_every] += 10
    return net, list(zip(x, y, strict=True))


def assert_state_is_that_of(alrc: ALRC, reference: Reference) -> None:
    assert alrc.mean.item() == pytest.approx(reference.mean, rel=1e-5)
    assert alrc.variance.item() == pytest.approx(reference.variance, rel=1e-4, abs=1e-9)
    counts = alrc.num_updates, alrc.num_losses, alrc.num_clipped
    assert counts == (reference.num_updates, reference.num_losses, reference.num_clipped)


# The page itself


def test_every_test_here_is_named_on_the_page_and_the_page_names_no_other() -> None:
    tests = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(tests) == len(set(tests)) > 40
    assert set(named) == set(tests[2:])  # all but the two of the page itself


def test_every_row_of_claims_on_the_page_names_a_test() -> None:
    claims = re.findall(
        r"^\| what holds \| test \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE
    )
    assert len(claims) > 10
    for line in "".join(claims).splitlines():
        assert re.fullmatch(r"\| .+ \| `test_\w+` \|", line), line


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


# The order of one step


def test_the_whole_step_is_that_of_a_plain_loop() -> None:
    net, batches = toy(steps=24)
    plain = copy.deepcopy(net)
    alrc, reference = ALRC(1.0, 0.9, warmup=2), Reference(1.0, 0.9, warmup=2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    norms = []
    for group in zip(batches[::2], batches[1::2], strict=True):
        optimizer.zero_grad()
        for x, y in group:
            loss = alrc(F.mse_loss(net(x), y))
            scaler.scale(loss / 2).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(net.parameters(), 0.4)
        scaler.step(optimizer)
        scaler.update()

        total = [torch.zeros_like(p) for p in plain.parameters()]
        for x, y in group:
            loss = F.mse_loss(plain(x), y)
            (clipped,) = reference([loss.item()])
            for sum_, g in zip(total, torch.autograd.grad(loss, plain.parameters()), strict=True):
                sum_ += clipped.factor * g / 2
        norms.append(math.sqrt(sum(g.square().sum().item() for g in total)))
        with torch.no_grad():
            for p, g in zip(plain.parameters(), total, strict=True):
                p -= 0.1 * min(1.0, 0.4 / (norms[-1] + 1e-6)) * g
        assert_state_is_that_of(alrc, reference)
        for ours, expected in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert min(norms) < 0.4 < max(norms)
    assert scaler.get_scale() > 256.0
    assert 0 < alrc.num_clipped < alrc.num_losses


# Norm clipping


@pytest.mark.parametrize("loss", [8.0, 10.0])  # factors 1 / 2 and 0.4
def test_beneath_an_active_norm_clip_one_loss_per_batch_gives_the_same_gradient(loss) -> None:
    torch.manual_seed(0)
    direction = torch.randn(20) * 1000
    steps = []
    for alrc in (ALRC(**START), nn.Identity()):
        weight = torch.zeros(20, requires_grad=True)
        alrc(loss + direction @ weight).backward()
        assert clip_grad_norm_([weight], 1.0) > 100
        steps.append(weight.grad)
    torch.testing.assert_close(*steps, rtol=F32, atol=0.0)
    assert steps[0].norm().item() == pytest.approx(1.0, rel=F32)
    assert torch.equal(*steps) == (loss == 8.0)  # bit for bit for a power of two


def test_beneath_an_active_norm_clip_moments_and_limit_go_on_as_ever() -> None:
    net, batches = toy(steps=20)
    twin = copy.deepcopy(net)
    alrc, reference = ALRC(1.0, 0.9, warmup=2), Reference(1.0, 0.9, warmup=2)
    for x, y in batches:
        loss = F.mse_loss(net(x), y)
        reference([loss.item()])
        for model, value in ((net, alrc(loss)), (twin, F.mse_loss(twin(x), y))):
            model.zero_grad()
            value.backward()
            assert clip_grad_norm_(model.parameters(), 1e-3) > 1e-3
            torch.optim.SGD(model.parameters(), 10.0).step()
        assert_state_is_that_of(alrc, reference)
        for ours, expected in zip(net.parameters(), twin.parameters(), strict=True):
            # clip_grad_norm_ adds 1e-6 to the norm before it divides by it.
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert alrc.num_clipped >= 3


@pytest.mark.parametrize(
    ("max_norm", "length"),
    [(100.0, 5.0), (8.0, 5.0), (4.0, 4.0)],
    ids=["inactive", "inactive after ALRC only", "active"],
)
def test_where_the_norm_clip_is_not_active_alrc_acts_alone(max_norm, length) -> None:
    weight = torch.zeros(2, requires_grad=True)
    loss = 8 + torch.tensor([6.0, 8.0]) @ weight  # a gradient of length 10
    ALRC(**START)(loss).backward()  # and 5 after ALRC
    clip_grad_norm_([weight], max_norm)
    expected = torch.tensor([0.6, 0.8]) * length
    torch.testing.assert_close(weight.grad, expected, rtol=F32, atol=0.0)


def test_beneath_an_active_norm_clip_one_loss_per_example_turns_the_gradient() -> None:
    directions = []
    for alrc in (nn.Identity(), ALRC(**START)):
        weight = torch.zeros(2, requires_grad=True)
        losses = torch.tensor([8.0, 1.0]) + torch.tensor([12.0, 8.0]) * weight
        alrc(losses).sum().backward()
        clip_grad_norm_([weight], 1.0)
        directions.append(weight.grad)
    for got, expected in zip(directions, ([12.0, 8.0], [6.0, 8.0]), strict=True):
        expected = torch.tensor(expected) / math.hypot(*expected)
        torch.testing.assert_close(got, expected, rtol=F32, atol=0.0)


# Adam and AdaGrad


def adam_by_hand(gradients):
    """Lengths of the steps in units of the learning rate."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        yield m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)


def adagrad_by_hand(gradients):
    total = 0.0
    for g in gradients:
        total += g * g
        yield g / (math.sqrt(total) + 1e-10)


BEFORE, OUTLIER, AFTERWARDS = 3000, 100.0, 1000
STREAM = CALM * (BEFORE // 2) + [OUTLIER] + CALM * (AFTERWARDS // 2)


def steps_of(optimizer, alrc, losses, lr=1e-3) -> list[float]:
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer, lengths = optimizer([weight], lr), []
    for value in losses:
        optimizer.zero_grad()
        alrc(scripted(value, weight)).backward()
        before = weight.item()
        optimizer.step()
        lengths.append((before - weight.item()) / lr)
    return lengths


def gradients_by_hand(limited: bool, losses) -> list[float]:
    reference = Reference()
    return [loss * (reference([loss])[0].factor if limited else 1.0) for loss in losses]


@pytest.mark.parametrize("limited", [False, True], ids=["without ALRC", "with ALRC"])
def test_one_outlier_shortens_adams_next_thousand_steps_and_alrc_prevents_it(limited) -> None:
    gradients = gradients_by_hand(limited, STREAM)
    expected = list(adam_by_hand(gradients))
    got = steps_of(torch.optim.Adam, ALRC() if limited else nn.Identity(), STREAM)
    assert got == pytest.approx(expected, rel=LIMIT)

    def mean(steps):
        return sum(steps) / len(steps)

    usual = mean(expected[BEFORE - 100 : BEFORE])
    v = sum(g * g * 0.001 * 0.999 ** (BEFORE - t) for t, g in enumerate(gradients[: BEFORE + 1]))
    relative = [f"{expected[BEFORE] / usual:.2f}"]
    for first, last in ((50, 100), (901, 1001)):  # the momentum of the outlier is gone by then
        relative.append(f"{mean(expected[BEFORE + first : BEFORE + last]) / usual:.2f}")
    assert row("with ALRC" if limited else "without", f"{v:.2f}", *relative) in PAGE


def test_adam_is_blind_to_a_constant_scale() -> None:
    small = steps_of(torch.optim.Adam, nn.Identity(), CALM * 10)
    large = steps_of(torch.optim.Adam, nn.Identity(), [100 * x for x in CALM * 10])
    assert small == pytest.approx(large, rel=1e-6)  # but for its eps of 1e-8


@pytest.mark.parametrize(("limited", "share"), [(False, "0.49"), (True, "1.00")])
def test_adagrad_never_forgets_an_outlier(limited, share) -> None:
    losses = STREAM[: BEFORE + 3]
    gradients = gradients_by_hand(limited, losses)
    got = steps_of(torch.optim.Adagrad, ALRC() if limited else nn.Identity(), losses)
    expected = list(adagrad_by_hand(gradients))
    assert got == pytest.approx(expected, rel=LIMIT)
    assert f"{expected[BEFORE + 2] / expected[BEFORE - 1]:.2f}" == share
    assert f"{share} of their length" in PROSE


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
    alrc, reference = ALRC(), Reference()
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
        alrc, generator = ALRC(1.0, 0.9), torch.Generator().manual_seed(0)
        for _ in range(50):
            errors = torch.randn(4, generator=generator) * 3
            leaf = criterion(errors, torch.zeros(4)).requires_grad_()
            factors.append(gradient(alrc(leaf).sum(), leaf))
    assert torch.equal(torch.stack(factors[:50]), torch.stack(factors[50:]))
    assert torch.stack(factors).min() < 1


# Loss scaling


def test_limiting_before_scaling_is_training_without_a_scaler() -> None:
    runs = []
    for enabled in (False, True):
        net, batches = toy(steps=12, dtype=torch.float32)
        alrc, states, scales = ALRC(1.0, 0.9, warmup=2), [], []
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3, enabled=enabled)
        for x, y in batches:
            optimizer.zero_grad()
            scaler.scale(alrc(F.mse_loss(net(x), y))).backward()
            scaler.step(optimizer)
            scaler.update()
            states.append([t.clone() for t in (*net.parameters(), *alrc.buffers())])
            scales.append(scaler.get_scale())
        runs.append(states)
    assert scales[-1] == 256.0 * 2**4
    assert alrc.num_clipped > 0
    for plain, scaled in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


def test_limiting_after_scaling_takes_a_new_scale_for_an_outlier() -> None:
    alrc, reference = ALRC(), Reference()
    weight = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=40)
    factors = []
    for value in CALM * 50:
        optimizer.zero_grad()
        alrc(scaler.scale(scripted(value, weight))).backward()  # wrong
        (clipped,) = reference([value * scaler.get_scale()])
        scaler.unscale_(optimizer)
        factors.append(weight.grad.item() / value)
        assert factors[-1] == pytest.approx(clipped.factor, rel=1e-5)
        scaler.step(optimizer)
        scaler.update()
        assert_state_is_that_of(alrc, reference)
    assert factors[:40] == pytest.approx([1.0] * 40, rel=F32)  # no outlier among these losses
    assert f"{factors[41]:.2f}" == "0.72"  # the first 1.25 after the scale has doubled
    assert "0.72 of its gradient" in PROSE
    assert alrc.num_clipped > 10
    assert after(CALM * 50, ALRC()).num_clipped == 0  # right


def test_a_constant_scale_is_harmless_with_the_automatic_start_only() -> None:
    losses = [*CALM * 20, 100.0]
    for settings, factors_agree in (({}, True), (START, False)):
        factors = []
        for scale in (1.0, 1024.0):
            alrc = ALRC(**settings)
            for loss in losses:
                leaf = torch.tensor(loss * scale, requires_grad=True)
                factors.append(gradient(alrc(leaf), leaf).item())
        assert factors[40] < 0.05
        assert (factors[:41] == factors[41:]) == factors_agree


def test_a_step_that_the_scaler_skips_has_moved_the_moments() -> None:
    alrc = ALRC(**START)
    weight = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([weight], 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    scaler.scale(alrc(scripted(3.0, weight))).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight == 0.0  # skipped: the scaled gradient was infinite
    assert scaler.get_scale() == 2.0**126
    assert alrc.num_updates == 1
    assert alrc.mean.item() == pytest.approx(1 + 0.001 * 2, rel=F32)


# Accumulation


def test_accumulated_batches_are_limited_one_by_one() -> None:
    alrc, reference = ALRC(decay=0.9, **START), Reference(decay=0.9, **START)
    weight, expected = torch.zeros((), dtype=torch.float64, requires_grad=True), 0.0
    for value in (1.0, 30.0, 2.0, 50.0):
        (alrc(scripted(value, weight)) / 4).backward()
        (clipped,) = reference([value])
        expected += value * clipped.factor / 4
        assert weight.grad.item() == pytest.approx(expected, rel=1e-5)
        assert_state_is_that_of(alrc, reference)
    assert alrc.num_clipped == 2


def test_the_decay_counts_calls_so_its_kth_root_remembers_as_many_steps() -> None:
    by_step, by_batch = ALRC(decay=0.9, **START), ALRC(decay=0.9 ** (1 / 4), **START)
    for value in (1.5, 0.5, 2.0, 1.0, 0.0):
        for _ in range(4):
            by_batch(torch.tensor(value))
        by_step(torch.tensor(value))
        torch.testing.assert_close(by_batch.mean, by_step.mean, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(by_batch.mu2, by_step.mu2, rtol=1e-5, atol=0.0)
    assert (by_step.num_updates, by_batch.num_updates) == (5, 20)


def test_dividing_first_takes_a_shorter_last_group_for_an_outlier() -> None:
    wrong, right = ALRC(), ALRC()
    groups = [4] * 10 + [1]  # 41 batches
    for size in groups:
        for value, _ in zip(CALM * 2, range(size), strict=False):
            wrong(torch.tensor(value) / size)
            right(torch.tensor(value)) / size
    assert wrong.num_clipped == 1
    assert right.num_clipped == 0


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
    wrong, right = ALRC(), ALRC()
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
    alrc = ALRC(mu1_start=mean, mu2_start=mean**2 + 0.0625, **settings)
    leaf = torch.tensor(loss + floor, requires_grad=True)
    return gradient(alrc(leaf), leaf).item()


def test_a_floor_weakens_center_zero_and_leaves_center_mean_alone() -> None:
    zero, mean = {"center": "zero"}, {"center": "mean"}
    assert factor_of_a_loss(4.0, zero, floor=0.0) == 1 / 4
    assert factor_of_a_loss(4.0, zero, floor=0.5) == pytest.approx(1.5 / 4.5, rel=F32)
    assert factor_of_a_loss(4.0, mean, floor=0.0) == pytest.approx(0.75 / 3.75, rel=F32)
    assert factor_of_a_loss(4.0, mean, floor=0.5) == pytest.approx(0.75 / 3.75, rel=F32)


def test_subtracting_the_floor_gives_the_factor_the_loss_would_have_without_it() -> None:
    alrc = ALRC(mu1_start=0.25, mu2_start=0.125)
    leaf = torch.tensor(4.5, requires_grad=True)
    limited = alrc(leaf - 0.5) + 0.5
    assert (limited.item(), gradient(limited, leaf).item()) == (1.5, 0.25)


# Gradient penalties


def critic_loss_and_penalty(w: torch.Tensor):
    """D(x) = w x**2 / 2 at fake 3, real 1 and between 2: loss 8 and penalty 9 at w = 2."""

    def critic(x):
        return w * x**2 / 2

    between = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(between), between, create_graph=True)
    return critic(torch.tensor(3.0)) - critic(torch.tensor(1.0)), (slope.abs() - 1) ** 2


# At w = 2: d loss / dw = 9/2 - 1/2, and d penalty / dw = 2 (w x - 1) x.
LOSS, LOSS_SLOPE, PENALTY, PENALTY_SLOPE = 8.0, 4.0, 9.0, 12.0


@pytest.mark.parametrize("which", ["total", "critic only", "none"])
def test_a_gradient_penalty_has_the_derivative_found_by_hand(which) -> None:
    w = torch.tensor(2.0, requires_grad=True)
    alrc, (loss, penalty) = ALRC(**START), critic_loss_and_penalty(w)
    assert (loss.item(), penalty.item()) == (LOSS, PENALTY)
    total, expected = {
        "total": lambda: (
            alrc(loss + 10 * penalty),
            4 / (LOSS + 10 * PENALTY) * (LOSS_SLOPE + 10 * PENALTY_SLOPE),
        ),
        "critic only": lambda: (
            alrc(loss) + 10 * penalty,
            4 / LOSS * LOSS_SLOPE + 10 * PENALTY_SLOPE,
        ),
        "none": lambda: (loss + 10 * penalty, LOSS_SLOPE + 10 * PENALTY_SLOPE),
    }[which]()
    assert gradient(total, w).item() == pytest.approx(expected, rel=F32)
    assert alrc.num_updates == (which != "none")


@pytest.mark.parametrize("form", ["one loss", "several", "masked"])
def test_double_backward_through_alrc_takes_the_factor_for_a_constant(form) -> None:
    alrc, x = ALRC(**START), torch.tensor(2.0, requires_grad=True)
    loss = x**3  # 8: factor 1 / 2
    if form == "one loss":
        limited = alrc(loss)
    else:
        losses = torch.stack([loss, x.detach()])
        limited = alrc(losses, mask=None if form == "several" else torch.ones(2)).sum()
    (slope,) = torch.autograd.grad(limited, x, create_graph=True)
    assert slope.item() == 0.5 * 3 * 2**2
    (slope**2).backward()  # d/dx (f 3 x**2)**2 = 2 (f 3 x**2) (f 6 x)
    assert x.grad.item() == 2 * (0.5 * 12) * (0.5 * 12)
    assert alrc.num_updates == 1


def test_limiting_the_sum_keeps_the_weight_of_the_penalty_and_limiting_the_parts_does_not() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    loss, penalty = critic_loss_and_penalty(w)
    scales = [torch.ones((), requires_grad=True) for _ in range(2)]  # of the two parts
    loss, penalty = loss.detach() * scales[0], penalty.detach() * scales[1]
    total = ALRC(**START)(loss + 10 * penalty)
    in_sum = torch.autograd.grad(total, scales, retain_graph=True)
    parts = torch.autograd.grad(ALRC(**START)(loss) + 10 * ALRC(**START)(penalty), scales)
    assert (in_sum[1] / in_sum[0]).item() == pytest.approx(10 * PENALTY / LOSS, rel=F32)
    expected = 10 * (4 / PENALTY) / (4 / LOSS)  # the weight that acts instead of 10
    assert (parts[1] / parts[0] * LOSS / PENALTY).item() == pytest.approx(expected, rel=F32)
    assert f"{expected:.1f} instead of 10" in PROSE


# GANs


def test_one_alrc_for_two_losses_mixes_their_moments() -> None:
    generator, discriminator = CALM * 100, [10 * x for x in CALM * 100]
    own, shared = ALRC(), ALRC()
    own_reference, shared_reference = Reference(), Reference()
    for g, d in zip(generator, discriminator, strict=True):
        after([g], own)
        after([g, d], shared)
        own_reference([g])
        for loss in (g, d):
            shared_reference([loss])
        assert_state_is_that_of(own, own_reference)
        assert_state_is_that_of(shared, shared_reference)
    assert own.threshold.item() == pytest.approx(own_reference.upper, rel=1e-5)
    assert shared.threshold.item() == pytest.approx(shared_reference.upper, rel=1e-5)
    assert f"{own_reference.upper:.2f} becomes {shared_reference.upper:.1f}" in PROSE
    outlier = torch.tensor(8.0)  # ten times the generator's losses
    assert own(outlier) < 2
    assert shared(outlier) == 8.0


def test_groups_keep_the_moments_of_each_loss_apart() -> None:
    alrc = ALRC(num_groups=2)
    references = Reference(), Reference()
    for small in CALM * 50:
        for group, loss in enumerate((small, 10 * small)):
            alrc(torch.tensor(loss), group=group)
            references[group]([loss])
        expected = [reference.mean for reference in references]
        assert alrc.mean.tolist() == pytest.approx(expected, rel=1e-5)
    limits = [reference.upper for reference in references]
    assert alrc.threshold.tolist() == pytest.approx(limits, rel=1e-5)


BELOW_0 = {"mu1_start": -10.0, "mu2_start": 101.0}  # mean -10, standard deviation 1, limit -7


def values_and_factors(losses, **settings):
    leaf = torch.tensor(losses, requires_grad=True)
    limited = ALRC(**settings)(leaf)
    return limited.tolist(), gradient(limited.sum(), leaf).tolist()


def test_where_losses_can_be_negative_center_mean_scales_and_center_zero_does_not() -> None:
    values, factors = values_and_factors([-8.0, -1.0, 3.0], **BELOW_0)
    assert values == [-8.0, -7.0, -7.0]
    assert factors == [1.0, 1.0, 2.0**-126]  # all of the gradient, or next to nothing
    values, factors = values_and_factors([-8.0, -1.0, 3.0], center="mean", **BELOW_0)
    assert values == [-8.0, -7.0, -7.0]
    assert factors == pytest.approx([1.0, 3 / 9, 3 / 13], rel=F32)


# Log-likelihoods and policy gradients


def test_a_negative_log_likelihood_below_0_is_scaled_by_its_distance_to_the_mean() -> None:
    sigma, alrc, reference = 0.01, ALRC(center="mean"), Reference(center="mean")
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
    moments = {"mu1_start": 0.0, "mu2_start": 4.0, "center": "mean"}  # limits 6 and -6
    for below, last in ((None, 1.0), (3.0, 0.3)):
        alrc = ALRC(num_stddev_below=below, **moments)
        factors = gradient(alrc(losses).sum(), log_prob, retain_graph=True) / -advantage
        assert factors.tolist() == pytest.approx([1.0, 1.0, 0.3, last], rel=F32)


# Activation checkpointing


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_outside_a_checkpointed_region_alrc_is_exact(use_reentrant) -> None:
    runs = []
    for checkpointed in (False, True):
        net, batches = toy(steps=16, dtype=torch.float32)
        alrc, states = ALRC(1.0, 0.9, warmup=2), []
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for x, y in batches:
            x = x.clone().requires_grad_()  # what use_reentrant=True needs to have gradients
            out = checkpoint(net, x, use_reentrant=use_reentrant) if checkpointed else net(x)
            optimizer.zero_grad()
            alrc(F.mse_loss(out, y)).backward()
            optimizer.step()
            states.append([t.clone() for t in (*net.parameters(), *alrc.buffers())])
        runs.append(states)
    assert alrc.num_updates == 16
    assert alrc.num_clipped > 0
    for plain, with_checkpoint in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, with_checkpoint, strict=True))


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("loss", [2.0, 8.0], ids=["within the limit", "limited"])
def test_inside_a_checkpointed_region_alrc_is_refused_in_words(use_reentrant, loss) -> None:
    alrc, weight = ALRC(**START), torch.zeros((), requires_grad=True)

    def region(weight):
        return alrc(scripted(loss, weight)).square()

    result = checkpoint(region, weight, use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError) as error:
        result.backward()
    assert str(error.value) == (
        "ALRC: a loss must meet ALRC once, in the forward pass; got a call during the backward "
        "pass, where activation checkpointing computes again what is inside of it. Call "
        "alrc(loss) outside of torch.utils.checkpoint.checkpoint()."
    )
    assert weight.grad is None


@pytest.mark.parametrize(("loss", "slope"), [(2.0, 2.0), (8.0, 4.0)])
def test_at_the_very_end_of_a_region_alrc_may_be_met_once_and_is_exact_then(loss, slope) -> None:
    alrc, weight = ALRC(**START), torch.zeros((), requires_grad=True)

    def region(weight):  # computed again up to the last tensor that the backward pass needs
        return alrc(scripted(loss, weight))

    checkpoint(region, weight, use_reentrant=False).backward()
    assert weight.grad.item() == slope
    assert alrc.num_updates == 1


# Averaged weights and copies


class Model(nn.Module):
    """A model that holds its ALRC and returns its loss."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.alrc = ALRC(**settings)

    def forward(self, x):
        return self.alrc(self.net(x).square().mean())


def averaged(use_buffers: bool):
    """ALRC of a model, and of its average, after each of 41 updates."""
    model = Model()
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=use_buffers
    )
    for loss in [*CALM * 20, 50.0]:
        after([loss], model.alrc)
        average.update_parameters(model)
        yield model.alrc, average.module.alrc


def test_an_averaged_model_holds_a_copy_of_the_state() -> None:
    for calls, (ours, copied) in enumerate(averaged(use_buffers=False), 1):
        assert copied is not ours
        assert copied.num_updates == calls
        assert copied.to_dict() == ours.to_dict()
    assert copied.num_clipped == 1


def test_use_buffers_averages_the_state_into_one_that_never_was() -> None:
    *_, (ours, averaged_state) = averaged(use_buffers=True)
    assert ours.num_updates == 41
    assert averaged_state.num_updates == 1  # 0.999 * 1 + 0.001 * 41, cut to an integer
    assert ours.threshold < 2
    assert averaged_state.threshold == math.inf  # as if in its warm-up


def test_a_deepcopy_takes_the_state_along_and_goes_on_by_itself() -> None:
    model = Model(**START)
    after([3.0, 9.0], model.alrc)
    twin = copy.deepcopy(model)
    before = model.alrc.to_dict()
    assert twin.alrc.to_dict() == before
    assert before["num_clipped"] == 1
    after([9.0], twin.alrc)
    assert twin.alrc.num_clipped == 2
    assert model.alrc.to_dict() == before


def test_update_bn_moves_no_moments() -> None:
    torch.manual_seed(0)
    model = Model(**START)
    before, statistics = model.alrc.to_dict(), model.net[1].running_mean.clone()
    update_bn([torch.randn(8, 2) + 5 for _ in range(3)], model)
    assert model.alrc.to_dict() == before
    assert not torch.equal(model.net[1].running_mean, statistics)


# Schedules, and the next task


def test_while_losses_fall_a_schedule_trains_as_without_alrc() -> None:
    weights = []
    for alrc in (ALRC(), nn.Identity()):
        weight = torch.full((2,), 3.0, requires_grad=True)
        optimizer = torch.optim.SGD([weight], 0.1)
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=20)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [20])
        losses = []
        for _ in range(80):
            loss = weight.square().sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            alrc(loss).backward()
            optimizer.step()
            schedule.step()
        assert losses == sorted(losses, reverse=True)
        weights.append(weight.detach().clone())
        if isinstance(alrc, ALRC):
            assert alrc.num_clipped == 0
            assert alrc.threshold < math.inf
    assert torch.equal(*weights)
    assert weights[0].norm() < 1e-2


def test_alrcs_warmup_is_counted_in_its_own_calls() -> None:
    alrc = ALRC()
    thresholds = [after([loss], alrc).threshold.item() for loss in CALM * 6]
    assert [math.isinf(threshold) for threshold in thresholds] == [True] * 9 + [False] * 3


@pytest.mark.parametrize(("scale", "factor_of_old_state"), [(10.0, None), (0.01, 1.0)])
def test_another_loss_needs_a_fresh_state(scale, factor_of_old_state) -> None:
    alrc, reference = after(CALM * 500, ALRC()), Reference()
    stale, task = copy.deepcopy(alrc), [scale * x for x in CALM * 50]
    alrc.reset_parameters()
    after(task, stale)
    for loss in task:
        after([loss], alrc)
        reference([loss])
        assert_state_is_that_of(alrc, reference)
    assert alrc.num_clipped == 0
    leaf = torch.tensor(50.0 * scale, requires_grad=True)
    assert gradient(alrc(leaf), leaf).item() == pytest.approx(0.035, rel=1e-3)
    if factor_of_old_state is None:  # tenfold losses: the old limit turns good ones down
        assert f"{stale.num_clipped.item()} of the first 100" in PROSE
    else:  # losses of a hundredth: it lets the outlier pass
        assert gradient(stale(leaf), leaf).item() == factor_of_old_state


# What to look at


def test_alrc_leaves_the_loss_it_was_given_as_it_was() -> None:
    loss = torch.tensor(8.0, requires_grad=True) * 1
    losses = torch.tensor([8.0, 1.0], requires_grad=True) * 1
    alrc = ALRC(**START)
    assert alrc(loss).item() == 4.0
    assert alrc(losses).max().item() < 8.0
    assert loss.item() == 8.0
    assert losses.tolist() == [8.0, 1.0]


def test_reduce_lr_on_plateau_needs_the_loss_before_limiting() -> None:
    raw = [50.0, 45.0, 40.0, 35.0, 30.0]  # it gets better at every step
    reference = Reference(decay=0.9, **START)
    by_hand = [reference([loss])[0].value for loss in raw]
    assert by_hand == sorted(by_hand)  # as the limit follows, limited losses get worse
    cuts = []
    for log_limited in (False, True):
        alrc = ALRC(decay=0.9, **START)
        optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        for value, expected in zip(raw, by_hand, strict=True):
            limited = alrc(torch.tensor(value)).item()
            assert limited == pytest.approx(expected, rel=1e-5)
            schedule.step(limited if log_limited else value)
        cuts.append(optimizer.param_groups[0]["lr"])
    assert cuts == pytest.approx([1.0, 1e-4])
