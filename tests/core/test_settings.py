"""Settings: what is accepted at the edge, and every refusal word for word."""

import copy
import inspect
import math
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from alrc import Settings, keras
from alrc.integrations.lightning import ALRCCallback
from alrc.jax import scale_by_alrc
from alrc.lab.arms.alrc import Alrc
from alrc.torch import ALRC

TOGETHER = (
    "ALRC: mu1_start and mu2_start must be given together, because a limit needs the mean loss "
    "and the mean squared loss; got "
)
REFUSED = {
    "width": (
        {"num_stddev": 0},
        "ALRC: num_stddev must be greater than 0, because it counts the standard deviations above "
        "the mean at which losses are limited; got 0.0. Pass num_stddev=3.0, or "
        "num_stddev=math.inf to limit nothing on that side.",
    ),
    "nan width": (
        {"num_stddev": math.nan},
        "ALRC: num_stddev must be greater than 0, because it counts the standard deviations above "
        "the mean at which losses are limited; got nan. Pass num_stddev=3.0, or "
        "num_stddev=math.inf to limit nothing on that side.",
    ),
    "width below": (
        {"num_stddev_below": -1.5},
        "ALRC: num_stddev_below must be greater than 0, because it counts the standard deviations "
        "below the mean at which losses are limited; got -1.5. Pass num_stddev_below=3.0, or "
        "num_stddev_below=None to limit nothing on that side.",
    ),
    "decay 1": (
        {"decay": 1},
        "ALRC: decay must be at least 0 and less than 1, because it is the share of the old "
        "moments kept at each call; got 1.0. Pass decay=0.999 to remember about the last 1000 "
        "calls.",
    ),
    "decay as a number of calls": (
        {"decay": 500},
        "ALRC: decay must be at least 0 and less than 1, because it is the share of the old "
        "moments kept at each call; got 500.0. To remember about the last 500 calls, pass "
        "decay=0.998.",
    ),
    "negative decay": (
        {"decay": -0.1},
        "ALRC: decay must be at least 0 and less than 1, because it is the share of the old "
        "moments kept at each call; got -0.1. Pass decay=0.999 to remember about the last 1000 "
        "calls.",
    ),
    "nan decay": (
        {"decay": math.nan},
        "ALRC: decay must be at least 0 and less than 1, because it is the share of the old "
        "moments kept at each call; got nan. Pass decay=0.999 to remember about the last 1000 "
        "calls.",
    ),
    "warmup": (
        {"warmup": 0},
        "ALRC: warmup must be from 1 to 2**31 - 1, because the first limit needs losses to be "
        "computed from; got 0. Pass warmup=10, or give mu1_start and mu2_start to limit from the "
        "first call.",
    ),
    "no groups": (
        {"num_groups": 0},
        "ALRC: num_groups must be at least 1, because it counts the groups of losses that have "
        "moments of their own; got 0. Pass num_groups=4 for groups 0 to 3, or None for moments "
        "that all losses share.",
    ),
    "endless warmup": (
        {"warmup": 2**31},
        "ALRC: warmup must be from 1 to 2**31 - 1, because the first limit needs losses to be "
        "computed from; got 2147483648. Pass warmup=10, or give mu1_start and mu2_start "
        "to limit from the first call.",
    ),
    "recency below 1": (
        {"recency": 0.5},
        "ALRC: recency must be at least 1 and finite, because the average that losses start from "
        "lets call k weigh about k**(recency - 1), later calls no less than earlier ones; got 0.5. "
        "Pass recency=1.0 for the plain average, or recency=4.0 to forget the first losses sooner.",
    ),
    "infinite recency": (
        {"recency": math.inf},
        "ALRC: recency must be at least 1 and finite, because the average that losses start from "
        "lets call k weigh about k**(recency - 1), later calls no less than earlier ones; got inf. "
        "Pass recency=1.0 for the plain average, or recency=4.0 to forget the first losses sooner.",
    ),
    "nan recency beside starts": (
        {"recency": math.nan, "mu1_start": 1.0, "mu2_start": 2.0},
        "ALRC: recency must be at least 1 and finite, because the average that losses start from "
        "lets call k weigh about k**(recency - 1), later calls no less than earlier ones; got nan. "
        "Pass recency=1.0 for the plain average, or recency=4.0 to forget the first losses sooner.",
    ),
    "decay just above 1": (
        {"decay": 1.5},
        "ALRC: decay must be at least 0 and less than 1, because it is the share of the old "
        "moments kept at each call; got 1.5. Pass decay=0.999 to remember about the last 1000 "
        "calls.",
    ),
    "center": (
        {"center": "median"},
        "ALRC: center must be 'zero' or 'mean', the point towards which gradients are scaled; got "
        "'median'. Pass center='zero' for losses >= 0, or center='mean' for losses of either sign.",
    ),
    "scale": (
        {"scale": "logarithmic"},
        "ALRC: scale must be 'linear' or 'log', which says whether the moments are those of the "
        "losses or of their logarithms; got 'logarithmic'. Pass scale='linear' for the rule of the "
        "paper, or scale='log' for losses > 0 that spread over decades.",
    ),
    "scale log with center mean": (
        {"scale": "log", "center": "mean"},
        "ALRC: center must be 'zero' with scale='log', because only losses > 0 have a logarithm, "
        "and their gradients are scaled by limit / loss; got center='mean'. Pass center='zero', or "
        "scale='linear' for losses of either sign.",
    ),
    "scale log with a start of 0": (
        {"scale": "log", "mu1_start": 0.0, "mu2_start": 1.0},
        "ALRC: mu1_start must be greater than 0 with scale='log', because only losses > 0 have a "
        "logarithm; got 0.0. Pass an estimate of the mean loss, or leave mu1_start and mu2_start "
        "out to start automatically.",
    ),
    "only mu1": (
        {"mu1_start": 2},
        f"{TOGETHER}mu1_start=2.0 and mu2_start=None. If your losses spread by s around it, add "
        "mu2_start=mu1_start**2 + s**2, or leave both out to start automatically.",
    ),
    "only mu2": (
        {"mu2_start": 2},
        f"{TOGETHER}mu1_start=None and mu2_start=2.0. Add mu1_start, the mean loss, or leave both "
        "out to start automatically.",
    ),
    "infinite mu1": (
        {"mu1_start": math.inf, "mu2_start": 1},
        "ALRC: mu1_start must have a square that is finite in float32, because it is the mean "
        "loss, whose variance is kept there; got inf. Pass an estimate of the mean loss, or leave "
        "mu1_start and mu2_start out to start automatically.",
    ),
    "limits that close in on the mean": (
        {"num_stddev": 1.0, "num_stddev_below": 0.5},
        "ALRC: num_stddev * num_stddev_below must be greater than 1, because losses that are "
        "limited on both sides closer to the mean have a smaller variance than the one they are "
        "limited by, and both limits close in on the mean whatever the losses; got 1 * 0.5 = 0.5. "
        "Pass num_stddev_below=3, or None to limit nothing below.",
    ),
    "negative mu2": (
        {"mu1_start": 1, "mu2_start": -1},
        "ALRC: mu2_start must be at least 0 and finite in float32, because it is the mean squared "
        "loss; got -1.0. Pass mu1_start**2 + s**2 for losses that spread by s, or leave mu1_start "
        "and mu2_start out to start automatically.",
    ),
    "too large mu2": (
        {"mu1_start": 1, "mu2_start": 1e39},
        "ALRC: mu2_start must be at least 0 and finite in float32, because it is the mean squared "
        "loss; got 1e+39. Pass mu1_start**2 + s**2 for losses that spread by s, or leave mu1_start "
        "and mu2_start out to start automatically.",
    ),
}
WRONG_TYPE = {
    "string": (
        {"num_stddev": "3"},
        "ALRC: num_stddev must be a number; got '3' of type str. Pass a float, for example "
        "num_stddev=2.5.",
    ),
    "none": (
        {"decay": None},
        "ALRC: decay must be a number; got None of type NoneType. Pass a float, for example "
        "decay=2.5.",
    ),
    "no recency": (
        {"recency": None},
        "ALRC: recency must be a number; got None of type NoneType. Pass a float, for example "
        "recency=2.5.",
    ),
    "beyond a float": (
        {"num_stddev": 10**309},
        f"ALRC: num_stddev must be a number; got {10**309} of type int. Pass a float, for example "
        "num_stddev=2.5.",
    ),
    "tensor without a value": (
        {"mu1_start": torch.empty((), device="meta"), "mu2_start": 1.0},
        "ALRC: mu1_start must be a number; got tensor(..., device='meta', size=()) of type Tensor. "
        "Pass a float, for example mu1_start=2.5. Settings are compiled in and cannot be traced, "
        "as by jit or vmap; the docstring of alrc.jax.clip shows how to limit by several of them "
        "in one call.",
    ),
    "bool": (
        {"num_stddev_below": False},
        "ALRC: num_stddev_below must be a number; got False of type bool. Pass a float, for "
        "example num_stddev_below=2.5.",
    ),
    "fractional warmup": (
        {"warmup": 2.5},
        "ALRC: warmup must be a whole number; got 2.5 of type float. Pass an int, for example "
        "warmup=10.",
    ),
    "fractional num_groups": (
        {"num_groups": 2.0},
        "ALRC: num_groups must be a whole number; got 2.0 of type float. Pass an int, for example "
        "num_groups=4.",
    ),
    "bool warmup": (
        {"warmup": True},
        "ALRC: warmup must be a whole number; got True of type bool. Pass an int, for example "
        "warmup=10.",
    ),
}


FRONT_ENDS = [Settings, ALRC, scale_by_alrc, keras.ALRC, ALRCCallback]


@pytest.mark.parametrize("make", [Settings, ALRC])
@pytest.mark.parametrize("case", REFUSED)
def test_values_out_of_range_are_refused(make, case) -> None:
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        make(**arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("make", [Settings, ALRC])
@pytest.mark.parametrize("case", WRONG_TYPE)
def test_values_of_the_wrong_type_are_refused(make, case) -> None:
    arguments, message = WRONG_TYPE[case]
    with pytest.raises(TypeError) as error:
        make(**arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("make", FRONT_ENDS)
@pytest.mark.parametrize("case", [case for case in REFUSED if "recency" in case])
def test_recency_is_refused_in_the_same_words_by_every_front_end(make, case) -> None:
    test_values_out_of_range_are_refused(make, case)


@pytest.mark.parametrize("make", FRONT_ENDS)
@pytest.mark.parametrize("case", [case for case in REFUSED if "scale" in case])
def test_scale_is_refused_in_the_same_words_by_every_front_end(make, case) -> None:
    test_values_out_of_range_are_refused(make, case)


@pytest.mark.parametrize("make", [*FRONT_ENDS, Alrc])
def test_recency_comes_after_warmup_and_by_name_only_in_every_front_end(make) -> None:
    parameters = inspect.signature(make).parameters
    names = list(parameters)
    assert names[names.index("warmup") + 1] == "recency"
    assert parameters["recency"].default == 1.0
    assert make is Alrc or parameters["recency"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_edges_are_accepted() -> None:
    Settings(num_stddev=1e-30, decay=0, num_stddev_below=math.inf, warmup=1, scale="linear")
    Settings(recency=1, decay=0.5)
    Settings(recency=1e308)
    Settings(
        num_stddev=math.inf,
        decay=1 - 1e-15,
        mu1_start=0,
        mu2_start=0,
        center="mean",
        scale="linear",
    )
    assert Settings(mu1_start=-2, mu2_start=4, scale="linear").start == (-2.0, 0.0)
    assert (Settings().shape, Settings(num_groups=1).shape) == ((), (1,))


def test_scalars_of_other_libraries_become_plain_numbers() -> None:
    settings = Settings(
        np.float32(2),
        0.5,
        torch.tensor(3.0),
        np.array(13),
        warmup=np.int64(7),
        recency=np.int8(2),
        num_stddev_below=1,
        scale="linear",
    )
    assert settings == Settings(
        2.0, 0.5, 3.0, 13.0, warmup=7, recency=2.0, num_stddev_below=1.0, scale="linear"
    )
    assert settings.start == (3.0, 4.0)
    assert {type(getattr(settings, name)) for name in ("num_stddev", "mu1_start", "recency")} == {
        float
    }


def test_a_start_below_its_own_square_warns_at_the_line_of_the_user() -> None:
    with pytest.warns(UserWarning, match="mu2_start is the mean squared loss") as record:
        settings = Settings(mu1_start=3, mu2_start=8.9, scale="linear")
    assert record[0].filename == __file__
    assert settings.start == (3.0, 0.0)


def test_settings_cannot_be_changed_and_can_be_copied() -> None:
    settings = Settings(num_stddev=2, scale="linear")
    with pytest.raises(FrozenInstanceError):
        settings.num_stddev = 1.0
    assert copy.deepcopy(settings) == pickle.loads(pickle.dumps(settings)) == settings


def test_automatic_start_is_told_from_given_starts() -> None:
    assert Settings().automatic
    assert Settings(scale="linear").start == (0.0, 0.0)
    assert not Settings(mu1_start=1, mu2_start=2).automatic
