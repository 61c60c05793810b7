"""Protection that is not there: noticed by the mixin, in words, and not where all is well."""

import copy

import pytest
import torch
from hugging_face import (
    SETTINGS,
    MixedTrainer,
    Trainer,
    assert_same,
    build,
    count,
    language_losses,
    language_model,
    oracle,
    refusal,
    sequences,
    steps,
)
from torch import nn

from alrc.integrations.transformers import ALRCTrainerCallback, ALRCTrainerMixin
from alrc.torch import ALRC


def own_loss(model, inputs):
    return language_losses(model(inputs["input_ids"]).logits, inputs["labels"]).mean()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_compute_loss_that_hides_the_mixins_is_refused(accumulation, tmp_path) -> None:
    class MyTrainer(MixedTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return own_loss(model, inputs)

    given = {"base": MyTrainer, "gradient_accumulation_steps": accumulation}
    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences(), **given)
    assert refusal(RuntimeError, trainer.train) == (
        "ALRCTrainerMixin: its compute_loss must be called for each batch, because that is where "
        "the loss is limited; got no call before a step of the optimizer, since "
        "MyTrainer.compute_loss comes first. Let that call super().compute_loss(...), or write it "
        "into a class behind the mixin: class MyTrainer(ALRCTrainerMixin, TheirTrainer)."
    )
    assert trainer.state.global_step == 0


def test_a_training_step_that_goes_round_the_mixin_is_refused(tmp_path) -> None:
    class MyTrainer(MixedTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = own_loss(model.train(), inputs)
            loss.backward()
            return loss.detach()

    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences(), base=MyTrainer)
    assert "since MyTrainer.training_step comes first" in refusal(RuntimeError, trainer.train)


def test_a_loss_of_the_mixin_that_is_not_trained_on_is_refused(tmp_path) -> None:
    class MyTrainer(MixedTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            super().compute_loss(model, dict(inputs), num_items_in_batch=num_items_in_batch)
            return own_loss(model, inputs)

    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences(), base=MyTrainer)
    assert refusal(RuntimeError, trainer.train) == (
        "ALRCTrainerMixin: each loss that its compute_loss returns must be trained on, because its "
        "gradient is what is limited; got 1 losses and 0 gradients before a step of the optimizer. "
        "If another loss is to be trained on, compute it in a class behind the mixin: "
        "class MyTrainer(ALRCTrainerMixin, TheirTrainer). One that is only looked at, compute "
        "under torch.no_grad()."
    )


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_compute_loss_that_calls_the_mixins_goes_on_working(accumulation, tmp_path) -> None:
    class MyTrainer(MixedTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            loss *= 1.0  # in place
            return loss

    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, accumulation=accumulation)
    given = {"base": MyTrainer, "gradient_accumulation_steps": accumulation}
    trainer = build("mixin", tmp_path, alrc, model, data, **given)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_two_losses_in_one_step_of_which_each_is_trained_on_are_fine(tmp_path) -> None:
    class MyTrainer(MixedTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            return sum(super(MyTrainer, self).compute_loss(model, inputs, **kwargs) for _ in "12")

    alrc = ALRC(**SETTINGS)
    build("mixin", tmp_path, alrc, language_model(), sequences(), base=MyTrainer).train()
    assert alrc.num_losses == 12


def test_the_mixin_behind_a_trainer_is_refused() -> None:
    def write() -> None:
        class MyTrainer(Trainer, ALRCTrainerMixin):
            pass

    assert refusal(TypeError, write) == (
        "ALRCTrainerMixin: it must come before the Trainer, or else that hides it and no loss is "
        "limited; got Trainer before it in the bases of MyTrainer. Write "
        "class MyTrainer(ALRCTrainerMixin, Trainer)."
    )


def test_a_mixin_of_the_users_own_may_stand_between() -> None:
    class Mine(ALRCTrainerMixin):
        pass

    class MyTrainer(Mine, Trainer):
        pass

    assert issubclass(MyTrainer, Trainer)


def test_mixin_and_callback_together_are_refused(tmp_path) -> None:
    more = [ALRCTrainerCallback()]
    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences(), more=more)
    assert refusal(ValueError, trainer.train) == (
        "ALRCTrainerMixin: there must be no ALRCTrainerCallback beside it, because each would "
        "scale the gradient; got one in callbacks. Take one of the two out."
    )


@pytest.mark.parametrize("kind", ["mixin", "callback"])
def test_an_alrc_in_the_model_is_warned_about(kind, tmp_path) -> None:
    class Limiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = nn.Linear(1, 1), nn.ModuleDict({"limit": ALRC()})

        def forward(self, x, labels):
            return {"loss": self.head["limit"]((self.net(x).squeeze(1) - labels).square().mean())}

    data = [{"x": torch.ones(1), "labels": torch.ones(())}] * 12
    trainer = build(kind, tmp_path, ALRC(), Limiting(), data)
    with pytest.warns(UserWarning, match="^ALRC") as warned:
        trainer.train()
    who = {"mixin": "ALRCTrainerMixin", "callback": "ALRCTrainerCallback"}[kind]
    assert [str(w.message) for w in warned] == [
        f"{who}: the model has an ALRC of its own, 'head.limit'. If that limits the loss that is "
        "trained on, its gradient is scaled twice: leave one of them out."
    ]


def test_a_loss_without_a_gradient_comes_back_as_it_is(tmp_path) -> None:
    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences())
    inputs = {name: x.unsqueeze(0) for name, x in sequences()[0].items()}
    loss = trainer.compute_loss(trainer.model.train().requires_grad_(False), inputs)
    assert not loss.requires_grad
    assert loss == trainer.model(**inputs).loss


# Trainers that return the loss alone


class Alone(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise ValueError("no outputs in training")
        labels = inputs["labels"]
        losses = language_losses(model(inputs["input_ids"]).logits, labels)
        return losses.sum() / num_items_in_batch


class AloneWithoutTheArgument(Trainer):
    def compute_loss(self, model, inputs, num_items_in_batch=None):
        return Alone.compute_loss(self, model, inputs, num_items_in_batch=num_items_in_batch)


@pytest.mark.parametrize("theirs", [Alone, AloneWithoutTheArgument])
def test_a_trainer_that_returns_the_loss_alone_trains(theirs, tmp_path) -> None:
    class MyTrainer(ALRCTrainerMixin, theirs):
        pass

    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, accumulation=2)
    given = {"base": MyTrainer, "gradient_accumulation_steps": 2}
    trainer = build("mixin", tmp_path, alrc, model, data, **given)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_outputs_are_returned_to_a_caller_that_asks_for_them(tmp_path) -> None:
    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences())
    inputs = {name: x.unsqueeze(0) for name, x in sequences()[0].items()}
    result = trainer.compute_loss(trainer.model.train(), inputs, True)
    assert len(result) == 2
    assert result[1].logits.shape == (1, 8, 16)
    loss = trainer.compute_loss(trainer.model.train(), inputs)
    mean = language_losses(result[1].logits, inputs["labels"]).sum() / count(inputs["labels"])
    torch.testing.assert_close([loss, result[0]], [mean, mean])
