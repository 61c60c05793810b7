"""Files, configs and states that go on."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras_training import BATCH, START, compiled, data, needs_keras_3_15, network
from keras_workers import in_each_backend

from alrc.keras import ALRC, ALRCModel


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
    options = {"num_stddev_below": 2.0, "warmup": 4, "recency": 4.0, "center": "mean"}
    layer = ALRC(**{**START, "num_stddev": 2.0}, decay=0.5, name="limit", **options)
    twin = ALRC.from_config(layer.get_config())
    assert (twin.settings, twin.name) == (layer.settings, "limit")
    assert ALRC.from_config(ALRC(scale="log").get_config()).settings.scale == "log"
    assert [metric.name for metric in twin.metrics] == ["limit_num_clipped", "limit_num_nonfinite"]


@in_each_backend
@needs_keras_3_15("the file was written by Keras 3.15, whose initialisers older ones do not take")
def test_a_file_from_before_layers_had_names_of_their_own_goes_on() -> None:
    model = keras.saving.load_model(Path(__file__).parent / "saved_by_0_1.keras")
    assert model.alrc.name == "alrc"
    expected = {
        "mean": 13.089875221252441,
        "variance": 262.4291076660156,
        "num_updates": 16,
        "num_losses": 16,
        "num_clipped": 1,
        "num_nonfinite": 0,
    }
    assert model.alrc.to_dict() == expected
    assert len(model.optimizer.variables) == 6  # Adam's own are there, too
    assert int(model.optimizer.iterations) == 16
    history = model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0).history
    assert history["alrc_num_clipped"] == [0]
    assert model.alrc.to_dict()["num_updates"] == 17


@in_each_backend
def test_the_average_of_several_states_is_a_state(tmp_path: Path) -> None:
    alrc = ALRC(num_stddev=3, scale="linear")
    average = {"mean": 1.5, "variance": 0.25, "num_updates": 20.5, "num_losses": 30.75}
    alrc.load_dict({name: np.array(number) for name, number in average.items()})
    expected = {"num_updates": 20, "num_losses": 30, "num_clipped": 0, "num_nonfinite": 0}
    assert alrc.to_dict() == {"mean": 1.5, "variance": 0.25, **expected}

    import h5py

    model = compiled(False)
    model.save_weights(tmp_path / "averaged.weights.h5")
    with h5py.File(tmp_path / "averaged.weights.h5", "r+") as file:
        for name, number in average.items():
            del file[f"alrc/vars/{name}"]
            file[f"alrc/vars/{name}"] = np.float64(number)
    model.load_weights(tmp_path / "averaged.weights.h5")
    assert model.alrc.to_dict() == alrc.to_dict()

    weights = model.get_weights()
    model.set_weights([weight + 0.5 for weight in weights])
    assert model.alrc.to_dict()["num_updates"] == 20


@in_each_backend("tensorflow", "jax")  # Keras exports no such model of PyTorch
@pytest.mark.parametrize("when", ["built before", "built by fit"])
def test_a_wrapped_net_can_be_exported(when, tmp_path: Path) -> None:
    import tensorflow as tf

    first = [keras.Input((3,))] if when == "built before" else []
    model = ALRCModel(keras.Sequential([*first, keras.layers.Dense(1)]))
    model.compile("sgd", "mse")
    x, y = data(1)
    model.fit(x, y, verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(loaded.serve(x), model.predict(x, verbose=0), rtol=1e-5)


@in_each_backend
def test_a_net_of_any_kind_can_be_built_before_it_is_wrapped(tmp_path: Path) -> None:
    class Subclass(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs["a"]) + self.dense(inputs["b"])

    x, y = data(1)
    inputs = {name: keras.Input((3,), name=name) for name in "ab"}
    functional = keras.Model(inputs, Subclass()(inputs))
    subclass = Subclass()
    subclass(dict.fromkeys("ab", x))
    for net in (functional, subclass):
        model = ALRCModel(net)
        assert model.built
        model.compile("adam", "mse")
        model.fit({"a": x, "b": x}, y, verbose=0)
        assert model.alrc.to_dict()["num_losses"] == 1


@in_each_backend
@pytest.mark.parametrize(("own", "other"), [("linear", "log"), ("log", "linear")])
def test_weights_of_the_other_scale_are_refused_in_words(own, other, tmp_path: Path) -> None:
    mine, others = (ALRCModel(network(), ALRC(scale=scale)) for scale in (own, other))
    x, y = data(2)
    others.compile("sgd", "mse")
    others.fit(x, y, verbose=0)
    others.save_weights(tmp_path / "others.weights.h5")
    before = mine.alrc.to_dict()
    with pytest.raises(ValueError, match="scale") as error:
        mine.load_weights(tmp_path / "others.weights.h5")
    assert (
        f"ALRC: the saved state must be that of scale='{own}', because the moments of losses and "
        f"those of their logarithms are different numbers; got that of scale='{other}'. Pass "
        f"scale='{other}', or start afresh."
    ) in str(error.value)
    assert mine.alrc.to_dict() == before
    others.save(tmp_path / "others.keras")
    loaded = keras.saving.load_model(tmp_path / "others.keras")
    assert loaded.alrc.to_dict() == others.alrc.to_dict()
    assert loaded.alrc.settings.scale == other
