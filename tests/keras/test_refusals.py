"""What is refused, in which words; and training past the limit, which is noticed."""

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_training import START, Regression, backend, compiled, data, network, refusal
from keras_workers import in_each_backend

from alrc.keras import ALRC, ALRCMixin, ALRCModel


@in_each_backend
def test_bad_input_is_refused_in_words() -> None:
    alrc, loss = ALRC(**START), ops.ones((2,))
    before = alrc.to_dict()
    message = refusal(TypeError, lambda: alrc(ops.ones((2,), "int32")))
    assert (
        "ALRC: loss must be a floating tensor, because it is scaled to its limit; got a int32 "
        "tensor. Pass what the loss function returned, before any cast."
    ) in message
    message = refusal(ValueError, lambda: alrc(loss, mask=ops.ones((1,))))
    assert (
        "ALRC: mask must have the shape of loss, because it says which losses count; got a mask "
        "of shape (1,) and losses of shape (2,). Compute one loss per example, or pass "
        "ops.broadcast_to(mask, ops.shape(loss))."
    ) in message
    message = refusal(TypeError, lambda: alrc(loss, mask=[True, False]))
    assert (
        "ALRC: mask must be a tensor, True or positive where a loss counts; got [True, False]. "
        "Pass ops.convert_to_tensor(mask)."
    ) in message
    assert alrc.to_dict() == before
    assert refusal(ValueError, lambda: ALRC(decay=2, num_stddev=3, scale="linear")).startswith(
        "ALRC: decay must be"
    )

    assert refusal(TypeError, lambda: ALRCModel(keras.layers.Dense(1, name="d"))) == (
        "ALRCModel: model must be a keras.Model, which is to be trained; got "
        "<Dense name=d, built=False>. Wrap layers in keras.Sequential([...]) first."
    )
    assert refusal(TypeError, lambda: ALRCModel(network(), 3.0)) == (
        "ALRCModel: alrc must be an alrc.keras.ALRC or None; got 3.0. Pass ALRC(num_stddev=2.0), "
        "or leave it out."
    )
    assert refusal(TypeError, lambda: ALRCModel(Regression())) == (
        "ALRCModel: model must leave compute_loss, compute_metrics, train_step, test_step, "
        "predict_step to Keras, because a wrapper's are used instead; got Regression with its own "
        "compute_loss. Derive from it: class Limited(ALRCMixin, Regression), with "
        "self.alrc = ALRC()."
    )

    class Forgotten(ALRCMixin, keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    model = Forgotten()
    model.compile(keras.optimizers.SGD(), "mse", run_eagerly=True)
    for train in (model.train_on_batch, model.fit):
        assert refusal(TypeError, lambda: train(np.ones((2, 1)), np.ones((2, 1)))) == (  # noqa: B023
            "ALRCMixin: the model must have an attribute alrc that is an alrc.keras.ALRC, which "
            "keeps the moments; got None. In __init__, after super().__init__(), write "
            "self.alrc = ALRC()."
        )

    def wrong_order() -> None:
        class Late(keras.Model, ALRCMixin):
            pass

    assert refusal(TypeError, wrong_order) == (
        "ALRCMixin: must come before keras.Model among the bases, or nothing would be limited; "
        "got class Late(Model, ALRCMixin). Write class Late(ALRCMixin, ...)."
    )


# Training that would go on without the limit


def first_fit(model: keras.Model) -> str:
    model.compile("sgd", "mse")
    x, y = data(2)
    return refusal(TypeError, lambda: model.fit(x, y, verbose=0))


@in_each_backend
def test_a_compute_loss_that_hides_that_of_the_mixin_is_noticed() -> None:
    class Hiding(Regression):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(ops.square(ops.subtract(y, y_pred)))

    words = (
        "ALRCMixin: a training step must call the mixin's compute_loss or self.alrc, or nothing "
        "is limited; the first step of Hiding called neither. The compute_loss of Hiding hides "
        "that of the mixin: call super().compute_loss(...) in it, return self.alrc(loss, "
        "training=training), or move it into a class after the mixin, class "
        "Hiding(ALRCMixin, ...)."
    )
    assert words in first_fit(Hiding())
    model = Hiding()
    model.compile("sgd", "mse")
    x, y = data(1)
    assert words in refusal(TypeError, lambda: model.train_on_batch(x, y))


@in_each_backend
def test_a_train_step_that_comes_past_the_limit_is_noticed() -> None:
    class Past(Regression):
        def train_step(self, *args: Any) -> Any:
            logs = {"loss": ops.zeros(())}
            return (logs, args[0]) if backend() == "jax" else logs

    assert (
        "ALRCMixin: a training step must call the mixin's compute_loss or self.alrc, or nothing "
        "is limited; the first step of Past called neither. In train_step, call "
        "self.compute_loss(...), or self.alrc(loss)."
    ) in first_fit(Past())


@in_each_backend
def test_an_alrc_that_the_model_does_not_keep_track_of_is_refused() -> None:
    class Stack(ALRCMixin, keras.Sequential):
        def __init__(self, layers: Any) -> None:
            super().__init__(layers)
            self.alrc = ALRC(num_stddev=3, scale="linear")

    class Beside(ALRCMixin, keras.Model):
        alrc = ALRC(num_stddev=3, scale="linear")

        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    reason = (
        "ALRCMixin: alrc must be an attribute that the model keeps track of, because its state is "
        "neither trained nor saved with the model otherwise; {} has it in no weights. {}"
    )
    assert first_fit(Stack([keras.layers.Dense(1)])) == reason.format(
        "Stack",
        "keras.Sequential keeps track of none; write ALRCModel(keras.Sequential([...]), ALRC()).",
    )
    assert first_fit(Beside()) == reason.format(
        "Beside", "Assign it in __init__, after super().__init__(): self.alrc = ALRC()."
    )


@in_each_backend("jax")  # the others assign at once, wherever the layer is
def test_a_loss_that_holds_the_layer_is_refused_where_its_state_could_not_move() -> None:
    class Limited(keras.losses.Loss):
        def __init__(self) -> None:
            super().__init__()
            self.alrc = ALRC(num_stddev=3, scale="linear")

        def call(self, y_true: Any, y_pred: Any) -> Any:
            return self.alrc(ops.mean(ops.square(y_true - y_pred), -1))

    net = network()
    net.compile("sgd", Limited())
    x, y = data(1)
    assert (
        "ALRC: the layer must be one of those of the model that is trained, because on JAX its "
        "moments would not move otherwise, and nothing would be limited; this model does not know "
        "of it. Assign it in the model's __init__, after super().__init__(), as "
        "self.alrc = ALRC(); a keras.losses.Loss is no place for it, nor is a keras.Sequential."
    ) in refusal(TypeError, lambda: net.fit(x, y, verbose=0))


# States that came by another road than loading


@in_each_backend
@pytest.mark.parametrize(
    ("name", "number", "problem"),
    [("mean", math.nan, "finite in float32; got nan"), ("variance", -1.0, "at least 0; got -1.0")],
)
def test_weights_that_are_no_state_are_refused_when_training_starts(name, number, problem) -> None:
    model, (x, y) = compiled(False), data(1)
    model.fit(x, y, verbose=0)
    getattr(model.alrc, name).assign(number)
    assert refusal(ValueError, lambda: model.fit(x, y, verbose=0)) == (
        f"ALRC: the saved {name} must be {problem}. The state is damaged or not one of ALRC's: "
        "load another, or start afresh."
    )


@in_each_backend("torch")  # with the others, a weight's dtype cannot be changed
def test_moments_that_were_cast_are_refused() -> None:
    import torch

    alrc = ALRC(num_stddev=3, scale="linear")
    assert len(list(alrc.parameters())) == 6  # from here on PyTorch knows of them
    alrc.to(torch.bfloat16)
    assert (
        "ALRC: mean must be float32, in which it can move; got bfloat16. Set the precision of the "
        "model with keras.config.set_dtype_policy('mixed_bfloat16') before it is built, instead "
        "of casting it."
    ) in refusal(TypeError, lambda: alrc(ops.ones(2)))
