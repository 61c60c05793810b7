"""What the mixin and the callback refuse, in words."""

import importlib.util
import sys

import pytest
from hugging_face import (
    BOTH,
    MixedTrainer,
    Trainer,
    TrainingArguments,
    build,
    language_losses,
    language_model,
    refusal,
    sequences,
)
from transformers import TrainerControl, TrainerState

from alrc.integrations.transformers import ALRCTrainerCallback, ALRCTrainerMixin
from alrc.torch import ALRC


@pytest.mark.parametrize("per", ["token", None])
def test_an_unknown_mode_is_refused(per, tmp_path) -> None:
    message = refusal(
        ValueError,
        lambda: build(
            "mixin", tmp_path, ALRC(), language_model(), sequences(), options={"alrc_per": per}
        ),
    )
    assert message == (
        "ALRCTrainerMixin: alrc_per must be 'batch' or 'sequence', what one loss is the mean of; "
        f"got {per!r}. Leave it out for 'batch'."
    )


@BOTH
def test_several_devices_in_one_process_are_refused(kind, tmp_path, monkeypatch) -> None:
    arguments = build("callback", tmp_path, ALRC(), language_model(), sequences()).args
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))

    def start() -> None:
        if kind == "mixin":
            MixedTrainer(language_model(), arguments)
        callback = ALRCTrainerCallback()
        callback.on_train_begin(arguments, TrainerState(), TrainerControl(), language_model())

    who = {"mixin": "ALRCTrainerMixin", "callback": "ALRCTrainerCallback"}[kind]
    message = refusal(ValueError, start)
    assert message == (
        f"{who}: each process must have one device, because copies of the model would each limit "
        "their own losses; got n_gpu=2. Start one process for each device, with torchrun or "
        "accelerate launch."
    )


def test_the_callback_refuses_label_smoothing(tmp_path) -> None:
    arguments = {"label_smoothing_factor": 0.1}
    trainer = build("callback", tmp_path, ALRC(), language_model(), sequences(), **arguments)
    message = refusal(ValueError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: label_smoothing_factor must be 0, because the Trainer then trains "
        "on a loss that no callback can see; got 0.1. Use ALRCTrainerMixin."
    )


def test_the_callback_refuses_a_model_without_a_loss(tmp_path) -> None:
    def custom(outputs, labels, num_items_in_batch=None):
        return language_losses(outputs.logits, labels).mean()

    model, options = language_model(), {"compute_loss_func": custom}
    trainer = build("callback", tmp_path, ALRC(), model, sequences(), options=options)
    message = refusal(ValueError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: the model must return its loss, because that is what is limited; "
        "got outputs without one, as with compute_loss_func or inputs without labels. Use "
        "ALRCTrainerMixin."
    )
    assert not model._forward_hooks


def test_the_callback_refuses_a_loss_that_is_not_trained_on(tmp_path) -> None:
    class Custom(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            return language_losses(model(**inputs).logits, inputs["labels"]).mean()

    model, callback = language_model(), ALRCTrainerCallback()
    arguments = build("callback", tmp_path, ALRC(), model, sequences()).args
    trainer = Custom(model, arguments, train_dataset=sequences(), callbacks=[callback])
    message = refusal(RuntimeError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: each loss that the model returns must be trained on, because its "
        "gradient is what is limited; got 1 losses and 0 gradients before a step of the optimizer. "
        "If your Trainer computes another loss, use ALRCTrainerMixin."
    )
    assert not model._forward_hooks


def test_two_callbacks_are_refused(tmp_path) -> None:
    more = [ALRCTrainerCallback()]
    trainer = build("callback", tmp_path, ALRC(), language_model(), sequences(), more=more)
    message = refusal(ValueError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: there must be one of them, because each would scale the gradient; "
        "got 2. Take the others out of callbacks."
    )


def test_defaults_and_arguments_by_name(tmp_path) -> None:
    assert ALRCTrainerCallback().alrc.settings == ALRC().settings
    assert ALRCTrainerCallback({"num_stddev": 2.5}).alrc.settings == ALRC(2.5).settings
    trainer = build("mixin", tmp_path, None, language_model(), [])
    assert trainer.alrc.settings == ALRC().settings
    trainer = build("mixin", tmp_path, {"num_stddev": 2.5}, language_model(), [])
    assert trainer.alrc.settings == ALRC(2.5).settings


def test_without_transformers_the_module_says_what_to_install(monkeypatch) -> None:
    import alrc.integrations.transformers as module

    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("alone", module.__file__)
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.integrations.transformers needs transformers and accelerate, which are not both "
        'installed here. Install them with: pip install "alrc[transformers]"'
    )


def test_the_public_names_are_of_the_module_that_users_import() -> None:
    for public in (ALRCTrainerMixin, ALRCTrainerCallback):
        assert public.__module__ == "alrc.integrations.transformers"
