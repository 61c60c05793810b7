"""scale="log" in PyTorch's module: what it shows, its checkpoints, its two roads, and refusals."""

import copy
import math
import pickle
import re

import pytest
import torch

from alrc import Settings, rule
from alrc.integrations.scalars import scalars
from alrc.rule import KINDS, LogMoments, Moments
from alrc.torch import ALRC, clip, init

LOG = {"scale": "log"}
# m = 0 and v = 1, so that the limit is e^3.
STARTS = {**LOG, "num_stddev": 3, "mu1_start": math.exp(0.5), "mu2_start": math.exp(2.0)}
OF_SIGNS = "ignore:(ALRC|clip). loss has numbers below 0:UserWarning"


def trained(**settings) -> ALRC:
    alrc, generator = ALRC(**settings), torch.Generator().manual_seed(0)
    for _ in range(40):
        alrc(torch.empty(8).log_normal_(1.0, 2.0, generator=generator))
    return alrc


def test_what_is_shown_is_in_the_unit_of_the_loss() -> None:
    alrc = ALRC(**STARTS, num_stddev_below=2.0)
    assert alrc.mean.item() == pytest.approx(1.0)  # the geometric mean
    assert alrc.mu1.item() == pytest.approx(math.exp(0.5))
    assert alrc.mu2.item() == pytest.approx(math.exp(2.0))
    assert alrc.threshold.item() == pytest.approx(math.exp(3.0))
    assert alrc.threshold_below.item() == pytest.approx(math.exp(-2.0))
    large = ALRC(**LOG)
    large.load_dict({"geometric_mean": 1e30, "log_variance": 0.0, "num_updates": 3})
    assert (large.mu2.item(), scalars(large)["stddev"].item()) == (math.inf, 0.0)
    logged = scalars(alrc)
    assert logged["mean"].item() == pytest.approx(math.exp(0.5))
    assert logged["stddev"].item() == pytest.approx(math.sqrt(math.exp(2.0) - math.exp(1.0)))
    assert repr(alrc) == (
        "ALRC(num_stddev=3, decay=0.999, mu1_start=1.64872, mu2_start=7.38906, "
        "num_stddev_below=2, center='zero', scale='log', threshold=20.0855)"
    )


def test_starts_of_the_same_size_have_no_spread_and_those_below_warn() -> None:
    assert Settings(mu1_start=2.0, mu2_start=4.0, **LOG).start == (pytest.approx(2.0), 0.0)
    with pytest.warns(UserWarning, match="Going on with a variance of 0"):
        assert Settings(mu1_start=2.0, mu2_start=3.0, **LOG).start == (pytest.approx(2.0), 0.0)
    assert Settings(**LOG).start == (1.0, 0.0)
    mean, variance = Settings(mu1_start=1e-200, mu2_start=1.0, **LOG).start
    assert mean == rule.SMALLEST_MEAN
    assert math.isfinite(variance)


@pytest.mark.parametrize("shape", [(), (1,), (5,)])
def test_the_limit_that_is_shown_is_exactly_what_the_next_outlier_becomes(shape) -> None:
    alrc = trained(**LOG)
    for _ in range(5):
        limit = alrc.threshold
        assert torch.equal(alrc(torch.full(shape, 1e12)), limit.expand(shape))


@pytest.mark.filterwarnings(OF_SIGNS)
@pytest.mark.parametrize("below", [None, 1.0])
def test_the_host_and_tensors_agree(below) -> None:
    settings = {**LOG, "num_stddev": 1.5, "num_stddev_below": below, "decay": 0.97}
    alrc, moments = ALRC(**settings), init(Settings(**settings))
    generator = torch.Generator().manual_seed(0)
    for step in range(300):
        x = torch.empty(() if step % 3 == 0 else (6,)).log_normal_(2.0, 1.5, generator=generator)
        if step % 5 == 0 and x.dim():
            x[0] = [0.0, -2.0, 3e38][step % 3]
        x.requires_grad_()
        value = alrc(x)
        expected, moments = clip(x, moments, Settings(**settings), torch.ones_like(x))
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
        gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (value, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=0)
        torch.testing.assert_close(alrc.mean, moments.mean, rtol=1e-5, atol=0)
        torch.testing.assert_close(alrc.variance, moments.variance, rtol=1e-4, atol=0)
    assert alrc.num_clipped > 30


def test_a_spread_so_wide_that_the_limit_overflows_limits_nothing_and_breaks_nothing() -> None:
    alrc = ALRC(num_stddev=100.0, num_stddev_below=100.0, **LOG)
    alrc.load_dict({"geometric_mean": 1.0, "log_variance": 1e4, "num_updates": 30})
    assert (alrc.threshold.item(), alrc.threshold_below.item()) == (math.inf, 0.0)
    losses = torch.tensor([1e-30, 1.0, 1e38])
    assert torch.equal(alrc(losses), losses)
    narrow = ALRC(num_stddev=100.0, num_stddev_below=0.1, **LOG)
    narrow.load_dict({"geometric_mean": 1.0, "log_variance": 1e4, "num_updates": 30})
    torch.testing.assert_close(narrow(torch.tensor([1e-30, 1.0])), torch.tensor([math.exp(-10), 1]))


@pytest.mark.parametrize("own", ["linear", "log"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_of_the_other_scale_is_refused_in_words(own, strict) -> None:
    other = {"linear": "log", "log": "linear"}[own]
    net = torch.nn.ModuleDict({"alrc": trained(scale=own)})
    before = net["alrc"].to_dict()
    saved = {f"alrc.{name}": x for name, x in trained(scale=other).state_dict().items()}
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(saved, strict=strict)
    name = KINDS[other]._fields[0]
    assert (
        f"ALRC: alrc.{name} and the rest of the state must be that of scale='{own}', because the "
        "moments of losses and those of their logarithms are different numbers; got that of "
        f"scale='{other}'. Pass scale='{other}', or start afresh."
    ) in str(error.value)
    assert net["alrc"].to_dict() == before


def test_names_tell_the_scale_in_every_form_of_the_state() -> None:
    alrc = trained(**LOG)
    names = ["geometric_mean", "log_variance", "num_updates"]
    assert list(alrc.state_dict())[:3] == list(alrc.to_dict())[:3] == names
    linear = ALRC(scale="linear")
    assert list(linear.state_dict())[:3] == ["mean", "variance", "num_updates"]
    assert isinstance(init(Settings(**LOG)), LogMoments)
    assert isinstance(init(linear.settings), Moments)


def test_moments_of_the_other_scale_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="must be") as error:
        clip(torch.ones(2), init(Settings(scale="linear")), Settings(**LOG))
    assert str(error.value) == (
        "clip: the state in moments must be that of scale='log', because the moments of losses "
        "and those of their logarithms are different numbers; got that of scale='linear'. Pass "
        "scale='linear', or start afresh."
    )


def test_a_damaged_checkpoint_is_refused_by_the_name_that_it_has() -> None:
    alrc = trained(**LOG)
    damaged = {**alrc.state_dict(), "geometric_mean": torch.tensor(0.0)}
    words = "ALRC: geometric_mean must be greater than 0 in float32; got 0.0."
    with pytest.raises(RuntimeError, match=re.escape(words)):
        alrc.load_state_dict(damaged)


def test_checkpoints_copies_and_casts_go_on_bit_for_bit() -> None:
    for groups in (None, 1):
        whole = trained(**LOG) if groups is None else ALRC(**LOG, num_groups=1)
        loaded = ALRC(**LOG, num_groups=groups)
        loaded.load_state_dict(copy.deepcopy(whole.state_dict()))
        twins = [loaded, copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))]
        twins.append(copy.deepcopy(whole).half())
        losses = torch.tensor([3.0, 1e5])
        index = None if groups is None else 0
        expected = whole(losses, group=index)
        for twin in twins:
            assert torch.equal(twin(losses, group=index), expected)
            assert twin.to_dict() == whole.to_dict()


def test_memory_that_is_all_0_or_was_written_over_is_told_and_training_starts_afresh() -> None:
    for write in (lambda x: x.zero_(), lambda x: x.fill_(-1.0)):
        alrc = ALRC(**STARTS)
        with torch.no_grad():
            write(alrc.mean)
        alrc._vetted = None
        with pytest.warns(UserWarning, match="Starting afresh"):
            assert alrc(torch.tensor(40.0)).item() == pytest.approx(math.exp(3.0))


def test_a_mean_that_no_losses_have_is_noticed_beneath_a_module_in_use() -> None:
    alrc = ALRC(**STARTS)
    alrc(torch.tensor(2.0))
    alrc.mean.data.fill_(-1.0)
    with pytest.warns(UserWarning, match="Starting afresh"):
        assert alrc(torch.tensor(40.0)).item() == pytest.approx(math.exp(3.0))


@pytest.mark.filterwarnings(OF_SIGNS)
def test_gradients_are_never_nan_whatever_lies_beside() -> None:
    losses = torch.tensor([0.0, -0.0, 1e-45, 1e-38, -1.0, 50.0, math.inf, math.nan])
    for module in (ALRC(**STARTS), ALRC(**STARTS, num_stddev_below=1.0)):
        x = losses.clone().requires_grad_()
        module(x).nan_to_num(0.0, 0.0, 0.0).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_log_scale_in_one_graph_is_that_of_eager() -> None:
    eager, compiled = ALRC(**LOG, warmup=2), ALRC(**LOG, warmup=2)
    call = torch.compile(lambda x: compiled(x), fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        x = torch.empty(4).log_normal_(0.0, 2.0, generator=generator)
        torch.testing.assert_close(call(x), eager(x))
    assert compiled.to_dict() == pytest.approx(eager.to_dict(), rel=1e-5)
