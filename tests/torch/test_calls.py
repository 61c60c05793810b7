"""One call: losses of any shape and dtype, masks, what is refused, what is shown."""

import copy
import math

import numpy as np
import pytest
import torch
from frontends import gradient_factors

from alrc import Settings
from alrc.torch import ALRC, clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0), (1, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_shape_dtype_and_gradient_for_any_loss(shape, dtype, masked) -> None:
    alrc = ALRC(**START)
    loss = torch.full(shape, 8.0, dtype=dtype, requires_grad=True)
    clipped = alrc(loss, mask=torch.ones(shape) if masked else None)
    clipped.sum().backward()
    assert (clipped.shape, clipped.dtype) == (loss.shape, loss.dtype)
    assert torch.equal(clipped, torch.full(shape, 4.0, dtype=dtype))
    assert torch.equal(loss.grad, torch.full(shape, 0.5, dtype=dtype))


def test_a_mask_weighs_losses_and_lets_the_others_through() -> None:
    alrc = ALRC(decay=0.5, **START)
    mask = torch.tensor([True, False, True])
    assert alrc(torch.tensor([2.0, 9.0, 9.0]), mask).tolist() == [2.0, 9.0, 4.0]
    assert alrc.mean == 1 + 0.5 * 2
    assert (alrc.num_losses, alrc.num_clipped, alrc.num_nonfinite) == (2, 1, 0)
    alrc.reset_parameters()
    alrc(torch.tensor([2.0, 9.0, 3.0]), torch.tensor([3.0, 0.0, 1.0]))
    assert alrc.mean == 1 + 0.5 * (3 * 1 + 1 * 2) / 4


def test_a_mask_with_a_gradient_leaves_no_graph_in_the_state() -> None:
    alrc, settings = ALRC(**START), Settings(**START)
    mask = torch.sigmoid(torch.ones(2, requires_grad=True))
    for _ in range(2):
        losses = torch.tensor([8.0, 1.0], requires_grad=True)
        alrc(losses, mask).sum().backward()
    _, moments = clip(losses, init(settings), settings, mask)
    assert not any(x.requires_grad for x in (*alrc.buffers(), *moments))
    copy.deepcopy(alrc)


def test_half_precision_losses_move_the_moments_in_float32() -> None:
    torch.manual_seed(0)
    losses = torch.rand(2000).bfloat16()
    exact = losses.double()
    for shape_of in (lambda x: x, lambda x: x[None]):
        alrc = ALRC(num_stddev=3, scale="linear")
        alrc(shape_of(losses))
        torch.testing.assert_close(alrc.mean.double(), exact.mean(), rtol=1e-6, atol=0.0)
        expected = exact.var(correction=0)
        torch.testing.assert_close(alrc.variance.double(), expected, rtol=1e-6, atol=0.0)


def test_float64_losses_keep_their_precision_beside_a_clipped_one() -> None:
    losses = torch.tensor([1 + 1e-12, 8.0], dtype=torch.float64)
    assert ALRC(**START)(losses).tolist() == [1 + 1e-12, 4.0]


def test_a_foreign_default_device_does_not_matter() -> None:
    alrc, losses = ALRC(**START), torch.tensor([8.0, 1.0])
    with torch.device("meta"):
        assert alrc(losses).tolist() == [4.0, 1.0]
        assert alrc.threshold.device.type == "cpu"


class Tagged(torch.Tensor):
    """A subclass without a behaviour of its own."""


@pytest.mark.parametrize("shape", [(), (2,)])
def test_a_tensor_subclass_keeps_its_type(shape) -> None:
    loss = torch.full(shape, 8.0).as_subclass(Tagged)
    clipped = ALRC(**START)(loss)
    assert isinstance(clipped, Tagged)
    assert (clipped == 4.0).all()


def test_losses_that_do_not_require_gradients_move_the_moments_too() -> None:
    alrc = ALRC(**START)
    assert alrc(torch.tensor(8.0)) == 4.0
    assert alrc.num_clipped == 1


def test_second_derivatives_are_scaled_by_the_same_constant_factor() -> None:
    for loss_of in (lambda x: x**3, lambda x: torch.stack([x**3, x])):
        x = torch.tensor(2.0, requires_grad=True)  # loss 8, limit 4, factor 1 / 2
        loss = ALRC(**START)(loss_of(x)).flatten()[0]
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x)
        assert (first.item(), second.item()) == (6.0, 6.0)


REFUSED = {
    "integers": (
        lambda: (torch.tensor([3, 4]), None),
        TypeError,
        "{who}: loss must be a floating tensor, because it is scaled to its limit; got a "
        "torch.int64 tensor. Pass what the criterion returned, before .item(), .long() or the "
        "like.",
    ),
    "a number": (
        lambda: (3.0, None),
        TypeError,
        "{who}: loss must be a floating tensor, because it is scaled to its limit; got 3.0. Pass "
        "what the criterion returned, before .item(), .long() or the like.",
    ),
    "another device": (
        lambda: (torch.empty(2, device="meta"), None),
        ValueError,
        "{who}: loss must be on the device of the moments; got a loss on meta and moments on cpu. "
        "Move the moments: alrc.to('meta'), or init(settings, device='meta').",
    ),
    "mask of another shape": (
        lambda: (torch.ones(2, 3), torch.ones(3)),
        ValueError,
        "{who}: mask must have the shape of loss, because it says which losses count; got a mask "
        "of shape (3,) and losses of shape (2, 3). Build the criterion with reduction='none', or "
        "pass mask.expand_as(loss).",
    ),
    "mask on another device": (
        lambda: (torch.ones(2), torch.ones(2, device="meta")),
        ValueError,
        "{who}: mask must be on the device of the loss; got a mask on meta and a loss on cpu. Pass "
        "mask.to(loss.device).",
    ),
    "mask that is a list": (
        lambda: (torch.ones(2), [1, 0]),
        TypeError,
        "{who}: mask must be a tensor, True or positive where a loss counts; got [1, 0]. Pass "
        "torch.tensor(mask, device=loss.device).",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("who", ["ALRC", "clip"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bad_input_is_refused_in_words_and_nothing_moves(case, who, mode) -> None:
    make, error_type, message = REFUSED[case]
    loss, mask = make()
    alrc, settings = ALRC(**START).train(mode == "train"), Settings(**START)
    call = alrc if who == "ALRC" else lambda x, mask: clip(x, init(settings), settings, mask)
    with pytest.raises(error_type) as error:
        call(loss, mask)
    assert str(error.value) == message.format(who=who)
    assert alrc.num_updates == 0


def test_properties_show_the_moments_and_the_limits() -> None:
    alrc = ALRC(num_stddev_below=0.5, **START)
    assert (alrc.mu1, alrc.mu2, alrc.threshold, alrc.threshold_below) == (1.0, 2.0, 4.0, 0.5)
    history = [alrc.mu1, alrc.mu2, alrc.threshold]
    alrc(torch.tensor(3.0))
    assert history == [1.0, 2.0, 4.0]  # copies: a list of them is a history
    assert ALRC(num_stddev=3, scale="linear").threshold == math.inf
    assert ALRC(num_stddev=3, scale="linear").threshold_below == -math.inf
    assert all(x.dtype == torch.float32 and x.shape == () for x in history)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_threshold_is_exactly_what_the_next_outlier_becomes(shape) -> None:
    torch.manual_seed(0)
    alrc = ALRC(**{**START, "num_stddev": 1.7}, decay=0.9)
    for _ in range(200):
        alrc(torch.rand(shape))
        threshold = alrc.threshold
        assert torch.equal(copy.deepcopy(alrc)(torch.full(shape, 9.0)), threshold.expand(shape))


def test_repr_shows_settings_and_the_current_limit() -> None:
    assert repr(ALRC(num_stddev=3, scale="linear")) == (
        "ALRC(num_stddev=3, decay=0.999, warmup=10, recency=1, center='zero', scale='linear', "
        "threshold=inf)"
    )
    assert repr(ALRC()) == (
        "ALRC(num_stddev=2, decay=0.999, warmup=10, recency=1, center='zero', scale='log', "
        "threshold=inf)"
    )
    assert repr(ALRC(**{**START, "num_stddev": 2}, decay=0.9, num_stddev_below=1)) == (
        "ALRC(num_stddev=2, decay=0.9, mu1_start=1, mu2_start=2, num_stddev_below=1, "
        "center='zero', scale='linear', threshold=3)"
    )
    assert repr(ALRC(device="meta", num_stddev=3, scale="linear")).endswith("threshold=?)")


def test_host_and_tensor_path_have_the_same_gradients() -> None:
    losses = [0.5, 8.0, 4.0, 1e20]
    settings = Settings(**START)
    host = gradient_factors(ALRC(**START), losses)
    pure = gradient_factors(lambda x: clip(x, init(settings), settings)[0], losses)
    assert host == pure


def test_the_module_on_the_host_agrees_with_the_tensor_path_over_20_000_steps() -> None:
    rng = np.random.default_rng(1)
    alrc, settings = ALRC(num_stddev=3, scale="linear"), Settings(num_stddev=3, scale="linear")
    moments = init(settings)
    for loss in torch.from_numpy(rng.lognormal(size=20_000).astype(np.float32)):
        alrc(loss)
        _, moments = clip(loss, moments, settings)
    assert alrc.num_updates == moments.num_updates == 20_000
    torch.testing.assert_close(alrc.mean, moments.mean, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(alrc.variance, moments.variance, rtol=1e-4, atol=0.0)


def test_the_warning_about_impossible_starts_points_at_the_line_of_the_call() -> None:
    mu1_start_estimate, mu2_start_estimate = 1 * 3, 1.5 * 3
    with pytest.warns(UserWarning, match="mu2_start") as record:
        alrc = ALRC(
            mu1_start=mu1_start_estimate, mu2_start=mu2_start_estimate, num_stddev=3, scale="linear"
        )
    assert [str(warning.message) for warning in record] == [
        "ALRC: mu2_start is the mean squared loss, so it must be at least mu1_start**2 = 9; got "
        "mu1_start=3, mu2_start=4.5. Going on with a variance of 0, which limits most losses until "
        "the moments have caught up. If 4.5 is a standard deviation s, pass "
        "mu2_start=mu1_start**2 + s**2 = 29.25, or leave both out to start automatically."
    ]
    assert record[0].filename == __file__
    for value in torch.rand(100) + 1:
        loss = value.clone().requires_grad_()
        clipped = alrc(loss)
        clipped.backward()
        assert math.isfinite(clipped.item())
        assert 0 < loss.grad <= 1


def test_the_threshold_of_modules_that_are_stacked_is_read_under_vmap() -> None:
    modules = [ALRC(2.0, mu1_start=1.0, mu2_start=float(i + 2), scale="linear") for i in range(3)]
    _, buffers = torch.func.stack_module_state(modules)
    base = copy.deepcopy(modules[0])

    class Reading(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alrc = base

        def forward(self) -> torch.Tensor:
            return self.alrc.threshold

    state = {f"alrc.{name}": value for name, value in buffers.items()}
    call = torch.vmap(lambda state: torch.func.functional_call(Reading(), state, ()))
    assert torch.equal(call(state), torch.stack([module.threshold for module in modules]))
