"""Six logs of real trainings; what is in them was counted and seen by eye, before they were read.

Each was opened in an editor; rows were counted with grep, and first and last losses copied.
"""

from typing import NamedTuple

import numpy as np
import pytest
from real_data import REAL_LOGS, needs_real_logs

from alrc.replay.logs import read_log

pytestmark = needs_real_logs


class Seen(NamedTuple):
    """What a person sees in a log."""

    file: str
    column: str
    losses: int
    first: float
    last: float
    steps: tuple[int, int]
    per_row: int
    averaged: bool
    highest: tuple[int, float]  # row and loss
    norm: float | None = None  # the gradient's, in the first row


SEEN = [
    # Rows of steps and of epochs take turns: 1,260 and 1,000. One spike, near row 400.
    Seen(
        "01_lightning_pinn_spike.csv",
        *("train_loss_step", 1260, 0.14763501286506653, 0.044393014162778854),
        *((49, 62999), 50, False, None),
    ),
    # A fine-tuning that goes down calmly; its last row sums up.
    Seen(
        "03_hf_trainer_state_calm.json",
        *("loss", 866, 2.4977, 0.1333, (10, 8660), 10, True, (3, 2.8357), 11.009225845336914),
    ),
    # Each step of a pretraining, and `tel` now and then.
    Seen(
        "07_llmc_main.log",
        *("trl", 7264, 11.0091, 3.5017, (0, 7263), 1, False, (0, 11.0091), 15.37),
    ),
    # The log breaks off in step 664; 11.28 at the start is the highest.
    Seen(
        "09_olmo_train.log",
        *("train/CrossEntropyLoss", 663, 11.28, 4.855, (1, 663), 1, False, (0, 11.28), 10.56),
    ),
    # Means over ten steps; `loss_q0` to `loss_q3` are parts of the loss.
    Seen(
        "10_diffusion_progress.csv",
        *("loss", 2065, 16.557571411132812, 0.139779344573617, (0, 20640), 10, True),
        *((1, 19.32774477005005), 81.96163173341886),
    ),
]


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.file)
def test_a_real_log_is_read_as_a_person_sees_it(seen):
    curve = read_log(REAL_LOGS / seen.file)
    assert curve.column == seen.column
    assert len(curve.losses) == seen.losses
    assert np.isfinite(curve.losses).all()
    assert (curve.losses[0], curve.losses[-1]) == (seen.first, seen.last)
    assert (curve.steps[0], curve.steps[-1]) == seen.steps
    assert (curve.steps_per_row, curve.averaged, curve.starts) == (
        seen.per_row,
        seen.averaged,
        (0,),
    )
    if seen.highest:
        assert (int(curve.losses.argmax()), curve.losses.max()) == seen.highest
    norms = curve.gradient_norm
    assert (None if norms is None else norms[0]) == seen.norm
    assert curve.notes[0].startswith(f"Read {seen.losses:,} losses from column {seen.column!r}")


def test_the_rows_of_epochs_in_lightnings_log_are_left_out_and_counted():
    curve = read_log(REAL_LOGS / "01_lightning_pinn_spike.csv")
    assert "Left out: 1,000 rows with means of epochs." in curve.notes


def test_a_log_into_which_47_runs_wrote_two_of_them_at_once_is_parted():
    """Three short beginnings, then a long run; two more wrote between its lines."""
    curve = read_log(REAL_LOGS / "08_pix2pix_loss_log.txt")
    assert len(curve.losses) == 3211
    assert curve.column == "G_L1"  # the other two go below zero
    assert curve.columns == ("G_GAN", "G_L1", "D_real+fake")
    # By hand: 4 rows from iteration 100 on, 4 from 400 on; then runs that end in epochs 66, 8, 57.
    assert curve.starts == (0, 4, 8, 1636, 1811)
    ends = [curve.epochs[start - 1] for start in (*curve.starts[1:], 3211)]
    assert ends == [1, 1, 66, 8, 57]
    assert curve.losses[8] == 4101.261  # the first after the header of 02:30:34
    assert curve.losses[1635] == 3075.492  # of the last line but one
    assert curve.losses[-1] == 2314.301
    assert (
        "5 runs wrote into this log, some at the same time; their rows were put behind one another "
        "(4, 4, 1,628, 175, 1,400 losses)." in curve.notes
    )
    assert "The log says 47 times that a run begins; losses follow 5 times." in curve.notes
