"""What the Trainer logs of ALRC, and that nothing waits for the device in between."""

import copy
import json
import math

import pytest
import torch
from hugging_face import (
    BOTH,
    SETTINGS,
    Recorder,
    Trainer,
    build,
    count,
    language_losses,
    language_model,
    oracle,
    sequences,
    stack,
    steps,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from alrc.torch import ALRC

METRICS = ["limit", "mean", "stddev", "clipped_fraction", "nonfinite"]  # of the state alone


@BOTH
def test_metrics_arrive_in_the_log_at_logging_steps(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    rows = oracle(copy.deepcopy(model), data)
    trainer = build(
        kind,
        tmp_path,
        alrc,
        model,
        data,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        options={"eval_dataset": data[:4]},
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "alrc/mean" in log]
    assert [log["step"] for log in logs] == [2, 4, 6]
    assert all("loss" in log for log in logs)
    for log, (_, row) in zip(logs, rows[1::2], strict=True):
        stddev = math.sqrt(row["variance"])
        assert {name: log[f"alrc/{name}"] for name in METRICS} == pytest.approx(
            {
                "limit": row["mean"] + 0.5 * stddev,
                "mean": row["mean"],
                "stddev": stddev,
                "clipped_fraction": row["num_clipped"] / row["num_losses"],
                "nonfinite": 0,
            },
            rel=1e-4,
        )
    json.dumps(trainer.state.log_history, allow_nan=False)


@BOTH
def test_the_logged_loss_is_the_last_mean_over_targets(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(num_stddev=3, scale="linear")
    inputs = stack(data[6:8])  # the last of four micro-batches of one step
    logits = model(inputs["input_ids"]).logits
    mean = language_losses(logits, inputs["labels"]).sum().item() / count(inputs["labels"])
    options = {"gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = build(kind, tmp_path, alrc, model, data, **options)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["alrc/loss"] == pytest.approx(mean, rel=1e-6)
    assert "alrc/limit" not in log  # none yet, and JSON has no infinity


@pytest.mark.parametrize("kind", ["mixin", "sequence", "callback"])
def test_kept_is_the_share_that_the_limits_left_since_the_last_log(kind, tmp_path) -> None:
    data, alrc, sums = sequences(), ALRC(**SETTINGS), []
    data[4]["labels"] = torch.full((8,), -100)  # of two sequences of the third step, no target

    def note(_, args, kwargs, output) -> None:
        mask = kwargs.get("mask", torch.tensor(True))
        sums.append(tuple(x.where(mask, 0.0).sum().item() for x in (args[0], output)))

    alrc.register_forward_hook(note, with_kwargs=True)
    trainer = build(
        "callback" if kind == "callback" else "mixin",
        tmp_path,
        alrc,
        language_model(),
        data,
        logging_steps=2,
        options={"alrc_per": "sequence"} if kind == "sequence" else {},
    )
    trainer.train()
    kept = [log["alrc/kept"] for log in trainer.state.log_history if "alrc/kept" in log]
    pairs = [(sums[i], sums[i + 1]) for i in (0, 2, 4)]
    expected = [(a[1] + b[1]) / (a[0] + b[0]) for a, b in pairs]
    assert kept == pytest.approx(expected, rel=1e-6)
    assert min(kept) < 1


@BOTH
def test_kept_is_1_where_nothing_was_limited(kind, tmp_path) -> None:
    trainer = build(
        kind, tmp_path, ALRC(num_stddev=math.inf, scale="linear"), language_model(), sequences()
    )
    trainer.train()
    kept = [log["alrc/kept"] for log in trainer.state.log_history if "alrc/kept" in log]
    assert kept == [1.0] * 6


@BOTH
def test_metrics_arrive_in_tensorboard(kind, tmp_path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda _, *scalar: written.append(scalar))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    alrc, given = ALRC(**SETTINGS), {"report_to": ["tensorboard"]}
    trainer = build(kind, tmp_path, alrc, language_model(), sequences(), **given)
    if kind == "callback":  # as its docstring says
        trainer.add_callback(trainer.pop_callback(TensorBoardCallback))
    trainer.train()
    tags = {f"train/alrc/{name}" for name in ["loss", "kept", *METRICS]}
    assert {tag for tag, *_ in written if "alrc" in tag} == tags
    means = [(value, step) for tag, value, step in written if tag == "train/alrc/mean"]
    assert means == [(moments["mean"], i + 1) for i, (_, moments) in enumerate(steps(trainer))]


class Waits(TorchDispatchMode):
    """Counts how often a number is read from a tensor, which on a GPU waits for it."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "options", "once"),
    [("mixin", {}, 0), ("mixin", {"alrc_per": "sequence"}, 2), ("callback", {}, 0)],
)
def test_nothing_waits_for_the_device_between_logs(
    kind, options, once, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("alrc.torch.inputs.is_readable", lambda _: False)  # as for losses on a GPU
    data, alrc = sequences(), ALRC(**SETTINGS)
    trainer = build(kind, tmp_path, alrc, language_model(), data, options=options, logging_steps=9)
    trainer.pop_callback(Recorder)
    plain = Trainer(language_model(), trainer.args, train_dataset=data)
    with Waits() as theirs:
        plain.train()
    with Waits() as ours:
        trainer.train()
    assert alrc.num_updates == 6
    assert ours.number == theirs.number + once  # in sequence mode, the check of the first loss
    assert theirs.number > 0
