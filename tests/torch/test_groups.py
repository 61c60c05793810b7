"""Groups: each is to the last detail an ALRC of its own; the promises run as rows of the table."""

import json
import math

import numpy as np
import pytest
import torch
from reference import Reference

from alrc import Settings, state
from alrc import jax as alrc_jax
from alrc.torch import ALRC, clip, init

SETTINGS = {"scale": "linear", "num_stddev": 1.5, "decay": 0.9, "warmup": 3}


def stream(calls: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Losses, weights and groups, of calls in which some groups have no loss and some a spike."""
    random = np.random.default_rng(seed)
    batches = []
    for _ in range(calls):
        size = int(random.integers(0, 9))
        group = random.integers(0, 3, size)  # of 4: the last is never seen
        losses = random.lognormal(group * 2.0, 0.5, size).astype(np.float32)
        losses[random.random(size) < 0.1] *= 30
        losses[random.random(size) < 0.05] = random.choice([math.nan, math.inf])
        batches.append((losses, random.choice([0.0, 0.5, 2.0], size).astype(np.float32), group))
    return batches


def limited(call, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, and gradients of their sum."""
    losses = losses.clone().requires_grad_()
    values = call(losses)
    return values.detach(), torch.autograd.grad(values.sum(), losses)[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("recency", [1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_each_group_is_what_the_oracle_makes_of_its_losses_alone(weighted, recency, scale) -> None:
    settings = {**SETTINGS, "recency": recency, "scale": scale}
    alrc, oracles = ALRC(**settings, num_groups=4), [Reference(**settings) for _ in range(4)]
    num_clipped = 0
    for losses, weights, group in stream(200):
        mask = torch.from_numpy(weights) if weighted else None
        index = torch.from_numpy(group)
        values, factors = limited(lambda x: alrc(x, mask, index), torch.from_numpy(losses))  # noqa: B023
        for k, oracle in enumerate(oracles):
            ours = group == k
            expected = oracle(losses[ours].tolist(), weights[ours].tolist() if weighted else None)
            np.testing.assert_allclose(
                values[ours], [one.value for one in expected], rtol=1e-5, equal_nan=True
            )
            np.testing.assert_allclose(factors[ours], [one.factor for one in expected], rtol=1e-5)
            np.testing.assert_allclose(alrc.mean[k], float(oracle.mean), rtol=1e-5)
            np.testing.assert_allclose(alrc.variance[k], float(oracle.variance), rtol=1e-4)
            num_clipped += sum(one.limited for one in expected)
    assert alrc.num_clipped.sum() == num_clipped > 20


@pytest.mark.parametrize("recency", [1.0, 4.0])
def test_each_group_has_the_state_of_a_module_of_its_own_after_each_call(recency) -> None:
    alrc = ALRC(**SETTINGS, num_groups=4, recency=recency)
    alone = [ALRC(**SETTINGS, recency=recency) for _ in range(4)]
    for losses, weights, group in stream(100):
        x, mask, index = (torch.from_numpy(each) for each in (losses, weights, group))
        values, gradients = limited(lambda x: alrc(x, mask, index), x)  # noqa: B023
        saved = alrc.to_dict()
        for k, other in enumerate(alone):
            ours = index == k
            expected = limited(lambda x: other(x, mask[ours]), x[ours])  # noqa: B023
            torch.testing.assert_close(values[ours], expected[0], equal_nan=True)
            torch.testing.assert_close(gradients[ours], expected[1])
            for name, number in other.to_dict().items():
                assert saved[name][k] == pytest.approx(number, rel=1e-5), name


def test_a_group_that_was_never_seen_still_warms_up() -> None:
    alrc = ALRC(num_groups=3, warmup=4, num_stddev=3, scale="linear")
    for step in range(20):
        alrc(torch.tensor([1.0, 2.0 + step % 2], requires_grad=True), group=torch.tensor([0, 2]))
    assert alrc.num_updates.tolist() == [20, 0, 20]
    assert alrc.mean[1] == alrc.variance[1] == alrc.num_losses[1] == 0
    assert alrc.threshold[1] == math.inf
    outlier = torch.tensor([1e6, 1e6], requires_grad=True)
    assert alrc(outlier, group=torch.tensor([1, 2]))[0] == 1e6
    assert alrc.num_clipped.tolist() == [0, 0, 1]


def test_all_losses_of_a_call_can_be_in_one_group() -> None:
    one, each = (ALRC(**SETTINGS, num_groups=2) for _ in range(2))
    for step in range(30):
        losses = torch.rand(5, generator=torch.Generator().manual_seed(step)) + 9.0 * (step == 20)
        group = step % 2
        expected = limited(lambda x: each(x, group=torch.full((5,), group)), losses)  # noqa: B023
        got = limited(lambda x: one(x, group=group), losses)  # noqa: B023
        assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))
        assert one.to_dict() == each.to_dict()
    assert one.num_clipped.sum() > 0
    before = one.num_losses.clone()
    one(torch.tensor(1.0, requires_grad=True), group=1)  # of shape ()
    assert (one.num_losses - before).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_group_numbers_of_any_whole_dtype_mean_the_same(dtype) -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_groups=3, num_stddev=3, scale="linear")
    values = alrc(
        torch.tensor([9.0, 1.0], requires_grad=True), group=torch.tensor([2, 0]).to(dtype)
    )
    assert values.tolist() == [4.0, 1.0]
    assert alrc.num_clipped.tolist() == [0, 0, 1]


def test_compiled_groups_have_the_gradients_of_eager_and_compile_once() -> None:
    def train(alrc: ALRC, weight: torch.Tensor, x: torch.Tensor, index: torch.Tensor):
        return alrc((x * weight).pow(4), group=index).mean()

    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    modules = [ALRC(**SETTINGS, num_groups=3) for _ in range(2)]
    for step in range(40):
        random = torch.Generator().manual_seed(step)
        x, index = torch.rand(6, generator=random), torch.randint(3, (6,), generator=random)
        x[0] *= 5.0 if step % 7 == 6 else 1.0
        gradients = []
        for module, function in zip(modules, (train, compiled), strict=True):
            weight = torch.tensor(1.5, requires_grad=True)
            with torch.compiler.set_stance("fail_on_recompile" if step > 1 else "default"):
                function(module, weight, x, index).backward()
            gradients.append(weight.grad)
        torch.testing.assert_close(*gradients)
        for name in state.NAMES:
            torch.testing.assert_close(*(getattr(module, name) for module in modules))
    assert modules[0].num_clipped.sum() > 3


def test_the_pure_functions_of_pytorch_and_jax_move_groups_as_the_module_does() -> None:
    alrc, settings = ALRC(**SETTINGS, num_groups=4), Settings(**SETTINGS, num_groups=4)
    pure, arrays = init(settings), alrc_jax.init(settings)
    for losses, weights, group in stream(60):
        x, mask, index = (torch.from_numpy(each) for each in (losses, weights, group))
        expected = alrc(x.requires_grad_(), mask, index)
        value, pure = clip(x, pure, settings, mask, index)
        assert torch.equal(value.nan_to_num(), expected.nan_to_num())
        value, arrays = alrc_jax.clip(losses, arrays, settings, weights, group=group)
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
        assert pure.to_dict() == {name: alrc.to_dict()[name] for name in state.MOMENTS}
        for name, number in arrays.to_dict().items():
            assert number == pytest.approx(pure.to_dict()[name], rel=1e-5)


def test_a_saved_state_of_groups_goes_on_bit_for_bit() -> None:
    whole = ALRC(**SETTINGS, num_groups=4)
    batches = stream(60)

    def train(alrc: ALRC, batch) -> tuple[torch.Tensor, torch.Tensor]:
        losses, weights, index = map(torch.from_numpy, batch)
        return limited(lambda x: alrc(x, weights, index), losses)

    for batch in batches[:30]:
        train(whole, batch)
    resumed, moved = (ALRC(**SETTINGS, num_groups=4) for _ in range(2))
    resumed.load_state_dict(whole.state_dict())
    moved.load_dict(json.loads(json.dumps(whole.to_dict())))
    for batch in batches[30:]:
        expected = train(whole, batch)
        for other in (resumed, moved):
            for pair in zip(train(other, batch), expected, strict=True):
                torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)
            assert other.to_dict() == whole.to_dict()


def test_the_state_of_another_number_of_groups_is_refused_in_words_and_not_taken_over() -> None:
    alrc = ALRC(num_groups=2, num_stddev=3, scale="linear")
    alrc(torch.tensor([1.0, 5.0], requires_grad=True), group=torch.tensor([0, 1]))
    before = alrc.to_dict()
    for other, got in (
        (ALRC(num_groups=3, num_stddev=3, scale="linear"), 3),
        (ALRC(num_stddev=3, scale="linear"), None),
    ):
        with pytest.raises(RuntimeError) as error:
            alrc.load_state_dict(other.state_dict())
        assert str(error.value).partition("\n\t")[2] == (
            "ALRC: mean and the rest of the state must be that of num_groups=2; got that of "
            f"num_groups={got}. Build ALRC with num_groups={got}, or remove ALRC's keys from the "
            "checkpoint and load it with strict=False to start afresh."
        )
    with pytest.raises(ValueError, match="saved") as error:
        alrc.load_dict(ALRC(num_groups=3, num_stddev=3, scale="linear").to_dict())
    assert str(error.value) == (
        "ALRC: the saved mean must be a list of 2 numbers, one for each group; got "
        "[0.0, 0.0, 0.0]. Pass the num_groups that the state was saved with."
    )
    with pytest.raises(ValueError, match="saved") as error:
        ALRC(num_stddev=3, scale="linear").load_dict(before)
    assert str(error.value) == (
        "ALRC: the saved mean must be a number; got [1.0, 5.0]. The state is damaged or not one "
        "of ALRC's: load another, or start afresh."
    )
    damaged = {**before, "variance": [1.0, -1.0]}
    with pytest.raises(ValueError, match="the saved variance must be at least 0; got -1"):
        alrc.load_dict(damaged)
    assert alrc.to_dict() == before


def test_a_module_with_groups_shows_them() -> None:
    assert repr(ALRC(num_groups=5, num_stddev_below=2.0, num_stddev=3, scale="linear")) == (
        "ALRC(num_stddev=3, decay=0.999, warmup=10, recency=1, num_stddev_below=2, num_groups=5, "
        "center='zero', scale='linear')"
    )
    assert ALRC(num_groups=5).mu1.shape == ALRC(num_groups=5).threshold.shape == (5,)


LOSS = torch.tensor([1.0, 2.0], requires_grad=True)
REFUSED = {
    "no groups": (
        {},
        LOSS,
        1,
        ValueError,
        "{who}: group must be left out, because the moments are shared by all losses; got 1. "
        "Build it with num_groups=K, or call it without group.",
    ),
    "no group": (
        {"num_groups": 3},
        LOSS,
        None,
        ValueError,
        "{who}: group must say which of the 3 groups the losses are in; got None. Pass "
        "group=index: one whole number, or one for each loss.",
    ),
    "a list": (
        {"num_groups": 3},
        LOSS,
        [0, 1],
        TypeError,
        "{who}: group must be a whole number or a tensor of them; got [0, 1] of type list. Pass "
        "torch.tensor(group, device=loss.device).",
    ),
    "a boolean": (
        {"num_groups": 3},
        LOSS,
        True,
        TypeError,
        "{who}: group must be a whole number or a tensor of them; got True of type bool. Pass "
        "torch.tensor(group, device=loss.device).",
    ),
    "floats": (
        {"num_groups": 3},
        LOSS,
        torch.tensor([0.0, 1.0]),
        TypeError,
        "{who}: group must hold whole numbers; got a torch.float32 tensor. Pass group.long().",
    ),
    "another shape": (
        {"num_groups": 3},
        LOSS,
        torch.tensor([0, 1, 2]),
        ValueError,
        "{who}: group must be one number or have the shape of loss; got a group of shape (3,) and "
        "losses of shape (2,). Pass a group with one number for each loss.",
    ),
    "one for each row": (
        {"num_groups": 3},
        torch.ones(2, 3),
        torch.tensor([0, 1]),
        ValueError,
        "{who}: group must be one number or have the shape of loss; got a group of shape (2,) and "
        "losses of shape (2, 3). Pass group[:, None].expand_as(loss).",
    ),
    "another device": (
        {"num_groups": 3},
        LOSS,
        torch.empty(2, dtype=torch.int64, device="meta"),
        ValueError,
        "{who}: group must be on the device of the loss; got a group on meta and a loss on cpu. "
        "Pass group.to(loss.device).",
    ),
    "too large": (
        {"num_groups": 3},
        LOSS,
        torch.tensor([0, 3]),
        ValueError,
        "{who}: group must be from 0 to 2, because there are 3 groups; got 0 to 3. Pass a larger "
        "num_groups, or other numbers.",
    ),
    "negative": (
        {"num_groups": 3},
        LOSS,
        -1,
        ValueError,
        "{who}: group must be from 0 to 2, because there are 3 groups; got -1. Pass a larger "
        "num_groups, or other numbers.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("who", ["ALRC", "clip"])
def test_a_bad_group_is_refused_in_words_and_nothing_moves(case, who) -> None:
    settings, loss, group, kind, words = REFUSED[case]
    alrc = ALRC(**settings)
    before = alrc.to_dict()
    pure = Settings(**settings)
    call = alrc if who == "ALRC" else clip
    args = (loss,) if who == "ALRC" else (loss, init(pure), pure)
    with pytest.raises(kind) as error:
        call(*args, group=group)
    assert str(error.value) == words.format(who=who)
    assert alrc.to_dict() == before
