"""What old Trainers do not tell, told from names instead."""

import pytest
from hugging_face import (
    SETTINGS,
    MixedTrainer,
    Trainer,
    assert_same,
    build,
    language_model,
    oracle,
    sequences,
    steps,
)

from alrc.integrations.transformers import ALRCTrainerMixin, mixin
from alrc.torch import ALRC


class Calls(Trainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


class Replaces(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs)["loss"]


@pytest.mark.parametrize(("behind", "calls"), [(Trainer, True), (Calls, True), (Replaces, False)])
def test_whether_a_compute_loss_comes_to_the_trainers_own_is_told_from_names(behind, calls) -> None:
    class Mixed(ALRCTrainerMixin, behind):
        pass

    assert mixin._calls_the_trainers_own(Mixed) is calls


def test_a_trainer_that_never_asks_trains_as_one_that_does(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(mixin, "_ASKS_FOR_TP_SIZE", False)
    expected = oracle(language_model(), sequences())
    trainer = build("mixin", tmp_path, ALRC(**SETTINGS), language_model(), sequences())
    assert isinstance(trainer, MixedTrainer)
    trainer.train()
    assert_same(steps(trainer), expected)
