"""Losses below 0 on the scale of logarithms: what is said of them where looking costs no wait.

That they come back and are counted, in every row, is in promises/test_log_scale.py.
"""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alrc import Settings
from alrc import jax as alrc_jax
from alrc import torch as alrc_torch

Call = Callable[..., Any]


def module(scale: str = "log") -> Call:
    alrc = alrc_torch.ALRC(scale=scale)
    return lambda losses, mask=None: alrc(tensor(losses), tensor(mask))


def torch_clip(scale: str = "log") -> Call:
    settings = Settings(scale=scale)
    moments = alrc_torch.init(settings)
    return lambda losses, mask=None: alrc_torch.clip(
        tensor(losses), moments, settings, tensor(mask)
    )[0]


def jax_clip(scale: str = "log") -> Call:
    settings = Settings(scale=scale)
    moments = alrc_jax.init(settings)
    return lambda losses, mask=None: alrc_jax.clip(array(losses), moments, settings, array(mask))[0]


def tensor(numbers: Any) -> torch.Tensor | None:
    return None if numbers is None else torch.tensor(numbers)


def array(numbers: Any) -> jax.Array | None:
    return None if numbers is None else jnp.asarray(numbers)


CALLERS = {"ALRC": module, "clip of torch": torch_clip, "clip of jax": jax_clip}


def words(caller: str) -> str:
    return (
        f"{caller.split()[0]}: loss has numbers below 0, which have no logarithm: they come back "
        "as they are, neither limited nor in the moments, and are counted as not finite. For "
        "losses of either sign, pass center='mean' and scale='linear'."
    )


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("losses", [-2.0, [-2.0], [3.0, -1e-30, 5.0], [[1.0, -1.0], [0.0, 2.0]]])
@pytest.mark.parametrize("masked", [False, True])
def test_losses_below_0_are_told_of_in_words_at_the_line_of_the_user(
    caller, losses, masked
) -> None:
    call = CALLERS[caller]()
    with pytest.warns(UserWarning, match="below 0") as record:
        call(losses, np.ones(np.shape(losses), np.float32).tolist() if masked else None)
    assert [str(warning.message) for warning in record] == [words(caller)]
    assert record[0].filename == __file__


@pytest.mark.parametrize("caller", CALLERS)
def test_they_are_told_of_at_a_later_call_too(caller) -> None:
    call = CALLERS[caller]()
    for _ in range(20):
        call([1.0, 2.0])
    with pytest.warns(UserWarning, match="below 0"):
        call([1.0, -2.0])


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(
    ("losses", "mask", "scale"),
    [
        ([1.0, -2.0], [1.0, 0.0], "log"),
        ([1.0, -2.0], [True, False], "log"),
        ([1.0, -2.0], [1.0, -1.0], "log"),  # a weight below 0 counts no loss either
        ([0.0, -0.0, 1e-45, 3e38, math.inf, -math.inf, math.nan], None, "log"),
        ([], None, "log"),
        ([1.0, -2.0], None, "linear"),
    ],
)
def test_nothing_is_said_of_masked_losses_of_others_or_in_linear_scale(
    caller, losses, mask, scale
) -> None:
    CALLERS[caller](scale)(losses, mask)  # warnings are errors


def test_nothing_is_said_where_nothing_is_limited() -> None:
    alrc = alrc_torch.ALRC()
    with torch.no_grad():
        alrc(torch.tensor(-1.0))
    alrc.eval()(torch.tensor(-1.0))


def test_a_compiled_step_says_nothing_and_counts_them() -> None:
    alrc = alrc_torch.ALRC()
    call = torch.compile(lambda x: alrc(x), fullgraph=True, backend="aot_eager")
    assert call(torch.tensor([2.0, -1.0])).tolist() == [2.0, -1.0]
    assert (alrc.num_losses, alrc.num_nonfinite) == (1, 1)
    settings = Settings()
    jitted = jax.jit(lambda x, moments: alrc_jax.clip(x, moments, settings))
    limited, moments = jitted(jnp.array([2.0, -1.0]), alrc_jax.init(settings))
    assert (limited.tolist(), moments.num_updates) == ([2.0, -1.0], 1)


def test_a_call_under_vmap_says_nothing() -> None:
    settings = Settings()
    one = alrc_torch.init(settings)
    several = type(one)(*(x.expand(2) for x in one))
    losses = torch.tensor([[2.0, -1.0], [3.0, -4.0]])
    limited, _ = torch.vmap(lambda x, m: alrc_torch.clip(x, m, settings))(losses, several)
    assert torch.equal(limited, losses)


class Elsewhere(torch.Tensor):
    """Losses on another device, to the eye of ALRC: reading them might wait."""


def elsewhere(*losses: float) -> torch.Tensor:
    return torch.tensor(losses).as_subclass(Elsewhere)


@pytest.mark.parametrize("moved", [False, True])
def test_where_looking_waits_only_the_first_call_looks(moved) -> None:
    alrc = alrc_torch.ALRC()
    if moved:
        alrc(torch.tensor([2.0]))
        alrc.to("meta").to_empty(device="cpu").reset_parameters()
    with pytest.warns(UserWarning, match="below 0") as record:
        alrc(elsewhere(1.0, -2.0))
    assert [str(warning.message) for warning in record] == [words("ALRC")]
    assert record[0].filename == __file__
    for again in (alrc, copy.deepcopy(alrc), pickle.loads(pickle.dumps(alrc))):
        again(elsewhere(1.0, -2.0))
    assert (alrc.num_losses, alrc.num_nonfinite) == (2, 2)
