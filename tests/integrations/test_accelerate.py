"""ALRC in a training loop of accelerate, held to a plain PyTorch loop."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from launching import ACCELERATE, launch
from reference import Reference
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from alrc.torch import ALRC

SETTINGS = {
    "scale": "linear",
    "num_stddev": 1.0,
    "decay": 0.8,
    "mu1_start": 12.0,
    "mu2_start": 200.0,
}
NAMES = ("mean", "variance", "num_updates", "num_losses", "num_clipped", "num_nonfinite")


@pytest.fixture(autouse=True)
def _afresh():
    """Accelerators of one process share their state, with the precision of the first of them."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def data(size: int = 96):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 4, generator=generator)
    y = x.sum(1, keepdim=True)
    y[::7] += 12.0  # outliers
    return TensorDataset(x, y)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.0), torch.nn.Linear(8, 1)
    )


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def prepare(alrc, net, *, batch: int = 2, **options):
    """The recipe: an ALRC on the accelerator's device that is saved and loaded with the rest."""
    options = {"cpu": True, "mixed_precision": "no"} | options
    accelerator = Accelerator(**options)
    alrc.to(accelerator.device)
    accelerator.register_for_checkpointing(alrc)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(data(), batch_size=batch)
    return accelerator, *accelerator.prepare(net, optimizer, loader)


def train(alrc, accelerator, net, optimizer, loader, start: int = 0, stop: int = 24):
    """Batches from ``start`` to ``stop``; parameters and moments after each of them."""
    record = []
    for i, (x, y) in enumerate(loader):
        if not start <= i < stop:
            continue
        with accelerator.accumulate(net):
            loss = mse_loss(net(x), y)
            accelerator.backward(alrc(loss))
            optimizer.step()
            optimizer.zero_grad()
        record.append((flat(net), alrc.to_dict()))
    return record


def oracle(net, *, batch: int = 2, accumulation: int = 1, world: int = 1, autocast: bool = False):
    """The same by hand, with each loss's gradient scaled as the reference says."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    reference, record = Reference(**SETTINGS), []
    chunks = list(DataLoader(data(), batch_size=batch))
    for i in range(24):
        losses = []
        for x, y in chunks[i * world : (i + 1) * world]:  # the ranks' losses are one call
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                prediction = net(x)
            losses.append((prediction.float() - y).square().mean())
        factors = [result.factor for result in reference([loss.item() for loss in losses])]
        pairs = zip(losses, factors, strict=True)
        (sum(loss * factor for loss, factor in pairs) / accumulation / world).backward()
        if (i + 1) % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
        record.append((flat(net), {name: getattr(reference, name) for name in NAMES}))
    return record


def assert_same(ours, theirs, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    """Parameters and moments after each batch; float32 rounding is all that may differ."""
    assert len(ours) == len(theirs) == 24
    for (parameters, moments), (expected, reference) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameters, expected, rtol=rtol, atol=atol)
        assert moments == pytest.approx(reference, rel=rtol, abs=1e-5)
    assert 0 < moments["num_clipped"] < moments["num_losses"]


def test_gradient_is_that_of_a_loop_by_hand() -> None:
    alrc, net = ALRC(**SETTINGS), network()
    expected = oracle(copy.deepcopy(net))
    assert_same(train(alrc, *prepare(alrc, net)), expected)


def test_accumulation_leaves_the_unit_of_the_loss() -> None:
    alrc, net = ALRC(**SETTINGS), network()
    expected = oracle(copy.deepcopy(net), accumulation=3)
    assert_same(train(alrc, *prepare(alrc, net, gradient_accumulation_steps=3)), expected)


def test_mixed_precision_bf16() -> None:
    alrc, net = ALRC(**SETTINGS), network()
    expected = oracle(copy.deepcopy(net), autocast=True)
    record = train(alrc, *prepare(alrc, net, mixed_precision="bf16"))
    # The losses are float32 and the same; gradients meet bfloat16 after the factor, not before.
    assert_same(record, expected, rtol=4e-3, atol=4e-3)
    assert {buffer.dtype for buffer in alrc.buffers()} == {torch.float32, torch.int64}


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path) -> None:
    def dropping():
        net = network()
        net[2].p = 0.3
        return net

    alrc = ALRC(**SETTINGS)
    parts = prepare(alrc, dropping())
    train(alrc, *parts)
    whole = train(alrc, *parts)  # the second epoch

    alrc = ALRC(**SETTINGS)
    parts = prepare(alrc, dropping())
    train(alrc, *parts)
    parts[0].save_state(str(tmp_path / "state"))

    AcceleratorState._reset_state(reset_partial_state=True)  # another process would begin so
    alrc = ALRC(**SETTINGS)
    parts = prepare(alrc, dropping())
    parts[0].load_state(str(tmp_path / "state"))
    rest = train(alrc, *parts)
    assert len(rest) == 24
    for (parameters, moments), (expected, others) in zip(rest, whole, strict=True):
        assert torch.equal(parameters, expected)
        assert moments == others
    assert 0 < moments["num_clipped"] < moments["num_losses"] == 48


def test_metrics_arrive_in_a_tracker(tmp_path, monkeypatch) -> None:
    written = []

    def add_scalar(self, tag, value, global_step) -> None:
        written.append((tag, value, global_step))

    monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
    alrc = ALRC(**SETTINGS)
    parts = prepare(alrc, network(), log_with="tensorboard", project_dir=str(tmp_path))
    accelerator = parts[0]
    accelerator.init_trackers("training")
    means = []
    for step in range(3):
        train(alrc, *parts, start=step, stop=step + 1)
        accelerator.log({"alrc/mean": alrc.mean.item()}, step=step)
        means.append(("alrc/mean", alrc.mean.item(), step))
    accelerator.end_training()
    assert written == means
    assert len({mean for _, mean, _ in means}) == 3


SCRIPT = """
import sys, torch
import test_accelerate as t
from alrc.torch import ALRC

alrc, net = ALRC(**t.SETTINGS, sync=True), t.network()
accelerator, *parts = t.prepare(alrc, net)
assert accelerator.num_processes == 2
record = t.train(alrc, accelerator, *parts)
torch.save(record, f"{sys.argv[1]}/rank{accelerator.process_index}.pt")
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two processes recorded, started as a user would; see launching.py."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(ACCELERATE, SCRIPT, folder, beside=__file__)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_have_the_same_moments_at_each_step(two_ranks) -> None:
    assert len(two_ranks[0]) == len(two_ranks[1]) == 24
    for (parameters, moments), (others, others_moments) in zip(*two_ranks, strict=True):
        assert torch.equal(parameters, others)
        assert moments == others_moments
    assert 0 < moments["num_clipped"] < moments["num_losses"] == 48


def test_two_processes_are_one_with_the_same_global_batch(two_ranks) -> None:
    # The ranks' gradients and moments are summed in another order: float32 rounding.
    assert_same(two_ranks[0], oracle(network(), world=2))
