"""The wrapper and the mixin, with models of all kinds."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from keras_training import BATCH, RATE, SETTINGS, Regression, assert_as, data, last, network, oracle
from keras_workers import in_each_backend

from alrc.keras import ALRC, ALRCMixin, ALRCModel


@in_each_backend
def test_the_mixin_trains_like_the_wrapper() -> None:
    class OwnLoss(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.mean(ops.square(y - y_pred))

    class LimitedOwnLoss(ALRCMixin, OwnLoss):
        pass

    x, y = data()
    theta, moments, _ = last(oracle(x, y, False))
    inputs = keras.Input((3,))
    functional = LimitedOwnLoss(inputs, network()(inputs))
    functional.alrc = ALRC(**SETTINGS)
    for model in (Regression(), functional):
        model.compile(keras.optimizers.SGD(RATE), "mse")
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        assert_as(model, theta, moments)


@in_each_backend
def test_a_functional_model_keeps_track_of_an_alrc_that_it_gets_later(tmp_path: Path) -> None:
    class Limited(ALRCMixin, keras.Model):
        def __init__(self, inputs: Any, outputs: Any) -> None:
            super().__init__(inputs, outputs)
            self.alrc = ALRC(**SETTINGS)

    inputs = keras.Input((3,))
    model, twin = (Limited(inputs, network()(inputs)) for _ in range(2))
    for weight in model.alrc.weights:
        assert sum(weight is other for other in model.weights) == 1
    model.compile(keras.optimizers.SGD(RATE), "mse")
    model.fit(*data(5), batch_size=BATCH, verbose=0)
    assert model.alrc.to_dict()["num_losses"] == 5
    twin.set_weights(model.get_weights())
    assert twin.alrc.to_dict() == model.alrc.to_dict()
    model.save_weights(tmp_path / "saved.weights.h5")
    twin.alrc.load_dict(ALRC(num_stddev=3, scale="linear").to_dict())
    twin.load_weights(tmp_path / "saved.weights.h5")
    assert twin.alrc.to_dict() == model.alrc.to_dict()


@in_each_backend
def test_any_model_can_be_wrapped() -> None:
    class TwoInputs(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dropout = keras.layers.Dropout(0.999)

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.dropout(self.dense(ops.concatenate([inputs["a"], inputs["b"]], -1)))

    x, y = data(2)
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    for model, inputs in ((TwoInputs(), {"a": x, "b": x}), (unbuilt, x)):
        wrapped = ALRCModel(model)
        wrapped.compile(keras.optimizers.SGD(0.0), "mse")
        wrapped.fit(inputs, y, batch_size=BATCH, verbose=0)
        assert wrapped.alrc.to_dict()["num_losses"] == 2
    # Dropout was on in training, and is off in prediction.
    assert np.all(ALRCModel(model).predict(inputs, verbose=0) != 0.0)


@in_each_backend
def test_a_compute_loss_that_takes_no_training_is_called_as_keras_calls_it() -> None:
    class Old(keras.Model):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(1, kernel_initializer="zeros")

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

        def compute_loss(self, x, targets, y_pred, weights):  # Keras hands them over in order
            return ops.mean(ops.square(targets - y_pred))

    class After(ALRCMixin, Old):
        def __init__(self) -> None:
            super().__init__()
            self.alrc = ALRC(**SETTINGS)

    class Same(Regression):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return super().compute_loss(x, y, y_pred, sample_weight)

    x, y = data()
    theta, moments, _ = last(oracle(x, y, False))
    for model in (After(), Same()):
        model.compile(keras.optimizers.SGD(RATE), "mse")
        model.evaluate(x, y, verbose=0)
        assert model.alrc.to_dict()["num_losses"] == 0
        options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
        model.fit(x, y, validation_data=(x, y), **options)
        assert_as(model, theta, moments)


@in_each_backend
def test_a_compute_loss_in_the_class_of_the_mixin_goes_on_by_super_or_by_itself() -> None:
    class BySuper(Regression):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)

    class ByItself(Regression):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return self.alrc(ops.mean(ops.square(y - y_pred)), training=training)

    x, y = data()
    theta, moments, _ = last(oracle(x, y, False))
    for model in (BySuper(), ByItself()):
        model.compile(keras.optimizers.SGD(RATE), "mse")
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        assert_as(model, theta, moments)


@in_each_backend
def test_a_model_that_is_compiled_again_trains_on() -> None:
    model, (x, y) = Regression(), data(1)
    for times in range(3):
        model.compile("sgd", "mse")
        model.fit(x, y, verbose=0)
        assert model.alrc.to_dict()["num_losses"] == times + 1
    model.make_train_function(force=True)
    model.fit(x, y, verbose=0)
    assert model.alrc.to_dict()["num_losses"] == 4
