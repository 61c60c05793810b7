"""The Keras front end: training against an oracle in NumPy, and Keras's own ways of life.

Each test runs in a process of its backend's (see keras_workers.py).
"""

import contextlib
import doctest
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_workers import in_each_backend
from reference import Reference

import alrc.keras
import alrc.opaque
from alrc import rule
from alrc.keras import ALRC, ALRCMixin, ALRCModel

backend = keras.backend.backend
SETTINGS = {"num_stddev": 1.0, "decay": 0.9, "warmup": 3}
START = {"mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
RATE, BATCH = 0.01, 8


def data(batches: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a linear regression; every tenth target is far off."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batches * BATCH, 3))
    y = x.sum(1, keepdims=True) + rng.normal(size=(len(x), 1))
    y[::10] *= 20
    return x.astype("float32"), y.astype("float32")


def oracle(
    x: Any, y: Any, per_example: bool, devices: int = 1, accumulate: int = 1
) -> Iterator[tuple[np.ndarray, Reference, float]]:
    """Trains by hand, in NumPy: parameters, moments and the batch's loss after each step."""
    theta, moments, gradients = np.zeros(4), Reference(**SETTINGS), []
    design = np.hstack([x, np.ones((len(x), 1))]).astype(float)
    for step in range(len(x) // BATCH):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        error = design[batch] @ theta - y[batch, 0]
        losses, slopes = error**2, 2 * error[:, None] * design[batch]
        if not per_example:  # one loss on each device
            losses = losses.reshape(devices, -1).mean(1)
            slopes = slopes.reshape(devices, -1, 4).mean(1)
        factors = [result.factor for result in moments(losses, None)]
        gradients.append(np.mean(np.array(factors)[:, None] * slopes, axis=0))
        if len(gradients) == accumulate:
            theta = theta - RATE * np.mean(gradients, axis=0)
            gradients = []
        yield theta, moments, losses.mean()


def network() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])


def compiled(per_example: bool, optimizer: Any = None, **options: Any) -> ALRCModel:
    model = ALRCModel(network(), ALRC(**SETTINGS))
    reduction = "none" if per_example else "sum_over_batch_size"
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model.compile(optimizer or keras.optimizers.SGD(RATE), loss, **options)
    return model


def parameters(model: keras.Model) -> np.ndarray:
    return np.concatenate([ops.convert_to_numpy(w).ravel() for w in model.trainable_weights])


def assert_as(model: ALRCModel, theta: np.ndarray, moments: Reference, rtol: float = 2e-5) -> None:
    np.testing.assert_allclose(parameters(model), theta, rtol=rtol, atol=rtol)
    got = model.alrc.to_dict()
    np.testing.assert_allclose(got["mean"], moments.mean, rtol=rtol)
    np.testing.assert_allclose(got["variance"], moments.variance, rtol=10 * rtol)
    for name in ("num_updates", "num_losses", "num_clipped", "num_nonfinite"):
        assert got[name] == getattr(moments, name), f"{name}: {got}"


def last(iterator: Iterator[Any]) -> Any:
    *_, end = iterator
    return end


# Training


@in_each_backend
@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize(
    "options", [{"jit_compile": b} for b in (False, True)] + [{"run_eagerly": True}]
)
def test_training_agrees_with_the_oracle_at_each_step(per_example, options) -> None:
    model, (x, y) = compiled(per_example, **options), data()
    for step, (theta, moments, loss) in enumerate(oracle(x, y, per_example)):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        model.reset_metrics()
        clipped_before = model.alrc.to_dict()["num_clipped"]
        logs = model.train_on_batch(x[batch], y[batch], return_dict=True)
        assert_as(model, theta, moments)
        # What is reported is the loss before it was limited.
        np.testing.assert_allclose(logs["loss"], loss, rtol=2e-5)
        assert logs["alrc_num_clipped"] == moments.num_clipped - clipped_before
    assert moments.num_clipped > 5


@in_each_backend("torch")
def test_without_the_snapshot_the_gradients_are_wrong_and_the_oracle_sees_it() -> None:
    snapshot = alrc.opaque.snapshot
    alrc.opaque.snapshot = lambda x: x
    try:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            test_training_agrees_with_the_oracle_at_each_step.test(True, {"jit_compile": True})
    finally:
        alrc.opaque.snapshot = snapshot


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
    model.fit(x, y, batch_size=BATCH, verbose=0)
    before = model.alrc.to_dict()
    counts = [float(metric.result()) for metric in model.alrc.metrics]
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
    assert [float(metric.result()) for metric in model.alrc.metrics] == [0.0, 0.0] != counts


@in_each_backend
@pytest.mark.parametrize("per_example", [False, True])
def test_gradients_are_accumulated_over_batches_that_are_limited_one_by_one(per_example) -> None:
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=4)
    model, (x, y) = compiled(per_example, optimizer), data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    assert_as(model, *last(oracle(x, y, per_example, accumulate=4))[:2])


@in_each_backend
def test_steps_per_execution_changes_nothing() -> None:
    if backend() == "torch":  # which refuses it
        with pytest.raises(ValueError, match="steps_per_execution"):
            compiled(False, steps_per_execution=5).fit(*data(), verbose=0)
        return
    model, (x, y) = compiled(False, steps_per_execution=5), data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    assert_as(model, *last(oracle(x, y, False))[:2])


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


@in_each_backend
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize("per_example", [False, True])
def test_mixed_precision_and_loss_scaling_leave_the_moments_alone(policy, per_example) -> None:
    with dtype_policy(policy):
        optimizer = keras.optimizers.SGD(RATE)
        if policy == "mixed_float16":  # by default it starts so high that updates are left out
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**8)
        model, (x, y) = compiled(per_example, optimizer), data()
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
    dtypes = {w.name: keras.backend.standardize_dtype(w.dtype) for w in model.alrc.weights}
    assert dtypes["mean"] == dtypes["variance"] == "float32"
    theta, moments, _ = last(oracle(x, y, per_example))
    got = model.alrc.to_dict()
    assert got["num_losses"] == moments.num_losses
    assert got["num_nonfinite"] == 0
    # Half precision is in the model, whose losses differ a little; a scaled loss would by 2**8.
    np.testing.assert_allclose(got["mean"], moments.mean, rtol=0.05)
    np.testing.assert_allclose(parameters(model), theta, rtol=0.1, atol=0.02)


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
    model = ALRCModel(tokens, ALRC())
    model.compile(loss=keras.losses.MeanSquaredError(reduction="none"), run_eagerly=True)
    x = np.ones((2, 4, 3), "float32")
    x[0, 2:] = 0.0  # masked steps
    model.train_on_batch(x, np.ones((2, 4, 1), "float32"))
    assert model.alrc.to_dict()["num_losses"] == 6


@in_each_backend
def test_the_losses_of_several_outputs_are_added_for_each_example() -> None:
    inputs = keras.Input((3,))
    outputs = [keras.layers.Dense(1, kernel_initializer="zeros")(inputs) for _ in range(2)]
    model = ALRCModel(keras.Model(inputs, outputs), ALRC())
    loss = [keras.losses.MeanSquaredError(reduction="none") for _ in range(2)]
    model.compile(keras.optimizers.SGD(RATE), loss)
    x, y = data(1)
    model.train_on_batch(x, [y, 2 * y])
    got = model.alrc.to_dict()
    assert got["num_losses"] == BATCH
    np.testing.assert_allclose(got["mean"], 5 * np.mean(y**2), rtol=1e-5)


# Many devices


@in_each_backend("tensorflow", "jax")  # Keras on PyTorch has no distribution of its own
@pytest.mark.parametrize("per_example", [False, True])
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


# Saving


@in_each_backend
@pytest.mark.parametrize("per_example", [False, True])
def test_training_goes_on_from_a_file_as_if_never_interrupted(per_example, tmp_path: Path) -> None:
    x, y = data()

    def train(model: ALRCModel) -> list[Any]:
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        return [w.tolist() for w in model.get_weights()] + [model.alrc.to_dict()]

    model = compiled(per_example, keras.optimizers.Adam(0.01))
    train(model)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.alrc.settings == model.alrc.settings
    assert loaded.alrc.to_dict() == model.alrc.to_dict()
    fresh = compiled(per_example, keras.optimizers.Adam(0.01))
    fresh.optimizer.build(fresh.trainable_variables)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert fresh.alrc.to_dict() == model.alrc.to_dict()
    whole = train(model)
    assert train(loaded) == whole
    assert train(fresh) == whole
    assert whole[-1]["num_clipped"] > 0


@in_each_backend
@pytest.mark.parametrize(
    ("name", "number", "problem"),
    [
        ("mean", math.nan, "finite in float32; got nan"),
        ("variance", -0.5, "at least 0; got -0.5"),
        ("num_losses", -1, "a count, 0 or more, in int64; got -1"),
    ],
)
def test_a_damaged_file_is_refused_in_words_and_nothing_is_taken_over(
    name, number, problem, tmp_path: Path
) -> None:
    model = compiled(False)
    getattr(model.alrc, name).assign(number)
    model.alrc.num_updates.assign(7)
    model.save_weights(tmp_path / "damaged.weights.h5")
    other = compiled(False)
    before = other.alrc.to_dict()
    with pytest.raises(ValueError, match="ALRC") as error:
        other.load_weights(tmp_path / "damaged.weights.h5")
    assert (
        f"ALRC: the saved {name} must be {problem}. The state is damaged or not one of ALRC's: "
        "load another, or start afresh."
    ) in str(error.value)
    assert other.alrc.to_dict() == before


@in_each_backend
def test_settings_are_in_the_config() -> None:
    options = dict(num_stddev_below=2.0, warmup=4, center="mean", name="limit", **START)
    layer = ALRC(2.0, 0.5, **options)
    twin = ALRC.from_config(layer.get_config())
    assert (twin.settings, twin.name) == (layer.settings, "limit")
    assert [metric.name for metric in twin.metrics] == ["limit_num_clipped", "limit_num_nonfinite"]


# Compiling


@in_each_backend
def test_the_second_epoch_compiles_nothing() -> None:
    traced, step = [], rule.step

    def counted(*args: Any) -> Any:
        traced.append(1)
        return step(*args)

    if backend() != "torch":  # whose compiler would look into it
        rule.step = counted
    try:
        model, (x, y) = compiled(True, jit_compile=True), data(4)
        options = {"batch_size": BATCH, "verbose": 0, "validation_data": (x, y)}
        model.fit(x, y, epochs=2, **options)  # torch.compile takes two calls to settle
        graphs, first = number_of_graphs(), len(traced)
        model.fit(x, y, epochs=2, **options)
        assert number_of_graphs() == graphs
        assert len(traced) == first
        assert first + graphs > 0
    finally:
        rule.step = step


def number_of_graphs() -> int:
    if backend() != "torch":
        return 0
    import torch

    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


# The layer and the classes


@in_each_backend
def test_the_examples_of_the_docstrings_and_of_the_readme_run() -> None:
    assert doctest.testmod(alrc.keras).failed == 0
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    ours = [block for block in blocks if "from alrc.keras" in block]
    assert len(ours) == 2
    with contextlib.redirect_stdout(io.StringIO()):
        exec("\n".join(ours), {"__name__": "readme"})


@in_each_backend
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_shape_and_dtype_for_any_loss(shape, dtype) -> None:
    if dtype == "float64" and backend() == "jax":
        dtype = "float32"  # all there is without x64
    alrc, loss = ALRC(**START), ops.full(shape, 8.0, dtype)
    for mask in (None, ops.ones(shape, "bool")):
        clipped = ALRC(**START)(loss, mask=mask)
        assert (tuple(clipped.shape), clipped.dtype) == (shape, loss.dtype)
        assert np.all(ops.convert_to_numpy(ops.cast(clipped, "float32")) == 4.0)
    with dtype_policy("mixed_bfloat16"):
        assert ALRC(**START)(loss).dtype == loss.dtype
    assert alrc(loss, training=False) is loss
    assert alrc.to_dict()["num_losses"] == 0


@in_each_backend
def test_what_it_did_can_be_read() -> None:
    alrc = ALRC(num_stddev_below=0.5, decay=0.5, **START)
    for name, number in (("mu1", 1), ("mu2", 2), ("threshold", 4), ("threshold_below", 0.5)):
        assert float(getattr(alrc, name)) == number
    before = alrc.mu1
    alrc(ops.convert_to_tensor([8.0, 2.0]))  # 4 and 2
    assert (float(before), float(alrc.mu1)) == (1.0, 2.0)
    assert float(ALRC().threshold) == math.inf


@in_each_backend
def test_inside_another_layer_its_training_decides() -> None:
    class Endpoint(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.alrc = ALRC(**START)

        def call(self, loss: Any, training: bool = False) -> Any:
            return self.alrc(loss)

    layer, loss = Endpoint(), ops.convert_to_tensor([8.0])
    assert float(layer(loss)[0]) == 8.0
    assert float(layer(loss, training=True)[0]) == 4.0


class Regression(ALRCMixin, keras.Model):
    """A model of a user's own, with its own loss after the mixin."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, kernel_initializer="zeros")
        self.alrc = ALRC(**SETTINGS)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


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


def refusal(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


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
    assert alrc.to_dict() == before
    assert refusal(ValueError, lambda: ALRC(decay=2)).startswith("ALRC: decay must be")

    assert refusal(TypeError, lambda: ALRCModel(keras.layers.Dense(1, name="d"))) == (
        "ALRCModel: model must be a keras.Model, which is to be trained; got "
        "<Dense name=d, built=False>. Wrap layers in keras.Sequential([...]) first."
    )
    assert refusal(TypeError, lambda: ALRCModel(network(), 3.0)) == (
        "ALRCModel: alrc must be an alrc.keras.ALRC or None; got 3.0. Pass ALRC(num_stddev=3.0), "
        "or leave it out."
    )
    assert refusal(TypeError, lambda: ALRCModel(Regression())) == (
        "ALRCModel: model must leave compute_loss, train_step and test_step to Keras, because a "
        "wrapper's are used instead; got Regression with its own compute_loss. Derive from it: "
        "class Limited(ALRCMixin, Regression), with self.alrc = ALRC()."
    )

    class Forgotten(ALRCMixin, keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    model = Forgotten()
    model.compile(keras.optimizers.SGD(), "mse", run_eagerly=True)
    assert refusal(TypeError, lambda: model.train_on_batch(np.ones((2, 1)), np.ones((2, 1)))) == (
        "ALRCMixin: the model must have an attribute alrc that is an alrc.keras.ALRC, which keeps "
        "the moments; got None. In __init__, after super().__init__(), write self.alrc = ALRC()."
    )

    def wrong_order() -> None:
        class Late(keras.Model, ALRCMixin):
            pass

    assert refusal(TypeError, wrong_order) == (
        "ALRCMixin: must come before keras.Model among the bases, or nothing would be limited; "
        "got class Late(Model, ALRCMixin). Write class Late(ALRCMixin, ...)."
    )


# Groups


def grouped_losses(calls: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Losses, weights and groups; group 3 is never seen."""
    rng = np.random.default_rng(0)
    for _ in range(calls):
        group = rng.integers(0, 3, 6)
        losses = rng.lognormal(2.0 * group, 0.5).astype("float32")
        losses[rng.random(6) < 0.1] *= 30
        losses[rng.random(6) < 0.05] = math.nan
        yield losses, rng.choice([0.0, 0.5, 2.0], 6).astype("float32"), group.astype("int32")


@in_each_backend
def test_each_group_is_what_the_oracle_makes_of_its_losses_alone() -> None:
    alrc, oracles = ALRC(**SETTINGS, num_groups=4), [Reference(**SETTINGS) for _ in range(4)]
    for losses, weights, group in grouped_losses(60):
        values = alrc(ops.array(losses), mask=ops.array(weights), group=ops.array(group))
        values, saved = ops.convert_to_numpy(values), alrc.to_dict()
        for k, moments in enumerate(oracles):
            ours = group == k
            expected = [c.value for c in moments(losses[ours].tolist(), weights[ours].tolist())]
            np.testing.assert_allclose(values[ours], expected, rtol=1e-5)
            np.testing.assert_allclose(saved["mean"][k], moments.mean, rtol=1e-5)
            np.testing.assert_allclose(saved["variance"][k], moments.variance, rtol=1e-4)
            for name in ("num_updates", "num_losses", "num_clipped", "num_nonfinite"):
                assert saved[name][k] == getattr(moments, name), name
    assert sum(saved["num_clipped"]) > 10
    assert saved["num_updates"][3] == 0


@in_each_backend
def test_groups_are_saved_with_the_layer_and_go_on(tmp_path) -> None:
    alrc = ALRC(**SETTINGS, num_groups=4)
    *batches, last_one = grouped_losses(20)
    for losses, weights, group in batches:
        alrc(ops.array(losses), mask=ops.array(weights), group=ops.array(group))
    again = ALRC.from_config(alrc.get_config())
    again.load_dict(alrc.to_dict())
    inputs = keras.Input((6,), dtype="float32"), keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, alrc(inputs[0], group=inputs[1]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer("alrc")
    losses, _, group = last_one
    expected = ops.convert_to_numpy(alrc(ops.array(losses), group=ops.array(group)))
    for other in (again, loaded):
        got = ops.convert_to_numpy(other(ops.array(losses), group=ops.array(group)))
        np.testing.assert_array_equal(got, expected)
        assert other.to_dict() == alrc.to_dict()


GROUPS_REFUSED = {
    "no groups": (
        None,
        1,
        ValueError,
        "ALRC: group must be left out, because the moments are shared by all losses; got 1. "
        "Build it with num_groups=K, or call it without group.",
    ),
    "no group": (
        3,
        None,
        ValueError,
        "ALRC: group must say which of the 3 groups the losses are in; got None. Pass group=index "
        "in a training step of your own; fit() has no place for it.",
    ),
    "floats": (
        3,
        np.array([0.0, 1.0], "float32"),
        TypeError,
        "ALRC: group must hold whole numbers; got a float32 tensor. Pass ops.cast(group, 'int32').",
    ),
    "another shape": (
        3,
        np.array([[0], [1]]),
        ValueError,
        "ALRC: group must be one number or have the shape of loss; got a group of shape (2, 1) and "
        "losses of shape (2,). Pass ops.broadcast_to(group, ops.shape(loss)).",
    ),
}


@in_each_backend
@pytest.mark.parametrize("case", GROUPS_REFUSED)
def test_a_bad_group_is_refused_in_words(case) -> None:
    num_groups, group, kind, words = GROUPS_REFUSED[case]
    with pytest.raises(kind, match="group") as error:
        ALRC(num_groups=num_groups)(ops.ones(2), group=group)
    assert words in str(error.value)  # Keras adds the arguments of the call


@in_each_backend
def test_fit_refuses_groups_in_words() -> None:
    model = ALRCModel(network(), ALRC(num_groups=2))
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"fit\(\) has no place for it"):
        model.train_on_batch(*(each[:BATCH] for each in data()))
