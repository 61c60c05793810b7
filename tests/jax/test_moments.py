"""Moments that come from elsewhere: from a file, of other settings, of another framework."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization

import alrc.torch
from alrc import Settings
from alrc.jax import Moments, clip, init, scale_by_alrc

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
PLAIN, GROUPED = Settings(**START), Settings(**START, num_groups=3)


def test_moments_from_a_checkpoint_are_taken_back_into_their_dtypes() -> None:
    saved = Moments(np.float64(1.0), 1.0, np.int64(7))
    for form in (saved, tuple(saved), nnx.Variable(saved), Moments(*map(nnx.Variable, saved))):
        clipped, after = clip(8.0, form, PLAIN)
        assert clipped == 4.0
        assert isinstance(after, Moments)
        assert [str(x.dtype) for x in after] == ["float32", "float32", "int32"]
        assert after.num_updates == 8


def test_counts_beyond_int32_neither_fail_nor_wrap() -> None:
    settings = Settings(warmup=2**31 - 1, num_stddev=3, scale="linear")
    moments = Moments(jnp.array(1.0), jnp.array(1.0), jnp.array(2**31 - 1))
    clipped, after = clip(2.0, moments, settings)
    assert clipped == 2.0
    assert after.num_updates == 2**31 - 1
    assert after.mean == pytest.approx(1.001)


def restored_by_orbax(moments: Moments, folder: Any) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "moments", moments)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "moments")


def restored_by_flax(moments: Moments, folder: Any) -> Any:
    return serialization.msgpack_restore(serialization.to_bytes(moments))


def restored_by_numpy(moments: Moments, folder: Any) -> Any:
    file = io.BytesIO()
    np.savez(file, **moments._asdict())
    file.seek(0)
    return dict(np.load(file))


# Orbax looks into files of its own that it does not close.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")
@pytest.mark.parametrize("restored", [restored_by_orbax, restored_by_flax, restored_by_numpy])
@pytest.mark.parametrize("settings", [PLAIN, GROUPED], ids=["plain", "grouped"])
def test_moments_that_were_restored_as_a_dict_of_arrays_go_on(restored, settings, tmp_path) -> None:
    group = None if settings.num_groups is None else jnp.array([0, 2])
    losses = jnp.array([1.5, 9.0])
    _, moments = clip(losses, init(settings), settings, group=group)
    saved = restored(moments, tmp_path)
    assert isinstance(saved, dict)
    again = init(settings, saved=saved)
    for ours, theirs in zip(again, moments, strict=True):
        assert jax.typeof(ours) == jax.typeof(theirs)
        assert ours.tolist() == theirs.tolist()
    with pytest.raises(TypeError) as error:
        clip(losses, saved, settings, group=group)
    assert str(error.value) == (
        "clip: moments must be the Moments that init or the last call returned; got a dict of "
        f"{', '.join(saved)}. Pass alrc.jax.init(settings, saved=moments), which checks them."
    )


UNLIKE_MOMENTS = {
    "a list": [1.0, 2.0],
    "settings": PLAIN,
    "nothing": None,
    "an array of three numbers": np.zeros(3),
    "a number": 1.0,
}


@pytest.mark.parametrize("case", UNLIKE_MOMENTS)
def test_what_is_no_moments_is_refused_in_words(case) -> None:
    moments = UNLIKE_MOMENTS[case]
    with pytest.raises(TypeError) as error:
        clip(jnp.ones(3), moments, PLAIN)
    assert str(error.value) == (
        "clip: moments must be the Moments that init or the last call returned; got "
        f"{moments!r}. Start from init, and hand on what each call returns."
    )
    with pytest.raises(TypeError) as error:
        scale_by_alrc(num_stddev=3, scale="linear").update(1.0, moments, value=1.0)
    assert str(error.value) == (
        "scale_by_alrc: state must be the Moments that init or the last call returned; got "
        f"{moments!r}. Start from init, and hand on what each call returns."
    )


def test_moments_of_what_is_no_number_to_jax_are_refused_in_words() -> None:
    for number, got in (
        (alrc.torch.init(PLAIN).mean, "tensor(1.) of type Tensor"),
        ("1.0", "'1.0' of type str"),
        (None, "None of type NoneType"),
        (True, "True of type bool"),
        (np.array("1.0"), "array('1.0', dtype='<U3') of type ndarray"),
        (np.array(1j), "array(0.+1.j) of type ndarray"),
    ):
        for moments, field in (
            (Moments(number, 1.0, 3), "mean"),
            (Moments(1.0, number, 3), "variance"),
            (Moments(1.0, 1.0, number), "num_updates"),
        ):
            with pytest.raises(TypeError) as error:
                clip(1.0, moments, PLAIN)
            assert str(error.value) == (
                "clip: moments must be the Moments that init or the last call returned, of JAX's "
                f"arrays or numbers; got {got} as {field}. Pass alrc.jax.init(settings, "
                "saved=moments.to_dict()), which takes those of any framework."
            )


def refused_shape(moments: Moments, settings: Settings, **group: Any) -> str:
    """The refusal, which has to be the same however clip is called."""
    losses, messages = jnp.ones(3), set()

    def call(moments: Moments) -> Any:
        return clip(losses, moments, settings, **group)

    several = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), moments)
    for attempt in (
        lambda: call(moments),
        lambda: jax.jit(call)(moments),
        lambda: jax.vmap(call)(several),
        lambda: jax.lax.scan(lambda m, _: (call(m)[1], None), moments, None, 2),
        lambda: jax.eval_shape(call, moments),
    ):
        with pytest.raises(ValueError, match="clip: ") as error:
            attempt()
        messages.add(str(error.value))
    (message,) = messages
    return message


@pytest.mark.parametrize(
    ("num_groups", "shape"), [(3, ()), (3, (2,)), (3, (3, 1)), (None, (1,)), (None, (3,))]
)
def test_moments_of_another_number_of_groups_are_refused_in_words(num_groups, shape) -> None:
    settings = Settings(**START, num_groups=num_groups)
    good = init(settings)
    group = {} if num_groups is None else {"group": 0}
    with_groups = (
        "clip: moments must be of shape (3,), one of each for each of the 3 groups; got a {} of "
        f"shape {shape}. Start from init(settings) with the same settings, or pass the num_groups "
        "that the moments were made with."
    )
    without = (
        f"clip: moments must be of shape (), because the settings have no groups; got a {{}} of "
        f"shape {shape}. Pass the Settings that the moments were made with; or, if they are those "
        "of several models, jax.vmap over them."
    )
    words = without if num_groups is None else with_groups
    assert refused_shape(Moments(*[np.ones(shape)] * 3), settings, **group) == words.format("mean")
    for field in Moments._fields:
        moments = good._replace(**{field: np.ones(shape)})
        assert refused_shape(moments, settings, **group) == words.format(field)


def test_the_state_of_scale_by_alrc_is_checked_as_well() -> None:
    transform = scale_by_alrc(**START)
    with pytest.raises(ValueError, match="state") as error:
        jax.jit(transform.update)(1.0, init(GROUPED), value=1.0)
    assert str(error.value) == (
        "scale_by_alrc: state must be of shape (), because the settings have no groups; got a "
        "mean of shape (3,). Pass the Settings that the moments were made with; or, if they are "
        "those of several models, jax.vmap over them."
    )
    with pytest.raises(TypeError, match="state") as error:
        transform.update(1.0, init(PLAIN)._asdict(), value=1.0)
    assert str(error.value) == (
        "scale_by_alrc: state must be the Moments that init or the last call returned; got a dict "
        "of mean, variance, num_updates. Pass alrc.jax.init(settings, saved=state), which checks "
        "them."
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_moments_in_half_precision_which_would_stand_still_are_refused(dtype) -> None:
    cast = jax.tree.map(lambda x: x.astype(dtype), init(PLAIN))
    with pytest.raises(TypeError) as error:
        jax.jit(clip, static_argnums=2)(1.0, cast, PLAIN)
    assert str(error.value) == (
        "clip: moments must be float32 or wider, because in less they stand still; got mean as "
        f"{np.dtype(dtype)}. Leave them out where you cast the parameters."
    )


@pytest.mark.parametrize(("own", "other"), [("linear", "log"), ("log", "linear")])
def test_moments_of_the_other_scale_are_refused_in_words(own, other, tmp_path) -> None:
    """In every form that tells of its names."""
    settings, moments = Settings(scale=own), init(Settings(scale=other))
    words = (
        f"must be that of scale='{own}', because the moments of losses and those of their "
        f"logarithms are different numbers; got that of scale='{other}'. Pass scale='{other}', or "
        "start afresh."
    )
    for form in (moments, nnx.Variable(moments)):
        with pytest.raises(ValueError, match="scale") as error:
            clip(8.0, form, settings)
        assert str(error.value) == f"clip: the state in moments {words}"
    with pytest.raises(ValueError, match="scale") as error:
        scale_by_alrc(scale=own).update(jnp.ones(2), moments, value=8.0)
    assert str(error.value) == f"scale_by_alrc: the state in state {words}"
    for saved in (restored_by_orbax(moments, tmp_path), serialization.to_state_dict(moments)):
        with pytest.raises(ValueError, match="scale") as error:
            init(settings, saved=saved)
        assert str(error.value) == f"init: the saved state {words}"
        assert init(Settings(scale=other), saved=saved) == moments
