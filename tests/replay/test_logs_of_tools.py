"""Logs that the tools themselves write, not ones by hand."""

import csv
import json
import logging
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from alrc.replay.logs import LogReader, LogRefused, read_log, read_logs

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


def test_a_state_of_transformers_that_is_not_whole_is_told_of_and_the_one_before_read(tmp_path):
    for rows, checkpoint in ((20, "checkpoint-20"), (30, "checkpoint-30"), (40, "checkpoint-40")):
        log = [{"loss": loss, "step": step} for step, loss in enumerate(LOSSES[:rows])]
        (tmp_path / checkpoint).mkdir()
        whole = json.dumps({"log_history": log, "global_step": rows})
        (tmp_path / checkpoint / "trainer_state.json").write_text(whole)
    newest = tmp_path / "checkpoint-40" / "trainer_state.json"
    for part in (newest.read_text()[:-300], ""):
        newest.write_text(part)
        curve = read_log(tmp_path)
        assert_reads(curve, "loss", range(30), LOSSES[:30])
        assert curve.notes[-1] == (
            f"Not read: {tmp_path.name}/checkpoint-40/trainer_state.json, which is damaged or is "
            "being written."
        )
    for checkpoint in (20, 30):
        (tmp_path / f"checkpoint-{checkpoint}" / "trainer_state.json").write_text("")
    name = f"{tmp_path.name}/checkpoint-40/trainer_state.json"
    with pytest.raises(LogRefused, match=rf"^{name}: a log must have something in it"):
        read_log(tmp_path)


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


@pytest.mark.parametrize(
    ("header", "row", "format", "column", "averaged"),
    [
        ("Wall time,Step,Value", "17{i}.5,{i},{loss}", "a CSV of TensorBoard", "Value", False),
        (
            "epoch,train/box_loss,metrics/mAP50(B)",
            "{i},{loss},0.5",
            "a results.csv of Ultralytics",
            "train/box_loss",
            True,
        ),
        (
            "grad_norm,loss,loss_q0,step",
            "1.5,{loss},9.0,{i}",
            "a progress.csv of openai's logger",
            "loss",
            False,  # the mean of one step is that step
        ),
    ],
)
def test_csv_files_are_known_by_their_columns(tmp_path, header, row, format, column, averaged):
    rows = [row.format(i=i, loss=loss) for i, loss in enumerate(LOSSES)]
    (tmp_path / "log.csv").write_text("\n".join([header, *rows]))
    curve = read_log(tmp_path / "log.csv")
    assert_reads(curve, column, None if "epoch" in header else range(40))
    assert (curve.format, curve.averaged) == (format, averaged)


def test_points_of_a_chart_that_stand_for_one_step_each_hide_nothing(tmp_path):
    rows = [f'"{i}","{loss}","{loss}","{loss}"' for i, loss in enumerate(LOSSES)]
    names = '"Step","a - loss","a - loss__MIN","a - loss__MAX"'
    (tmp_path / "chart.csv").write_text("\n".join([names, *rows]))
    curve = read_log(tmp_path / "chart.csv")
    assert_reads(curve, "a - loss", range(40))
    assert curve.notes == (
        "Read 40 losses from column 'a - loss' of a chart export of Weights & Biases.",
    )


@pytest.mark.parametrize("header", ["made on a Tuesday\nstep,loss", "made on a Tuesday"])
def test_a_comment_above_a_table_names_its_columns_if_it_has_a_word_for_each(tmp_path, header):
    np.savetxt(tmp_path / "curve", np.c_[np.arange(40), LOSSES], header=header, delimiter=",")
    assert_reads(read_log(tmp_path / "curve"), "loss", range(40))


def test_a_long_table_of_blanks_is_read_and_its_faults_are_told(tmp_path):
    lines = [f"{i} {1 + i % 7}" for i in range(2000)]
    lines[700], lines[1200] = "1", "1 2 3"
    (tmp_path / "curve").write_text("\n".join(lines) + "\n")
    curve = read_log(tmp_path / "curve")
    rows = [i for i in range(2000) if i not in (700, 1200)]
    assert_reads(curve, "loss", rows, [1.0 + i % 7 for i in rows])
    assert curve.notes[1] == "2 lines could not be read; the first is line 701: '1'."


# Event files, byte by byte; messages are TensorBoard's own.


def records(*events):
    """Length, its checksum, the message and its checksum, which are not looked at."""
    return b"".join(struct.pack("<Q4x", len(data)) + data + b"\0" * 4 for data in events)


def event(step, content, **kinds):
    messages = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    value = Summary.Value(tag="loss", tensor=TensorProto(tensor_content=content, **kinds))
    return messages.Event(step=step, summary=Summary(value=[value])).SerializeToString()


FIRST = b"\x1a\x0dbrain.Event:2"


def test_of_tensors_those_of_one_number_are_losses(tmp_path):
    more = [
        event(99, np.float64(9).tobytes(), dtype=1),  # too long for its type
        event(99, np.float64([9, 9]).tobytes(), dtype=2),
        event(99, b"words", dtype=7),
    ]
    losses = [event(i, np.float64(loss).tobytes(), dtype=2) for i, loss in enumerate(LOSSES)]
    (tmp_path / "events").write_bytes(records(FIRST, *more, *losses))
    assert_reads(read_log(tmp_path / "events"), "loss", range(40))


def test_fields_that_are_not_known_are_passed_over(tmp_path):
    """As protocol buffers are meant to be read: of numbers of every kind, in every message."""
    others = b"\x78\x96\x01" + b"\x7a\x02ab" + b"\x7d1234" + b"\x7912345678"  # of field 15
    losses = []
    for i, loss in enumerate(LOSSES):
        whole = event(i, np.float64(loss).tobytes(), dtype=2)
        place = whole.index(b"\x2a") + 1  # Event.summary and its length
        assert whole[place] == len(whole) - place - 1 < 100
        inside = whole[place + 1 :] + others
        losses.append(whole[:place] + bytes([len(inside)]) + inside + others)
    (tmp_path / "events").write_bytes(records(FIRST, *losses))
    curve = read_log(tmp_path / "events")
    assert_reads(curve, "loss", range(40))
    assert len(curve.notes) == 1


def test_an_event_file_that_comes_byte_by_byte_has_what_is_whole():
    data = records(FIRST, *(event(i, np.float64(7).tobytes(), dtype=2) for i in range(30)))
    size = len(records(event(29, np.float64(7).tobytes(), dtype=2)))
    log = LogReader("events")
    log.feed(data[: -2 * size])
    known = []
    for place in range(len(data) - 2 * size, len(data)):
        log.feed(data[place : place + 1])
        known.append(len(log.curve()))
    assert known == [28] * (size - 1) + [29] * size + [30]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (records(b"\x0f"), "a damaged record"),  # of a kind that there is not
        (records(b"\x2a\x80"), "a damaged record"),  # that ends within a number
        (struct.pack("<Q4x", 2**40), f"a record of {2**40} bytes"),
    ],
)
def test_a_damaged_event_file_is_read_as_far_as_it_goes(tmp_path, damage, told):
    before, after = (
        records(*(event(i, np.float64(LOSSES[i]).tobytes(), dtype=2) for i in rows))
        for rows in (range(30), range(30, 40))
    )
    (tmp_path / "events").write_bytes(records(FIRST) + before + damage + after)
    curve = read_log(tmp_path / "events")
    size = 40 if told == "a damaged record" else 30
    assert_reads(curve, "loss", range(size), LOSSES[:size])
    assert curve.notes[1] == f"1 line could not be read; the first is line 32: '{told}'."


# MLflow's folders.


def test_a_line_of_mlflow_that_is_damaged_is_told_and_a_metric_called_step_is_none(tmp_path):
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (tmp_path / "meta.yaml").touch()
    lines = [f"17000000000{i} {loss!r} {i}" for i, loss in enumerate(LOSSES)]
    lines[7] = "1700"
    (metrics / "loss").write_text("\n".join(lines))
    (metrics / "step").write_text("\n".join(f"17000000000{i} 99.0 {i}" for i in range(40)))
    curve = read_log(tmp_path)
    assert_reads(curve, "loss", [i for i in range(40) if i != 7], [*LOSSES[:7], *LOSSES[8:]])
    assert (
        "1 cell of column 'loss' could not be read as a number; the first is in line 8: '1700'."
        in curve.notes
    )


def test_a_folder_called_metrics_that_is_not_mlflows_is_read_for_what_is_in_it(tmp_path):
    (tmp_path / "metrics").mkdir()
    np.savetxt(tmp_path / "metrics" / "loss.csv", LOSSES)
    curve = read_log(tmp_path)
    assert_reads(curve, "loss", None)
    assert curve.name == f"{tmp_path.name}/metrics/loss.csv"


# JSON.

SAYS_OF_JSON = {
    "a trainer_log.jsonl of LLaMA-Factory": (
        {"current_steps": 10, "total_steps": 400, "percentage": 2.5, "elapsed_time": "0:00:10"},
        True,
    ),
    "the JSON lines of detectron2": ({"iteration": 10, "lr": 0.1}, True),
    "JSON lines of transformers' Trainer": (
        {"grad_norm": 1.5, "learning_rate": 0.1, "step": 10},
        True,
    ),
    "JSON lines": ({"at": {"step": 10, "place": "here"}, "done": False, "note": None}, None),
}


@pytest.mark.parametrize("format", SAYS_OF_JSON)
def test_json_lines_are_known_by_their_keys(tmp_path, format):
    others, averaged = SAYS_OF_JSON[format]
    name = "total_loss" if "detectron2" in format else "loss"
    lines = []
    for row, loss in enumerate(LOSSES):
        item = json.loads(json.dumps(others).replace(": 10", f": {10 * row + 10}"))
        lines.append(json.dumps({name: loss} | item))
    (tmp_path / "log").write_text("\n\n".join(lines))
    curve = read_log(tmp_path / "log")
    if "at" in others:
        assert_reads(curve, name, None)
        assert curve.columns == ("loss", "at/step")
    else:
        assert_reads(curve, name, range(10, 410, 10))
    assert (curve.format, curve.averaged) == (format, averaged)
    assert ("median of the last twenty losses" in curve.notes[-1]) == ("detectron2" in format)


def test_numbers_in_words_and_evaluations_in_json_are_told_apart(tmp_path):
    lines = []
    for step, loss in enumerate(LOSSES):
        lines.append({"step": step, "split": "train", "loss": f"{loss!r}", "lr": "5e-05"})
        lines.append({"step": step, "split": "val", "loss": "99.0", "best": "", "time": "0:01"})
    (tmp_path / "log").write_text("\n".join(map(json.dumps, lines)))
    curve = read_log(tmp_path / "log")
    assert_reads(curve, "loss", range(40))
    assert curve.learning_rate.tolist() == [5e-05] * 40
    assert curve.notes[1] == "Left out: 40 rows of evaluations."


def test_lines_that_are_no_objects_are_counted_and_those_without_a_number_are_none(tmp_path):
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(LOSSES)]
    more = ['{"step": 9, "lo', "[1, 2]", '{"message": "saved"}']
    (tmp_path / "log").write_text("\n".join([*lines[:20], *more, *lines[20:]]))
    curve = read_log(tmp_path / "log")
    assert_reads(curve, "loss", range(40))
    assert curve.notes[1:] == (
        '2 lines could not be read; the first is line 21: \'{"step": 9, "lo\'.',
    )


def test_a_document_that_grows_is_read_once_it_is_whole():
    many = [1 / (step + 3) for step in range(5000)]
    text = json.dumps({"run": {"loss": many}, "seed": 3}, indent=0).encode()
    assert len(text) > 90_000
    log = LogReader("log")
    log.feed(text[:80_000])
    with pytest.raises(LogRefused, match="no number in a column"):
        log.curve()
    log.feed(text[80_000:])
    log.end()
    assert log.curve().losses.tolist() == many
    assert log.curve().losses.tolist() == many


@pytest.mark.parametrize(
    ("document", "steps"),
    [
        ({"seed": 3, "train": {"step": list(range(40)), "loss": LOSSES}}, None),
        ({"step": list(range(40)), "loss": LOSSES, "rows": [{"a": 1}], "empty": []}, range(40)),
        ({"loss": LOSSES, "lr": [0.5] * 9}, None),
        ([*LOSSES[:9], True, "words", None, *LOSSES[9:]], None),
    ],
)
def test_lists_in_a_document_are_columns(tmp_path, document, steps):
    (tmp_path / "log").write_text(json.dumps(document))
    curve = read_log(tmp_path / "log")
    assert_reads(curve, curve.column, steps)
    assert curve.column in ("loss", "train/loss")
    assert curve.averaged is not True
