"""Which losses of a batch count."""

import math

import keras
import numpy as np
from keras_training import BATCH, RATE, compiled, data
from keras_workers import in_each_backend

from alrc.keras import ALRC, ALRCModel


@in_each_backend
def test_a_broken_batch_is_counted_and_moves_no_moments() -> None:
    model, (x, y) = compiled(True), data()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    before = model.alrc.to_dict()
    for bad in (math.nan, math.inf):
        model.reset_metrics()
        weights = model.get_weights()
        logs = model.train_on_batch(x[:8], np.full_like(y[:8], bad), return_dict=True)
        assert logs["alrc_num_nonfinite"] == 8
        model.set_weights([*weights[:2], *model.get_weights()[2:]])  # which it has spoilt
    assert model.alrc.to_dict() == {**before, "num_nonfinite": 16}


@in_each_backend
def test_examples_of_weight_0_and_masked_steps_do_not_count() -> None:
    model, (x, y) = compiled(True), data(1)
    weights = np.array([1, 0, 2, 0, 1, 1, 1, 0], "float32")
    y[weights == 0] = 1e6
    model.train_on_batch(x, y, sample_weight=weights)
    losses = (y[:, 0] ** 2 * weights)[weights > 0]
    got = model.alrc.to_dict()
    assert got["num_losses"] == 5
    np.testing.assert_allclose(got["mean"], losses.mean(), rtol=1e-5)

    tokens = keras.Sequential([keras.layers.Masking(), keras.layers.Dense(1)])
    model = ALRCModel(tokens, ALRC(num_stddev=3, scale="linear"))
    model.compile(loss=keras.losses.MeanSquaredError(reduction="none"), run_eagerly=True)
    x = np.ones((2, 4, 3), "float32")
    x[0, 2:] = 0.0  # masked steps
    model.train_on_batch(x, np.ones((2, 4, 1), "float32"))
    assert model.alrc.to_dict()["num_losses"] == 6


@in_each_backend
def test_the_losses_of_several_outputs_are_added_for_each_example() -> None:
    inputs = keras.Input((3,))
    outputs = [keras.layers.Dense(1, kernel_initializer="zeros")(inputs) for _ in range(2)]
    model = ALRCModel(keras.Model(inputs, outputs), ALRC(num_stddev=3, scale="linear"))
    loss = [keras.losses.MeanSquaredError(reduction="none") for _ in range(2)]
    model.compile(keras.optimizers.SGD(RATE), loss)
    x, y = data(1)
    model.train_on_batch(x, [y, 2 * y])
    got = model.alrc.to_dict()
    assert got["num_losses"] == BATCH
    np.testing.assert_allclose(got["mean"], 5 * np.mean(y**2), rtol=1e-5)
