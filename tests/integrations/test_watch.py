"""Watching ALRC: scalars and spikes of real training, as the oracle has them."""

import math

import pytest
import torch
from torch import nn
from watching import (
    BROKEN,
    OUTLIERS,
    START,
    Memory,
    Net,
    Oracle,
    assert_same_scalars,
    assert_same_spikes,
    key,
    train,
)

from alrc.integrations.loggers import Spike, Watch, read_spikes
from alrc.torch import ALRC

# Real training


@pytest.mark.parametrize("settings", [{}, {"center": "mean"}, {"num_stddev_below": 2.5}])
def test_the_spike_log_names_exactly_the_planted_examples(tmp_path, settings) -> None:
    settings = {"decay": 0.98, "num_stddev": 4.0, "scale": "linear", **settings}
    alrc, log = ALRC(**settings), Memory()
    with Watch(alrc, log, every=25, spikes=tmp_path / "spikes.csv") as watch:
        seen = train(alrc, watch)
    calls = [
        (losses, {"keys": [key(step, place) for place in range(8)]})
        for step, losses in enumerate(seen)
    ]
    spikes, scalars = Oracle(**settings).run(calls, every=25)
    assert_same_spikes(read_spikes(tmp_path / "spikes.csv"), spikes)
    assert_same_scalars(log, scalars)
    planted = {key(*place) for place in OUTLIERS | BROKEN.keys()}
    if "num_stddev_below" not in settings:
        assert [spike.key for spike in spikes] == sorted(planted)
    assert sum(math.isfinite(spike.loss) for spike in spikes) == alrc.num_clipped
    assert [step for step, _ in log] == [25, 50, 60]


def test_watched_training_is_bit_for_bit_the_unwatched(tmp_path) -> None:
    runs = []
    for watched in (False, True):
        alrc, net = ALRC(decay=0.98, num_stddev=3, scale="linear"), Net()
        with Watch(alrc, Memory(), every=7, spikes=tmp_path / "spikes.csv") as watch:
            watch = watch if watched else watch.close()
            train(alrc, watch, net=net)
        runs.append([*net.parameters(), *alrc.buffers()])
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
    assert len(read_spikes(tmp_path / "spikes.csv")) >= len(OUTLIERS)


def test_groups_have_scalars_and_spikes_of_their_own(tmp_path) -> None:
    settings = {"decay": 0.9, "num_groups": 3, "num_stddev": 2.0, "center": "mean"}
    settings["scale"] = "linear"
    alrc, log = ALRC(**settings), Memory()
    random, calls = torch.Generator().manual_seed(0), []
    with Watch(alrc, log, every=10, spikes=tmp_path / "spikes.csv"):
        for step in range(40):
            group = torch.randint(0, 3 if step > 4 else 2, (8,), generator=random)
            losses = torch.rand(8, generator=random) + 10 * group
            losses[step % 8] += 5.0 * (step % 3 == 0)
            losses[3] = math.nan if step == 22 else losses[3]
            if step % 4 == 3:  # one number for all
                group = 2
            alrc(losses, group=group)
            index = [group] * 8 if isinstance(group, int) else group.tolist()
            calls.append((losses.tolist(), {"group": index}))
    spikes, scalars = Oracle(**settings).run(calls, every=10)
    assert {spike.group for spike in spikes} == {0, 1, 2}
    assert_same_spikes(read_spikes(tmp_path / "spikes.csv"), spikes)
    assert_same_scalars(log, scalars)


def test_masked_losses_are_in_neither_log(tmp_path) -> None:
    settings = {"decay": 0.9, "num_stddev": 2.0, "scale": "linear"}
    alrc, log = ALRC(**settings), Memory()
    random, calls = torch.Generator().manual_seed(0), []
    with Watch(alrc, log, every=8, spikes=tmp_path / "spikes.csv"):
        for step in range(30):
            losses = torch.rand(2, 3, generator=random)
            mask = torch.rand(2, 3, generator=random) * (torch.arange(6).reshape(2, 3) % 3 > 0)
            losses[0, 0], losses[1, step % 3] = math.nan, 9.0
            alrc(losses, mask) if step % 2 else alrc(loss=losses, mask=mask)
            calls.append((losses.reshape(-1).tolist(), {"mask": mask.reshape(-1).tolist()}))
    spikes, scalars = Oracle(**settings).run(calls, every=8)
    assert len(spikes) > 10
    assert_same_spikes(read_spikes(tmp_path / "spikes.csv"), spikes)
    assert_same_scalars(log, scalars)
    assert all(x["alrc/nonfinite"] == 0 for _, x in log)


def test_an_interval_without_a_loss_that_counts_has_no_mean() -> None:
    alrc, log = ALRC(num_stddev=3, scale="linear"), Memory()
    with Watch(alrc, log, every=1):
        alrc(torch.tensor(math.inf))
    assert_same_scalars(log, Oracle().run([([math.inf], {})], every=1)[1])
    assert math.isnan(log[0][1]["alrc/loss"])


def test_a_limit_that_rounds_to_the_loss_itself_has_a_row(tmp_path) -> None:
    """In bfloat16, 1.03 is 1.03125: that loss comes back as it came, and its gradient does not."""
    alrc, log = (
        ALRC(mu1_start=1.0, mu2_start=1.0 + 1e-4, num_stddev=3, scale="linear"),
        Memory(),
    )  # limit: 1.03
    losses = torch.tensor([1.0, 1.03125, 1.0390625, 1.5], dtype=torch.bfloat16, requires_grad=True)
    with Watch(alrc, log, spikes=tmp_path / "spikes.csv"):
        alrc(losses).sum().backward()
    spikes = read_spikes(tmp_path / "spikes.csv")
    assert [spike.index for spike in spikes] == [1, 2, 3]
    assert [spike.limit for spike in spikes] == pytest.approx([1.03] * 3, rel=1e-5)
    factors = [1.03 / loss for loss in (1.03125, 1.0390625, 1.5)]
    assert [spike.factor for spike in spikes] == pytest.approx(factors, rel=1e-5)
    assert losses.grad[1:].tolist() == pytest.approx(factors, rel=2**-8)
    assert log[0][1]["alrc/kept"] == pytest.approx((1 + 3 * 1.03) / losses.sum().item(), rel=1e-2)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_limit_in_a_row_is_to_the_last_bit_what_the_loss_became(tmp_path, shape) -> None:
    alrc = ALRC(mu1_start=0.1, mu2_start=0.03, num_stddev=3, scale="linear")
    loss = torch.full(shape, 8.1, dtype=torch.float64, requires_grad=True)
    with Watch(alrc, spikes=tmp_path / "spikes.csv"):
        limited = alrc(loss)
        limited.sum().backward()
    (spike,) = read_spikes(tmp_path / "spikes.csv")
    assert (spike.loss, spike.limit, spike.factor) == (8.1, limited.item(), loss.grad.item())


@pytest.mark.parametrize("many", [False, True])
def test_losses_too_large_for_the_moments_have_rows_like_broken_ones(tmp_path, many) -> None:
    alrc, log = ALRC(warmup=2, num_stddev=3, scale="linear"), Memory()
    calls = [[1e25], [2.0], [-math.inf], [2.0], [1e25]]
    with Watch(alrc, log, every=2, spikes=tmp_path / "spikes.csv"):
        for losses in calls:
            alrc(torch.tensor([*losses, 2.0] if many else losses[0]))
    spikes = read_spikes(tmp_path / "spikes.csv")
    rest = [(spike.loss, spike.limit, spike.factor) for spike in spikes]
    assert [spike.step for spike in spikes] == [0, 2, 4]
    assert rest[0] == pytest.approx((1e25, math.nan, 1.0), nan_ok=True)
    assert rest[1] == pytest.approx((-math.inf, math.nan, 1.0), nan_ok=True)
    assert rest[2][1] == pytest.approx(2.0, rel=1e-3)  # limited, now that there is a limit
    assert [scalars["alrc/loss"] for _, scalars in log[:2]] == [2.0, 2.0]
    assert [scalars["alrc/nonfinite"] for _, scalars in log] == [1, 2, 2]
    assert [scalars["alrc/kept"] for _, scalars in log[:2]] == [1.0, 1.0]
    assert log[2][1]["alrc/kept"] < 1e-24


def test_a_gradient_that_float16_holds_is_the_factor_in_the_row(tmp_path) -> None:
    """Facts of the rule: the factor of a raised loss is held where the dtype ends."""
    alrc = ALRC(mu1_start=1.0, mu2_start=1.01, num_stddev_below=1.0, num_stddev=3, scale="linear")
    losses = torch.tensor([2.0**-20], dtype=torch.float16, requires_grad=True)
    with Watch(alrc, spikes=tmp_path / "spikes.csv"):
        alrc(losses).sum().backward()
    (spike,) = read_spikes(tmp_path / "spikes.csv")
    assert spike.factor == losses.grad.item() > 1000


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_losses_of_any_dtype_are_logged(tmp_path, dtype) -> None:
    alrc, log = ALRC(**START, num_stddev_below=0.5), Memory()
    with Watch(alrc, log, spikes=tmp_path / "spikes.csv"):
        alrc(torch.tensor([2.0, 8.0, 0.25], dtype=dtype))
    low, high = sorted(read_spikes(tmp_path / "spikes.csv"), key=lambda spike: spike.loss)
    assert low == Spike(0, 0, 2, "", None, 0.25, 0.5, 2.0)
    assert high == Spike(0, 0, 1, "", None, 8.0, 4.0, 0.5)
    assert log[0][1]["alrc/loss"] == 10.25 / 3


# torch.compile


# The compiler itself asks a tensor between two graphs for its gradient, and hides this warning.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_step_has_the_logs_of_an_eager_one(tmp_path) -> None:
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph

    def loss_of(net, alrc, step):
        return alrc((net(step) - 1.0).square().squeeze(1))

    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net, alrc, log = nn.Linear(4, 1), ALRC(decay=0.9, num_stddev=0.5, scale="linear"), Memory()
        call = torch.compile(loss_of, backend=backend) if compiled else loss_of
        path = tmp_path / f"spikes-{compiled}.csv"
        with Watch(alrc, log, every=7, spikes=path) as watch:
            for step in range(30):
                watch.name_next([f"{step}-{i}" for i in range(6)])
                x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
                net.zero_grad()
                call(net, alrc, x).mean().backward()
                with torch.no_grad():
                    for parameter in net.parameters():
                        parameter -= 0.01 * parameter.grad
        runs.append((read_spikes(path), log, [*net.parameters(), *alrc.buffers()]))
    torch._dynamo.reset()
    (spikes, log, state), (expected_spikes, expected_log, expected_state) = runs
    assert graphs
    assert len(spikes) > 10
    assert_same_spikes(spikes, expected_spikes)
    assert_same_scalars(log, expected_log)
    torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=1e-6)


def test_losses_of_no_group_are_in_neither_log(tmp_path) -> None:
    """Eager calls refuse such a group; in compiled ones it is no group at all."""
    alrc, log = ALRC(**START, num_groups=2), Memory()
    call = torch.compile(lambda loss, group: alrc(loss, group=group), backend="eager")
    with Watch(alrc, log, every=1, spikes=tmp_path / "spikes.csv"):
        call(torch.tensor([1.0, 8.0, 16.0, math.nan]), torch.tensor([0, 1, 2, -1]))
    torch._dynamo.reset()
    assert read_spikes(tmp_path / "spikes.csv") == [Spike(0, 0, 1, "", 1, 8.0, 4.0, 0.5)]
    ((_, scalars),) = log
    assert [scalars[f"alrc/loss/{group}"] for group in range(2)] == [1.0, 8.0]
    assert [scalars[f"alrc/kept/{group}"] for group in range(2)] == [1.0, 0.5]


def test_in_logarithms_a_huge_loss_counts_and_all_is_logged_in_the_unit_of_the_loss() -> None:
    alrc, log = ALRC(scale="log", warmup=9), Memory()
    with Watch(alrc, log, every=2):
        for losses in ([1e25, 2.0], [2.0, 0.0]):
            alrc(torch.tensor(losses))
    ((_, logged),) = log
    assert logged["alrc/loss"] == pytest.approx(1e25 / 4, rel=1e-6)
    assert (logged["alrc/nonfinite"], logged["alrc/kept"]) == (0, 1.0)
    assert logged["alrc/mean"] == alrc.mu1.item()
