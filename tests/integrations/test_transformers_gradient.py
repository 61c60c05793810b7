"""The gradient and the unit of the losses in Hugging Face's Trainer, held to a plain loop."""

import copy
import inspect
import math

import pytest
import torch
from hugging_face import (
    BOTH,
    CLASSIFYING,
    SETTINGS,
    MixedTrainer,
    Plain,
    Recorder,
    Trainer,
    assert_same,
    build,
    classification_losses,
    classifier,
    count,
    labelled_sequences,
    language_losses,
    language_model,
    oracle,
    parameters,
    sequences,
    steps,
)
from torch.nn import functional
from transformers.trainer_pt_utils import LabelSmoother

from alrc.torch import ALRC


@BOTH
def test_gradient_is_that_of_a_loop_by_hand(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data)
    trainer = build(kind, tmp_path, alrc, model, data)
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
@pytest.mark.parametrize("average", [True, False])
def test_accumulation_leaves_the_unit_of_the_loss(kind, average, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, accumulation=4)
    options = {"gradient_accumulation_steps": 4, "average_tokens_across_devices": average}
    trainer = build(kind, tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
def test_accumulation_with_a_model_that_takes_no_num_items_in_batch(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(
        copy.deepcopy(model), data, accumulation=3, divisor=lambda _, own: 3 * count(own)
    )
    trainer = build(kind, tmp_path, alrc, Plain(model), data, gradient_accumulation_steps=3)
    assert not trainer.model_accepts_loss_kwargs
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
def test_mixed_precision_bf16(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, autocast=True)
    trainer = build(kind, tmp_path, alrc, model, data, bf16=True)
    trainer.train()
    # bfloat16 has 8 bits, and the factor is rounded to it on its way or not: 2 ** -8.
    assert_same(steps(trainer), expected, rtol=4e-3, atol=4e-3)
    assert {buffer.dtype for buffer in alrc.buffers()} == {torch.float32, torch.int64}


@BOTH
def test_labels_of_whole_sequences_are_not_shifted(kind, tmp_path) -> None:
    model, alrc = classifier(), ALRC(**CLASSIFYING)
    data = labelled_sequences()
    expected = oracle(
        copy.deepcopy(model),
        data,
        losses=classification_losses,
        number=len,
        divisor=lambda _, own: len(own),
        settings=CLASSIFYING,
    )
    trainer = build(kind, tmp_path, alrc, model, data)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_the_mixin_believes_a_trainer_that_says_its_loss_is_not_scaled(tmp_path) -> None:
    class Told(MixedTrainer):
        loss_is_scaled_for_ga = False  # this model takes num_items_in_batch and leaves it unused

    parts = 3 if hasattr(Trainer, "loss_is_scaled_for_ga") else 1  # old ones divide by nothing
    model, data, alrc = classifier(), labelled_sequences(), ALRC(**CLASSIFYING)
    expected = oracle(
        copy.deepcopy(model),
        data,
        accumulation=3,
        losses=classification_losses,
        number=len,
        divisor=lambda _, own: len(own) * parts,
        settings=CLASSIFYING,
    )
    options = {"gradient_accumulation_steps": 3, "base": Told}
    trainer = build("mixin", tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_the_mixin_limits_smoothed_losses(tmp_path) -> None:
    def losses(logits, labels):
        logs = -functional.log_softmax(logits[:, :-1].float(), -1)
        targets = labels[:, 1:]
        picked = logs.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return (0.7 * picked + 0.3 * logs.mean(-1)) * (targets != -100)

    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    # Old versions divide by the targets of the micro-batch, whatever the accumulation.
    whole = "num_items_in_batch" in inspect.signature(LabelSmoother.__call__).parameters
    expected = oracle(
        copy.deepcopy(model),
        data,
        accumulation=2,
        losses=losses,
        divisor=None if whole else lambda _, own: count(own),
    )
    options = {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.3}
    trainer = build("mixin", tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_the_mixin_limits_the_losses_of_compute_loss_func(tmp_path) -> None:
    def half(outputs, labels, num_items_in_batch=None):
        return language_losses(outputs.logits, labels).sum() / 2 / num_items_in_batch

    settings = SETTINGS | {"mu1_start": 1.55, "mu2_start": 2.45}
    model, data, alrc = language_model(), sequences(), ALRC(**settings)
    expected = oracle(
        copy.deepcopy(model),
        data,
        accumulation=2,
        losses=lambda *x: language_losses(*x) / 2,
        settings=settings,
    )
    options = {"gradient_accumulation_steps": 2, "options": {"compute_loss_func": half}}
    trainer = build("mixin", tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
def test_a_batch_without_targets_moves_nothing(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    data[2]["labels"] = data[3]["labels"] = torch.full((8,), -100)
    trainer = build(kind, tmp_path, alrc, model, data, gradient_accumulation_steps=2)
    trainer.train()
    assert (alrc.num_losses, alrc.num_updates, alrc.num_nonfinite) == (11, 11, 1)
    assert parameters(model).isfinite().all()


@BOTH
def test_the_reported_loss_is_the_one_before_limiting(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    trainer = build(kind, tmp_path, alrc, copy.deepcopy(model), data, learning_rate=0.0)
    trainer.train()
    plain = Trainer(model, trainer.args, train_dataset=data)
    plain.train()
    reported, expected = (
        [log.get("loss") for log in t.state.log_history] for t in (trainer, plain)
    )
    assert reported == expected
    assert alrc.num_clipped > 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [("mixin", {}), ("mixin", {"alrc_per": "sequence"}), ("callback", {})],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_not_limited_is_the_trainers_own_bit_for_bit(kind, options, bf16, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(num_stddev=math.inf, scale="linear")
    given = {"gradient_accumulation_steps": 2, "bf16": bf16, "options": options}
    trainer = build(kind, tmp_path, alrc, copy.deepcopy(model), data, **given)
    trainer.train()
    plain = Trainer(
        model,
        trainer.args,
        train_dataset=data,
        callbacks=[Recorder(ALRC(num_stddev=3, scale="linear"))],
    )
    plain.train()
    assert alrc.num_updates == 12
    assert len(steps(trainer)) == len(steps(plain)) == 6
    for (ours, _), (theirs, _) in zip(steps(trainer), steps(plain), strict=True):
        assert torch.equal(ours, theirs)
    reported, expected = (
        [log.get("loss") for log in t.state.log_history] for t in (trainer, plain)
    )
    assert reported == expected
