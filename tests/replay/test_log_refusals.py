"""What is no curve is refused in words; a log of which nothing was read is never one."""

import contextlib
import json
import random

import numpy as np
import pytest

from alrc.replay.logs import LogRefused, read_log, read_logs

READABLE = (
    "a TensorBoard event file, a CSV or a table of numbers, JSON or JSON lines, one number per "
    "line, or what a training program prints (step 10 | loss 2.31)"
)
FEW = "a curve must have at least 20 losses, because fewer do not say what is usual; got "


@pytest.fixture
def refusal(tmp_path):
    def refusal(content, **more):
        path = tmp_path / "log"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(LogRefused) as refused:
            read_log(path, **more)
        return str(refused.value)

    return refusal


def table(header, row, rows=30):
    return "\n".join([header, *(row.format(i=i) for i in range(rows))])


def test_prose_is_refused_with_its_first_line(refusal):
    assert refusal("Dear all,\nno log at all.\n") == (
        "log: a log must have losses in it; got no number in a column, nor one beside the name of "
        "a loss or a step. The first line that could not be read is line 1: 'Dear all,'. What can "
        f"be read is {READABLE}."
    )


def test_comments_alone_are_refused_with_the_first_of_them(refusal):
    assert "The first line that could not be read is line 2: '# nothing yet'." in refusal(
        "\n# nothing yet\n# still nothing\n"
    )


def test_a_header_alone_is_refused_and_is_no_fault_of_its_own(refusal):
    assert refusal("step,loss\n") == (
        "log: a log must have losses in it; got no number in a column, nor one beside the name of "
        f"a loss or a step. What can be read is {READABLE}."
    )


def test_unnamed_columns_are_called_by_their_place_and_read_when_named(tmp_path, refusal):
    rows = "\n".join(f"{1 - i % 3} 0.{i}" for i in range(30))
    assert refusal(rows) == (
        "log: one column must be the training loss; got none that is called so among column 1, "
        "column 2. If one of them is, name it: --column 'column 1' (in Python, column='column 1')."
    )
    rows = "\n".join(f"{i} {2 + i / 10} 0.5" for i in range(30))
    assert "got none that is called so among column 2, column 3." in refusal(rows)
    curve = read_log(tmp_path / "log", column="column 2")
    assert curve.losses.tolist() == [2 + i / 10 for i in range(30)]
    assert curve.steps.tolist() == list(range(30))


def test_a_table_of_runs_is_refused(refusal):
    rows = table("Name,State,Runtime,loss,lr", "run-{i},finished,{i},0.{i},0.1")
    assert refusal(rows) == (
        "log: each row must be a step of training; got a table with a run in each row (column "
        "'Name' names them) and no step. Export the history of one run instead."
    )


def test_batch_sizes_and_numbers_of_epochs_make_no_log_of_a_table_of_runs(refusal):
    lines = [f"run{i},{16 if i % 3 else 8},50,0.{i}" for i in range(10, 60)]
    assert refusal("run,batch,epochs,final_loss\n" + "\n".join(lines)).startswith(
        "log: each row must be a step of training; got a table with a run in each row"
    )


def test_a_log_of_steps_may_name_its_run(tmp_path):
    lines = [f"mine,{i // 10},{i % 10},0.{i}" for i in range(10, 60)]
    path = tmp_path / "log.csv"
    path.write_text("run,epoch,batch,loss\n" + "\n".join(lines))
    assert len(read_log(path)) == 50


def test_a_log_without_a_loss_lists_its_columns(refusal):
    assert refusal(table("step,accuracy,lr", "{i},0.5,0.1")) == (
        "log: one column must be the training loss; got none that is called so among accuracy, lr. "
        "If one of them is, name it: --column 'accuracy' (in Python, column='accuracy')."
    )


def test_a_log_of_evaluations_alone_is_refused(refusal):
    assert "got none that is called so among val_loss." in refusal(
        table("step,val_loss", "{i},0.5")
    )


def test_few_losses_are_refused_with_the_first_line_that_could_not_be_read(refusal):
    rows = "\n".join(
        ["step,loss", *(f"{i},oops" for i in range(20)), *(f"{i},1" for i in range(9))]
    )
    assert refusal(rows.replace("0,oops", "0,2.5", 1)) == (
        f"log: {FEW}10 from column 'loss'. The first line that could not be read is line 3: 'oops'."
        " Give a longer log."
    )


def test_losses_none_of_which_is_finite_are_refused(refusal):
    assert refusal(table("step,loss", "{i},nan")) == (
        "log: some losses must be finite; got 30 from column 'loss', all of them NaN or infinite. "
        "Log from before the divergence, or name another column."
    )


def test_a_column_that_is_not_there_is_refused_with_those_that_are(refusal):
    rows = table("step,loss,lr", "{i},0.5,0.1")
    assert refusal(rows, column="los") == (
        "log: the column must be one of loss, lr; got 'los'. Type one of these."
    )


def test_an_end_of_a_name_is_enough_where_it_is_the_end_of_one(tmp_path, refusal):
    rows = table("step,train/box_loss,train/cls_loss", "{i},0.5,0.{i}")
    assert refusal(rows, column="_loss") == (
        "log: the column must be one alone; got '_loss', which is any of train/box_loss, "
        "train/cls_loss. Type it in full."
    )
    assert read_log(tmp_path / "log", column="CLS_loss").column == "train/cls_loss"


@pytest.mark.parametrize(
    ("content", "kind", "mend"),
    [
        (b"SQLite format 3\0", "an SQLite database", "Export a metric of one run as CSV."),
        (b"\0\1\2\3" * 50, "bytes that are no text", "Name the log itself."),
        (b":W&B\0\0", "a .wandb file", "Export the chart as CSV from the page of the run."),
    ],
    ids=["SQLite", "bytes", "wandb"],
)
def test_other_files_are_refused_by_name(refusal, content, kind, mend):
    assert refusal(content) == f"log: a log must be {READABLE}; got {kind}. {mend}"


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(LogRefused) as refused:
        read_log(tmp_path / "nowhere")
    assert str(refused.value) == (
        f"{tmp_path / 'nowhere'}: a log must be there to be read; got no file or folder of this "
        "name. Check the path."
    )


def test_a_folder_without_logs_is_refused_and_one_with_a_bad_log_says_why(tmp_path):
    with pytest.raises(LogRefused) as refused:
        read_logs([tmp_path])
    assert str(refused.value) == (
        f"{tmp_path}: a folder must hold a log; got none that can be read, which is {READABLE}. "
        "Name the file itself."
    )
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(LogRefused) as refused:
        read_logs([tmp_path])
    assert str(refused.value) == (
        f"{tmp_path.name}/metrics.csv: {FEW}1 from column 'loss'. Give a longer log."
    )


def test_broken_json_is_refused_with_its_line(refusal):
    assert "is line 3: '\"loss\": [1, 2,, 3]'." in refusal(
        '{\n"step": [1, 2, 3],\n"loss": [1, 2,, 3]\n}'
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_whatever_give_a_curve_without_a_finite_loss_or_another_error(tmp_path, seed):
    chance = random.Random(seed)
    pieces = ["loss", "step", ":", ",", "\n", "1", "0.5", "nan", " ", "{", "}", "[", "]", '"', "|"]
    text = "".join(chance.choices(pieces, k=3000))
    (tmp_path / "log").write_text(text)
    with contextlib.suppress(LogRefused):  # any other error fails
        assert np.isfinite(read_log(tmp_path / "log").losses).sum() > 0


def test_json_without_a_number_is_refused(refusal):
    assert refusal('{"name": "mine", "done": true}').startswith("log: a log must have losses in it")
    assert refusal('{"name": "mine", "losses": []}').startswith("log: a log must have losses in it")
    assert refusal('"name"\n').startswith("log: a log must have losses in it")


def test_json_lines_with_a_run_in_each_are_refused(refusal):
    lines = [json.dumps({"run": f"a{i}", "loss": i / 7}) for i in range(30)]
    assert refusal("\n".join(lines)).startswith(
        "log: each row must be a step of training; got a table with a run in each row (column "
        "'run' names them)"
    )
