"""Logs that the tools themselves write, not ones by hand."""

import csv
import json
import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from alrc.replay.logs import LogRefused, read_log, read_logs

LOSSES = [3.0 / (step + 1) + 0.01 * (step % 7) for step in range(40)]
NORMS = [1.0 + 0.5 * (step % 3) for step in range(40)]


def assert_reads(curve, column, steps, losses=LOSSES):
    assert curve.column == column
    np.testing.assert_array_equal(curve.losses, losses)
    assert curve.steps is None if steps is None else curve.steps.tolist() == list(steps)
    assert curve.starts == (0,)


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
    """By this name TensorBoard knows that TensorFlow, half a minute's import, is not wanted."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))


def write_events(folder, values, first=0, **more):
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(str(folder), **more)
    for step, value in enumerate(values, first):
        writer.add_scalar("train/loss", value, step)
        writer.add_scalar("train/grad_norm", 2 * value, step)
        if step % 10 == 0:
            writer.add_scalar("val/loss", value + 1, step)
            writer.add_histogram("weights", np.arange(5.0), step)
    writer.close()


def test_the_event_files_of_tensorboard_are_read_with_their_gradient_norms(tmp_path):
    write_events(tmp_path, LOSSES)
    curve = read_log(tmp_path)
    assert_reads(curve, "train/loss", range(40), np.float32(LOSSES))
    np.testing.assert_array_equal(curve.gradient_norm, 2 * np.float32(LOSSES))
    assert curve.columns == ("train/loss", "train/grad_norm", "val/loss")
    (file,) = tmp_path.iterdir()
    np.testing.assert_array_equal(read_log(file).losses, curve.losses)


def test_a_record_of_an_event_file_that_is_not_whole_yet_waits(tmp_path):
    write_events(tmp_path, LOSSES)
    (file,) = tmp_path.iterdir()
    whole = read_log(file).losses
    file.write_bytes(file.read_bytes()[:-200])
    part = read_log(file).losses
    assert 20 <= len(part) < len(whole)
    np.testing.assert_array_equal(part, whole[: len(part)])


def test_a_second_event_file_in_a_folder_is_a_resumed_run(tmp_path):
    write_events(tmp_path, LOSSES, filename_suffix=".a")
    (first,) = tmp_path.iterdir()
    first.rename(tmp_path / "events.out.tfevents.1.a")
    write_events(tmp_path, LOSSES, first=30, filename_suffix=".b")
    curve = read_log(tmp_path)
    assert curve.steps.tolist() == [*range(40), *range(30, 70)]
    assert curve.starts == (0, 40)


def test_folders_of_runs_are_a_curve_each_and_refused_as_one(tmp_path):
    for run in ("a", "b"):
        write_events(tmp_path / run, LOSSES)
    assert [curve.name for curve in read_logs([tmp_path])] == [
        f"{tmp_path.name}/a",
        f"{tmp_path.name}/b",
    ]
    with pytest.raises(LogRefused) as refused:
        read_log(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}: one curve must be meant; got 2: {tmp_path.name}/a, {tmp_path.name}/b. Name "
        "one of them, or read all with read_logs."
    )


def test_scalars_that_tensorflow_writes_as_tensors_are_read(tmp_path):
    """As Keras' callback and tf.summary do; built from TensorBoard's own messages."""
    compat = pytest.importorskip("tensorboard.compat.proto")
    assert compat
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step, loss in enumerate(LOSSES):
        content = np.float32(loss).tobytes()
        held = {"tensor_content": content} if step % 2 else {"float_val": [loss]}
        value = Summary.Value(tag="batch_loss", tensor=TensorProto(dtype=1, **held))
        writer.add_event(Event(step=step, wall_time=1.0, summary=Summary(value=[value])))
    writer.close()
    assert_reads(read_log(tmp_path), "batch_loss", range(40), np.float32(LOSSES))


@pytest.mark.slow  # importing Lightning takes longer than all others together
def test_lightnings_csv_is_read_by_step_and_its_means_of_epochs_are_left_out(tmp_path):
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.CSVLogger(str(tmp_path))
    for step, loss in enumerate(LOSSES):
        logger.log_metrics({"train_loss_step": loss, "epoch": step // 10}, step)
        if step % 10 == 9:
            logger.log_metrics({"train_loss_epoch": 99.0, "epoch": step // 10}, step)
            logger.log_metrics({"val_loss": 77.0, "epoch": step // 10}, step)
    logger.save()
    logger.finalize("success")
    curve = read_log(tmp_path)
    assert_reads(curve, "train_loss_step", range(40))
    assert curve.notes == (
        "Read 40 losses from column 'train_loss_step' of a CSV of Lightning's CSVLogger.",
        "Left out: 4 rows of evaluations, 4 rows with means of epochs.",
    )
    assert curve.epochs.tolist() == [step // 10 for step in range(40)]


def test_the_state_of_transformers_trainer_is_read_as_means_over_its_steps(tmp_path):
    callbacks = pytest.importorskip("transformers.trainer_callback")
    state = callbacks.TrainerState(max_steps=400)
    for row, (loss, norm) in enumerate(zip(LOSSES, NORMS, strict=True)):
        step = {"step": 10 * row + 10, "epoch": row / 20}
        state.log_history.append({"loss": loss, "grad_norm": norm, "learning_rate": 0.1} | step)
        if row % 10 == 9:
            state.log_history.append({"eval_loss": 7.0, "eval_runtime": 1.0} | step)
    state.log_history.append({"train_loss": 0.3, "train_runtime": 1.0, "step": 400})
    for checkpoint in ("checkpoint-90", "checkpoint-400"):
        (tmp_path / checkpoint).mkdir()
    state.save_to_json(str(tmp_path / "checkpoint-400" / "trainer_state.json"))
    state.log_history = state.log_history[:25]
    state.save_to_json(str(tmp_path / "checkpoint-90" / "trainer_state.json"))
    curve = read_log(tmp_path)
    assert_reads(curve, "loss", range(10, 410, 10))
    assert curve.gradient_norm.tolist() == NORMS
    assert (curve.steps_per_row, curve.averaged) == (10, True)
    assert curve.notes == (
        "Read 40 losses from column 'loss' of a trainer_state.json of transformers.",
        "Left out: 4 rows of evaluations, 1 row without 'loss'.",
        "Each row is the mean of 10 steps: a spike of one step looks 10 times smaller, and several "
        "look like one.",
    )


def test_what_transformers_prints_is_read_as_means(tmp_path, capsys):
    callbacks = pytest.importorskip("transformers.trainer_callback")
    state = callbacks.TrainerState(is_local_process_zero=True)
    for row, loss in enumerate(LOSSES):
        logs = {"loss": loss, "grad_norm": 1.5, "learning_rate": 5e-05, "epoch": row / 20}
        callbacks.PrinterCallback().on_log(None, state, None, logs=logs)
    callbacks.PrinterCallback().on_log(None, state, None, logs={"eval_loss": 7.0, "epoch": 2.0})
    printed = capsys.readouterr().out
    assert printed.count("\n") == 41
    (tmp_path / "out.txt").write_text(printed)
    curve = read_log(tmp_path / "out.txt")
    assert curve.averaged is True
    # It prints four digits.
    assert_reads(curve, "loss", None, [float(f"{loss:.4g}") for loss in LOSSES])
    assert curve.notes[1] == "Left out: 1 row of evaluations."


def keras_csv(path, epochs):
    callback = pytest.importorskip("keras").callbacks.CSVLogger(str(path))
    callback.set_model(type("Model", (), {"stop_training": False})())
    callback.on_train_begin()
    for epoch, loss in zip(range(epochs), LOSSES, strict=False):
        callback.on_epoch_end(epoch, {"accuracy": 0.5, "loss": loss, "val_loss": 9.0})
    callback.on_train_end()


def test_keras_csv_of_many_epochs_is_read_as_means_of_these(tmp_path):
    keras_csv(tmp_path / "training.csv", 40)
    curve = read_log(tmp_path / "training.csv")
    assert_reads(curve, "loss", None)
    assert (curve.averaged, curve.epochs.tolist()) == (True, list(range(40)))
    assert curve.notes[1:] == (
        "Each row is the mean of an epoch: spikes of single steps are hidden in it.",
    )


def test_keras_csv_of_ten_epochs_is_refused_in_words(tmp_path):
    keras_csv(tmp_path / "training.csv", 10)
    with pytest.raises(LogRefused) as refused:
        read_log(tmp_path / "training.csv")
    assert str(refused.value) == (
        "training.csv: a curve must have at least 20 losses, because fewer do not say what is "
        "usual; got 10 from column 'loss'. They are means of epochs, which hide what happens "
        "within one: log the loss of each step."
    )


def test_mlflows_folder_and_each_of_its_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    stores = pytest.importorskip("mlflow.store.tracking.file_store")
    from mlflow.entities import Metric

    store = stores.FileStore(str(tmp_path / "mlruns"))
    run = store.create_run("0", "somebody", 0, [], "a run").info.run_id
    for step, (loss, norm) in enumerate(zip(LOSSES, NORMS, strict=True)):
        time = 1_700_000_000_000 + step
        store.log_metric(run, Metric("train/loss", loss, time, step))
        store.log_metric(run, Metric("grad_norm", norm, time, step))
        if step % 10 == 0:
            store.log_metric(run, Metric("val_loss", 5.0, time, step))
    curve = read_log(tmp_path / "mlruns")
    assert_reads(curve, "train/loss", range(40))
    assert curve.gradient_norm.tolist() == NORMS
    file = next((tmp_path / "mlruns").rglob("metrics")) / "train" / "loss"
    assert_reads(read_log(file), "value", range(40))


@pytest.mark.parametrize("more", [{}, {"header": "step loss"}, {"delimiter": ","}])
def test_numpys_tables_are_read_with_and_without_a_header(tmp_path, more):
    np.savetxt(tmp_path / "curve", np.c_[np.arange(40), LOSSES], **more)
    assert_reads(read_log(tmp_path / "curve"), "loss", range(40))


def test_one_number_per_line_is_read_and_says_nothing_of_steps(tmp_path):
    np.savetxt(tmp_path / "losses", LOSSES)
    curve = read_log(tmp_path / "losses")
    assert_reads(curve, "loss", None)
    assert (curve.averaged, curve.steps_per_row) == (None, 1)


def test_a_chart_export_of_two_runs_is_two_curves(tmp_path):
    runs = ("fast-sun-3 - train/loss", "test-run - train/loss")
    names = ["Step", *(run + bound for run in runs for bound in ("", "__MIN", "__MAX"))]
    with (tmp_path / "chart.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for step, loss in enumerate(LOSSES):
            for run, factor in zip(runs, (1, 2), strict=True):
                own = {run: factor * loss, f"{run}__MIN": loss, f"{run}__MAX": 3 * loss}
                writer.writerow({"Step": 5 * step, **own})
    first, second = read_logs([tmp_path / "chart.csv"])
    assert_reads(first, runs[0], range(0, 200, 5))
    assert_reads(second, runs[1], range(0, 200, 5), 2 * np.array(LOSSES))
    assert first.name == "chart.csv: fast-sun-3"
    assert first.notes[-1] == (
        "40 rows stand for several steps, as the columns __MIN and __MAX say: export the full "
        "history for the others."
    )


def test_json_lines_and_a_history_of_keras_are_read(tmp_path):
    lines = [json.dumps({"loss": loss, "step": step}) for step, loss in enumerate(LOSSES)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert_reads(read_log(tmp_path / "log.jsonl"), "loss", range(40))
    history = {"loss": LOSSES, "val_loss": [9.0] * 40}
    (tmp_path / "history.json").write_text(json.dumps(history, indent=1))
    assert_reads(read_log(tmp_path / "history.json"), "loss", None)


def test_pythons_logging_is_read_behind_its_prefix(tmp_path):
    logger = logging.Logger("trainer")
    handler = logging.FileHandler(tmp_path / "train.log")
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(name)s:%(lineno)d %(levelname)s %(message)s")
    )
    logger.addHandler(handler)
    for step, loss in enumerate(LOSSES):
        logger.info("epoch 0 step %d/40: train loss %r, lr 0.1", step, loss)
        if step % 10 == 0:
            logger.info("evaluation at step %d: loss 99.0", step)
    handler.close()
    assert_reads(read_log(Path(tmp_path / "train.log")), "train loss", range(40))


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_is_read_in_one_line_and_in_many(tmp_path, indent):
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(LOSSES)]
    for name, item in {"rows": rows, "state": {"log_history": rows}}.items():
        (tmp_path / name).write_text(json.dumps(item, indent=indent))
        assert_reads(read_log(tmp_path / name), "loss", range(40))
    # What TensorBoard's page saves, and a list alone.
    (tmp_path / "page").write_text(json.dumps([[1e9, s, v] for s, v in enumerate(LOSSES)]))
    assert_reads(read_log(tmp_path / "page"), "value", range(40))
    (tmp_path / "list").write_text(json.dumps(LOSSES, indent=indent))
    assert_reads(read_log(tmp_path / "list"), "loss", None)
