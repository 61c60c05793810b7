"""The callback for Lightning: what it logs."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning_modules import (
    NUM_BATCHES,
    QUIET_PYTREE,
    SETTINGS,
    Batches,
    Recorder,
    Regression,
    Saving,
    TwoLosses,
    fit,
    logged,
)
from reference import Reference
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import mse_loss

from alrc.integrations.lightning import ALRCCallback

pytestmark = pytest.mark.filterwarnings(QUIET_PYTREE)


@pytest.mark.parametrize("number", [1, 2])
def test_seven_metrics_are_logged_when_the_trainer_logs(number, tmp_path) -> None:
    settings = {**SETTINGS, "warmup": 4}
    callback, recorder = ALRCCallback(**settings, name="mine"), Recorder()

    class Careful(Regression):
        def on_before_optimizer_step(self, optimizer) -> None:
            for p in self.parameters():
                p.grad.nan_to_num_(0.0)

    logger = CSVLogger(tmp_path, name="", version="")
    options = {"logger": logger, "log_every_n_steps": 3, "max_epochs": 1}
    batches = Batches(nan_at=5)
    options["accumulate_grad_batches"] = number
    fit(Careful(), callback, recorder, batches=batches, **options)
    reference, expected = Reference(**settings), []
    raw = limited = 0.0
    for index, loss in enumerate(recorder.losses):
        (clipped,) = reference([loss.item()])
        if math.isfinite(loss):
            raw, limited = raw + loss.item(), limited + clipped.value
        row = {
            "epoch": 0,
            "step": index // number,
            "mine/loss": loss.item(),
            "mine/limit": reference.upper,
            "mine/mean": reference.mean,
            "mine/stddev": math.sqrt(reference.variance),
            "mine/clipped_fraction": reference.num_clipped / reference.num_losses,
            "mine/nonfinite": reference.num_nonfinite,
            "mine/kept": limited / raw,
        }
        if (index + 1) % (3 * number) == 0:
            expected.append(row)
            raw = limited = 0.0
    rows = logged(tmp_path)
    assert len(rows) == len(expected) == NUM_BATCHES // (3 * number)
    for row, values in zip(rows, expected, strict=True):
        assert row == pytest.approx(values, rel=1e-5, nan_ok=True)
    # What the rows must have shown: no limit at first, a limited loss, and the NaN
    assert number == 2 or rows[0]["mine/limit"] == math.inf
    assert rows[-1]["mine/clipped_fraction"] > 0
    assert number == 2 or {row["mine/kept"] < 1 for row in rows} == {False, True}
    assert math.isnan(rows[1 // number]["mine/loss"])


def test_what_was_not_logged_of_one_training_is_not_in_the_log_of_the_next(tmp_path) -> None:
    callback, module, reference = ALRCCallback(**SETTINGS), Regression(), Reference(**SETTINGS)
    kept = []
    for name in "ab":
        recorder, raw, limited = Recorder(), 0.0, 0.0
        options = {"logger": CSVLogger(tmp_path, name=name, version=""), "max_epochs": 1}
        fit(module, callback, recorder, log_every_n_steps=6, **options)
        for index, loss in enumerate(recorder.losses):
            (clipped,) = reference([loss.item()])
            raw, limited = raw + loss.item(), limited + clipped.value
            if index % 6 == 5:  # 4 of 16 are left at the end, among them an outlier
                kept.append(limited / raw)
                raw = limited = 0.0
    rows = logged(tmp_path / "a") + logged(tmp_path / "b")
    assert [row["alrc/kept"] for row in rows] == pytest.approx(kept, rel=1e-4)
    assert min(kept) < 0.9


def test_lightning_is_handed_metrics_only_at_the_steps_it_logs(tmp_path) -> None:
    """Seven calls of ``log`` would take longer than the training step of a small network."""
    steps = []

    class Noting(Regression):
        def log_dict(self, *arguments, **options) -> None:
            steps.append(self.trainer.global_step)
            super().log_dict(*arguments, **options)

    logger = CSVLogger(tmp_path, name="", version="")
    fit(Noting(), ALRCCallback(num_stddev=3, scale="linear"), logger=logger, log_every_n_steps=5)
    assert steps == [5, 10, 15, 20, 25, 30]
    assert [row["step"] for row in logged(tmp_path)] == [4, 9, 14, 19, 24, 29]
    fit(
        Noting(), ALRCCallback(num_stddev=3, scale="linear"), max_epochs=1, log_every_n_steps=5
    )  # without a logger
    fit(
        Noting(),
        ALRCCallback(num_stddev=3, scale="linear"),
        max_epochs=1,
        logger=logger,
        log_every_n_steps=0,
    )
    assert len(steps) == 6


def test_the_last_step_of_a_run_that_is_stopped_is_logged(tmp_path) -> None:
    class Stopping(Regression):
        def training_step(self, batch, batch_idx):
            self.trainer.should_stop = batch_idx == 6
            return super().training_step(batch, batch_idx)

    logger = CSVLogger(tmp_path, name="", version="")
    callback = ALRCCallback(num_stddev=3, scale="linear")
    fit(Stopping(), callback, logger=logger, log_every_n_steps=5, max_epochs=1)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == [4, 6]
    assert rows[1]["alrc/mean"] == pytest.approx(callback.alrc.mean.item())


@pytest.mark.parametrize("module", [Regression, TwoLosses])
def test_a_resumed_run_logs_what_the_uninterrupted_run_does(module, tmp_path) -> None:
    path = tmp_path / "half.ckpt"

    def rows(folder, *callbacks, **options):
        logger = CSVLogger(tmp_path, name=folder, version="")
        options = {"logger": logger, "log_every_n_steps": 5, **options}
        fit(module(), ALRCCallback(**SETTINGS), *callbacks, **options)
        return logged(tmp_path / folder)

    per_batch = 1 if module is Regression else 2  # steps of optimizers
    straight = rows("straight", Saving(path, 22 * per_batch))
    assert [row["step"] for row in straight] == [4, 9, 14, 19, 24, 29]
    resumed = rows("resumed", ckpt_path=str(path))
    for row in straight[4], resumed[0]:
        del row["alrc/kept"]  # of the losses since the checkpoint, in the one that goes on from it
    assert resumed == straight[4:]


def test_a_loss_that_is_not_there_at_the_steps_that_are_logged_is_logged(tmp_path) -> None:
    """As where a GAN trains its generator only at every third batch."""

    class Alternating(TwoLosses):
        def training_step(self, batch, batch_idx) -> None:
            optimizer = self.optimizers()[0]
            loss = mse_loss(self.nets[0](batch[0]), batch[1])
            losses.append(loss.item())
            for _ in range(2 if batch_idx % 3 == 0 else 1):
                optimizer.zero_grad()
                self.manual_backward(loss, retain_graph=True)
                optimizer.step()

    callback, losses = ALRCCallback(name="rare", backward=1, num_stddev=3, scale="linear"), []
    logger = CSVLogger(tmp_path, name="", version="")
    fit(Alternating(), callback, logger=logger, log_every_n_steps=5, max_epochs=1)
    rows = logged(tmp_path)
    assert [row["step"] for row in rows] == [4, 9, 14]
    seen = [losses[step] for step in (3, 9, 12)]
    assert [row["rare/loss"] for row in rows] == pytest.approx(seen)
    assert rows[0]["rare/mean"] == pytest.approx((losses[0] + losses[3]) / 2)


def test_two_callbacks_log_under_their_names(tmp_path) -> None:
    callbacks = [
        ALRCCallback(name=name, backward=k, num_stddev=3, scale="linear")
        for k, name in enumerate(("one", "two"))
    ]
    logger = CSVLogger(tmp_path, name="", version="")
    fit(TwoLosses(), *callbacks, logger=logger, log_every_n_steps=4, max_epochs=1)
    rows = logged(tmp_path)
    names = ("loss", "limit", "mean", "stddev", "clipped_fraction", "nonfinite", "kept")
    assert set(rows[0]) == {"epoch", "step"} | {f"{c.name}/{n}" for c in callbacks for n in names}
    assert [row["step"] for row in rows] == [3, 7, 11, 15]
    assert all(row["two/mean"] > 10 * row["one/mean"] for row in rows)


# Lightning warns everybody who writes this kind of training_step.
@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument in the `training_step`")
def test_metrics_are_logged_where_lightning_knows_no_batch_size(tmp_path) -> None:
    class Iterating(Regression):
        def training_step(self, dataloader_iter):
            return self.loss(next(dataloader_iter)[0])

    logger = CSVLogger(tmp_path, name="", version="")
    fit(
        Iterating(),
        ALRCCallback(num_stddev=3, scale="linear"),
        logger=logger,
        log_every_n_steps=8,
        max_epochs=1,
    )
    assert [row["step"] for row in logged(tmp_path)] == [7, 15]


def test_no_number_is_read_from_a_device() -> None:
    """Reading one would wait for a GPU; of these tensors it is an error, for they hold no data."""
    metrics = {}
    with FakeTensorMode():
        trainer = SimpleNamespace(
            accumulate_grad_batches=2,
            log_every_n_steps=1,
            global_step=1,
            should_stop=False,
            loggers=[object()],
            precision_plugin=SimpleNamespace(scaler=torch.amp.GradScaler("cpu")),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            world_size=1,
            callbacks=[],
        )
        module = SimpleNamespace(
            automatic_optimization=True,
            log_dict=lambda values, **_: metrics.update(values),
            named_modules=list,
        )
        callback = ALRCCallback(num_stddev=3, scale="linear")
        callback.on_fit_start(trainer, module)
        for _ in range(2):
            weight = torch.ones((), requires_grad=True)
            callback.on_train_batch_start(trainer, module, None, 0)
            loss = trainer.precision_plugin.scaler.scale(weight / 2)
            callback.on_before_backward(trainer, module, loss)
            loss.backward()
            callback.on_before_optimizer_step(trainer, module, None)
            callback.on_train_batch_end(trainer, module, None, None, 0)
        with pytest.raises(DataDependentOutputException):
            metrics["alrc/loss"].item()
    assert len(metrics) == 7
