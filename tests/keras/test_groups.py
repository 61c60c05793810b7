"""Losses in groups."""

import math
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from keras import ops
from keras_training import BATCH, SETTINGS, START, data, differentiated, network
from keras_workers import in_each_backend
from reference import Reference

from alrc.keras import ALRC, ALRCModel


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
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_each_group_is_what_the_oracle_makes_of_its_losses_alone(scale) -> None:
    settings = {**SETTINGS, "recency": 2.0, "scale": scale}  # each group starts by itself
    alrc, oracles = ALRC(**settings, num_groups=4), [Reference(**settings) for _ in range(4)]
    for losses, weights, group in grouped_losses(60):
        values = alrc(ops.array(losses), mask=ops.array(weights), group=ops.array(group))
        values, saved = ops.convert_to_numpy(values), alrc.to_dict()
        for k, moments in enumerate(oracles):
            ours = group == k
            expected = [c.value for c in moments(losses[ours].tolist(), weights[ours].tolist())]
            np.testing.assert_allclose(values[ours], expected, rtol=1e-5)
            mean, variance, *_ = (numbers[k] for numbers in saved.values())
            np.testing.assert_allclose(mean, moments.mean, rtol=1e-5)
            np.testing.assert_allclose(variance, moments.variance, rtol=1e-4)
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
    loaded = keras.saving.load_model(tmp_path / "model.keras").get_layer(alrc.name)
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
    "out of range": (
        3,
        -1,
        ValueError,
        "ALRC: group must be from 0 to 2, because there are 3 groups; got -1. Pass a larger "
        "num_groups, or other numbers.",
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
        ALRC(num_groups=num_groups, num_stddev=3, scale="linear")(ops.ones(2), group=group)
    assert words in str(error.value)  # Keras adds the arguments of the call


@in_each_backend
def test_fit_refuses_groups_in_words() -> None:
    model = ALRCModel(network(), ALRC(num_groups=2, num_stddev=3, scale="linear"))
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"fit\(\) has no place for it"):
        model.train_on_batch(*(each[:BATCH] for each in data()))


@in_each_backend
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_losses_of_no_group_come_back_and_move_nothing(dtype) -> None:
    numbers = [0, 1, 2, -1] if dtype != "uint8" else [0, 1, 2, 255]
    outside = np.array([numbers[2], numbers[3], np.iinfo(dtype).max, 1]).astype(dtype)
    alrc, twin = (ALRC(num_groups=2, **START) for _ in range(2))
    values, gradient = differentiated(alrc, [8.0, 9.0, math.nan, 8.0], group=outside)
    assert values[:2] == [8.0, 9.0]
    assert math.isnan(values[2])
    assert values[3] == 4.0
    assert gradient == [1.0, 1.0, 1.0, 0.5]
    twin(ops.array([8.0]), group=1)
    assert alrc.to_dict() == twin.to_dict()


@in_each_backend
def test_the_last_of_many_groups_is_found_by_a_small_dtype() -> None:
    for dtype, size in (("int8", 200), ("uint8", 300), ("uint8", 256)):
        alrc, index = ALRC(num_groups=size, **START), np.iinfo(dtype).max
        group = ops.convert_to_tensor(np.array([index], dtype))
        assert differentiated(alrc, [8.0], group=group) == ([4.0], [0.5])
        assert alrc.to_dict()["num_clipped"] == [int(k == index) for k in range(size)]
