"""Lines as programs print them that cannot be run here, laid out as by their format strings."""

from typing import NamedTuple

import pytest

from alrc.replay.logs import read_log

ROWS = range(40)
LOSSES = [round(4 - row / 20, 3) for row in ROWS]
TIME = "2025-12-07 17:31:02.824"


class Printed(NamedTuple):
    """What a program prints in a row, with {row}, {ten} = 10 row + 10 and {loss}."""

    line: str
    column: str
    steps: range | None
    averaged: bool | None = False
    between: str = ""  # after each tenth row: an evaluation, with losses of 99
    before: str = ""
    norm: bool = False  # of 1.25
    rate: bool = False  # of 0.5


PRINTED = {
    "nanoGPT": Printed(
        "iter {row}: loss {loss:.4f}, time 123.45ms, mfu 1.20%",
        "loss",
        ROWS,
        between="step {row}: train loss 99.0, val loss 99.0",
        before="tokens per iteration will be: 491,520\nnumber of parameters: 123.59M",
    ),
    "build-nanogpt, its log": Printed(
        "{row} train {loss:.6f}", "train loss", ROWS, between="{row} val 99.0\n{row} hella 0.2500"
    ),
    "build-nanogpt, its console": Printed(
        "step {row:5d} | loss: {loss:.6f} | lr 5.0000e-01 | norm: 1.2500 | dt: 234.33ms | "
        "tok/sec: 12345.67",
        "loss",
        ROWS,
        between="validation loss: 99.0",
        norm=True,
        rate=True,
    ),
    "Megatron": Printed(
        " [2024-03-01 10:00:00] iteration {ten:8d}/  500000 | consumed samples:         5120 | "
        "elapsed time per iteration (ms): 1234.5 | learning rate: 5.000E-01 | global batch size:"
        "   512 | lm loss: {loss:.6E} | loss scale: 1.0 | grad norm: 1.250 | number of skipped "
        "iterations:   0 | number of nan iterations:   0 |",
        "lm loss",
        range(10, 410, 10),
        averaged=True,
        between="-----\nvalidation loss at iteration {ten} | lm loss value: 9.9E+01 | lm loss PPL: "
        "1.0E+01 | \n-----",
        norm=True,
        rate=True,
    ),
    "OLMo": Printed(
        TIME + "\thost-1:0\tolmo.train:979\tINFO\t[step={row}/7630,epoch=0]\n"
        "    optim/total_grad_norm=1.250\n    train/CrossEntropyLoss={loss}\n"
        "    train/Perplexity=79,551\n    throughput/total_tokens=131,072",
        "train/CrossEntropyLoss",
        ROWS,
        between=TIME + "\thost-1:0\tolmo.train:1\tINFO\teval/c4-validation/CrossEntropyLoss=99.0",
        norm=True,
    ),
    "llm.c": Printed(
        "s:{row} trl:{loss:.4f} lr:0.500000 norm:1.25",
        "trl",
        ROWS,
        between="s:{row} tel:99.0\ns:{row} eval:0.2500",
        norm=True,
        rate=True,
    ),
    "detectron2": Printed(
        "[05/01 12:00:00 d2.utils.events]:  eta: 1:00:00  iter: {ten}  total_loss: {loss:.4f}  "
        "loss_cls: 99.0  loss_box_reg: 99.0  time: 0.5  data_time: 0.01  lr: 0.5  max_mem: 3000M",
        "total_loss",
        range(10, 410, 10),
        averaged=True,
        rate=True,
    ),
    "PyTorch's example": Printed(
        "Train Epoch: 1 [{ten}/60000 (1%)]\tLoss: {loss:.6f}",
        "Loss",
        range(10, 410, 10),
        averaged=None,
        between="\nTest set: Average loss: 99.0, Accuracy: 9832/10000 (98%)\n",
    ),
    "a tutorial": Printed(
        "Epoch [1/5], Step [{ten}/600], Loss: {loss:.4f}", "Loss", range(10, 410, 10), None
    ),
    "PyTorch's tutorial": Printed(
        "[1, {ten:5d}] loss: {loss:.3f}", "loss", range(10, 410, 10), None
    ),
    "CycleGAN": Printed(
        "(epoch: 1, iters: {ten}, time: 0.338, data: 0.213) G_GAN: -0.5 G_L1: {loss} D_real: -0.3 ",
        "G_L1",
        range(10, 410, 10),
    ),
    "timm": Printed(
        "Train: 3 [{ten:>4d}/1251 ({row:>3d}%)]  Loss: {loss:.3f} (99.0)  Time: 0.5s, 1234.56/s  "
        "(0.5s)  LR: 5.000e-01  Data: 0.010 (0.020)",
        "Loss",
        range(10, 410, 10),
        averaged=None,
        between="Test: [  0/78]  Time: 0.5 (0.5)  Loss:  99.0 (99.0)  Acc@1: 50.0 (50.0)",
        rate=True,
    ),
    "mmengine": Printed(
        "2023/05/01 12:00:00 - mmengine - INFO - Epoch(train)  [1][{ten:>3d}/500]  lr: 5.0000e-01  "
        "eta: 1:00:00  time: 0.5  data_time: 0.01  loss: {loss:.4f}  loss_cls: 99.0",
        "loss",
        range(10, 410, 10),
        averaged=None,
        rate=True,
    ),
    "a bar of tqdm": Printed(
        "Epoch 0:  {row}%|███▍      | {row}/50 [00:01<00:10,  9.80it/s, loss={loss:.3f}, v_num=3]",
        "loss",
        ROWS,
    ),
    "a bar of Keras": Printed(
        "\x1b[1m{row}/50\x1b[0m \x1b[32m━━━\x1b[0m\x1b[37m━━\x1b[0m \x1b[1m0s\x1b[0m 3ms/step - "
        "accuracy: 0.5 - loss: {loss:.4f}",
        "loss",
        ROWS,
        averaged=True,
        before="Epoch 1/3",
    ),
}


def log_of(printed):
    lines = [printed.before] if printed.before else []
    for row, loss in zip(ROWS, LOSSES, strict=True):
        values = {"row": row, "ten": 10 * row + 10, "loss": loss}
        lines.append(printed.line.format(**values))
        if row % 10 == 9 and printed.between:
            lines.append(printed.between.format(**values))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", PRINTED)
def test_what_a_program_prints_is_read(tmp_path, name):
    printed = PRINTED[name]
    (tmp_path / "out.log").write_text(log_of(printed))
    curve = read_log(tmp_path / "out.log")
    assert curve.column == printed.column
    assert curve.losses.tolist() == LOSSES
    assert curve.steps.tolist() == list(printed.steps)
    assert curve.averaged is printed.averaged
    assert curve.starts == (0,)
    norms, rates = curve.gradient_norm, curve.learning_rate
    assert (norms is not None and norms.tolist() == [1.25] * 40) is printed.norm
    assert (rates is not None and rates.tolist() == [0.5] * 40) is printed.rate


def test_the_bar_of_keras_says_that_it_shows_means_since_the_epoch_began(tmp_path):
    (tmp_path / "out.log").write_text(log_of(PRINTED["a bar of Keras"]))
    assert read_log(tmp_path / "out.log").notes[-1] == (
        "Keras' progress bar shows the mean since the epoch began: spikes fade in it, the more the "
        "later in the epoch. Log the loss of each batch for a verdict."
    )


def test_rows_of_single_steps_that_lie_apart_say_that_the_others_are_not_there(tmp_path):
    (tmp_path / "out.log").write_text(log_of(PRINTED["CycleGAN"]))
    assert read_log(tmp_path / "out.log").notes == (
        "Read 40 losses from column 'G_L1' of a loss log of CycleGAN and pix2pix.",
        "Several columns may be the training loss; 'G_L1' was read, the first that is above 0 "
        "throughout. The others: G_GAN, D_real.",
        "Each row is one step of 10: spikes of the others are not in the log.",
    )


def test_lines_of_few_words_below_one_of_numbers_are_no_table(tmp_path):
    (tmp_path / "out.log").write_text("0 8\n" + "".join(f"loss {loss}\n" for loss in LOSSES))
    curve = read_log(tmp_path / "out.log")
    assert (curve.column, curve.losses.tolist()) == ("loss", LOSSES)
    assert curve.notes == ("Read 40 losses from column 'loss' of a console log.",)
