"""Many devices."""

import keras
import numpy as np
import pytest
from keras_training import BATCH, assert_as, backend, compiled, data, oracle
from keras_workers import in_each_backend


@in_each_backend("tensorflow", "jax")  # Keras on PyTorch has no distribution of its own
@pytest.mark.parametrize("per_example", [pytest.param(False, marks=pytest.mark.slow), True])
def test_replicas_share_one_limit(per_example) -> None:
    x, y = data()
    if backend() == "tensorflow":
        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = compiled(per_example)
        devices = 2  # each computes the mean of its half
    else:
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
        model, devices = compiled(per_example), 1  # the mean is one of the whole batch
        assert len(model.alrc.mean.value.devices()) == 2
    clipped = []
    try:
        for step, (theta, moments, loss) in enumerate(oracle(x, y, per_example, devices)):
            batch = slice(step * BATCH, (step + 1) * BATCH)
            history = model.fit(x[batch], y[batch], batch_size=BATCH, shuffle=False, verbose=0)
            assert_as(model, theta, moments)
            np.testing.assert_allclose(history.history["loss"], [loss], rtol=2e-5)
            clipped.append(moments.num_clipped)
            if backend() == "tensorflow":
                for weight in model.alrc.weights:
                    one, other = weight.value.values
                    assert one.numpy() == other.numpy()
        assert history.history["alrc_num_clipped"] == [clipped[-1] - clipped[-2]]
    finally:
        keras.distribution.set_distribution(None)
