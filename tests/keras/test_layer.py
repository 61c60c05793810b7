"""The layer, called by hand or inside another layer."""

import contextlib
import doctest
import io
import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_training import START, backend, differentiated, dtype_policy
from keras_workers import in_each_backend

import alrc.keras
from alrc.keras import ALRC


@in_each_backend
def test_the_examples_of_the_docstrings_and_of_the_pages_run() -> None:
    assert doctest.testmod(alrc.keras).failed == 0
    pages = [Path(__file__).parents[2] / name for name in ("README.md", "docs/keras.md")]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
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
    assert float(ALRC(num_stddev=3, scale="linear").threshold) == math.inf
    log = ALRC(3, mu1_start=math.exp(0.5), mu2_start=math.exp(2.0), num_stddev_below=2.0)
    shown = [float(getattr(log, name)) for name in ("mean", "variance", "mu1", "mu2")]
    assert shown == pytest.approx([1.0, 1.0, math.exp(0.5), math.exp(2.0)], rel=1e-6)
    limits = [float(log.threshold_below), float(log.threshold)]
    assert limits == pytest.approx([math.exp(-2.0), math.exp(3.0)], rel=1e-6)


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


@in_each_backend
def test_settings_are_fixed() -> None:
    alrc = ALRC(**START)
    for name, value in (("num_stddev", 5), ("decay", 0.5), ("num_groups", 2)):
        with pytest.raises(AttributeError) as error:
            setattr(alrc, name, value)
        state = ", and hand it the state: new.load_dict(old.to_dict())" * (name != "num_groups")
        assert str(error.value) == (
            f"ALRC: {name} is fixed when it is built, because every call relies on it; got "
            f"{name} = {value}. Build another with the settings that you want{state}."
        )
    assert alrc.settings.num_stddev == 3.0


@in_each_backend
def test_weights_of_any_dtype_count_alike() -> None:
    if backend() == "jax":  # which has no float64
        dtypes = ["int32", "float16", "float32"]
    else:
        dtypes = ["int32", "int64", "float16", "float32", "float64"]
    for dtype in dtypes:
        alrc = ALRC(**START, decay=0.0)
        mask = ops.convert_to_tensor(np.array([1, 0, 3, -1], dtype))
        values, gradient = differentiated(alrc, [1.0, 9.0, 8.0, 9.0], mask=mask)
        assert (values, gradient) == ([1.0, 9.0, 4.0, 9.0], [1.0, 1.0, 0.5, 1.0])
        got = alrc.to_dict()
        assert (got["mean"], got["num_losses"]) == (3.25, 2)
