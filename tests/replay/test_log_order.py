"""Where runs begin, which rows are read again, and what is told of the rest."""

import json

import numpy as np
import pytest

from alrc.replay.logs import read_log


@pytest.fixture
def read(tmp_path):
    def read(lines, **more):
        (tmp_path / "log").write_text("\n".join(lines) + "\n")
        return read_log(tmp_path / "log", **more)

    return read


def steps(numbers, name="step"):
    return [f"{name} {step} | loss {10 + step / 100:.4f}" for step in numbers]


def test_steps_that_fall_back_are_a_restart_and_stay(read):
    curve = read(steps([*range(40), *range(30, 60)]))
    assert curve.starts == (0, 40)
    assert curve.steps.tolist() == [*range(40), *range(30, 60)]
    assert curve.notes[1:] == ("1 restart, at row 40; steps fall back at 1 of 1.",)


def test_a_line_that_says_so_begins_a_run_even_where_steps_go_on(read):
    curve = read([*steps(range(25)), "Resuming from checkpoint", *steps(range(25, 50))])
    assert curve.starts == (0, 25)


def test_a_csv_whose_header_is_written_again_begins_a_run(read):
    rows = [f"{step},{5 - step / 50}" for step in range(30)]
    curve = read(["step,loss", *rows, "step,loss", *rows])
    assert curve.starts == (0, 30)
    assert len(curve.losses) == 60


def test_steps_that_count_anew_in_each_epoch_are_no_restart(read):
    curve = read(
        [f"epoch {e} step {s}/20 loss {9 - e - s / 50:.3f}" for e in range(3) for s in range(20)]
    )
    assert curve.starts == (0,)
    assert curve.steps.tolist() == list(range(60))
    assert curve.epochs.tolist() == [e for e in range(3) for _ in range(20)]
    assert "Steps count anew in each epoch; epochs were put behind one another." in curve.notes


def test_two_runs_that_write_line_by_line_are_parted(read):
    first = [f"step {s} loss 2.{s:04d}" for s in range(0, 1000, 10)]
    second = [f"step {s} loss 7.{s:04d}" for s in range(5000, 6000, 10)]
    both = [line for pair in zip(first, second, strict=True) for line in pair]
    curve = read(both)
    assert curve.starts == (0, 100)
    assert (curve.losses[:100] < 3).all()
    assert (curve.losses[100:] > 6).all()
    assert np.all(np.diff(curve.steps[:100]) == 10)


def test_many_restarts_of_one_run_are_not_taken_for_runs_that_write_at_once(read):
    again = [*range(50)] * 12
    curve = read(steps(again))
    assert curve.steps.tolist() == again
    assert curve.starts == tuple(range(0, 600, 50))
    assert not any("runs wrote" in note for note in curve.notes)


def test_a_bar_that_is_drawn_again_is_read_once(read):
    curve = read([line for line in steps(range(30)) for _ in range(3)])
    assert curve.steps.tolist() == list(range(30))
    assert "Left out: 60 rows that repeat step and loss of the row above." in curve.notes


def test_several_ranks_in_one_log_are_told(read):
    curve = read([f"rank {r} step {s} loss {2 + r / 8}" for s in range(30) for r in range(4)])
    assert len(curve.losses) == 120
    assert curve.notes[1].startswith("90 rows have the step of the row above and another loss")


def test_a_summary_without_a_step_is_left_out(read):
    curve = read([*steps(range(30)), "final loss: 0.001"])
    assert curve.losses.min() == 10
    curve = read([*steps(range(30)), "loss: 0.001"])
    assert curve.losses.min() == 10
    assert "Left out: 1 row without a step, as of a summary." in curve.notes


def test_evaluations_are_left_out_under_whatever_name(read):
    lines = [
        line
        for step in range(30)
        for line in (
            f"step {step} train loss 1.5",
            f"step {step} val loss 99.0",
            f"evaluation: step {step} loss 99.0",
            f"test set: average loss: 99.0, accuracy 1/2 in step {step}",
        )
    ]
    curve = read(lines)
    assert curve.column == "train loss"
    assert curve.losses.tolist() == [1.5] * 30
    assert "Left out: 90 rows of evaluations." in curve.notes


def test_a_column_of_words_says_which_rows_are_evaluations(read):
    rows = [f"{s},{split},{loss}" for s in range(30) for split, loss in (("train", 1), ("val", 99))]
    curve = read(["step,split,loss", *rows])
    assert curve.losses.tolist() == [1.0] * 30


def test_rows_that_are_ten_steps_apart_say_what_they_may_hide(read):
    curve = read(steps(range(0, 300, 10)))
    assert (curve.steps_per_row, curve.averaged) == (10, None)
    assert curve.notes[1:] == (
        "Rows are 10 steps apart, and the log does not say whether they are means: spikes of "
        "single steps may be hidden or left out.",
    )


def test_a_cell_that_is_no_number_is_counted_and_shown(read):
    rows = [f"{step},{'oops' if step in (3, 7) else 2.5}" for step in range(40)]
    curve = read(["step,loss", *rows])
    assert len(curve.losses) == 38
    assert (
        "2 cells of column 'loss' could not be read as a number; the first is in line 5: 'oops'."
        in curve.notes
    )


def test_a_line_with_too_few_cells_is_counted_and_shown(read):
    rows = [f"{step},2.5" for step in range(40)]
    curve = read(["step,loss", *rows[:20], "7", *rows[20:]])
    assert "1 line could not be read; the first is line 22: '7'." in curve.notes


def test_a_run_that_begins_again_in_a_log_without_steps_is_told_by_its_row(read):
    lines = [f"loss {10 - row / 100}" for row in range(50)]
    curve = read([*lines[:25], "Resuming from checkpoint", *lines[25:]])
    assert curve.steps is None
    assert curve.starts == (0, 25)
    assert curve.notes[1:] == ("1 restart, at row 25.",)


def test_a_norm_that_no_row_with_a_loss_has_is_not_read(read):
    rows = [{"step": step, "loss": 2.5} for step in range(30)]
    others = [{"step": step, "grad_norm": 7.0} for step in range(30)]
    assert read(map(json.dumps, [*rows, *others])).gradient_norm is None
    rows = [row | {"gnorm": 3.0} for row in rows]
    curve = read(map(json.dumps, [*others, *rows]))
    assert curve.gradient_norm.tolist() == [3.0] * 30
