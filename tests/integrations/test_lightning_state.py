"""The callback for Lightning: its state in checkpoints, in several trainings and processes."""

import copy
import io
import json
import math
import multiprocessing
import os
import pickle
from types import SimpleNamespace

import lightning_ranks
import pytest
import torch
from launching import succeed
from lightning.pytorch import Callback
from lightning_modules import (
    NUM_BATCHES,
    QUIET_PYTREE,
    SETTINGS,
    Recorder,
    Regression,
    Saving,
    TwoLosses,
    assert_same_steps,
    fit,
    logged,
)
from reference import Reference
from torch.nn.functional import mse_loss

from alrc.integrations.lightning import ALRCCallback

pytestmark = pytest.mark.filterwarnings(QUIET_PYTREE)


@pytest.mark.parametrize("step", [9, NUM_BATCHES, NUM_BATCHES + 5])
def test_resumed_training_is_bit_for_bit_the_uninterrupted_run(step, tmp_path) -> None:
    """At the end of an epoch, and in the middle of one if the loader can resume, as here."""
    path, optimizer = tmp_path / "half.ckpt", torch.optim.Adam
    straight, resumed = ALRCCallback(**SETTINGS), ALRCCallback(**SETTINGS)
    whole, rest = Recorder(straight.alrc), Recorder(resumed.alrc)
    fit(Regression(optimizer=optimizer), straight, whole, Saving(path, step), max_epochs=3)
    module = Regression(optimizer=optimizer, seed=1)
    fit(module, resumed, rest, ckpt_path=str(path), max_epochs=3)
    assert_same_steps(rest.steps, whole.steps[step:])
    before = torch.load(path)["callbacks"][straight.state_key]["num_clipped"]
    assert 0 < before < resumed.alrc.num_clipped


def test_a_checkpoint_loads_with_weights_only_and_holds_each_callback(tmp_path) -> None:
    callbacks = [
        ALRCCallback(name="a", backward=0, num_stddev=3, scale="linear"),
        ALRCCallback(name="b", backward=1, num_stddev=3, scale="linear"),
    ]
    trainer = fit(TwoLosses(), *callbacks)
    trainer.save_checkpoint(tmp_path / "both.ckpt")
    states = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert list(states) == ["ALRCCallback[name=a]", "ALRCCallback[name=b]"]
    for callback, state in zip(callbacks, states.values(), strict=True):
        fresh = ALRCCallback(name="c", num_stddev=3, scale="linear")
        fresh.load_state_dict(state)
        assert fresh.alrc.to_dict() == callback.alrc.to_dict()
    assert callbacks[0].alrc.mean != callbacks[1].alrc.mean


def test_a_saved_state_does_not_move_on_with_the_training() -> None:
    callback = ALRCCallback(mu1_start=1.0, mu2_start=2.0, num_stddev=3, scale="linear")
    state = callback.state_dict()
    callback.alrc(torch.tensor(3.0))
    assert (state["mean"], state["num_losses"]) == (1.0, 0)


def test_a_damaged_state_is_refused_in_words() -> None:
    callback = ALRCCallback(num_stddev=3, scale="linear")
    state = {**callback.state_dict(), "mean": torch.tensor(math.nan)}
    with pytest.raises(RuntimeError) as error:
        callback.load_state_dict(state)
    assert str(error.value) == (
        "Error(s) in loading state_dict for ALRC:\n\tALRC: mean must be finite in float32; got "
        "nan. The checkpoint is damaged or not one of ALRC's: load another, or remove ALRC's keys "
        "from it and load it with strict=False to start afresh."
    )


# Several trainings


def test_each_module_of_a_cross_validation_starts_with_the_moments_given() -> None:
    callback, trainings = ALRCCallback(**SETTINGS), []
    for _ in range(3):
        recorder = Recorder(callback.alrc)
        fit(Regression(), callback, recorder)
        trainings.append(recorder.steps)
    assert callback.alrc.num_clipped > 2
    for steps in trainings[1:]:
        assert_same_steps(steps, trainings[0])


def test_each_module_starts_with_the_moments_that_were_loaded_before_the_first() -> None:
    callback = ALRCCallback(**SETTINGS)
    callback.alrc.load_dict({"mean": 2.0, "variance": 1.0, "num_updates": 30})
    counts = []
    for _ in range(2):
        fit(Regression(), callback, max_epochs=1)
        counts.append(callback.alrc.to_dict())
    assert counts[0] == counts[1]
    assert counts[0]["num_updates"] == 30 + NUM_BATCHES


def test_a_second_fit_of_the_same_module_goes_on() -> None:
    straight, halves = ALRCCallback(**SETTINGS), ALRCCallback(**SETTINGS)
    whole, parts = Recorder(straight.alrc), Recorder(halves.alrc)
    fit(Regression(), straight, whole, max_epochs=2)
    module = Regression()
    for _ in range(2):
        fit(module, halves, parts, max_epochs=1)
    assert_same_steps(parts.steps, whole.steps)


def test_another_module_goes_on_from_a_checkpoint(tmp_path) -> None:
    callback, path = ALRCCallback(**SETTINGS), tmp_path / "half.ckpt"
    whole, rest = Recorder(callback.alrc), Recorder(callback.alrc)
    fit(Regression(), callback, whole, Saving(path, NUM_BATCHES))
    module = Regression(seed=1)
    fit(module, callback, rest, ckpt_path=str(path))
    assert_same_steps(rest.steps, whole.steps[NUM_BATCHES:])
    fit(module, callback, max_epochs=1)  # and once more the same, without
    assert callback.alrc.num_losses == 3 * NUM_BATCHES


def test_another_module_goes_on_from_moments_that_were_set_in_between() -> None:
    callback = ALRCCallback(**SETTINGS)
    fit(Regression(), callback)
    callback.alrc.load_dict({"mean": 1.0, "variance": 0.25, "num_updates": 1000})
    fit(Regression(), callback)
    assert callback.alrc.num_updates > 1000
    fit(Regression(), callback)  # and they are what a third one starts with
    assert 1000 < callback.alrc.num_updates < 1000 + 3 * NUM_BATCHES


def test_another_module_goes_on_from_a_state_that_was_loaded_for_it() -> None:
    callback = ALRCCallback(**SETTINGS)
    fit(Regression(), callback, max_epochs=1)
    callback.load_state_dict(callback.state_dict())
    fit(Regression(), callback, max_epochs=1)
    assert callback.alrc.num_losses == 2 * NUM_BATCHES


# Copies


class Copying(Callback):
    """Saves the model while it trains, and trains a copy of it by itself, as for an EMA."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        file = io.BytesIO()
        torch.save(pl_module, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for twin in (copy.deepcopy(pl_module), loaded, pickle.loads(pickle.dumps(pl_module))):
            twin.loss(batch).backward()


def test_a_model_is_saved_and_copied_in_training_and_its_copies_are_not_seen() -> None:
    callback = ALRCCallback(**SETTINGS)
    fit(Regression(), callback, Copying(), max_epochs=1)
    assert callback.alrc.num_losses == NUM_BATCHES


def test_a_loss_that_went_backward_is_saved_without_a_warning() -> None:
    """Of a hook left on the loss, PyTorch would warn that it is not saved."""

    class Keeping(TwoLosses):
        def manual_backward(self, loss, *arguments, **options) -> None:
            super().manual_backward(loss, *arguments, **options)
            assert pickle.loads(pickle.dumps(loss)) == loss

    callback = ALRCCallback(**SETTINGS)
    fit(Keeping(), callback, max_epochs=1)
    assert callback.alrc.num_losses == 2 * NUM_BATCHES


def test_a_callback_is_copied_and_pickled_after_a_training() -> None:
    callback = ALRCCallback(**SETTINGS)
    fit(Regression(), callback, max_epochs=1)
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert twin.alrc.to_dict() == callback.alrc.to_dict()
        twin.alrc(torch.tensor(1.0))
    assert callback.alrc.num_losses == NUM_BATCHES


# Several processes


def test_two_processes_of_ddp_share_one_limit_at_every_step(tmp_path) -> None:
    """The moments are those of the losses of both, and the gradients the mean of the two."""
    succeed(lightning_ranks.__file__, tmp_path, cwd=tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    states = [rank["states"] for rank in ranks]
    assert states[0] == states[1]
    assert len(states[0]) == len(ranks[0]["steps"]) == 16
    net, number = lightning_ranks.net(), lightning_ranks.ACCUMULATED
    optimizer = torch.optim.SGD(net.parameters(), lightning_ranks.LEARNING_RATE)
    reference = Reference(**lightning_ranks.SETTINGS)
    data = zip(*map(lightning_ranks.batches, range(2)), strict=True)
    for step, batches in enumerate(data):
        losses = [mse_loss(net(x), y) for x, y in batches]
        clipped = reference([loss.item() for loss in losses])
        loss = sum(loss * c.factor for loss, c in zip(losses, clipped, strict=True))
        (loss / 2 / number).backward()
        if (step + 1) % number == 0:
            optimizer.step()
            optimizer.zero_grad()
        for rank, loss in zip(ranks, losses, strict=True):
            assert rank["steps"][step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
            parameters = torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()
            assert rank["steps"][step]["parameters"] == pytest.approx(parameters, rel=1e-5)
        assert states[0][step] == pytest.approx(
            {
                "mean": reference.mean,
                "variance": reference.variance,
                "num_updates": step + 1,
                "num_losses": 2 * (step + 1),
                "num_clipped": reference.num_clipped,
                "num_nonfinite": 0,
            },
            rel=1e-5,
        )
    assert reference.num_clipped > 2
    rows, interval = logged(tmp_path), number * lightning_ranks.LOGGED
    for row, state in zip(rows, states[0][interval - 1 :: interval], strict=True):
        assert row["alrc/mean"] == pytest.approx(state["mean"])
        fraction = state["num_clipped"] / state["num_losses"]
        assert row["alrc/clipped_fraction"] == pytest.approx(fraction)
    assert fraction > 0


@pytest.mark.parametrize(
    "strategy", ["ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow)]
)
def test_moments_that_stay_in_processes_of_their_own_are_right_there(tmp_path, strategy) -> None:
    """Spawned processes share what they are given: each would move the moments of the other."""
    out = succeed(lightning_ranks.__file__, tmp_path, strategy, cwd=tmp_path)
    said, there, here = out.splitlines()
    assert said == (
        "ALRCCallback: moments must be learnt in the process that goes on with them; got a "
        "strategy that trains in processes of its own, such as ddp_spawn or ddp_notebook, from "
        "which Lightning brings back the weights alone. Save checkpoints during training and go on "
        "from them with ckpt_path, or type strategy='ddp'."
    )
    assert json.loads(here) == ALRCCallback(**SETTINGS).alrc.to_dict()
    net, reference = lightning_ranks.net(), Reference(**lightning_ranks.SETTINGS)
    optimizer = torch.optim.SGD(net.parameters(), lightning_ranks.LEARNING_RATE)
    for batches in zip(*map(lightning_ranks.batches, range(2)), strict=True):
        losses = [mse_loss(net(x), y) for x, y in batches]
        clipped = reference([loss.item() for loss in losses])
        optimizer.zero_grad()
        sum(loss * c.factor / 2 for loss, c in zip(losses, clipped, strict=True)).backward()
        optimizer.step()
    assert json.loads(there) == pytest.approx(
        {
            "mean": reference.mean,
            "variance": reference.variance,
            "num_updates": 16,
            "num_losses": 32,
            "num_clipped": reference.num_clipped,
            "num_nonfinite": 0,
        },
        rel=1e-5,
    )
    assert reference.num_clipped > 2


def test_moments_that_came_in_shared_memory_are_not_moved_there(monkeypatch) -> None:
    callback = ALRCCallback(**SETTINGS)
    callback.alrc.share_memory()
    given = callback.alrc.num_losses
    # As if this process had been started by the one in which the callback was made.
    parent = SimpleNamespace(pid=os.getpid())
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    with pytest.warns(UserWarning, match="ALRCCallback: moments must be learnt in the process"):
        fit(Regression(), callback, max_epochs=1)
    assert (given, callback.alrc.num_losses) == (0, NUM_BATCHES)
    assert not any(buffer.is_shared() for buffer in callback.alrc.buffers())


def test_one_process_starts_no_collectives_even_after_many_did() -> None:
    callback = ALRCCallback(num_stddev=3, scale="linear")
    callback.alrc.sync = True
    fit(Regression(), callback, max_epochs=1)
    assert callback.alrc.sync is False


def test_the_moments_go_to_the_device_of_the_training() -> None:
    callback = ALRCCallback(num_stddev=3, scale="linear")
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    trainer = SimpleNamespace(strategy=strategy, world_size=1, callbacks=[callback])
    callback.on_fit_start(trainer, Regression())
    assert {buffer.device.type for buffer in callback.alrc.buffers()} == {"meta"}
