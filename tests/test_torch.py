"""ALRC as a citizen of PyTorch."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from frontends import gradient_factors
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from alrc import Settings
from alrc.torch import ALRC, Moments, clip, init

START = {"mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


# The call


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
        alrc = ALRC()
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
    assert ALRC().threshold == math.inf
    assert ALRC().threshold_below == -math.inf
    assert all(x.dtype == torch.float32 and x.shape == () for x in history)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_threshold_is_exactly_what_the_next_outlier_becomes(shape) -> None:
    torch.manual_seed(0)
    alrc = ALRC(num_stddev=1.7, decay=0.9, **START)
    for _ in range(200):
        alrc(torch.rand(shape))
        threshold = alrc.threshold
        assert torch.equal(copy.deepcopy(alrc)(torch.full(shape, 9.0)), threshold.expand(shape))


def test_repr_shows_settings_and_the_current_limit() -> None:
    assert repr(ALRC()) == (
        "ALRC(num_stddev=3, decay=0.999, warmup=10, center='zero', threshold=inf)"
    )
    assert repr(ALRC(2, 0.9, **START, num_stddev_below=1)) == (
        "ALRC(num_stddev=2, decay=0.9, mu1_start=1, mu2_start=2, num_stddev_below=1, "
        "center='zero', threshold=3)"
    )
    assert repr(ALRC(device="meta")).endswith("threshold=?)")


# Devices, memory, construction


def test_meta_device_then_to_empty_then_reset_parameters_is_a_fresh_start() -> None:
    with torch.device("meta"):
        alrc = ALRC(**START)
    assert all(buffer.is_meta for buffer in alrc.buffers())
    alrc.threshold  # noqa: B018 - can be asked for, though it has no value yet
    alrc = alrc.to_empty(device="cpu")
    alrc.reset_parameters()
    assert alrc.state_dict() == ALRC(**START).state_dict()


def test_losses_on_the_meta_device_take_the_path_of_accelerators() -> None:
    alrc = ALRC(device="meta")
    assert alrc(torch.empty(3, device="meta")).shape == (3,)


def test_a_checkpoint_on_the_meta_device_is_not_looked_into() -> None:
    alrc = ALRC(device="meta")
    alrc.load_state_dict(ALRC(device="meta").state_dict())
    assert alrc.mean.is_meta


def test_init_takes_a_device() -> None:
    assert all(moment.is_meta for moment in init(Settings(), device="meta"))


def test_moving_and_casting_at_once_moves_the_state_only() -> None:
    alrc = ALRC().to("meta", torch.bfloat16)
    assert all(buffer.is_meta for buffer in alrc.buffers())
    assert alrc.mean.dtype == torch.float32


def test_moments_of_the_pure_function_can_be_saved_without_pickled_classes(tmp_path) -> None:
    moments = init(Settings(**START))
    torch.save(tuple(moments), tmp_path / "moments.pt")
    assert Moments(*torch.load(tmp_path / "moments.pt", weights_only=True)) == moments


def test_assign_true_keeps_dtypes_and_buffers() -> None:
    alrc, other = ALRC(**START), ALRC(**START)
    state = {name: x.double() for name, x in other.state_dict().items()}
    state["mean"] = nn.Parameter(state["mean"])
    alrc.load_state_dict(state, assign=True)
    assert alrc(torch.tensor(8.0)) == 4.0
    alrc.load_state_dict(state, assign=True)
    assert alrc.mean == 1.0
    assert [x.dtype for x in alrc.buffers()] == [torch.float32] * 2 + [torch.int64] * 4


def test_made_in_inference_mode_it_can_be_trained_later() -> None:
    with torch.inference_mode():
        alrc = ALRC(**START)
    assert alrc(torch.tensor([8.0, 1.0])).tolist() == [4.0, 1.0]
    assert alrc.num_updates == 1


def test_shared_memory_is_moved_in_place() -> None:
    alrc = ALRC(**START).share_memory()
    address = alrc.mean.data_ptr()
    alrc(torch.tensor(8.0))
    alrc(torch.tensor([8.0, math.nan]))
    assert alrc.mean.is_shared()
    assert alrc.mean.data_ptr() == address


def test_default_dtype_does_not_reach_the_state() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        alrc = ALRC(**START)
        for loss in (torch.tensor(8.0), torch.tensor([8.0, 1.0]), torch.tensor([8.0, math.nan])):
            assert alrc(loss.float()).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert alrc.mean.dtype == torch.float32


# Training


def toy():
    torch.manual_seed(0)
    return nn.Linear(3, 1), torch.randn(12, 3), torch.randn(12, 1) * 10


def test_grad_scaler_changes_neither_parameters_nor_moments() -> None:
    states = []
    for enabled in (False, True):
        net, x, y = toy()
        alrc = ALRC(num_stddev=0.1, warmup=1)
        optimizer = torch.optim.SGD(net.parameters(), 2.0**-7)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        for rows in range(12):
            loss = alrc((net(x[rows]) - y[rows]).square().mean())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        states.append([*net.state_dict().values(), *alrc.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert alrc.num_clipped > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_right_gradients(dtype) -> None:
    net, x, y = toy()
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    with torch.autocast("cpu", dtype):
        prediction = net(x)
        raw = (prediction - y.to(dtype)).square().flatten()  # hand-written: half precision
        assert raw.dtype == dtype
        loss = alrc(raw)
    (ours,) = torch.autograd.grad(loss.float().mean(), net.weight, retain_graph=True)
    factor = (4.0 / raw.detach().float()).clamp(max=1.0)
    (expected,) = torch.autograd.grad((raw.float() * factor).mean(), net.weight)
    assert (factor < 1).any()
    torch.testing.assert_close(ours, expected, rtol=2e-2, atol=1e-3)  # half precision upstream


def test_accumulated_gradients_are_those_of_the_clipped_micro_batches() -> None:
    net, x, y = toy()
    alrc, expected = ALRC(**START), torch.zeros(1, 3)
    for rows in range(0, 12, 4):
        loss = (net(x[rows : rows + 4]) - y[rows : rows + 4]).square().mean()
        factor = (alrc.threshold / loss.detach()).clamp(max=1.0)
        expected += torch.autograd.grad(loss * factor / 3, net.weight, retain_graph=True)[0]
        (alrc(loss) / 3).backward()
    torch.testing.assert_close(net.weight.grad, expected)
    assert alrc.num_updates == 3
    assert alrc.num_clipped > 0


# torch.func


def test_clip_under_vmap_of_grad_is_an_ensemble() -> None:
    settings = Settings(num_stddev=1.0, decay=0.9, **START)
    weights, data = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[1.0, 2.0]] * 3)

    def loss_of(weight, x, moments):
        losses, moments = clip(weight * x, moments, settings)
        return losses.sum(), moments

    stacked = type(init(settings))(*(moment.expand(3) for moment in init(settings)))
    gradients, moments = vmap(grad(loss_of, has_aux=True))(weights, data, stacked)
    for index in range(3):
        gradient, alone = grad(loss_of, has_aux=True)(weights[index], data[index], init(settings))
        assert gradients[index] == gradient
        assert all(a[index] == b for a, b in zip(moments, alone, strict=True))
    assert gradients.tolist() == [3.0, 2.0, pytest.approx(1 / 3 * 1 * 2 + 2 / 6 * 2, rel=1e-6)]


class Clipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.alrc = nn.Linear(3, 1), ALRC(num_stddev=0.5, decay=0.9, **START)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.alrc(self.net(x).square().flatten() * 10).sum()


def test_module_under_vmap_of_functional_call_is_an_ensemble() -> None:
    torch.manual_seed(0)
    models, x = [Clipped() for _ in range(3)], torch.randn(3, 5, 3)
    parameters, buffers = stack_module_state(models)

    def loss_of(parameters, buffers, x):
        return functional_call(models[0], (parameters, buffers), (x,))

    gradients = vmap(grad(loss_of))(parameters, buffers, x)
    for index, model in enumerate(models):
        model(x[index]).backward()
        torch.testing.assert_close(gradients["net.weight"][index], model.net.weight.grad)
        torch.testing.assert_close(buffers["alrc.mean"][index], model.alrc.mean)
        assert buffers["alrc.num_clipped"][index] == model.alrc.num_clipped
    assert sum(int(model.alrc.num_clipped) for model in models) > 0


@pytest.mark.parametrize("loss", [8.0, [8.0, 1.0]])
def test_module_under_func_grad_with_its_buffers_passed_in(loss) -> None:
    alrc, loss = ALRC(**START), torch.tensor(loss)
    buffers = {name: buffer.clone() for name, buffer in alrc.named_buffers()}
    gradient = grad(lambda x, b: functional_call(alrc, b, (x,)).sum())(loss, buffers)
    assert gradient.flatten()[0] == 0.5
    assert buffers["num_clipped"] == 1
    assert alrc.num_clipped == 0


def test_jit_trace_bakes_no_number_in() -> None:
    alrc = ALRC(**START)
    with pytest.warns(DeprecationWarning, match="trace"):
        traced = torch.jit.trace(alrc, torch.tensor(1.0), check_trace=False)
    alrc.reset_parameters()
    eager = ALRC(**START)
    for loss in (2.0, 8.0, 8.0):
        torch.testing.assert_close(traced(torch.tensor(loss)), eager(torch.tensor(loss)))
    assert (alrc.num_updates, alrc.num_clipped) == (3, 2)


def test_a_path_that_is_being_compiled_computes_from_copies_of_the_moments(monkeypatch) -> None:
    settings = Settings(**START)
    plain = clip(torch.tensor([8.0, 1.0]), init(settings), settings)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    copied = clip(torch.tensor([8.0, 1.0]), init(settings), settings)
    torch.testing.assert_close(copied, plain, rtol=0.0, atol=0.0)


def test_host_and_tensor_path_have_the_same_gradients() -> None:
    losses = [0.5, 8.0, 4.0, 1e20]
    settings = Settings(**START)
    host = gradient_factors(ALRC(**START), losses)
    pure = gradient_factors(lambda x: clip(x, init(settings), settings)[0], losses)
    assert host == pure


def test_the_module_on_the_host_agrees_with_the_tensor_path_over_20_000_steps() -> None:
    rng = np.random.default_rng(1)
    alrc, settings = ALRC(), Settings()
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
        alrc = ALRC(mu1_start=mu1_start_estimate, mu2_start=mu2_start_estimate)
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


# Casts, modes, checkpoints


CASTS = {
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "double": lambda m: m.double(),
    "bfloat16 and device": lambda m: m.to("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_moments_stay_float32_whatever_is_done_to_the_model(cast) -> None:
    model = nn.Sequential(nn.Linear(2, 2), ALRC(mu1_start=1 / 3, mu2_start=2 / 3))
    before = {name: x.clone() for name, x in model[1].state_dict().items()}
    alrc = CASTS[cast](model)[1]
    assert model[0].weight.dtype != torch.float32
    for name, value in alrc.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_moments_move_under_bfloat16_losses_and_autocast() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        clipped = alrc(torch.tensor([1.5, 9.0], dtype=torch.bfloat16))
    assert clipped.dtype == torch.bfloat16
    assert clipped.tolist() == [1.5, 4.0]
    assert alrc.mean.dtype == torch.float32
    assert alrc.mean.item() == pytest.approx(1 + 0.001 * 1.75, rel=1e-6)


def test_evaluation_returns_the_very_tensor_and_moves_nothing() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    before = copy.deepcopy(alrc.state_dict())
    loss = torch.tensor([0.5, 1e9, math.nan], requires_grad=True)
    alrc.eval()
    assert alrc(loss) is loss
    alrc.train()
    with torch.no_grad():
        assert alrc(loss) is loss
    with torch.inference_mode():
        assert alrc(loss) is loss
    assert alrc.state_dict() == before


def training(seed: int):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    alrc = ALRC(num_stddev=1.0, decay=0.9)
    return net, alrc, torch.optim.Adam(net.parameters(), 0.01)


def train(net, alrc, optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 3, generator=generator)
        loss = alrc((net(x) - x.sum(1, keepdim=True)).pow(4).mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_resumed_from_a_state_dict_is_bit_for_bit_the_uninterrupted_run() -> None:
    whole = train(*training(0), range(100))
    first = training(0)
    losses = train(*first, range(50))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = training(1)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert losses + train(*second, range(50, 100)) == whole
    assert second[1].num_clipped > 0


DAMAGED = {
    "nan mean": ("mean", torch.tensor(math.nan), "finite in float32; got nan"),
    "infinite mean": ("mean", torch.tensor(-math.inf), "finite in float32; got -inf"),
    "overflowing mean": ("mean", torch.tensor(1e60).double(), None),
    "negative variance": ("variance", torch.tensor(-0.5), "at least 0; got -0.5"),
    "nan variance": ("variance", torch.tensor(math.nan), "finite in float32; got nan"),
    "shape": ("mean", torch.ones(2), "a real tensor of shape (); got shape (2,)"),
    "no tensor": ("mean", 3.0, "a real tensor of shape (); got 3.0"),
    "negative count": ("num_losses", torch.tensor(-1), "a count, 0 or more, in int64; got -1"),
    "count beyond int64": (
        "num_updates",
        torch.tensor(2.0**63),
        "a count, 0 or more, in int64; got 9.223372036854776e+18",
    ),
    "complex": ("mean", torch.tensor(1 + 1j), "a real tensor of shape (); got shape ()"),
    "fraction": ("num_updates", torch.tensor(1.5), "a count, 0 or more, in int64; got 1.5"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_checkpoint_is_refused_in_words_and_nothing_is_taken_over(case) -> None:
    name, value, problem = DAMAGED[case]
    model = nn.ModuleDict({"alrc": ALRC(mu1_start=1.0, mu2_start=2.0)})
    before = copy.deepcopy(model.state_dict())
    damaged = ALRC(mu1_start=5.0, mu2_start=26.0).state_dict(prefix="alrc.") | {
        f"alrc.{name}": value
    }
    problem = problem or f"finite in float32; got {value.item()}"
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(damaged)
    assert str(error.value) == (
        "Error(s) in loading state_dict for ModuleDict:\n\t"
        f"ALRC: alrc.{name} must be {problem}. The checkpoint is damaged or not one of ALRC's: "
        "load another, or remove ALRC's keys from it and load it with strict=False to start "
        "afresh."
    )
    assert model.state_dict() == before


def test_a_checkpoint_with_only_half_the_state_is_not_taken_over() -> None:
    alrc, other = ALRC(mu1_start=1.0, mu2_start=2.0), ALRC(mu1_start=5.0, mu2_start=26.0)
    half = {"mean": other.mean}
    with pytest.raises(RuntimeError, match=r'Missing key.*"variance", "num_updates"'):
        alrc.load_state_dict(half)
    result = alrc.load_state_dict(half | {"mu1": other.mean}, strict=False)
    assert result.unexpected_keys == ["mu1"]
    missing = result.missing_keys
    assert missing == ["variance", "num_updates", "num_losses", "num_clipped", "num_nonfinite"]
    assert alrc.mean == 1.0


def test_state_keeps_structure_shapes_dtypes_and_device_for_losses_of_any_dtype_and_shape() -> None:
    alrc, settings = ALRC(), Settings()
    moments = init(settings)

    def structure(state) -> list:
        return [(name, x.shape, x.dtype, x.device) for name, x in state.items()]

    first = structure(alrc.state_dict()), structure(moments._asdict())
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((), (1,), (0,), (2, 3)):
            for loss in (torch.ones(shape), torch.full(shape, math.nan), torch.zeros(shape)):
                alrc(loss.to(dtype))
                _, moments = clip(loss.to(dtype), moments, settings)
                assert (structure(alrc.state_dict()), structure(moments._asdict())) == first


def test_pickle_and_deepcopy_continue_with_the_same_numbers() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0)
    alrc(torch.tensor(3.0))
    twins = copy.deepcopy(alrc), pickle.loads(pickle.dumps(alrc))
    expected = [alrc(torch.tensor(loss)) for loss in (2.0, 9.0, 9.0)]
    for twin in twins:
        assert twin.settings == alrc.settings
        assert twin.num_losses == 1
        assert [twin(torch.tensor(loss)) for loss in (2.0, 9.0, 9.0)] == expected
        assert twin.state_dict() == alrc.state_dict()
