"""What ``fit``, ``evaluate`` and the like report, and what they leave alone."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_training import (
    BATCH,
    RATE,
    SETTINGS,
    assert_as,
    backend,
    compiled,
    data,
    network,
    oracle,
)
from keras_workers import in_each_backend

from alrc.keras import ALRC, ALRCMixin


@in_each_backend
@pytest.mark.parametrize("per_example", [False, True])
def test_fit_reports_unclipped_losses_and_the_counts_of_each_epoch(per_example) -> None:
    model, (x, y) = compiled(per_example, metrics=["mae"]), data()
    steps = list(oracle(np.tile(x, (2, 1)), np.tile(y, (2, 1)), per_example))
    clipped = []
    for epoch in range(2):
        before = model.alrc.to_dict()["num_clipped"]
        options = {"shuffle": False, "verbose": 0, "validation_data": (x[:16], y[:16])}
        history = model.fit(x, y, batch_size=BATCH, **options).history
        clipped.append(model.alrc.to_dict()["num_clipped"] - before)
        losses = [loss for _, _, loss in steps[20 * epoch : 20 * (epoch + 1)]]
        assert history["alrc_num_clipped"] == [clipped[-1]]
        assert history["alrc_num_nonfinite"] == [0]
        np.testing.assert_allclose(history["loss"], [np.mean(losses)], rtol=1e-4)
        names = {"loss", "mae", "alrc_num_clipped", "alrc_num_nonfinite", "val_loss", "val_mae"}
        assert set(history) == names
    assert_as(model, *steps[-1][:2], rtol=1e-4)
    assert clipped[0] > 0


@in_each_backend
@pytest.mark.parametrize("per_example", [False, True])
def test_evaluate_and_predict_move_nothing_and_return_what_they_always_do(per_example) -> None:
    model, (x, y) = compiled(per_example, metrics=["mae"]), data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)  # some orders limit nothing
    before = model.alrc.to_dict()
    counts = [float(metric.result()) for metric in model.alrc.metrics]
    assert counts == [before["num_clipped"], 0]
    assert counts[0] > 0
    plain = model.model
    plain.compile(loss="mse", metrics=["mae"])
    expected = plain.evaluate(x, y, verbose=0)
    for _ in range(2):
        loss, mae = model.evaluate(x, y, verbose=0)  # no third number
        np.testing.assert_allclose([loss, mae], expected, rtol=1e-6)
        assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "mae"}
        assert len(model.test_on_batch(x, y)) == 2
        np.testing.assert_array_equal(model.predict(x, verbose=0), plain.predict(x, verbose=0))
        assert model.alrc.to_dict() == before
    model.reset_metrics()
    model.evaluate(x, y, verbose=0)
    assert [float(metric.result()) for metric in model.alrc.metrics] == [0.0, 0.0]


@in_each_backend
def test_on_a_batch_there_are_the_numbers_that_keras_has() -> None:
    x, y = data(1)
    for metrics in ([], ["mae"]):
        limited, plain = compiled(True, metrics=metrics), network()
        plain.compile(keras.optimizers.SGD(RATE), "mse", metrics=metrics)
        for method in ("train_on_batch", "test_on_batch"):
            numbers = [getattr(model, method)(x, y) for model in (limited, plain)]
            assert np.shape(numbers[0]) == np.shape(numbers[1]) == ((2,) if metrics else ())
            np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-5)
        logs = limited.train_on_batch(x, y, return_dict=True)
        assert set(logs) == {"loss", *metrics, "alrc_num_clipped", "alrc_num_nonfinite"}


@in_each_backend
def test_each_layer_has_a_name_and_counts_of_its_own() -> None:
    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.first, self.second = (
                ALRC(mu1_start=1.0, mu2_start=1.01, num_stddev=3, scale="linear") for _ in range(2)
            )

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            self.first(ops.full((2,), 100.0), training=training)  # is limited
            self.second(ops.ones((2,)), training=training)  # is not
            return ops.mean(ops.square(y - y_pred))

    model = Two()
    model.compile("sgd")
    x, y = data(2)
    history = model.fit(x, y, batch_size=BATCH, verbose=0).history
    first, second = model.first.name, model.second.name
    assert first != second
    assert history[f"{first}_num_clipped"] == [4]
    assert history[f"{second}_num_clipped"] == [0]
    inputs = keras.Input((4,))
    assert (
        len(
            keras.Model(
                inputs,
                [
                    ALRC(num_stddev=3, scale="linear")(inputs),
                    ALRC(num_stddev=3, scale="linear")(inputs),
                ],
            ).layers
        )
        == 3
    )


@in_each_backend
def test_the_counts_of_the_alrc_of_a_model_are_called_alrc_in_every_model() -> None:
    class Both(ALRCMixin, keras.Model):
        def __init__(self, **names: Any) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.other = ALRC(name=names.get("other"), num_stddev=3, scale="linear")
            self.alrc = ALRC(name=names.get("own"), num_stddev=3, scale="linear")

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    x, y = data(1)
    for names, expected in (({}, "alrc"), ({"own": "mine"}, "mine"), ({"other": "alrc"}, None)):
        model = Both(**names)
        model.compile("sgd", "mse")
        history = model.fit(x, y, verbose=0).history
        expected = expected or model.alrc.name  # since "alrc" is that of the other
        ours = {f"{expected}_num_clipped", f"{model.other.name}_num_clipped"}
        assert {name for name in history if name.endswith("clipped")} == ours
    assert len(ours) == 2


@in_each_backend
@pytest.mark.parametrize("reads", ["epoch", "batch"])
def test_inside_of_a_layer_it_trains_and_counts_as_the_backend_lets_it(reads) -> None:
    class Endpoint(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.alrc = ALRC(**SETTINGS)

        def call(self, prediction: Any, target: Any) -> Any:
            self.add_loss(ops.mean(self.alrc(ops.square(prediction - target)[:, 0])))
            return prediction

    inputs, targets = keras.Input((3,)), keras.Input((1,))
    endpoint, net = Endpoint(), network()
    model = keras.Model([inputs, targets], endpoint(net(inputs), targets))
    model.compile(keras.optimizers.SGD(RATE))
    x, y = data()
    moments = None
    before = 0
    for epoch in range(2):
        steps = list(oracle(np.tile(x, (epoch + 1, 1)), np.tile(y, (epoch + 1, 1)), True))
        moments = steps[-1][1]
        if reads == "epoch":
            history = model.fit([x, y], batch_size=BATCH, shuffle=False, verbose=0).history
            assert history[f"{endpoint.alrc.name}_num_clipped"] == [moments.num_clipped - before]
        else:
            for step in range(20):
                batch = slice(step * BATCH, (step + 1) * BATCH)
                logs = model.train_on_batch([x[batch], y[batch]], return_dict=True)
                count = logs[f"{endpoint.alrc.name}_num_clipped"]
                # Keras on JAX shows no weights to what makes the logs; 0 would say all is calm.
                assert np.isnan(count) == (backend() == "jax")
        got = endpoint.alrc.to_dict()
        assert got["num_clipped"] == moments.num_clipped > before
        np.testing.assert_allclose(got["mean"], moments.mean, rtol=1e-4)
        before = moments.num_clipped
    # Last, that the gradients were limited.
    theta = steps[-1][0]
    ours = np.concatenate([ops.convert_to_numpy(w).ravel() for w in model.trainable_weights])
    np.testing.assert_allclose(ours, theta, rtol=1e-4, atol=1e-4)
