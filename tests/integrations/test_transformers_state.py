"""What becomes of the moments: evaluation, checkpoints, and one training after another."""

import copy
from pathlib import Path

import pytest
import torch
from hugging_face import (
    BOTH,
    SETTINGS,
    Trainer,
    TrainingArguments,
    assert_identical,
    assert_same,
    build,
    language_model,
    oracle,
    sequences,
    steps,
)

from alrc.integrations.transformers import ALRCTrainerCallback
from alrc.torch import ALRC


@BOTH
def test_evaluation_and_prediction_leave_the_moments_alone(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data)
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    trainer = build(
        kind, tmp_path, alrc, model, data, options={"eval_dataset": data[:5]}, **evaluation
    )
    trainer.train()
    assert_same(steps(trainer), expected)
    before = alrc.to_dict()
    trainer.evaluate()
    trainer.predict(data[:5])
    assert alrc.to_dict() == before


# Resume


def resumed(kind, folder, tmp_path, resume=None, **given):
    alrc, data = ALRC(**SETTINGS), sequences()
    trainer = build(
        kind,
        folder,
        alrc,
        language_model(dropout=0.3),
        data,
        optim="adamw_torch",
        save_strategy="steps",
        save_steps=3,
        gradient_accumulation_steps=2,
        train_sampling_strategy="random",
        **given,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, alrc


@BOTH
@pytest.mark.parametrize("by_path", [True, False])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(kind, by_path, tmp_path) -> None:
    whole, _ = resumed(kind, tmp_path / "whole", tmp_path)
    resumed(kind, tmp_path / "cut", tmp_path, max_steps=3)
    resume = str(tmp_path / "cut/checkpoint-3") if by_path else True
    rest, alrc = resumed(kind, tmp_path / "cut", tmp_path, resume)
    assert_identical(steps(rest), steps(whole)[3:])
    assert alrc.num_losses == 12


def test_the_callback_is_restored_by_the_trainer_too(tmp_path) -> None:
    _, whole = resumed("callback", tmp_path / "whole", tmp_path)
    resumed("callback", tmp_path / "cut", tmp_path, max_steps=3)
    rest, _ = resumed(
        "callback",
        tmp_path / "cut",
        tmp_path,
        True,
        restore_callback_states_from_checkpoint=True,
    )
    callback = rest.pop_callback(ALRCTrainerCallback)
    assert callback.alrc.to_dict() == whole.to_dict()
    assert callback.alrc.settings == whole.settings


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mixin", "ALRCTrainerMixin: {folder} has no alrc.pt, so "),
        ("callback", "ALRCTrainerCallback: the checkpoint has none of its moments, so "),
    ],
)
def test_a_checkpoint_without_moments_is_warned_about(kind, message, tmp_path) -> None:
    arguments = {"max_steps": 2, "save_steps": 2, "save_strategy": "steps"}
    trainer = build(
        kind,
        tmp_path,
        ALRC(num_stddev=3, scale="linear"),
        language_model(),
        sequences(),
        **arguments,
    )
    Trainer(trainer.model, trainer.args, train_dataset=sequences()).train()
    trainer.args.max_steps = 4
    folder = str(tmp_path / "checkpoint-2")
    with pytest.warns(UserWarning, match="ALRC starts afresh") as warned:
        trainer.train(resume_from_checkpoint=folder)
    ours = [str(w.message) for w in warned if str(w.message).startswith("ALRC")]
    assert ours == [
        message.format(folder=folder)
        + "ALRC starts afresh: training goes on from the checkpoint, but not as if it had not "
        "been interrupted."
    ]
    assert (tmp_path / "checkpoint-4").exists()


def test_the_moments_are_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    alrc = ALRC(**SETTINGS)
    trainer = build("mixin", tmp_path, alrc, language_model(), sequences())
    trainer.save_model(str(tmp_path / "saved"))
    before = (tmp_path / "saved/alrc.pt").read_bytes()
    alrc(torch.tensor(2.0, requires_grad=True))

    def fail(state, path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved/alrc.pt").read_bytes() == before


def test_only_the_process_that_saves_writes_the_moments(tmp_path, monkeypatch) -> None:
    trainer = build(
        "mixin", tmp_path, ALRC(num_stddev=3, scale="linear"), language_model(), sequences()
    )
    monkeypatch.setattr(TrainingArguments, "should_save", property(lambda _: False))
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved/alrc.pt").exists()
