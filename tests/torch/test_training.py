"""ALRC in training loops of PyTorch, and under torch.func and torch.jit."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from alrc import Settings
from alrc.torch import ALRC, clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


def toy():
    torch.manual_seed(0)
    return nn.Linear(3, 1), torch.randn(12, 3), torch.randn(12, 1) * 10


def test_grad_scaler_changes_neither_parameters_nor_moments() -> None:
    states = []
    for enabled in (False, True):
        net, x, y = toy()
        alrc = ALRC(num_stddev=0.1, warmup=1, scale="linear")
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
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
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


def test_clip_under_vmap_of_grad_is_an_ensemble() -> None:
    settings = Settings(**{**START, "num_stddev": 1.0}, decay=0.9)
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
        self.net, self.alrc = nn.Linear(3, 1), ALRC(**{**START, "num_stddev": 0.5}, decay=0.9)

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


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_jit_trace_bakes_no_number_in(scale) -> None:
    alrc, eager = (ALRC(**{**START, "scale": scale}) for _ in range(2))
    with pytest.warns(DeprecationWarning, match="trace"):
        traced = torch.jit.trace(alrc, torch.tensor(1.0), check_trace=False)
    alrc.reset_parameters()
    for loss in (2.0, 9.0, 9.0):
        torch.testing.assert_close(traced(torch.tensor(loss)), eager(torch.tensor(loss)))
    assert (alrc.num_updates, alrc.num_clipped) == (3, 2)


def test_a_path_that_is_being_compiled_computes_from_copies_of_the_moments(monkeypatch) -> None:
    settings = Settings(**START)
    plain = clip(torch.tensor([8.0, 1.0]), init(settings), settings)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    copied = clip(torch.tensor([8.0, 1.0]), init(settings), settings)
    torch.testing.assert_close(copied, plain, rtol=0.0, atol=0.0)


def test_moments_move_under_bfloat16_losses_and_autocast() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    with torch.autocast("cpu", torch.bfloat16):
        clipped = alrc(torch.tensor([1.5, 9.0], dtype=torch.bfloat16))
    assert clipped.dtype == torch.bfloat16
    assert clipped.tolist() == [1.5, 4.0]
    assert alrc.mean.dtype == torch.float32
    assert alrc.mean.item() == pytest.approx(1 + 0.001 * 1.75, rel=1e-6)


def test_evaluation_returns_the_very_tensor_and_moves_nothing() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
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
