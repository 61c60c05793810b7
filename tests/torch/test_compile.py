"""torch.compile: one graph, no recompilation, and above all the right gradients."""

import copy
import math
import shutil
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import alrc.opaque
import alrc.torch
from alrc.torch import ALRC

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor builds C++ for the CPU, and there is no g++ here"
)
START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
BACKENDS = ["aot_eager", pytest.param("inductor", marks=needs_compiler)]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=False):
        yield
    torch._dynamo.reset()


def steps(net, alrc, call, vector: bool, count: int = 60):
    """Yields the gradients and the state of a model + loss + ALRC after each step."""
    generator = torch.Generator().manual_seed(0)
    for step in range(count):
        x = torch.randn(6, 4, generator=generator)
        y = torch.randn(6, 1, generator=generator) * (5 if step % 5 == 0 else 1)
        net.zero_grad()
        call(net, alrc, x, y, vector).backward()
        yield [p.grad for p in net.parameters()], dict(alrc.state_dict())


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    alrc = ALRC(decay=0.9, num_stddev=1.0, mu1_start=1.0, mu2_start=1.25, scale="linear")
    return net, alrc


def loss_of(net, alrc, x, y, vector):
    loss = (net(x) - y).square().squeeze(1)
    return alrc(loss if vector else loss.mean()).mean()


def compare_with_eager(backend: str, vector: bool) -> int:
    net, alrc = model()
    compiled = torch.compile(loss_of, fullgraph=True, backend=backend)
    eager = steps(*model(), loss_of, vector)
    pairs = zip(steps(net, alrc, compiled, vector), eager, strict=True)
    for (gradients, state), (expected, expected_state) in pairs:
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=0.0)
    return int(alrc.num_clipped)


# Inductor itself calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vector", [False, True])
def test_model_loss_and_alrc_in_one_graph_have_the_gradients_of_eager(backend, vector) -> None:
    assert compare_with_eager(backend, vector) > 10


# Dynamo itself looks at what the warning is of, and keeps it from users.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("vector", [False, True])
def test_a_module_that_is_compiled_alone_has_the_gradients_of_eager(vector) -> None:
    net, alrc = model()
    alrc.compile(fullgraph=True, backend="aot_eager")
    pairs = zip(steps(net, alrc, loss_of, vector), steps(*model(), loss_of, vector), strict=True)
    for (gradients, state), (expected, expected_state) in pairs:
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=0.0)
    assert alrc.num_clipped > 10


RECOMPUTES = "ALRC: a loss must meet ALRC once, in the forward pass; got a call during the backward"


@pytest.mark.parametrize("budget", [0.5, 0.01, 0.0])
@pytest.mark.parametrize("vector", [False, True])
def test_a_compiler_short_of_memory_is_right_or_refused_in_words(budget, vector) -> None:
    with torch._functorch.config.patch(activation_memory_budget=budget):
        try:
            compare_with_eager("aot_eager", vector)
            outcome = "right"
        except RuntimeError as error:
            outcome = "refused" if RECOMPUTES in str(error) else str(error)
    assert outcome in (("refused",) if budget == 0 else ("right", "refused"))


def test_without_the_snapshot_the_gradients_are_wrong_and_this_test_sees_it(monkeypatch) -> None:
    monkeypatch.setattr(alrc.opaque, "snapshot", lambda x: x)
    budget = torch._functorch.config.patch(activation_memory_budget=0.5)
    with budget, pytest.raises(AssertionError, match="Tensor-likes are not close"):
        compare_with_eager("aot_eager", vector=True)


@pytest.mark.parametrize("outside", [False, True], ids=["inside the graph", "around the graph"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_activation_checkpointing_of_compiled_losses_is_refused_in_words(outside, shape) -> None:
    alrc = ALRC(decay=0.5, **START)

    def limited(x):
        return alrc(x**3).square().sum()

    if outside:
        compiled = torch.compile(limited, fullgraph=True, backend="aot_eager")
        call = partial(checkpoint, compiled, use_reentrant=False)
    else:
        call = torch.compile(
            partial(checkpoint, limited, use_reentrant=False), fullgraph=True, backend="aot_eager"
        )
    loss = call(torch.full(shape, 3.0, requires_grad=True))
    with pytest.raises(RuntimeError, match=RECOMPUTES):
        loss.backward()
    assert alrc.num_updates == 1


def test_memory_that_nothing_has_set_is_mended_inside_a_graph() -> None:
    alrc = ALRC(**START)
    compiled = torch.compile(alrc, fullgraph=True, backend="aot_eager")
    for name in ("mean", "variance"):
        alrc._buffers[name] = torch.full((), math.nan)
    assert compiled(torch.tensor([8.0, 1.0])).tolist() == [4.0, 1.0]
    assert alrc.to_dict() == pytest.approx(fresh_after([8.0, 1.0]))


def test_moments_of_another_dtype_are_refused_inside_a_graph() -> None:
    alrc = ALRC(**START)
    alrc._buffers["mean"].data = alrc._buffers["mean"].data.bfloat16()
    compiled = torch.compile(alrc, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="its moments must be float32") as error:
        compiled(torch.tensor([8.0, 1.0]))
    assert "Call alrc once in training before it is compiled" in str(error.value)


def test_what_is_refused_inside_a_graph_is_refused_in_these_words(monkeypatch) -> None:
    alrc = ALRC(**START)
    alrc._buffers["mean"].data = alrc._buffers["mean"].data.bfloat16()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(RuntimeError) as error:
        alrc(torch.tensor([8.0, 1.0]))
    assert str(error.value) == (
        "ALRC: its moments must be float32, in which they can move, and its counts int64; got "
        "{'mean': torch.bfloat16}. Call alrc once in training before it is compiled, which mends "
        "them, or take it out of that cast."
    )


def test_where_a_graph_is_made_the_state_is_looked_at_in_it(monkeypatch) -> None:
    alrc = ALRC(**START)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    alrc._buffers["mean"].fill_(math.nan)
    assert alrc(torch.tensor([8.0, 1.0])).tolist() == [4.0, 1.0]
    monkeypatch.undo()
    assert alrc.to_dict() == pytest.approx(fresh_after([8.0, 1.0]))


def fresh_after(losses: list[float]) -> dict[str, float]:
    alrc = ALRC(**START)
    alrc(torch.tensor(losses))
    return alrc.to_dict()


def test_the_second_call_compiles_nothing() -> None:
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    alrc = ALRC(num_stddev=3, scale="linear")
    compiled = torch.compile(alrc, fullgraph=True, backend=backend)
    for value in (1.0, 2.0, float("nan"), 1e9, 0.0) * 5:
        compiled(torch.tensor([value, 1.0]))
    assert len(graphs) == 1
    assert alrc.num_updates == 25


def test_a_mask_compiles_too() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    eager = copy.deepcopy(alrc)
    compiled = torch.compile(alrc, fullgraph=True, backend="aot_eager")
    loss, mask = torch.tensor([8.0, 9.0, 1.0]), torch.tensor([True, False, True])
    assert torch.equal(compiled(loss, mask), eager(loss, mask))
    torch.testing.assert_close(dict(alrc.state_dict()), dict(eager.state_dict()))


def test_the_threshold_can_be_read_inside_a_graph() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")

    def call(loss):
        threshold = alrc.threshold
        return alrc(loss), threshold

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert compiled(torch.tensor([8.0, 1.0]))[1] == 4.0


def test_evaluation_compiles_to_the_identity() -> None:
    alrc = ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear").eval()
    compiled = torch.compile(alrc, fullgraph=True, backend="aot_eager")
    assert compiled(torch.tensor([8.0, 1.0])).tolist() == [8.0, 1.0]
    assert alrc.num_updates == 0


def test_an_ensemble_compiles_under_vmap() -> None:
    models = [ALRC(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear") for _ in range(3)]
    _, buffers = torch.func.stack_module_state(models)

    def call(buffers, losses):
        return torch.func.functional_call(models[0], buffers, (losses,))

    compiled = torch.compile(torch.vmap(call), fullgraph=True, backend="aot_eager")
    losses = torch.tensor([[1.0, 2.0], [1.0, 8.0], [9.0, 8.0]])
    assert compiled(buffers, losses).tolist() == [[1.0, 2.0], [1.0, 4.0], [4.0, 4.0]]
    assert buffers["num_clipped"].tolist() == [0, 1, 2]


def test_snapshot_is_a_sound_operator() -> None:
    assert set(torch.library.opcheck(alrc.opaque.snapshot, (torch.ones(3),)).values()) == {
        "SUCCESS"
    }
