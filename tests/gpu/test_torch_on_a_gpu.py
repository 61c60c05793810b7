"""What only a GPU can show of alrc.torch: no wait for it, CUDA graphs, and the CPU's numbers."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from alrc.torch import ALRC

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: make gpu there")
STEPS, SIZE = 40, 16
START = {"mu1_start": 1.0, "mu2_start": 2.0}


class Case(NamedTuple):
    """Settings, and what is given beside losses of a shape and dtype."""

    settings: dict[str, Any]
    shape: tuple[int, ...] = (SIZE,)
    beside: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32


CASES = {
    "one loss": Case({}, ()),
    "losses": Case({}),
    "one loss, linear": Case({"scale": "linear", "num_stddev": 1, **START}, ()),
    "losses, linear": Case({"scale": "linear", "num_stddev": 1, **START}),
    "both sides": Case({"num_stddev": 1, "num_stddev_below": 1.5}),
    "about the mean": Case({"scale": "linear", "num_stddev": 1, "center": "mean"}),
    "masked": Case({"num_stddev": 1}, beside=("mask",)),
    "weighted": Case({"num_stddev": 1}, beside=("weights",)),
    "groups": Case({"num_stddev": 1, "num_groups": 3}, beside=("group",)),
    "one group": Case({"num_stddev": 1, "num_groups": 3}, beside=("number",)),
    "bfloat16": Case({"num_stddev": 1}, dtype=torch.bfloat16),
    "float16": Case({"num_stddev": 1}, dtype=torch.float16),
}


@contextmanager
def waits_are_errors() -> Iterator[None]:
    """In here nothing may wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def feed(case: Case, device: str) -> list[tuple[Tensor, dict[str, Any]]]:
    """Losses with spikes, and what belongs to them; the same on each device."""
    random = torch.Generator().manual_seed(0)
    made = []
    for step in range(STEPS):
        losses = torch.rand(case.shape, generator=random) + 0.1
        losses = losses * (30 if step % 7 == 6 else 1)
        numbers = torch.rand(case.shape, generator=random)
        beside = {
            "mask": {"mask": (numbers < 0.8).to(device)},
            "weights": {"mask": numbers.to(device)},
            "group": {"group": (numbers * 3).long().to(device)},
            "number": {"group": step % 3},
        }
        kept = {k: v for name in case.beside for k, v in beside[name].items()}
        made.append((losses.to(device, case.dtype), kept))
    return made


def step(alrc: ALRC, losses: Tensor, beside: dict[str, Any]) -> Tensor:
    """One forward and backward pass; the gradient of each loss."""
    losses = losses.detach().requires_grad_()
    alrc(losses, **beside).float().sum().backward()
    assert losses.grad is not None
    return losses.grad


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_for_the_gpu(name: str) -> None:
    case, alrc = CASES[name], ALRC(**CASES[name].settings, device="cuda")
    first, *others = feed(case, "cuda")
    step(alrc, *first)  # looks once at the signs of losses
    with waits_are_errors():
        for losses, beside in others:
            step(alrc, losses, beside)
    assert alrc.num_updates.max() > 10
    assert alrc.num_clipped.sum() > 0
    with waits_are_errors(), pytest.raises(RuntimeError, match="synchronizing"):
        alrc.num_clipped.sum().item()  # reading is the wait there is, and this test sees it


@pytest.mark.parametrize("name", CASES)
def test_state_and_gradients_are_those_of_the_cpu_at_every_step(name: str) -> None:
    case = CASES[name]
    here, there = ALRC(**case.settings, device="cpu"), ALRC(**case.settings, device="cuda")
    # A number in half precision may be rounded to either neighbour.
    close = {
        torch.float32: {"rtol": 1e-5, "atol": 1e-6},
        torch.bfloat16: {"rtol": 2**-7, "atol": 1e-6},
        torch.float16: {"rtol": 2**-10, "atol": 1e-6},
    }[case.dtype]
    for of_cpu, of_gpu in zip(feed(case, "cpu"), feed(case, "cuda"), strict=True):
        expected, got = step(here, *of_cpu), step(there, *of_gpu)
        torch.testing.assert_close(got.cpu(), expected, **close)
        state = {name: x.cpu() for name, x in there.state_dict().items()}
        torch.testing.assert_close(state, dict(here.state_dict()), rtol=2e-5, atol=1e-6)
    assert here.num_clipped.sum() > 0


# A graph would keep the number of the group that it was captured with.
@pytest.mark.parametrize("name", [name for name in CASES if name != "one group"])
def test_a_cuda_graph_has_the_state_and_gradients_of_eager_at_every_step(name: str) -> None:
    case = CASES[name]
    eager, alrc = (ALRC(**case.settings, device="cuda") for _ in range(2))
    examples = feed(case, "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as PyTorch asks for before a capture
        for example in examples[:3]:
            step(alrc, *example)
    torch.cuda.current_stream().wait_stream(stream)
    losses = examples[0][0].clone().requires_grad_()
    beside = {k: v.clone() for k, v in examples[0][1].items()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        alrc(losses, **beside).float().sum().backward()
    for example in examples[:3]:
        step(eager, *example)
    for values, others in examples[3:]:
        with torch.no_grad():
            losses.copy_(values)
        for key, value in others.items():
            beside[key].copy_(value)
        graph.replay()
        expected = step(eager, values, others)
        torch.testing.assert_close(losses.grad, expected, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(
            dict(alrc.state_dict()), dict(eager.state_dict()), rtol=1e-6, atol=1e-7
        )
    assert alrc.num_clipped.sum() > 0


def regression(device: str) -> tuple[nn.Module, ALRC]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)
    return net, ALRC(num_stddev=1.0, decay=0.9, warmup=2).to(device)


def squares(net: nn.Module, alrc: ALRC, x: Tensor, y: Tensor) -> Tensor:
    limited: Tensor = alrc((net(x) - y).square().squeeze(1))
    return limited.mean()


def points(device: str, steps: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    for step in range(steps):
        y = torch.randn(6, 1, generator=random) * (8 if step % 5 == 4 else 1)
        yield torch.randn(6, 4, generator=random).to(device), y.to(device)


# Inductor itself calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", ["the module", "the step", "the step, overhead reduced"])
def test_what_is_compiled_has_the_gradients_and_state_of_eager(what: str) -> None:
    torch._dynamo.reset()
    net, alrc = regression("cuda")
    twin = copy.deepcopy((net, alrc))
    compiled = squares
    if what == "the module":
        alrc.compile(fullgraph=True)
    else:
        mode = "reduce-overhead" if "reduced" in what else "default"
        compiled = torch.compile(squares, fullgraph=True, mode=mode)
    for x, y in points("cuda"):
        torch.compiler.cudagraph_mark_step_begin()
        net.zero_grad(), twin[0].zero_grad()
        compiled(net, alrc, x, y).backward()
        squares(*twin, x, y).backward()
        got, expected = ([p.grad for p in n.parameters()] for n in (net, twin[0]))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            dict(alrc.state_dict()), dict(twin[1].state_dict()), rtol=1e-4, atol=1e-6
        )
    assert alrc.num_clipped > 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_scales_gradients_of_outliers(dtype: torch.dtype) -> None:
    """Of one example a step, the gradient is the plain one times limit / loss."""
    net, alrc = regression("cuda")
    scaler = torch.amp.GradScaler("cuda", 256.0, enabled=dtype == torch.float16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    factors = []
    for x, y in points("cuda"):
        gradients = []
        for limit in (lambda loss: loss, alrc):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype):
                loss = nn.functional.mse_loss(net(x[:1]), y[:1])
            factor = min(1.0, (alrc.threshold / loss).item())
            scaler.scale(limit(loss)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        torch.testing.assert_close(gradients[1], factor * gradients[0], rtol=2e-2, atol=1e-3)
        factors.append(factor)
    assert min(factors) < 0.5 < max(factors)


def test_training_goes_on_where_the_module_is_moved_to() -> None:
    moved, stays = ALRC(), ALRC()
    for number, (losses, _) in enumerate(feed(CASES["losses"], "cpu")):
        device = "cuda" if number // 10 % 2 else "cpu"
        moved.to(device)
        gradient = step(moved, losses.to(device), {})
        torch.testing.assert_close(gradient.cpu(), step(stays, losses, {}), rtol=1e-5, atol=1e-6)
    fresh = ALRC()
    fresh.load_state_dict(moved.state_dict())  # saved on one device, loaded on another
    assert fresh.mean.device.type == "cpu"
    torch.testing.assert_close(dict(fresh.state_dict()), dict(stays.state_dict()))


def test_a_loss_on_another_device_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"got a loss on cuda:0 and moments on cpu"):
        ALRC()(torch.ones(3, device="cuda"))
    with pytest.raises(ValueError, match=r"got a loss on cpu and moments on cuda:0"):
        ALRC(device="cuda")(torch.ones(3))


def test_losses_below_zero_are_told_of_by_the_first_call_alone() -> None:
    alrc, losses = ALRC(device="cuda"), -torch.ones(3, device="cuda")
    with pytest.warns(UserWarning, match="below 0"):
        step(alrc, losses, {})
    with waits_are_errors():
        step(alrc, losses, {})
    assert alrc.num_nonfinite == 6
