"""The callback's hooks on the model."""

import copy
import gc

import pytest
from hugging_face import (
    SETTINGS,
    PlainTuple,
    TrainerCallback,
    assert_same,
    build,
    count,
    language_model,
    oracle,
    sequences,
    stack,
    steps,
)

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
