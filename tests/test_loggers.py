"""Watching ALRC: scalars and spikes of real training, as the oracle has them."""

import copy
import csv
import importlib.util
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import Reference
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from alrc.integrations import loggers
from alrc.integrations.loggers import Spike, Watch, read_spikes, to_csv, to_tensorboard
from alrc.torch import ALRC

START = {"mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
OUTLIERS = {(23, 2), (23, 5), (40, 0), (57, 7)}  # step, and place in its batch of 8
BROKEN = {(31, 3): math.nan, (44, 1): math.inf}
STEPS = 60


class Net(nn.Linear):
    """A regression of 4 inputs that starts at the truth, so that its losses are calm."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def losses(self, step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, generator=random)
        y = x.sum(1) + 0.2 * torch.rand(8, generator=random) - 0.1
        spoilt = torch.zeros(8)
        for i in range(8):
            y[i] += 5.0 * ((step, i) in OUTLIERS)
            spoilt[i] = BROKEN.get((step, i), 0.0)
        return (self(x).squeeze(1) - y).square() + spoilt


def key(step: int, place: int) -> str:
    return f"{step}/{place}.png"


def train(alrc, watch=None, steps=range(STEPS), net=None, **extra):
    """Trains, and returns the losses of each step before limiting."""
    net = net or Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    seen = []
    for step in steps:
        if watch:
            watch.examples([key(step, place) for place in range(8)])
        losses = net.losses(step)
        seen.append(losses.tolist())
        losses = alrc(losses, **extra)
        optimizer.zero_grad()
        losses[losses.isfinite()].mean().backward()
        optimizer.step()
    return seen


class Oracle:
    """What the logs should hold, from the losses alone."""

    def __init__(self, **settings) -> None:
        self.groups = settings.pop("num_groups", None)
        self.references = [Reference(**settings) for _ in range(self.groups or 1)]

    def step(self, step, losses, mask=None, group=None, keys=None):
        """The spikes of one call, and adds it to what the scalars are made of."""
        mask = mask or [True] * len(losses)
        results = {}
        for g, reference in enumerate(self.references):
            members = [i for i in range(len(losses)) if group is None or group[i] == g]
            clipped = reference([losses[i] for i in members], [mask[i] for i in members])
            results |= {i: (g, result) for i, result in zip(members, clipped, strict=True)}
            seen = [losses[i] for i in members if mask[i]]
            self.seen[g] += [loss for loss in seen if math.isfinite(loss)]
        for i, loss in enumerate(losses):
            g, result = results[i]
            if result.limited or (mask[i] and not math.isfinite(loss)):
                limit = result.value if result.limited else math.nan
                place = step, 0, i, keys[i] if keys else "", g if self.groups else None
                yield Spike(*place, loss, limit, result.factor)

    def reset(self) -> None:
        self.seen = [[] for _ in self.references]

    def scalars(self, name: str = "alrc") -> dict[str, float]:
        result = {}
        for g, reference in enumerate(self.references):
            end = f"/{g}" if self.groups else ""
            seen = self.seen[g]
            result |= {
                f"{name}/loss{end}": math.fsum(seen) / len(seen) if seen else math.nan,
                f"{name}/clipped_fraction{end}": reference.num_clipped
                / max(reference.num_losses, 1),
                f"{name}/nonfinite{end}": reference.num_nonfinite,
                f"{name}/limit{end}": reference.upper,
                f"{name}/mean{end}": reference.mean,
                f"{name}/stddev{end}": math.sqrt(reference.variance),
            }
            if reference.lower > -math.inf:
                result[f"{name}/limit_below{end}"] = reference.lower
        self.reset()
        return result

    def run(self, calls, every: int):
        """All spikes, and the scalars with their steps, of calls given as (losses, rest)."""
        spikes, scalars = [], []
        self.reset()
        for step, (losses, rest) in enumerate(calls):
            spikes += self.step(step, losses, **rest)
            if (step + 1) % every == 0 or step + 1 == len(calls):
                scalars.append((step + 1, self.scalars()))
        return spikes, scalars


class Memory(list):
    """A log that remembers."""

    def __call__(self, scalars, step) -> None:
        self.append((step, scalars))


def assert_same_spikes(spikes, expected) -> None:
    assert [spike[:5] for spike in spikes] == [spike[:5] for spike in expected]
    for spike, right in zip(spikes, expected, strict=True):
        assert spike[5:] == pytest.approx(right[5:], rel=2e-5, nan_ok=True), spike


def assert_same_scalars(log, expected) -> None:
    assert [step for step, _ in log] == [step for step, _ in expected]
    for (step, scalars), (_, right) in zip(log, expected, strict=True):
        assert scalars == pytest.approx(right, rel=1e-4, nan_ok=True), step


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Real training


@pytest.mark.parametrize("settings", [{}, {"center": "mean"}, {"num_stddev_below": 2.5}])
def test_the_spike_log_names_exactly_the_planted_examples(tmp_path, settings) -> None:
    settings = {"decay": 0.98, "num_stddev": 4.0, **settings}
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
        alrc, net = ALRC(decay=0.98), Net()
        with Watch(alrc, Memory(), every=7, spikes=tmp_path / "spikes.csv") as watch:
            watch = watch if watched else watch.close()
            train(alrc, watch, net=net)
        runs.append([*net.parameters(), *alrc.buffers()])
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))
    assert len(read_spikes(tmp_path / "spikes.csv")) >= len(OUTLIERS)


def test_groups_have_scalars_and_spikes_of_their_own(tmp_path) -> None:
    settings = {"decay": 0.9, "num_groups": 3, "num_stddev": 2.0, "center": "mean"}
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
    settings = {"decay": 0.9, "num_stddev": 2.0}
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
    alrc, log = ALRC(), Memory()
    with Watch(alrc, log, every=1):
        alrc(torch.tensor(math.inf))
    assert_same_scalars(log, Oracle().run([([math.inf], {})], every=1)[1])
    assert math.isnan(log[0][1]["alrc/loss"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_losses_of_any_dtype_are_logged(tmp_path, dtype) -> None:
    alrc, log = ALRC(**START, num_stddev_below=0.5), Memory()
    with Watch(alrc, log, spikes=tmp_path / "spikes.csv"):
        alrc(torch.tensor([2.0, 8.0, 0.25], dtype=dtype))
    low, high = sorted(read_spikes(tmp_path / "spikes.csv"), key=lambda spike: spike.loss)
    assert low == Spike(0, 0, 2, "", None, 0.25, 0.5, 2.0)
    assert high == Spike(0, 0, 1, "", None, 8.0, 4.0, 0.5)
    assert log[0][1]["alrc/loss"] == 10.25 / 3


# What counts


def test_evaluation_and_no_grad_are_not_watched(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    with Watch(alrc, log, every=1, spikes=tmp_path / "spikes.csv") as watch:
        watch.examples(["kept for the next call in training"])
        with torch.no_grad():
            alrc(torch.tensor(8.0))
        alrc.eval()
        alrc(torch.tensor(8.0))
        alrc.train()
        assert (watch.step, log) == (0, [])
        alrc(torch.tensor(8.0))
        assert watch.step == 1
    (spike,) = read_spikes(tmp_path / "spikes.csv")
    assert spike == Spike(0, 0, 0, "kept for the next call in training", None, 8.0, 4.0, 0.5)
    assert [step for step, _ in log] == [1]


def test_several_logs_get_the_same_scalars_under_the_name_given() -> None:
    alrc, logs = ALRC(**START), [Memory(), Memory()]
    with Watch(alrc, logs, every=2, name="generator"):
        for _ in range(4):
            alrc(torch.tensor(1.0))
    assert logs[0] == logs[1]
    assert [step for step, _ in logs[0]] == [2, 4]
    assert all(name.startswith("generator/") for name in logs[0][0][1])


def test_without_a_log_only_spikes_are_written_and_without_spikes_only_scalars(tmp_path) -> None:
    for arguments in ({"spikes": tmp_path / "spikes.csv"}, {"log": to_csv(tmp_path / "log.csv")}):
        alrc = ALRC(**START)
        with Watch(alrc, **arguments):
            alrc(torch.tensor([8.0, 1.0]))
    assert len(read_spikes(tmp_path / "spikes.csv")) == 1
    (row,) = rows(tmp_path / "log.csv")
    assert (row["step"], row["alrc/clipped_fraction"]) == ("1", "0.5")


def test_without_any_log_calls_are_counted() -> None:
    alrc = ALRC(**START)
    with Watch(alrc, every=2, step=40) as watch:
        for step in range(41, 46):
            alrc(torch.tensor(8.0))
            assert watch.step == step
        watch.step = 7
        alrc(torch.tensor(8.0))
    assert watch.step == 8


def test_what_is_left_is_written_when_the_loop_fails(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    watch = Watch(alrc, log, spikes=tmp_path / "spikes.csv")
    with pytest.raises(TypeError, match="floating tensor"), watch:
        alrc(alrc(torch.tensor(8.0)).long())
    assert len(read_spikes(tmp_path / "spikes.csv")) == len(log) == 1
    alrc(torch.tensor(8.0))
    watch.close()
    assert (len(read_spikes(tmp_path / "spikes.csv")), len(log), watch.step) == (1, 1, 1)


def test_what_happens_to_a_loss_after_the_call_is_not_logged(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    with Watch(alrc, log, spikes=tmp_path / "spikes.csv"):
        losses, mask = torch.tensor([8.0, 1.0, 8.0]), torch.tensor([True, True, False])
        limited = alrc(losses, mask)
        losses.zero_()
        limited.div_(4)
        mask.fill_(True)
        calm = alrc(torch.tensor([1.0, 2.0]))
        calm.fill_(100.0)
    spikes = read_spikes(tmp_path / "spikes.csv")
    assert spikes == [Spike(0, 0, 0, "", None, 8.0, 4.0, 0.5)]
    assert log[0][1]["alrc/loss"] == 12 / 4


def test_a_copied_or_pickled_module_is_not_watched(tmp_path) -> None:
    class Locked:
        """Can be neither copied nor pickled, like a writer of TensorBoard."""

        def __reduce__(self):
            raise TypeError("locked")

        def add_scalar(self, *args) -> None:
            raise AssertionError("the copy was watched")

    alrc = ALRC(**START)
    with Watch(alrc, to_tensorboard(Locked()), every=2, spikes=tmp_path / "spikes.csv") as watch:
        for other in (copy.deepcopy(alrc), pickle.loads(pickle.dumps(alrc))):
            for _ in range(2):
                other(torch.tensor(8.0))
        assert watch.step == 0
    assert list(tmp_path.iterdir()) == []


def test_a_call_without_losses_is_counted_and_leaves_nothing(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    with Watch(alrc, log, every=2, spikes=tmp_path / "spikes.csv") as watch:
        for losses in (torch.empty(0), torch.tensor([8.0]), torch.empty(0, 3)):
            watch.examples(["x"] * len(losses))
            alrc(losses)
    assert read_spikes(tmp_path / "spikes.csv") == [Spike(1, 0, 0, "x", None, 8.0, 4.0, 0.5)]
    assert [(step, x["alrc/loss"]) for step, x in log] == [
        (2, 8.0),
        (3, pytest.approx(math.nan, nan_ok=True)),
    ]


def test_a_foreign_default_device_does_not_matter(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    with torch.device("meta"), Watch(alrc, log, spikes=tmp_path / "spikes.csv"):
        alrc(torch.tensor([8.0, 1.0], device="cpu"))
    assert read_spikes(tmp_path / "spikes.csv") == [Spike(0, 0, 0, "", None, 8.0, 4.0, 0.5)]
    assert log[0][1]["alrc/loss"] == 4.5


# Reading from the device


class Reads(TorchFunctionMode):
    """Counts what would wait for a device, as called and as it arrives below autograd."""

    NAMES = ("item", "tolist", "numpy", "cpu", "to", "nonzero", "__bool__", "__float__", "__int__")

    class Below(TorchDispatchMode):
        OPERATORS = ("_local_scalar_dense", "nonzero", "_to_copy", "repeat_interleave")

        def __init__(self) -> None:
            super().__init__()
            self.found = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            moves = "device" in (kwargs or {}) or name != "_to_copy"
            self.found += [name] if name in self.OPERATORS and moves else []
            return func(*args, **(kwargs or {}))

    def __init__(self) -> None:
        super().__init__()
        self.below = self.Below()
        self.found = []

    def __enter__(self):
        self.below.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.below.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        moves = name != "to" or any(isinstance(x, str | torch.device) for x in args[1:])
        self.found += [name] if name in self.NAMES and moves else []
        return func(*args, **(kwargs or {}))

    def taken(self) -> list[str]:
        found, self.found, self.below.found = self.found + self.below.found, [], []
        return found


def test_nothing_is_read_from_the_device_between_two_times(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    mask = torch.ones(3)  # with a mask, ALRC itself reads nothing even on the CPU
    with Watch(alrc, log, every=5, spikes=tmp_path / "spikes.csv") as watch, Reads() as reads:
        for step in range(1, 13):
            watch.examples(["a", "b", "c"])
            alrc(torch.tensor([1.0, 8.0, math.nan], requires_grad=True), mask)
            assert bool(reads.taken()) == (step % 5 == 0), step
    assert [step for step, _ in log] == [5, 10, 12]
    assert len(read_spikes(tmp_path / "spikes.csv")) == 2 * 12


def test_many_losses_are_looked_at_before_they_fill_the_device(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loggers, "_MOST_KEPT", 20)
    settings = {"decay": 0.9, "num_stddev": 1.0}
    alrc, log, calls = ALRC(**settings), Memory(), []
    random = torch.Generator().manual_seed(0)
    with Watch(alrc, log, every=50, spikes=tmp_path / "spikes.csv"):
        for _ in range(100):
            losses = torch.rand(8, generator=random)
            alrc(losses)
            calls.append((losses.tolist(), {}))
            if len(calls) % 3 == 0:
                early = (tmp_path / "spikes.csv").read_text()
    spikes, scalars = Oracle(**settings).run(calls, every=50)
    assert_same_spikes(read_spikes(tmp_path / "spikes.csv"), spikes)
    assert_same_scalars(log, scalars)
    assert early.count("\n") == 1 + sum(spike.step < 99 for spike in spikes)


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
        net, alrc, log = nn.Linear(4, 1), ALRC(decay=0.9, num_stddev=0.5), Memory()
        call = torch.compile(loss_of, backend=backend) if compiled else loss_of
        path = tmp_path / f"spikes-{compiled}.csv"
        with Watch(alrc, log, every=7, spikes=path) as watch:
            for step in range(30):
                watch.examples([f"{step}-{i}" for i in range(6)])
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


# Files


def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path) -> None:
    def run(folder, steps, net, alrc):
        logs = to_csv(folder / "scalars.csv")
        watch = Watch(alrc, logs, every=5, spikes=folder / "spikes.csv", step=steps[0])
        with watch:
            train(alrc, watch, steps, net)

    settings = {"decay": 0.98, "num_stddev": 2.0}
    run(tmp_path / "whole", range(STEPS), Net(), ALRC(**settings))

    net, alrc = Net(), ALRC(**settings)
    run(tmp_path / "parts", range(30), net, alrc)
    saved = copy.deepcopy((net, alrc))
    run(tmp_path / "parts", range(30, 48), net, alrc)  # dies in step 48, after its checkpoint at 30
    for name in ("spikes.csv", "scalars.csv"):
        with (tmp_path / "parts" / name).open("ab") as file:
            file.write("12,0,3,caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()[:-1])
    run(tmp_path / "parts", range(30, STEPS), *saved)

    for name in ("spikes.csv", "scalars.csv"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "parts" / name).read_bytes() == whole
        assert whole.count(b"\n") > 10
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_every_row_is_in_the_csv_file_as_soon_as_it_is_logged(tmp_path) -> None:
    log = to_csv(tmp_path / "new folder" / "log.csv")
    for step in (5, 10, 15):
        log({"a": step / 4, "b": math.inf}, step=step)
        expected = [{"step": str(s), "a": str(s / 4), "b": "inf"} for s in range(5, step + 1, 5)]
        assert rows(tmp_path / "new folder" / "log.csv") == expected


def test_a_file_with_other_columns_is_refused_in_words_and_left_alone(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,a,b\n5,1.0,2.0\n")
    log = to_csv(path)
    with pytest.raises(ValueError, match=r"^to_csv: ") as error:
        log({"alrc/loss": 0.5}, step=10)
    assert str(error.value) == (
        f"to_csv: {path} must have the columns step, alrc/loss; it has step, a, b. Pass another "
        "path."
    )
    log({"a": 3.0, "b": 4.0}, step=10)
    with pytest.raises(ValueError, match="must have the columns step, a, c; it has step, a, b"):
        log({"a": 3.0, "c": 4.0}, step=15)
    alrc = ALRC()
    watch = Watch(alrc, spikes=path, every=1)
    with pytest.raises(ValueError, match=r"^Watch: .* must have the columns step, rank, index, "):
        alrc(torch.tensor(1.0))
    watch.close()
    with pytest.raises(ValueError, match=r"^read_spikes: .* must have the columns step, rank, "):
        read_spikes(path)
    assert path.read_text() == "step,a,b\n5,1.0,2.0\n10,3.0,4.0\n"


def test_a_spike_log_is_read_while_it_is_written_and_empty_without_spikes(tmp_path) -> None:
    alrc, path = ALRC(**START), tmp_path / "spikes.csv"
    with Watch(alrc, spikes=path, every=1):
        alrc(torch.tensor(1.0))
        assert read_spikes(path) == []
        alrc(torch.tensor(8.0))
        with path.open("a") as file:
            file.write("2,0,0,")
        assert [spike.step for spike in read_spikes(path)] == [1]
    path.write_text("step,ra")
    assert read_spikes(path) == []


def test_files_of_other_ranks_are_found_and_no_others(tmp_path) -> None:
    head = "step,rank,index,key,group,loss,limit,factor\n"
    (tmp_path / "s[1].csv").write_text(head + "3,0,0,,,8.0,4.0,0.5\n")
    (tmp_path / "s[1]-rank10.csv").write_text(head + "2,10,0,x,1,8.0,4.0,0.5\n")
    (tmp_path / "s[1]-rank1.csv").write_text(head + "3,1,0,,,8.0,4.0,0.5\n")
    for name in ("s[1]-ranks.csv", "s[1]-rank1.txt", "t-rank1.csv", "1.csv"):
        (tmp_path / name).write_text("other\n")
    spikes = read_spikes(tmp_path / "s[1].csv")
    assert [(s.step, s.rank, s.key, s.group) for s in spikes] == [
        (2, 10, "x", 1),
        (3, 0, "", None),
        (3, 1, "", None),
    ]


def test_a_spike_log_is_read_where_there_is_no_pytorch(tmp_path) -> None:
    alrc = ALRC(**START)
    with Watch(alrc, spikes=tmp_path / "spikes.csv"):
        alrc(torch.tensor(8.0))
    code = f"""import sys
sys.modules["torch"] = None
from alrc.integrations.spikes import read_spikes
print(read_spikes({str(tmp_path / "spikes.csv")!r})[0].limit)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("4.0\n", "")


def test_no_spike_log_is_an_error_in_words(tmp_path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_spikes(tmp_path / "typo.csv")
    assert str(error.value) == (
        f"read_spikes: there must be a spike log; got {tmp_path / 'typo.csv'}, which does not "
        "exist. Pass what Watch was given as spikes."
    )


# Keys


@pytest.mark.parametrize(
    ("losses", "keys", "expected"),
    [
        (torch.tensor([1.0, 8.0]), torch.tensor([70, 71]), "71"),
        (torch.tensor([[1.0, 1.0], [8.0, 1.0], [1.0, 1.0]]), ("a", "b", "c"), "b"),
        (torch.tensor(8.0), ["batch 3"], "batch 3"),
        (torch.tensor([8.0]), ['two\r\nlines, "quoted"'], 'two lines, "quoted"'),
        (torch.tensor([8.0]), [("tuple", 1)], "('tuple', 1)"),
    ],
)
def test_keys_name_examples_whatever_they_are(tmp_path, losses, keys, expected) -> None:
    alrc = ALRC(**START)
    with Watch(alrc, spikes=tmp_path / "spikes.csv") as watch:
        watch.examples(keys)
        alrc(losses)
        alrc(losses)  # not named
    assert [spike.key for spike in read_spikes(tmp_path / "spikes.csv")] == [expected, ""]


def test_too_few_keys_are_refused_in_words_and_nothing_moves(tmp_path) -> None:
    alrc = ALRC(**START)
    with Watch(alrc, spikes=tmp_path / "spikes.csv") as watch:
        watch.examples(["a", "b", "c"])
        with pytest.raises(ValueError, match=r"^Watch: ") as error:
            alrc(torch.ones(4, 2))
        assert str(error.value) == (
            "Watch: examples(keys) must name each example of the next call; got 3 keys for losses "
            "of shape (4, 2). Pass 4, in the order of the losses."
        )
        assert (alrc.num_losses, watch.step) == (0, 0)
        with pytest.raises(TypeError, match="ALRC: loss must be a floating tensor"):
            alrc(3.0)
        alrc(torch.ones(4, 2))
        assert watch.step == 1


# What is refused


@pytest.mark.parametrize("every", [0, -3, 2.5, "100"])
def test_an_impossible_interval_is_refused_in_words(every) -> None:
    with pytest.raises(ValueError, match=r"^Watch: ") as error:
        Watch(ALRC(), every=every)
    assert str(error.value) == (
        f"Watch: every must be a whole number of calls, 1 or more; got {every!r}. Pass every=100."
    )


def test_a_log_that_is_no_function_is_refused_in_words() -> None:
    with pytest.raises(TypeError) as error:
        Watch(ALRC(), "scalars.csv")
    assert str(error.value) == (
        "Watch: log must be a function of (scalars, step=...), or several of them in a list; got "
        "'scalars.csv'. Pass to_csv('scalars.csv'), say."
    )


def test_anything_but_the_module_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"^Watch: ") as error:
        Watch(nn.Sequential(ALRC()))
    assert str(error.value) == (
        "Watch: alrc must be the ALRC whose calls are to be logged; got a Sequential. Pass the "
        "ALRC itself, before torch.compile or a wrapper."
    )


def test_without_pytorch_the_module_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    spec = importlib.util.spec_from_file_location("alone", loggers.__file__)
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.integrations.loggers needs PyTorch, which is not installed here. Install it with: "
        'pip install "alrc[torch]"'
    )


# The real tools


def run_with(log, every: int = 5):
    """Trains with a log, and returns what the oracle says it got."""
    settings = {"decay": 0.98, "warmup": 7}  # no limit at the first time: inf
    alrc = ALRC(**settings)
    with Watch(alrc, log, every=every):
        seen = train(alrc)
    _, scalars = Oracle(**settings).run([(losses, {}) for losses in seen], every)
    assert scalars[0][1]["alrc/limit"] == math.inf
    assert math.isfinite(scalars[-1][1]["alrc/limit"])
    return scalars


def by_step(scalars, name: str):
    return [(step, numbers[name]) for step, numbers in scalars]


def test_csv_holds_the_scalars(tmp_path) -> None:
    scalars = run_with(to_csv(tmp_path / "scalars.csv"))
    found = rows(tmp_path / "scalars.csv")
    read = [(int(row.pop("step")), {k: float(v) for k, v in row.items()}) for row in found]
    assert_same_scalars(read, scalars)


def test_tensorboard_holds_the_scalars(tmp_path, monkeypatch) -> None:
    # TensorBoard's own way to leave TensorFlow alone, which takes many seconds to import.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", type(sys)("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        scalars = run_with(to_tensorboard(writer))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(scalars[0][1])
    for name in scalars[0][1]:
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [
            (step, pytest.approx(number, rel=1e-4)) for step, number in by_step(scalars, name)
        ]


def test_weights_and_biases_holds_the_scalars(tmp_path, monkeypatch) -> None:
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    import wandb

    found = []
    try:
        with wandb.init(mode="offline", dir=tmp_path, project="test") as run:

            def log(scalars, step):
                run.log(scalars, step=step)
                run.log({"loss": 1.0}, step=step + 1)  # the user's own, which completes the step
                summary = dict(run.summary)
                found.append((step, {k: v for k, v in summary.items() if "alrc/" in k}))

            scalars = run_with(log)
    finally:
        wandb.teardown()
    assert_same_scalars(found, scalars)


def test_mlflow_holds_the_scalars(tmp_path, monkeypatch) -> None:
    # A store of plain files is all that mlflow-skinny has, and has to be asked for.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            scalars = run_with(mlflow.log_metrics)
        client = mlflow.MlflowClient()
        for name in scalars[0][1]:
            history = client.get_metric_history(run.info.run_id, name)
            assert [(metric.step, metric.value) for metric in history] == [
                (step, pytest.approx(number, rel=1e-4)) for step, number in by_step(scalars, name)
            ]
    finally:
        mlflow.set_tracking_uri(before)


# Many ranks

RANK = """
import json, sys
import torch
import torch.distributed as dist
from alrc.integrations.loggers import Watch, to_csv
from alrc.torch import ALRC

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
exchanges, all_reduce = 0, dist.all_reduce

def counting(*args, **kwargs):
    global exchanges
    exchanges += 1
    return all_reduce(*args, **kwargs)

dist.all_reduce = counting
results = []
for sync in True, False:
    exchanges = 0
    alrc = ALRC(decay=0.9, num_stddev=1.5, center="mean", sync=sync)
    random, seen = torch.Generator().manual_seed(rank), []
    logs = to_csv(f"{folder}/{sync}/scalars.csv")
    watch = Watch(alrc, logs, every=10, spikes=f"{folder}/{sync}/spikes.csv")
    for step in range(35):
        losses = torch.rand(4, generator=random) + rank
        losses[step % 4] += 5.0 * (step % 7 == rank)
        seen.append(losses.tolist())
        watch.examples([f"rank {rank}, {step}, {i}" for i in range(4)])
        alrc(losses)
    if not sync:
        dist.barrier()
        dist.destroy_process_group()  # before the last numbers are written
    watch.close()
    results.append([seen, exchanges])
print(json.dumps(results[::-1]))
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder that two processes logged to, and for each what it saw and how often it spoke."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        yield folder, [json.loads(process.communicate(timeout=100)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("sync", [False, True])
def test_two_ranks_log_to_one_path_without_damage(two_ranks, sync) -> None:
    folder = two_ranks[0] / str(sync)
    seen = [results[sync][0] for results in two_ranks[1]]
    keys = [[[f"rank {r}, {step}, {i}" for i in range(4)] for step in range(35)] for r in range(2)]

    def oracle(losses, keys):
        calls = [(x, {"keys": k}) for x, k in zip(losses, keys, strict=True)]
        return Oracle(decay=0.9, num_stddev=1.5, center="mean").run(calls, every=10)

    if sync:
        together = [[x + y for x, y in zip(*ranks, strict=True)] for ranks in (seen, keys)]
        spikes, scalars = oracle(*together)
        spikes = [spike._replace(rank=spike.index // 4, index=spike.index % 4) for spike in spikes]
    else:
        spikes, scalars = oracle(seen[0], keys[0])
        spikes += [spike._replace(rank=1) for spike in oracle(seen[1], keys[1])[0]]
        spikes.sort(key=lambda spike: spike[:3])
    assert {spike.rank for spike in spikes} == {0, 1}
    assert_same_spikes(read_spikes(folder / "spikes.csv"), spikes)
    assert {spike["rank"] for spike in rows(folder / "spikes-rank1.csv")} == {"1"}

    # Limit and counts are those of all ranks that share them; the mean loss is that of rank 0.
    own = oracle(seen[0], keys[0])[1]
    found = rows(folder / "scalars.csv")
    assert [int(row["step"]) for row in found] == [10, 20, 30, 35]
    for row, (_, right), (_, alone) in zip(found, scalars, own, strict=True):
        for name in ("limit", "mean", "stddev", "clipped_fraction"):
            assert float(row[f"alrc/{name}"]) == pytest.approx(right[f"alrc/{name}"], rel=1e-4)
        assert float(row["alrc/loss"]) == pytest.approx(alone["alrc/loss"], rel=1e-5)


def test_watching_starts_no_exchange_between_ranks(two_ranks) -> None:
    for rank in range(2):
        exchanges = [count for _, count in two_ranks[1][rank]]
        assert exchanges == [0, 35]  # one for each call with sync: ALRC's own
