"""The callback for Lightning: what it refuses, and what it says where it can't do its work."""

import importlib.util
import sys

import pytest
import torch
from lightning_modules import (
    NUM_BATCHES,
    QUIET_PYTREE,
    SETTINGS,
    Regression,
    TwoLosses,
    fit,
    train_twins,
)

from alrc.integrations import lightning as integration
from alrc.integrations.lightning import ALRCCallback
from alrc.torch import ALRC

pytestmark = pytest.mark.filterwarnings(QUIET_PYTREE)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"name": None},
            TypeError,
            "ALRCCallback: name must be a str, because metrics are logged under it; got None. Type "
            "name='generator', say.",
        ),
        (
            {"backward": True},
            TypeError,
            "ALRCCallback: backward must be a whole number, or None for every backward pass; got "
            "True. Type backward=0 for the first manual_backward of each batch.",
        ),
        (
            {"backward": "d"},
            TypeError,
            "ALRCCallback: backward must be a whole number, or None for every backward pass; got "
            "'d'. Type backward=0 for the first manual_backward of each batch.",
        ),
        (
            {"backward": -1},
            ValueError,
            "ALRCCallback: backward must be 0 or more, because passes are counted from the first "
            "of each batch; got -1. Type backward=0 for the first.",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, kind, message) -> None:
    with pytest.raises(kind) as error:
        ALRCCallback(**arguments)
    assert str(error.value) == message


def test_settings_are_those_of_alrc() -> None:
    options = {"num_stddev_below": 1.0, "warmup": 7, "recency": 4.0}
    for each in (options, options | {"center": "mean", "scale": "linear"}):
        callback = ALRCCallback(2.0, 0.5, 1.0, 4.0, **each)
        assert callback.alrc.settings == ALRC(2.0, 0.5, 1.0, 4.0, **each).settings
    for settings in ({"num_stddev": 0.0}, {"mu1_start": 1.0}):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - compared with ALRC's, word for word
            ALRC(**settings)
        with pytest.raises(ValueError) as ours:  # noqa: PT011
            ALRCCallback(**settings)
        assert str(ours.value) == str(error.value)


def test_a_choice_of_backward_is_refused_where_there_is_but_one() -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared word for word
        fit(Regression(), ALRCCallback(backward=0))
    assert str(error.value) == (
        "ALRCCallback: backward must be None for a module with automatic optimization, which has "
        "one backward pass for each loss; got 0. Leave backward out, or set "
        "automatic_optimization = False in the module."
    )


def test_without_lightning_the_module_says_what_to_install(monkeypatch) -> None:
    path = integration.__file__
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    spec = importlib.util.spec_from_file_location("alone", path)
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.integrations.lightning needs Lightning, which is not installed here. Install it "
        'with: pip install "alrc[lightning]"'
    )


# Where the callback can't do its work


class ByHand(TwoLosses):
    """Goes backward in whichever way the test sets."""

    def __init__(self, step) -> None:
        super().__init__()
        self.step = step

    def training_step(self, batch, batch_idx) -> None:
        loss = self.nets[0](batch[0]).square().mean()
        self.step(self, loss)


def plain(module, loss) -> None:
    optimizer = module.optimizers()[0]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain_with_own_optimizer(module, loss) -> None:
    optimizer = module.optimizers(use_pl_optimizer=False)[0]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def manual(module, loss) -> None:
    optimizer = module.optimizers()[0]
    optimizer.zero_grad()
    module.manual_backward(loss)
    optimizer.step()


def said(warned) -> list[str]:
    """What the callback said; Lightning has warnings of its own."""
    messages = [str(warning.message) for warning in warned]
    return [message for message in messages if message.startswith("ALRCCallback")]


MANUAL_BACKWARD = (
    "ALRCCallback: each loss must go through manual_backward, because that is where its gradient "
    "is limited; got {}. Type self.manual_backward(loss) for loss.backward(), or take the callback "
    "out and call alrc.torch.ALRC in training_step."
)


@pytest.mark.parametrize("backward", [None, 0, 1])
def test_a_step_without_manual_backward_is_refused_in_words(backward) -> None:
    callback, batches = ALRCCallback(backward=backward), []
    module = ByHand(lambda *arguments: (batches.append(1), plain(*arguments)))
    with pytest.raises(RuntimeError) as error:
        fit(module, callback)
    assert str(error.value) == MANUAL_BACKWARD.format(
        "a step of an optimizer before which none did"
    )
    assert len(batches) == 1


def test_a_step_without_manual_backward_is_noticed_after_others_with_it() -> None:
    batches = []

    def some(module, loss) -> None:
        batches.append(1)
        (plain if len(batches) == 5 else manual)(module, loss)

    with pytest.raises(RuntimeError, match="must go through manual_backward"):
        fit(ByHand(some), ALRCCallback())
    assert len(batches) == 5


def test_gradients_of_earlier_batches_may_be_stepped_on() -> None:
    batches = []

    def accumulate(module, loss) -> None:
        batches.append(1)
        if len(batches) % 3:
            module.manual_backward(loss)
        else:
            module.optimizers()[0].step()

    callback = ALRCCallback()
    fit(ByHand(accumulate), callback, max_epochs=1)
    assert callback.alrc.num_losses == len(batches) - len(batches) // 3


def test_losses_that_never_come_by_are_said_once_where_lightning_sees_no_step() -> None:
    words = MANUAL_BACKWARD.format(f"{NUM_BATCHES} batches in which none did")
    with pytest.warns(UserWarning, match="manual_backward") as warned:
        fit(ByHand(plain_with_own_optimizer), ALRCCallback(), max_epochs=3)
    assert said(warned) == [words]


def test_a_backward_that_no_batch_has_is_said_once() -> None:
    with pytest.warns(UserWarning, match="manual_backward") as warned:
        fit(ByHand(manual), ALRCCallback(backward=1), ALRCCallback(name="a", backward=0))
    assert said(warned) == [
        "ALRCCallback: batches must have a manual_backward of number backward=1, counted from 0, "
        f"or nothing is limited; got {NUM_BATCHES} batches with 1 at most. Type backward=0 for "
        "the first, say."
    ]


def test_batches_that_automatic_optimization_skips_are_no_fault() -> None:
    class Skipping(Regression):
        def training_step(self, batch, batch_idx) -> None:
            return None

    callback = ALRCCallback()
    with pytest.warns(UserWarning, match="`training_step` returned `None`") as warned:
        fit(Skipping(), callback)
    assert said(warned) == []
    assert callback.alrc.num_losses == 0


def test_a_backward_of_the_modules_own_is_limited_if_it_is_of_the_loss() -> None:
    class Own(Regression):
        def backward(self, loss) -> None:
            (2 * loss).backward()

    train_twins(Own)


def test_a_backward_of_another_tensor_than_the_loss_is_refused_in_words() -> None:
    class Other(Regression):
        def training_step(self, batch, batch_idx):
            self.raw = super().training_step(batch, batch_idx)
            return self.raw

        def backward(self, loss) -> None:
            self.raw.backward()

    with pytest.raises(RuntimeError) as error:
        fit(Other(), ALRCCallback(), accumulate_grad_batches=2)
    assert str(error.value) == (
        "ALRCCallback: the module's backward(loss) must go backward from the loss that it is "
        "given, because that is where its gradient is limited; got 2 of them and 0 gradients "
        "before a step of an optimizer. Type loss.backward() there, or take the callback out and "
        "call alrc.torch.ALRC in training_step."
    )


def test_a_loss_of_several_numbers_is_refused_in_words() -> None:
    def several(module, loss) -> None:
        module.manual_backward(loss.expand(4), gradient=torch.ones(4))

    with pytest.raises(ValueError, match=r"^ALRCCallback: ") as error:
        fit(ByHand(several), ALRCCallback())
    assert str(error.value) == (
        "ALRCCallback: a loss that goes backward must be one number, because it gets one factor; "
        "got a loss of shape (4,). Call alrc.torch.ALRC in training_step, which limits each loss "
        "by itself."
    )


@pytest.mark.parametrize("numbers", [(None, None), (None, 0), (1, 1)])
def test_two_callbacks_for_one_backward_pass_are_refused_in_words(numbers) -> None:
    callbacks = [ALRCCallback(name=n, backward=k) for n, k in zip("ab", numbers, strict=True)]
    with pytest.raises(ValueError, match=r"^ALRCCallback: ") as error:
        fit(TwoLosses(), *callbacks)
    assert str(error.value) == (
        "ALRCCallback: each backward pass must have one callback, because each scales its "
        f"gradient; got 'a' with backward={numbers[0]} and 'b' with backward={numbers[1]}. Take "
        "one out of callbacks; or, in manual optimization, type backward=0 for the one and "
        "backward=1 for the other."
    )


def test_two_callbacks_of_one_name_are_refused_by_lightning() -> None:
    with pytest.raises(RuntimeError, match=r"`callback\.state_key` must be unique"):
        fit(TwoLosses(), *(ALRCCallback(backward=k) for k in range(2)))


def test_a_module_that_has_an_alrc_too_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="ALRCCallback") as warned:
        fit(Regression(ALRC(**SETTINGS)), ALRCCallback(), max_epochs=1)
    assert said(warned) == [
        "ALRCCallback: each loss must be limited once; got a module that has an ALRC of its own, "
        "limit. If training_step calls it, take the callback out of callbacks, or the ALRC out of "
        "the module."
    ]
    # In manual optimization, each can have a loss of its own: no warning, which would be an error.
    fit(TwoLosses(first=ALRC(**SETTINGS)), ALRCCallback(backward=1), max_epochs=1)
