"""The callback's hooks on the model: what they return, and what becomes of them and in copies."""

import copy
import gc
import io
from collections import namedtuple

import pytest
import torch
from hugging_face import (
    SETTINGS,
    Plain,
    PlainTuple,
    Trainer,
    TrainerCallback,
    assert_same,
    build,
    count,
    language_model,
    oracle,
    parameters,
    sequences,
    stack,
    steps,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from alrc.integrations.transformers import ALRCTrainerCallback
from alrc.torch import ALRC


def test_the_hook_goes_at_the_end_of_training(tmp_path) -> None:
    model, alrc = language_model(), ALRC(**SETTINGS)
    build("callback", tmp_path, alrc, model, sequences()).train()
    assert not model._forward_hooks
    before = alrc.to_dict()
    model.train()(**stack(sequences()[:2])).loss.backward()
    assert alrc.to_dict() == before


def test_the_hook_of_a_training_that_failed_goes_with_its_callback(tmp_path) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            raise KeyboardInterrupt

    model, alrc = language_model(), ALRC(**SETTINGS)
    trainer = build("callback", tmp_path, alrc, model, sequences(), more=[Failing()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(model._forward_hooks) == 1
    before = alrc.to_dict()
    model.train()(**stack(sequences()[:2])).loss.backward()  # by hand: no step is under way
    assert alrc.to_dict() == before
    trainer.pop_callback(Failing)
    trainer.train()  # takes the old hook off, or every loss would count twice
    assert alrc.num_losses == 1 + 6
    with pytest.raises(KeyboardInterrupt):
        trainer.add_callback(Failing) or trainer.train()
    del trainer
    gc.collect()
    assert not model._forward_hooks


def test_the_callback_takes_a_model_that_returns_a_tuple(tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, divisor=lambda _, own: count(own))
    trainer = build("callback", tmp_path, alrc, PlainTuple(model), data)
    trainer.train()
    assert_same(steps(trainer), expected)


Named = namedtuple("Named", ["loss", "logits"])
MAKE = {
    "dict": lambda loss, logits: {"loss": loss, "logits": logits},
    "dataclass": lambda loss, logits: SequenceClassifierOutput(loss=loss, logits=logits),
    "tuple": lambda loss, logits: (loss, logits),
    "named tuple": Named,
}


@pytest.mark.parametrize("kind", MAKE)
def test_the_outputs_keep_their_form_and_the_other_outputs(kind, tmp_path) -> None:
    class Made(Plain):
        def forward(self, input_ids, labels):
            return MAKE[kind](*super().forward(input_ids, labels).values())

    class Keeping(Trainer):
        def compute_loss(self, *args, **kwargs):
            loss, self.outputs = super().compute_loss(*args, return_outputs=True, **kwargs)
            return loss

    model, data, alrc = Made(language_model()), sequences(), ALRC(**SETTINGS)
    logits = model(**stack(data[:2]))
    logits = logits["logits"] if isinstance(logits, dict) else logits[1]
    arguments = build("callback", tmp_path, alrc, model, data, max_steps=1).args
    trainer = Keeping(model, arguments, train_dataset=data, callbacks=[ALRCTrainerCallback()])
    trainer.train()
    outputs = trainer.outputs
    assert type(outputs) is type(MAKE[kind](logits, logits))
    values = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
    assert torch.equal(values[1], logits)
    if kind in ("dataclass", "named tuple"):
        assert outputs.loss is values[0]


# Copies


class Meanwhile(TrainerCallback):
    """Does something with the model at the end of the third step."""

    def __init__(self, function) -> None:
        self.function, self.result = function, None

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == 3:
            self.result = self.function(model)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
def test_a_copy_of_the_model_made_in_training_is_not_limited(make, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data)
    copying = Meanwhile(make)
    trainer = build("callback", tmp_path, alrc, model, data, more=[copying])
    trainer.train()
    assert_same(steps(trainer), expected)
    twin = copying.result.train()
    assert torch.equal(parameters(twin), steps(trainer)[2][0])
    before, inputs = alrc.to_dict(), stack(data[:2])
    gradients = []
    for network in (twin, copy.deepcopy(model)):
        network.load_state_dict(model.state_dict())
        network(**inputs).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.equal(*gradients)
    assert alrc.to_dict() == before


def test_a_copy_trained_beside_the_model_moves_nothing(tmp_path) -> None:
    def train_copy(model) -> None:
        copy.deepcopy(model).train()(**stack(sequences()[:2])).loss.backward()

    alrc = ALRC(**SETTINGS)
    more = [Meanwhile(train_copy)]
    build("callback", tmp_path, alrc, language_model(), sequences(), more=more).train()
    assert alrc.num_losses == 6
