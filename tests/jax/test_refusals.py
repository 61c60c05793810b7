"""What bad input and missing packages get, word for word."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_scripts import run

from alrc import Settings
from alrc.jax import clip, init, scale_by_alrc


def refusal(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_bad_input_is_refused_word_for_word() -> None:
    settings = Settings(num_stddev=3, scale="linear")
    moments = init(settings)
    for loss, got in (
        (jnp.array([1, 2]), "int32 of shape (2,)"),
        (3, "int32 of shape ()"),
        (np.array([1j], np.complex64), "complex64 of shape (1,)"),
        ("low", "'low'"),
        (None, "None"),
    ):
        assert refusal(TypeError, lambda loss=loss: clip(loss, moments, settings)) == (
            "clip: loss must be a floating array, because it is scaled to its limit; got "
            f"{got}. Pass what the loss function returned, before .astype(int) or the like."
        )
    assert refusal(TypeError, lambda: clip(1.0, moments, {"decay": 0.9})) == (
        "clip: settings must be alrc.Settings, which has checked its numbers; got "
        "{'decay': 0.9}. Call clip(loss, moments, settings), with settings=Settings()."
    )
    assert refusal(TypeError, lambda: clip(jnp.ones(2), moments, settings, "all")) == (
        "clip: mask must be an array, True or positive where a loss counts; got 'all'. Pass "
        "jnp.asarray of numbers or booleans."
    )
    assert refusal(ValueError, lambda: clip(jnp.ones(3), moments, settings, jnp.ones(2))) == (
        "clip: mask must have the shape of loss, because it says which losses count; got a mask "
        "of shape (2,) and losses of shape (3,). Compute one loss per example, before any mean, "
        "or pass jnp.broadcast_to(mask, loss.shape)."
    )
    transform = scale_by_alrc(num_stddev=3, scale="linear")
    state = transform.init(1.0)
    assert refusal(TypeError, lambda: transform.update(1.0, state)) == (
        "scale_by_alrc: update must be given the loss as value=, because the loss and its limit "
        "set the scale; got none. Call update(gradients, state, params, value=loss)."
    )
    assert refusal(ValueError, lambda: transform.update(1.0, state, value=jnp.ones(4))) == (
        "scale_by_alrc: value must be one loss, of shape (), because all updates are scaled "
        "alike; got shape (4,). Pass the scalar that was differentiated, or limit each loss with "
        "alrc.jax.clip."
    )
    assert refusal(TypeError, lambda: transform.update(1.0, state, value=4)).startswith(
        "scale_by_alrc: value must be a floating array"
    )


def test_traced_settings_are_refused_with_the_way_to_have_several() -> None:
    def call(num_stddev):
        return clip(
            1.0,
            init(Settings(num_stddev=3, scale="linear")),
            Settings(num_stddev=num_stddev, scale="linear"),
        )

    for transformed in (
        jax.vmap(call),
        jax.jit(lambda x: call(x[0])),
        jax.grad(lambda x: call(x[0])),
    ):
        message = refusal(TypeError, lambda: transformed(jnp.array([1.0, 2.0])))  # noqa: B023
        assert message.startswith("ALRC: num_stddev must be a number; got ")
        assert message.endswith(
            "Pass a float, for example num_stddev=2.5. Settings are compiled in and cannot be "
            "traced, as by jit or vmap; the docstring of alrc.jax.clip shows how to limit by "
            "several of them in one call."
        )
    assert "lax.switch(index, [partial(clip, settings=s) for s in several]" in clip.__doc__


def test_masks_that_are_no_weights_are_refused_and_extreme_ones_held() -> None:
    settings = Settings(mu1_start=1.0, mu2_start=2.0, decay=0.5, num_stddev=3, scale="linear")
    message = refusal(TypeError, lambda: clip(1.0, init(settings), settings, np.complex64(1j)))
    assert message == (
        "clip: mask must be an array, True or positive where a loss counts; got np.complex64(1j). "
        "Pass jnp.asarray of numbers or booleans."
    )
    losses = jnp.array([3.0, 9.0])
    for tiny in (np.array([1e-300, 0.0]), np.array([2**40, 0]), np.array([5e-324, -1e300])):
        values, moments = clip(losses, init(settings), settings, tiny)
        assert values.tolist() == [3.0, 9.0]
        assert moments.mean == 2.0


def test_missing_optax_is_named_with_its_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ModuleNotFoundError) as error:
        scale_by_alrc(num_stddev=3, scale="linear")
    assert str(error.value) == (
        "alrc.jax.scale_by_alrc needs optax, which is not installed here. Install it with: "
        'pip install "alrc[jax]"'
    )


def test_only_scale_by_alrc_imports_optax() -> None:
    result = run("import sys, alrc.jax; print('optax' in sys.modules, 'torch' in sys.modules)")
    assert result.stdout == "False False\n", result.stderr
