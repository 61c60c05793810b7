"""One training after another: whose moments they begin with."""

import pytest
import torch
from hugging_face import (
    BOTH,
    OLD,
    SETTINGS,
    MixedTrainer,
    Recorder,
    Trainer,
    TrainerCallback,
    assert_identical,
    build,
    language_model,
    refusal,
    sequences,
    steps,
)

from alrc.integrations.transformers import ALRCTrainerCallback
from alrc.integrations.transformers.run import Run
from alrc.torch import ALRC


def make(kind, folder, alrc, model, callback, **options):
    """A Trainer with this ALRC, or with this callback that has it."""
    arguments = build("callback", folder, alrc, language_model(), sequences()).args
    common = {"train_dataset": sequences(), **options}
    if kind == "mixin":
        return MixedTrainer(model, arguments, alrc=alrc, callbacks=[Recorder(alrc)], **common)
    return Trainer(model, arguments, callbacks=[callback, Recorder(alrc)], **common)


def trained(trainer, resume=None):
    recorder = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Recorder))
    recorder.steps = []
    trainer.train(resume_from_checkpoint=resume)
    return recorder.steps


@pytest.fixture(params=["mixin", "callback"])
def training(request, tmp_path):
    """Makes Trainers that share one ALRC, and one callback object."""
    alrc = ALRC(**SETTINGS)
    callback = ALRCTrainerCallback(alrc)

    def function(model=None, **options):
        return make(request.param, tmp_path, alrc, model, callback, **options)

    function.alrc, function.folder, function.kind = alrc, tmp_path, request.param
    return function


def test_each_model_of_model_init_begins_with_the_same_moments(training) -> None:
    trainer = training(model_init=lambda: language_model())
    if OLD and training.kind == "callback":  # which is handed another model than the trained one
        message = refusal(RuntimeError, trainer.train)
        assert "got 0 losses and 0 gradients before a step of the optimizer" in message
        assert message.endswith("use ALRCTrainerMixin.")
        return
    first, second, third = (trained(trainer) for _ in range(3))
    assert_identical(second, first)
    assert_identical(third, first)
    assert training.alrc.num_losses == 6


def test_each_model_of_a_cross_validation_begins_with_the_same_moments(training) -> None:
    first, second = (trained(training(language_model())) for _ in range(2))
    assert_identical(second, first)


def test_a_second_training_of_the_same_model_goes_on(training) -> None:
    trainer = training(language_model())
    first, second = trained(trainer), trained(trainer)
    assert second[-1][1]["num_losses"] == 12
    assert second[0][1]["num_clipped"] >= first[-1][1]["num_clipped"]
    last = trained(training(trainer.model))  # in another Trainer too
    assert last[-1][1]["num_losses"] == 18


def test_moments_set_between_two_trainings_are_those_of_the_next_model(training) -> None:
    first = trained(training(language_model()))
    assert first[-1][1]["num_losses"] == 6
    training.alrc.load_dict({"mean": 2.9, "variance": 0.01, "num_updates": 100})
    other = ALRC(**SETTINGS)
    other.load_dict({"mean": 2.9, "variance": 0.01, "num_updates": 100})
    callback = ALRCTrainerCallback(other)
    alone = make(training.kind, training.folder, other, language_model(), callback)
    second = trained(training(language_model()))
    assert_identical(second, trained(alone))
    assert_identical(trained(training(language_model())), second)


class Failing(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_training_that_failed_leaves_nothing_to_the_next_model(training) -> None:
    first = trained(training(language_model()))
    failing = training(language_model())
    failing.add_callback(Failing)
    with pytest.raises(KeyboardInterrupt):
        failing.train()
    assert training.alrc.num_losses == 3
    assert_identical(trained(training(language_model())), first)


@BOTH
def test_a_checkpoint_is_gone_on_from_whatever_was_trained_before(kind, tmp_path) -> None:
    def saving(alrc, folder, **given):
        options = {"save_strategy": "steps", "save_steps": 3, **given}
        return build(kind, folder, alrc, language_model(), sequences(), **options)

    whole = saving(ALRC(**SETTINGS), tmp_path / "whole")
    whole.train()
    alrc = ALRC(**SETTINGS)
    saving(alrc, tmp_path / "other", max_steps=4).train()
    rest = saving(alrc, tmp_path / "rest")
    rest.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert_identical(steps(rest), steps(whole)[3:])
    again = saving(alrc, tmp_path / "again")
    again.train()  # from the start that this ALRC had before all of them
    assert_identical(steps(again), steps(whole))


@pytest.mark.parametrize(
    "wrap", [lambda model: torch.compile(model, backend="eager"), torch.nn.DataParallel]
)
def test_what_is_put_around_a_model_makes_no_other_of_it(wrap) -> None:
    model, alrc = torch.nn.Linear(1, 1), ALRC(**SETTINGS)
    run = Run("ALRCTrainerMixin", alrc)
    run.begin(model, resumed=False)
    run.limit(torch.tensor(2.0), 1.0)
    run.end()
    run.begin(wrap(model), resumed=False)
    assert alrc.num_losses == 1
    run.begin(wrap(torch.nn.Linear(1, 1)), resumed=False)
    assert alrc.num_losses == 0


@BOTH
def test_another_alrc_may_take_the_place_of_the_first(kind, tmp_path) -> None:
    first, other = ALRC(**SETTINGS), ALRC(**SETTINGS)
    trainer = build(kind, tmp_path, first, language_model(), sequences())
    holder = trainer if kind == "mixin" else trainer.pop_callback(ALRCTrainerCallback)
    holder.alrc = other
    if kind == "callback":
        trainer.add_callback(holder)
    trainer.train()
    assert (first.num_losses, other.num_losses, holder.alrc) == (0, 6, other)
