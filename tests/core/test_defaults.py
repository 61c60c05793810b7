"""Settings that nobody gave: those of today in every front end, and those of older files."""

import inspect
import math
import pickle

import pytest
import torch

from alrc import Settings, keras
from alrc.integrations.lightning import ALRCCallback
from alrc.jax import scale_by_alrc
from alrc.torch import ALRC

FRONT_ENDS = [ALRC, scale_by_alrc, keras.ALRC, ALRCCallback]


def test_the_limit_is_two_standard_deviations_of_logarithms_by_default() -> None:
    assert Settings() == Settings(2.0, 0.999, center="zero", scale="log")
    assert Settings().start == (1.0, 0.0)
    assert ALRC().settings == ALRCCallback().alrc.settings == keras.ALRC().settings == Settings()


@pytest.mark.parametrize("make", FRONT_ENDS)
def test_every_front_end_has_the_defaults_of_settings_in_their_order(make) -> None:
    own, wanted = (inspect.signature(x).parameters for x in (make, Settings))
    shared = [name for name in wanted if name in own]
    assert shared == [name for name in own if name in wanted]
    assert set(wanted) - set(shared) <= {"num_groups"}  # which not all of them have
    for name in shared:
        assert (own[name].default, own[name].kind) == (wanted[name].default, wanted[name].kind)


def test_the_scale_is_given_by_name_only() -> None:
    parameter = inspect.signature(Settings).parameters["scale"]
    assert (parameter.default, parameter.kind) == ("log", inspect.Parameter.KEYWORD_ONLY)


OLD_LIST = [2.0, 0.5, 3.0, 13.0, 1.0, 7, "mean", 4]  # in the order of the fields


def test_settings_pickled_before_there_was_recency_have_the_plain_average() -> None:
    settings = Settings.__new__(Settings)
    settings.__setstate__(OLD_LIST)
    expected = {"num_stddev_below": 1.0, "warmup": 7, "center": "mean", "num_groups": 4}
    assert settings == Settings(2.0, 0.5, 3.0, 13.0, scale="linear", **expected)
    assert (settings.recency, settings.scale) == (1.0, "linear")


def test_settings_pickled_before_there_was_a_scale_are_of_the_linear_one() -> None:
    settings = without_scale(Settings(3.0, 0.9, recency=4.0, scale="linear"))
    assert settings == Settings(3.0, 0.9, recency=4.0, scale="linear")
    for scale in ("linear", "log"):
        today = Settings(scale=scale)
        assert pickle.loads(pickle.dumps(today)) == today


def test_a_module_pickled_before_there_was_a_scale_keeps_its_limit() -> None:
    alrc = ALRC(3, mu1_start=1.0, mu2_start=2.0, scale="linear")
    loaded = ALRC.__new__(ALRC)
    loaded.__setstate__({**alrc.__getstate__(), "settings": without_scale(alrc.settings)})
    assert loaded.settings.scale == "linear"
    assert loaded(torch.tensor(8.0)).item() == 4.0


def without_scale(settings: Settings) -> Settings:
    """As they are loaded from a file of the time when there was none."""
    loaded = Settings.__new__(Settings)
    loaded.__setstate__({k: v for k, v in settings.__getstate__().items() if k != "scale"})
    return loaded


def test_a_config_of_keras_without_a_scale_is_of_the_linear_one() -> None:
    config = keras.ALRC(3.0, mu1_start=1.0, mu2_start=2.0, scale="linear").get_config()
    del config["scale"]
    layer = keras.ALRC.from_config(config)
    assert layer.settings == Settings(3.0, mu1_start=1.0, mu2_start=2.0, scale="linear")
    assert float(layer.threshold) == 4.0
    today = keras.ALRC()
    assert keras.ALRC.from_config(today.get_config()).settings == today.settings == Settings()
    assert math.isinf(float(today.threshold))
