"""Rivals that act on gradients and steps, against their published formulas in plain NumPy."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from rivals import (
    SHAPES,
    Array,
    Descent,
    Driven,
    Judged,
    Outlier,
    Percentile,
    Skip,
    Slower,
    Stable,
    Tensors,
    Units,
    Value,
)

from alrc.lab.api import Arm
from alrc.lab.arms.adagc import AdaGC
from alrc.lab.arms.agc import AGC
from alrc.lab.arms.autoclip import AutoClip
from alrc.lab.arms.clip_grad_value import ClipGradValue
from alrc.lab.arms.metaseq import Metaseq
from alrc.lab.arms.skip_step import SkipStep
from alrc.lab.arms.stable_adamw import StableAdamW
from alrc.lab.arms.zclip import ZClip

RUNS = 2


class Oracle(Protocol):
    def step(self, loss: float, gradients: list[Array], values: list[Array], /) -> Judged: ...


Case = tuple[Arm, Callable[[], Oracle], str]
CASES: dict[str, Case] = {
    "clip-grad-value": (ClipGradValue(0.3), Value, "sgd"),
    "agc": (AGC(), Units, "sgd"),
    "autoclip": (AutoClip(), Percentile, "sgd"),
    "autoclip-median": (AutoClip(50.0), lambda: Percentile(50), "adamw"),
    "autoclip-window": (AutoClip(window=20), lambda: Percentile(window=20), "sgd"),
    "zclip": (ZClip(), Outlier, "sgd"),
    "zclip-max-norm": (ZClip(max_norm=1.0), lambda: Outlier(1.0), "sgd"),
    "adagc": (AdaGC(), Tensors, "sgd"),
    "skip-step": (SkipStep(), Skip, "sgd"),
    "metaseq": (Metaseq(), Slower, "sgd"),
    "metaseq-adamw": (Metaseq(), Slower, "adamw"),
    "stable-adamw": (StableAdamW(), Stable, "adamw"),
}


def initial() -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal((RUNS, *shape)) * rng.choice([1, 1e-4]) for shape in SHAPES]


def training(steps: int = 200) -> Iterator[tuple[Array, list[Array]]]:
    """Losses and gradients, with sizes of many orders and outliers, other ones in each run."""
    rng = np.random.default_rng(3)
    for step in range(steps):
        size = np.exp(0.3 * rng.standard_normal(RUNS)) * 10 ** rng.uniform(-3, 0)
        is_outlier = (rng.random(RUNS) < 0.05) & (step > 70)
        size *= np.where(is_outlier, 10 ** rng.uniform(1, 5), 1) * (1e-4 if step < 3 else 1)
        losses = 1 + rng.random(RUNS) * 10 ** rng.uniform(-1, 0)
        losses *= np.where((rng.random(RUNS) < 0.05) & (step > 70), 30, 1)
        if step in (62, 63):  # the last step that skip-step takes in any case, and the first other
            losses[step - 62] *= 30
        each = [np.exp(0.3 * rng.standard_normal(RUNS)) for _ in SHAPES]
        yield (
            losses,
            [
                rng.standard_normal((RUNS, *shape)) * (size * own).reshape(-1, *[1] * len(shape))
                for own, shape in zip(each, SHAPES, strict=True)
            ],
        )


def flat(arrays: Iterable[Any]) -> Array:
    return np.concatenate([np.ravel(x) for x in arrays])


def close(given: Any, expected: Any, rtol: float) -> None:
    given, expected = np.asarray(given), np.asarray(expected)
    assert given.shape == expected.shape
    assert (abs(given - expected) <= rtol * abs(expected) + 1e-13).all()


def compare(arm: Arm, oracle: Callable[[], Oracle], kind: str, together: bool) -> tuple[int, int]:
    """Gradients, steps and state, at every step of every run.

    Returns:
        How many gradients were changed, and how many steps were skipped or shortened.
    """
    driven = Driven(arm, kind, initial(), together)
    oracles = [oracle() for _ in range(RUNS)]
    descents = [Descent(kind) for _ in range(RUNS)]
    values = [[value[run] for value in initial()] for run in range(RUNS)]
    changed = shortened = 0
    for losses, gradients in training():
        taken = driven.step(losses, gradients)
        for run in range(RUNS):
            mine = [g[run] for g in gradients]
            judged = oracles[run].step(losses[run], mine, values[run])
            values[run] = descents[run].step(values[run], judged)
            assert taken[run] == judged.taken
            limited = flat(judged.gradients)
            close(flat(g[run] for g in driven.gradients), limited, 1e-9)
            close(flat(v[run] for v in driven.values), flat(values[run]), 1e-7)
            for state, expected in judged.state.items():
                close(driven.state(state, run), expected, 1e-9)
            changed += not np.allclose(flat(mine), limited, rtol=1e-3)
            shortened += not judged.taken or min(judged.shares) < 0.999
    return changed, shortened


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_each_follows_its_formula_alone_and_in_an_ensemble(name: str, together: bool) -> None:
    changed, shortened = compare(*CASES[name], together)
    assert changed > 30 or shortened > 5  # else it had nothing to do


FAULTS = [
    ("clip-grad-value", "-self.clip_value", "0"),
    ("agc", "1 if is_vector else 2", "1"),  # over all units
    ("agc", "1 if is_vector else 2", "2"),  # vectors number by number
    ("agc", "for length in rows.shape[1:]", "for length in rows.shape"),
    ("agc", ".clamp(min=self.eps)", ""),
    ("agc", "_unit_norms(gradient)\n", "_unit_norms(value)\n"),
    ("autoclip", "(len(ordered) - 1)", "len(ordered)"),
    ("autoclip", "* (place % 1)", "* 0"),  # no interpolation
    ("autoclip", "+ 1e-6", "+ 0"),
    ("autoclip", ".clamp(max=1.0)", ""),
    ("autoclip-window", "> self.window", ">= self.window"),
    ("autoclip-window", "recent.pop(0)", "recent.pop()"),  # forgets the latest
    ("zclip", "<= self.warmup", "< self.warmup"),
    ("zclip", "correction=0", "correction=1"),
    ("zclip", "kept - self.mean", "norm - self.mean"),
    ("zclip", "(1 - self.alpha) * kept", "(1 - self.alpha) * norm"),  # outliers enter the mean
    ("zclip", "self.z_threshold**2 * sd / z", "self.z_threshold * sd"),
    ("zclip", "(sd + 1e-6)", "sd"),
    ("zclip", "limit / (norm + 1e-6)", "limit / norm"),
    ("zclip-max-norm", "kept.clamp(max=self.max_norm)", "kept"),
    ("zclip-max-norm", "(self.max_norm / (norm + 1e-6)).clamp(max=1.0)", "norm * 0 + 1"),
    ("adagc", "<= self.warmup", "< self.warmup"),
    ("adagc", "left < usual", "left > usual"),
    ("adagc", "(1 - self.beta) * left", "(1 - self.beta) * norm"),  # unlimited norms enter
    ("adagc", "norm.norm(dim=1, keepdim=True)", "norm"),  # each parameter by itself in warm-up
    ("adagc", "norm.norm(dim=1, keepdim=True)", "norm.norm()"),  # all runs at once
    ("adagc", "EPS = 1e-6", "EPS = 0.0"),
    ("skip-step", "seen + 1 >= max", "seen >= max"),
    ("skip-step", "self.window // 2", "self.window"),
    ("skip-step", "self.num_stddev * sd", "self.num_stddev / 2 * sd"),
    ("skip-step", ".all(dim=1)", ".any(dim=1)"),
    ("skip-step", ".all(dim=1)", ".all()"),  # all runs at once
    ("metaseq", "(self.span + 1)", "self.span"),
    ("metaseq", "ratio > 1", "ratio > 2"),
    ("metaseq", "ratio = loss / mean", "ratio = loss / (0.8 * mean + 0.2 * loss)"),
    ("metaseq", "mean + 2 /", "self.mean + 2 /"),
    ("metaseq-adamw", "ratio**-self.power", "ratio**-1"),
    ("stable-adamw", "1 - beta2**self.calls", "1 - beta2"),
    ("stable-adamw", "eps**2", "eps"),
    ("stable-adamw", ".clamp(min=1.0)", ""),
    ("stable-adamw", ".mean(dim=1)", ".mean()"),  # all runs at once
    ("stable-adamw", ".mean(dim=1).sqrt()", ".mean(dim=1)"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), FAULTS)
def test_a_planted_fault_is_seen(
    name: str, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, oracle, kind = CASES[name]
    compare_faulty = faulty(arm, right, wrong, monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        compare(compare_faulty, oracle, kind, together=True)


def faulty(arm: Arm, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> Arm:
    """The same arm, with a part of its source replaced."""
    source = Path(sys.modules[type(arm).__module__].__file__ or "").read_text()
    assert source.count(right) >= 1
    module = ModuleType("faulty_rival")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source.replace(right, wrong), vars(module))
    made: Arm = getattr(module, type(arm).__name__)(**arm.options())
    return made


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_goes_on_from_a_checkpoint_is_bit_for_bit_the_same(name: str, together: bool) -> None:
    arm, _, kind = CASES[name]
    whole, first, second = (Driven(arm, kind, initial(), together) for _ in range(3))
    for step, (losses, gradients) in enumerate(training(115)):
        if step == 80:
            file = io.BytesIO()
            torch.save(first.state_dict(), file)
            file.seek(0)
            second.load_state_dict(torch.load(file))  # tensors, numbers, lists and dicts alone
        parts = first if step < 80 else second
        assert whole.step(losses, gradients) == parts.step(losses, gradients)
        for mine, theirs in zip(
            whole.gradients + whole.values, parts.gradients + parts.values, strict=True
        ):
            assert torch.equal(mine, theirs)


def after(name: str, broken: float, steps: int = 140) -> tuple[Driven, list[list[bool]]]:
    """One number of the first run's gradient and its loss are broken in step 120 of so many."""
    driven, taken = Driven(CASES[name][0], CASES[name][2], initial(), True), []
    for step, (losses, gradients) in enumerate(training(steps)):
        if step == 120:
            losses[0] = gradients[1][0, 2] = broken
        taken.append(driven.step(losses, gradients))
        if step >= 120:  # the other runs do not notice
            assert all(bool(g[1:].isfinite().all()) for g in driven.gradients + driven.values)
    return driven, taken


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("name", CASES)
def test_after_nan_and_infinity_it_is_as_at_the_source(name: str, broken: float) -> None:
    driven, taken = after(name, broken, 121)
    gradients = [g[0].numpy() for g in driven.gradients]
    others = flat([*gradients[:1], *gradients[2:], gradients[1][:2]])
    kind, nan = name.split("-")[0], bool(np.isnan(broken))
    if kind == "clip":
        assert np.isfinite(others).all()
        np.testing.assert_equal(gradients[1][2], np.nan if nan else 0.3)
    elif kind in ("skip", "metaseq"):
        assert taken[-1] == [False, True]
        assert all(v[0].isfinite().all() for v in driven.values)
    else:
        assert np.isfinite(others).all() == (name[:8] != "autoclip" or not nan)
        assert np.isnan(gradients[1][2]) == (nan or kind != "stable")
        assert driven.values[1][0].isnan().any()
    if kind == "zclip":
        assert np.isnan(driven.state("mean", 0)) == nan
        assert nan or not others.any()
    if kind == "adagc":
        assert np.isnan(driven.state("usual", 0)).tolist() == [False, nan, *[False] * 4]


def test_a_skipping_arm_skips_on_while_it_remembers_nan() -> None:
    _, taken = after("skip-step", np.nan, 120 + 130)
    skipped = [not ok for ok, _ in taken[120:]]
    assert skipped[:129] == [True] * 129
    assert not skipped[129]


def test_metaseq_forgets_what_it_skipped() -> None:
    driven, taken = after("metaseq", np.nan)
    assert [ok for ok, _ in taken].count(False) == 1
    assert np.isfinite(driven.state("mean", 0))


@pytest.mark.parametrize(
    ("optimizer", "given"),
    [
        (torch.optim.SGD, "SGD with a weight decay of 0.1"),
        (torch.optim.Adam, "Adam with a weight decay of 0.1"),
    ],
)
def test_stable_adamw_refuses_what_is_no_adamw(optimizer: Any, given: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    arm = StableAdamW()
    arm.begin(torch.device("cpu"))
    made = optimizer([parameter], lr=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="StableAdamW") as refused:
        arm.after_backward("step", torch.tensor(1.0), [parameter], made)
    assert str(refused.value) == (
        "StableAdamW: the optimizer must be AdamW, or Adam without weight decay, because it is "
        f'AdamW\'s step that is limited; got {given}. Train with training.optimizer = "adamw".'
    )


def test_a_share_of_a_step_that_was_skipped_is_not_taken_of_a_later_one() -> None:
    arm, (one, other) = Metaseq(), (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer, plain = (torch.optim.SGD([p], 0.1) for p in (one, other))
    arm.begin(torch.device("cpu"))
    for loss, is_taken in [(1.0, True), (30.0, False), (0.5, True)]:
        one.grad, other.grad = torch.ones(2), torch.ones(2)
        arm.after_backward("step", torch.tensor(loss), [one], optimizer)
        if is_taken:
            optimizer.step()
            plain.step()
    assert torch.equal(one, other)
