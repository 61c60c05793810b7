"""Watching ALRC: which calls count, what becomes of their tensors, and when they are read."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from watching import (
    START,
    Memory,
    Oracle,
    assert_same_scalars,
    assert_same_spikes,
    rows,
)

from alrc.integrations import loggers
from alrc.integrations.loggers import Spike, Watch, read_spikes, to_csv, to_tensorboard
from alrc.torch import ALRC

# What counts


def test_evaluation_and_no_grad_are_not_watched(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    with Watch(alrc, log, every=1, spikes=tmp_path / "spikes.csv") as watch:
        watch.name_next(["kept for the next call in training"])
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
    alrc = ALRC(**START, num_groups=2)
    with Watch(alrc, spikes=tmp_path / "groups.csv"):
        group = torch.tensor([0, 1])
        alrc(torch.tensor([1.0, 8.0]), group=group)
        group.fill_(0)
    assert read_spikes(tmp_path / "groups.csv") == [Spike(0, 0, 1, "", 1, 8.0, 4.0, 0.5)]


def test_a_module_that_is_saved_pickled_or_copied_is_not_watched(tmp_path) -> None:
    class Locked:
        """Can be neither copied nor pickled, like a writer of TensorBoard."""

        def __reduce__(self):
            raise TypeError("locked")

        def add_scalar(self, *args) -> None:
            raise AssertionError("the copy was watched")

    alrc = ALRC(**START)
    with Watch(alrc, to_tensorboard(Locked()), every=2, spikes=tmp_path / "spikes.csv") as watch:
        torch.save(nn.Sequential(alrc), tmp_path / "model.pt")
        (loaded,) = torch.load(tmp_path / "model.pt", weights_only=False)
        (tmp_path / "model.pt").unlink()
        for other in (copy.deepcopy(alrc), pickle.loads(pickle.dumps(alrc)), loaded):
            for _ in range(2):
                other(torch.tensor(8.0))
            assert other.num_clipped == 2
        assert (watch.step, alrc.num_losses) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_an_older_version_pickled_while_it_was_watched_can_be_called() -> None:
    """Its pickle names the hooks that a Watch had then."""
    alrc, watch = ALRC(**START), loggers._not_watching()
    alrc.register_forward_pre_hook(watch._before, with_kwargs=True)
    alrc.register_forward_hook(watch._after, with_kwargs=True)
    alrc = pickle.loads(pickle.dumps(alrc))
    assert alrc(torch.tensor(8.0)) == 4.0


def test_a_call_without_losses_is_counted_and_leaves_nothing(tmp_path) -> None:
    alrc, log = ALRC(**START), Memory()
    with Watch(alrc, log, every=2, spikes=tmp_path / "spikes.csv") as watch:
        for losses in (torch.empty(0), torch.tensor([8.0]), torch.empty(0, 3)):
            watch.name_next(["x"] * len(losses))
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
    alrc(torch.ones(3), mask)  # but looks at its state once
    with Watch(alrc, log, every=5, spikes=tmp_path / "spikes.csv") as watch, Reads() as reads:
        for step in range(1, 13):
            watch.name_next(["a", "b", "c"])
            alrc(torch.tensor([1.0, 8.0, math.nan], requires_grad=True), mask)
            assert bool(reads.taken()) == (step % 5 == 0), step
    assert [step for step, _ in log] == [5, 10, 12]
    assert len(read_spikes(tmp_path / "spikes.csv")) == 2 * 12


def test_many_losses_are_looked_at_before_they_fill_the_device(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loggers, "_MOST_LOSSES", 20)
    settings = {"decay": 0.9, "num_stddev": 1.0, "scale": "linear"}
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
