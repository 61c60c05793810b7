"""Real logs: the verdict is what a person saw who looked at them, written down beforehand."""

import csv
import json
import re

import numpy as np
from real_data import REAL_LOGS, needs_real_logs

from alrc.replay import replay

pytestmark = needs_real_logs


def rows(name, column):
    with (REAL_LOGS / name).open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row[column]]


def text(name):
    return (REAL_LOGS / name).read_text(encoding="utf-8")


def test_the_pinn_has_a_spike_of_a_factor_of_thousands_and_smaller_ones():
    log = rows("01_lightning_pinn_spike.csv", "train_loss_step")
    found = replay(
        [float(row["train_loss_step"]) for row in log],
        steps=[int(row["step"]) for row in log],
        steps_per_row=50,
    )
    assert found.verdict.kind == "isolated spikes"
    assert ", 16149 and" in found.verdict.sentence
    assert found.verdict.sentence.endswith("back within 1 row.")
    assert found.outcome.excess_cut > 0.99


def test_fine_tuning_that_falls_from_epoch_to_epoch_is_calm():
    history = json.loads(text("03_hf_trainer_state_calm.json"))["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    found = replay(losses, steps_per_row=10, averaged=True)
    assert found.verdict.kind == "calm"
    assert found.outcome.share < 0.01


def test_pretraining_in_c_is_calm():
    log = re.findall(r"^s:\d+ trl:(\S+) .*norm:(\S+)", text("07_llmc_main.log"), re.MULTILINE)
    losses, norms = np.array(log, dtype=float).T
    found = replay(losses, gradient_norm=norms)
    assert found.verdict.kind == "calm"
    assert found.outcome.num_limited == 0


def test_a_log_of_many_runs_shows_where_they_begin_and_nothing_else():
    losses, starts = [], {0}
    for line in text("08_pix2pix_loss_log.txt").splitlines():
        if line.startswith("==="):
            starts.add(len(losses))
        elif number := re.search(r"G_L1: (\S+)", line):
            losses.append(float(number[1]))
    found = replay(losses, starts=sorted(row for row in starts if row < len(losses)))
    assert found.verdict.kind == "restart"


def test_pretraining_of_a_language_model_is_calm():
    log = text("09_olmo_train.log")
    losses = [float(x) for x in re.findall(r"train/CrossEntropyLoss=([\d.]+)", log)]
    assert replay(losses).verdict.kind == "calm"


def test_a_diffusion_model_is_noisy_and_calm():
    log = rows("10_diffusion_progress.csv", "loss")
    norms = [float(row["grad_norm"]) for row in log]
    found = replay([float(row["loss"]) for row in log], gradient_norm=norms, steps_per_row=10)
    assert found.verdict.kind == "calm"
    assert "spread by a factor of" in found.verdict.sentence
