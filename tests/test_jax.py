"""The JAX front end: against the reference, under JAX's transformations, and in its libraries."""

import os
import subprocess
import sys
import textwrap
from functools import partial
from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agreement import stream
from flax import nnx
from flax.training.train_state import TrainState
from reference import Reference

from alrc import Settings
from alrc.jax import Moments, clip, init, scale_by_alrc

START = {"mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
jitted = jax.jit(clip, static_argnames=("settings", "axis_name"))


def numbers(moments: Moments) -> list[float]:
    return [x.item() for x in moments]


# The call


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_shape_dtype_and_gradient_for_any_loss(shape, dtype, masked) -> None:
    settings = Settings(**START)
    mask = jnp.ones(shape, bool) if masked else None
    loss = jnp.full(shape, 8.0, dtype)
    clipped, pull_back = jax.vjp(lambda x: clip(x, init(settings), settings, mask)[0], loss)
    assert (clipped.shape, clipped.dtype) == (shape, dtype)
    assert jnp.array_equal(clipped, jnp.full(shape, 4.0, dtype))
    (gradient,) = pull_back(jnp.ones_like(loss))
    assert jnp.array_equal(gradient, jnp.full(shape, 0.5, dtype))


def test_half_precision_losses_move_the_moments_in_float32() -> None:
    losses = jnp.linspace(0.1, 1.0, 2000).astype(jnp.bfloat16)
    settings = Settings()
    _, moments = clip(losses, init(settings), settings)
    exact = np.asarray(losses, np.float64)
    assert moments.mean.item() == pytest.approx(exact.mean(), rel=2e-6)
    assert moments.variance.item() == pytest.approx(exact.var(), rel=2e-6)


@pytest.mark.parametrize("call", [clip, jitted], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_unclipped_losses_come_back_bit_for_bit(call, dtype) -> None:
    settings = Settings(mu1_start=1e3, mu2_start=2e6)
    losses = np.array([0.1, -0.0, 0.0, 1 / 3, 1e-40, -7.7, 999.9, 0.7], np.float32).astype(dtype)
    clipped, _ = call(losses, init(settings), settings)
    assert np.asarray(clipped).tobytes() == losses.tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_broken_losses_come_back_with_their_gradient_and_move_nothing(bad, wrap) -> None:
    for settings in (Settings(**START), Settings(), Settings(num_stddev_below=1.0, **START)):
        moments = init(settings)

        def call(x, moments=moments, settings=settings):
            return clip(x, moments, settings)

        values, pull_back, after = jax.vjp(wrap(call), jnp.array([bad, bad]), has_aux=True)
        np.testing.assert_array_equal(values, [bad, bad])
        np.testing.assert_array_equal(pull_back(jnp.array([3.0, 5.0]))[0], [3.0, 5.0])
        assert numbers(after) == numbers(moments)


def test_a_broken_loss_does_not_spoil_its_neighbours() -> None:
    settings = Settings(decay=0.5, **START)
    losses = jnp.array([8.0, jnp.nan, 2.0])
    values, pull_back, after = jax.vjp(
        lambda x: clip(x, init(settings), settings), losses, has_aux=True
    )
    np.testing.assert_array_equal(values, [4.0, np.nan, 2.0])
    np.testing.assert_array_equal(pull_back(jnp.ones(3))[0], [0.5, 1.0, 1.0])
    assert numbers(after)[0] == 1 + 0.5 * 2  # the mean of 4 and 2 is 2 above the old mean


def test_gradients_do_not_reach_the_moments_nor_the_mask() -> None:
    def total(moments, mask, wanted):
        clipped, after = clip(jnp.array([8.0, 1.0]), moments, Settings(**START), mask)
        return (clipped.sum(), after.mean, after.variance)[wanted]

    start = Moments(jnp.array(1.0), jnp.array(1.0), jnp.array(0.0))
    for wanted in range(3):
        gradients = jax.grad(total, (0, 1))(start, jnp.array([1.0, 2.0]), wanted)
        assert not any(np.any(g) for g in jax.tree.leaves(gradients))


def test_a_mask_weighs_losses_and_lets_the_others_through() -> None:
    settings = Settings(decay=0.5, **START)
    for mask, losses, values, shift in (
        ([True, False, True], [2.0, 9.0, 9.0], [2.0, 9.0, 4.0], 2.0),
        ([3, 0, 1], [2.0, 9.0, 3.0], [2.0, 9.0, 3.0], 1.25),
    ):
        clipped, after = clip(losses, init(settings), settings, mask)
        assert clipped.tolist() == values
        assert after.mean == 1 + 0.5 * shift


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("options", [{}, {"num_stddev_below": 1.0, "center": "mean", **START}])
def test_structure_and_dtypes_never_change(x64, promotion, options) -> None:
    with (
        jax.enable_x64(x64),
        jax.numpy_dtype_promotion(promotion),
        jax.numpy_rank_promotion("raise"),
    ):
        settings = Settings(**options)
        moments = init(settings)
        avals = [jax.typeof(x) for x in moments]
        assert [str(aval.dtype) for aval in avals] == ["float32", "float32", "int32"]
        for losses in (2.5, np.float32(2.5), jnp.ones(3, jnp.bfloat16), np.ones((2, 2)), [1.0]):
            for mask in (None, np.ones(np.shape(losses), int)):
                clipped, moments = jitted(losses, moments, settings, mask)
                assert clipped.dtype == jnp.asarray(losses).dtype
                assert clipped.shape == np.shape(losses)
                assert [jax.typeof(x) for x in moments] == avals
                assert not any(x.weak_type for x in moments)
        assert moments.num_updates == 10
        # lax.scan and lax.while_loop refuse a carry that changes in anything.
        jax.lax.scan(lambda m, x: clip(x, m, settings)[::-1], moments, jnp.ones(3))


def test_with_x64_losses_are_limited_in_float64() -> None:
    with jax.enable_x64(True):
        settings = Settings(decay=0.5, **START)
        x = jnp.array([1 / 3, 8.0 + 1e-9])
        assert x.dtype == jnp.float64
        values, pull_back, _ = jax.vjp(lambda x: clip(x, init(settings), settings), x, has_aux=True)
        assert values.tolist() == [1 / 3, 4.0]
        np.testing.assert_allclose(pull_back(jnp.ones(2))[0], [1.0, 4 / (8 + 1e-9)], rtol=1e-14)


def test_moments_from_a_checkpoint_are_taken_back_into_their_dtypes() -> None:
    settings = Settings(**START)
    saved = Moments(np.float64(1.0), 1.0, np.int64(7))
    clipped, after = clip(8.0, saved, settings)
    assert clipped == 4.0
    assert [str(x.dtype) for x in after] == ["float32", "float32", "int32"]
    assert after.num_updates == 8


def test_counts_beyond_int32_neither_fail_nor_wrap() -> None:
    settings = Settings(warmup=2**31 - 1)
    moments = Moments(jnp.array(1.0), jnp.array(1.0), jnp.array(2**31 - 1))
    clipped, after = clip(2.0, moments, settings)
    assert clipped == 2.0
    assert after.num_updates == 2**31 - 1
    assert after.mean == pytest.approx(1.001)


def refusal(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_bad_input_is_refused_word_for_word() -> None:
    settings = Settings()
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
    transform = scale_by_alrc()
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


def test_missing_optax_is_named_with_its_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ModuleNotFoundError) as error:
        scale_by_alrc()
    assert str(error.value) == (
        "alrc.jax.scale_by_alrc needs optax, which is not installed here. Install it with: "
        'pip install "alrc[jax]"'
    )


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_only_scale_by_alrc_imports_optax() -> None:
    result = run("import sys, alrc.jax; print('optax' in sys.modules, 'torch' in sys.modules)")
    assert result.stdout == "False False\n", result.stderr


# Transformations


def test_the_second_call_compiles_nothing() -> None:
    settings, traces = Settings(), []

    @jax.jit
    def call(x, moments):
        traces.append(x.shape)
        return clip(x, moments, settings)

    moments = init(settings)
    for losses in np.random.default_rng(0).exponential(size=(20, 4)).astype(np.float32):
        _, moments = call(losses, moments)
    assert traces == [(4,)]
    assert moments.num_updates == 20


def test_vmap_over_an_ensemble_equals_a_loop() -> None:
    settings = Settings(warmup=3, num_stddev=1.0)
    losses = np.random.default_rng(0).lognormal(size=(30, 5, 4)).astype(np.float32)
    together = jax.vmap(lambda _: init(settings))(jnp.arange(5))
    apart = [init(settings) for _ in range(5)]
    call = jax.jit(jax.vmap(partial(clip, settings=settings)))
    num_clipped = 0
    for batch in losses:
        clipped, together = call(batch, together)
        for i in range(5):
            expected, apart[i] = jitted(batch[i], apart[i], settings)
            np.testing.assert_allclose(clipped[i], expected, rtol=1e-6)
            for ours, theirs in zip(together, apart[i], strict=True):
                np.testing.assert_allclose(ours[i], theirs, rtol=1e-5)
        num_clipped += np.sum(clipped != batch)
    assert 30 < num_clipped < 300


def test_gradients_per_example_equal_those_of_the_batch() -> None:
    settings = Settings(**START)
    losses = jnp.array([0.5, 8.0, 16.0])
    alone = jax.vmap(jax.grad(lambda x: clip(x, init(settings), settings)[0]))(losses)
    assert alone.tolist() == [1.0, 0.5, 0.25]
    together = jax.grad(lambda x: clip(x, init(settings), settings)[0].sum())(losses)
    assert together.tolist() == alone.tolist()


def test_scan_equals_a_loop_at_every_step() -> None:
    settings = Settings(num_stddev=1.0, decay=0.9)
    losses = np.asarray([batch for batch, _ in stream(calls=60, masked=False)], np.float32)

    @jax.jit
    def scan(moments, losses):
        def body(moments, x):
            clipped, moments = clip(x, moments, settings)
            return moments, (clipped, moments)

        return jax.lax.scan(body, moments, losses)

    last, (clipped, moments) = scan(init(settings), losses)
    state = init(settings)
    for i, x in enumerate(losses):
        expected, state = jitted(x, state, settings)
        np.testing.assert_allclose(clipped[i], expected, rtol=1e-6)
        for ours, theirs in zip(moments, state, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-5)
    assert numbers(last) == [x[-1].item() for x in moments]
    assert np.sum((clipped != losses) & np.isfinite(losses)) >= 5


def test_donated_moments_are_reused() -> None:
    settings = Settings(decay=0.5, **START)
    call = jax.jit(partial(clip, settings=settings), donate_argnames="moments")
    first = init(settings)
    clipped, second = call(jnp.array([3.0, 8.0]), first)
    assert all(x.is_deleted() for x in first)
    assert clipped.tolist() == [3.0, 4.0]
    assert second.mean == 1 + 0.5 * 2.5
    _, third = call(jnp.array([3.0, 8.0]), second)
    assert third.num_updates == 2


@pytest.mark.parametrize("offset", [0.0, 1e4], ids=["", "far from the start"])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_along_an_axis_the_moments_see_the_losses_of_all(shards, offset) -> None:
    settings = Settings(num_stddev=1.0, decay=0.9, warmup=2)
    rng = np.random.default_rng(0)

    @partial(jax.vmap, in_axes=(0, None, 0), out_axes=(0, None), axis_name="device")
    def spread_out(x, moments, mask):
        return clip(x, moments, settings, mask, axis_name="device")

    together = apart = init(settings)
    reference = Reference(num_stddev=1.0, decay=0.9, warmup=2)
    for call in range(20):
        x = (offset + rng.lognormal(size=8)).astype(np.float32)
        mask = rng.choice([0.0, 1.0, 2.0], 8).astype(np.float32)
        if call % 5 == 1:
            x[0] = np.nan
        if call % 5 == 2:
            mask[: 8 // shards] = 0  # one device has nothing
        if call == 3:
            mask[:] = 0
        ours, apart = spread_out(x.reshape(shards, -1), apart, mask.reshape(shards, -1))
        expected, together = jitted(x, together, settings, mask)
        reference(x.tolist(), mask.tolist())
        np.testing.assert_allclose(ours.ravel(), expected, rtol=1e-5)
        np.testing.assert_allclose(apart.mean, reference.mean, rtol=2e-6)
        np.testing.assert_allclose(
            apart.variance, reference.variance, rtol=5e-3 if offset else 1e-5
        )
        np.testing.assert_allclose(apart.variance, together.variance, rtol=5e-3 if offset else 1e-5)
        assert apart.num_updates == together.num_updates


TWO_DEVICES = """
    import jax, jax.numpy as jnp, numpy as np, optax
    from functools import partial
    from jax.sharding import NamedSharding, PartitionSpec as P
    from alrc import Settings
    from alrc.jax import clip, init, scale_by_alrc

    assert jax.device_count() == 2
    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2,), ("i",), axis_types=(auto,))
    options = dict(num_stddev=0.5, decay=0.9, warmup=2)
    settings = Settings(**options)
    optimizer = optax.chain(scale_by_alrc(axis_name="i", **options), optax.sgd(0.01))
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((12, 8, 3)).astype(np.float32)
    ys = (xs.sum(-1) + rng.choice([0, 0, 0, 9], (12, 8))).astype(np.float32)

    def losses(w, x, y):
        return (x @ w - y) ** 2

    def objective(w, moments, x, y, axis_name=None):
        clipped, moments = clip(losses(w, x, y), moments, settings, axis_name=axis_name)
        loss = clipped.mean()
        return loss if axis_name is None else jax.lax.pmean(loss, axis_name), moments

    def step(w, moments, x, y, axis_name=None):
        gradient, moments = jax.grad(objective, has_aux=True)(w, moments, x, y, axis_name)
        return w - 0.01 * gradient, moments

    alone = jax.jit(step)
    automatic = jax.jit(step)
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("i"))

    recipe = jax.jit(jax.shard_map(
        partial(step, axis_name="i"), mesh=mesh,
        in_specs=(P(), P(), P("i"), P("i")), out_specs=P(),
    ))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("i"), P("i")), out_specs=P())
    def divided(w, moments, x, y):  # the other recipe: gradients of shared w are summed already
        def local(w, moments):
            clipped, moments = clip(losses(w, x, y), moments, settings, axis_name="i")
            return clipped.mean(), moments
        gradient, moments = jax.grad(local, has_aux=True)(w, moments)
        return w - 0.01 * gradient / jax.lax.psum(1, "i"), moments

    def averaged(w, moments, x, y):  # where shared w is not known to be shared
        def local(w, moments):
            clipped, moments = clip(losses(w, x, y), moments, settings, axis_name="i")
            return clipped.mean(), moments
        gradient, moments = jax.grad(local, has_aux=True)(w, moments)
        return w - 0.01 * jax.lax.pmean(gradient, "i"), moments

    unchecked = jax.jit(jax.shard_map(averaged, mesh=mesh, in_specs=(P(), P(), P("i"), P("i")),
                                      out_specs=P(), check_vma=False))
    mapped = jax.pmap(averaged, axis_name="i", in_axes=(None, None, 0, 0), out_axes=None)

    def halves(function):
        def call(w, moments, x, y):
            return function(w, moments, x.reshape(2, 4, 3), y.reshape(2, 4))
        return call

    def sharded(w, moments, x, y):
        w, moments = jax.device_put((w, moments), whole)
        return automatic(w, moments, *jax.device_put((x, y), split))

    rows = dict(recipe=recipe, divided=divided, unchecked=unchecked, mapped=halves(mapped),
                sharded=sharded)
    states = {name: (jnp.zeros(3), init(settings)) for name in rows}
    w, moments = jnp.zeros(3), init(settings)
    num_clipped = 0
    for x, y in zip(xs, ys):
        num_clipped += np.sum(clip(losses(w, x, y), moments, settings)[0] < losses(w, x, y))
        w, moments = alone(w, moments, x, y)
        for name, row in rows.items():
            states[name] = row(*states[name], x, y)
            for ours, expected in zip(jax.tree.leaves(states[name]), jax.tree.leaves((w, moments))):
                np.testing.assert_allclose(ours, expected, rtol=2e-5, err_msg=name)
    assert num_clipped > 10
    text = recipe.lower(w, moments, x, y).as_text()
    print(sorted(states), text.count("stablehlo.all_reduce"))
"""


def test_two_devices_equal_one_that_sees_the_whole_batch() -> None:
    flags = "--xla_force_host_platform_device_count=2"
    result = run(TWO_DEVICES, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert result.returncode == 0, result.stderr
    # One collective for the moments, and one for the gradient.
    assert result.stdout == "['divided', 'mapped', 'recipe', 'sharded', 'unchecked'] 2\n"


# optax


def regression(steps: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((steps, 8, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32) + rng.standard_normal((steps, 8))
    y[15::6] += 100.0
    return x, y.astype(np.float32)


def mean_squared(w: jax.Array, x: Any, y: Any) -> jax.Array:
    return jnp.mean((x @ w - y) ** 2)


OPTIONS = {"decay": 0.9, "warmup": 5}


@pytest.mark.parametrize("rest", [optax.sgd(0.02), optax.adam(0.05)], ids=["sgd", "adam"])
def test_scaling_updates_equals_clipping_the_loss(rest) -> None:
    settings = Settings(**OPTIONS)
    scaling = optax.chain(scale_by_alrc(**OPTIONS), rest)
    traces = []

    def clipped_loss(w, moments, x, y):
        return clip(mean_squared(w, x, y), moments, settings)

    @jax.jit
    def by_clip(w, moments, state, x, y):
        gradient, moments = jax.grad(clipped_loss, has_aux=True)(w, moments, x, y)
        updates, state = rest.update(gradient, state, w)
        return optax.apply_updates(w, updates), moments, state

    @jax.jit
    def by_scale(w, state, x, y):
        traces.append(1)
        value, gradient = jax.value_and_grad(mean_squared)(w, x, y)
        updates, state = scaling.update(gradient, state, w, value=value)
        return optax.apply_updates(w, updates), state

    @jax.jit
    def unscaled(w, state, x, y):
        updates, state = rest.update(jax.grad(mean_squared)(w, x, y), state, w)
        return optax.apply_updates(w, updates), state

    ours = theirs = plain = jnp.zeros(3)
    moments, state, scaling_state = init(settings), rest.init(ours), scaling.init(ours)
    plain_state = state
    for x, y in zip(*regression(), strict=True):
        ours, moments, state = by_clip(ours, moments, state, x, y)
        theirs, scaling_state = by_scale(theirs, scaling_state, x, y)
        plain, plain_state = unscaled(plain, plain_state, x, y)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scaling_state[0], moments, rtol=1e-5)
    assert isinstance(scaling_state[0], Moments)
    assert traces == [1]
    assert np.max(np.abs(plain - ours)) > 0.05  # so that it mattered


def test_scaling_keeps_the_dtypes_of_updates_under_strict_promotion() -> None:
    transform = scale_by_alrc(**START)
    updates = {"a": jnp.ones(2, jnp.bfloat16), "b": (jnp.ones(()), None)}
    with jax.numpy_dtype_promotion("strict"):
        scaled, state = transform.update(updates, transform.init(None), value=jnp.bfloat16(8))
    assert jax.tree.structure(scaled) == jax.tree.structure(updates)
    assert scaled["a"].dtype == jnp.bfloat16
    assert jax.tree.leaves(jax.tree.map(lambda x: x.tolist(), scaled)) == [0.5, 0.5, 0.5]
    assert state.num_updates == 1
    with jax.enable_x64(True):
        _, state = transform.update(1.0, state, value=np.float64(8))
        assert [str(x.dtype) for x in state] == ["float32", "float32", "int32"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_value_leaves_updates_and_moments_alone(bad) -> None:
    transform = scale_by_alrc(**START)
    state = transform.init(None)
    updates = jnp.array([0.1, -3.0, jnp.nan])
    scaled, after = transform.update(updates, state, value=bad)
    np.testing.assert_array_equal(scaled, updates)
    assert numbers(after) == numbers(state)


def test_multi_steps_inside_moves_the_moments_on_each_micro_batch() -> None:
    outside = optax.MultiSteps(optax.chain(scale_by_alrc(**START), optax.sgd(1.0)), 2)
    inside = optax.chain(
        scale_by_alrc(**START), optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    )
    w = jnp.zeros(())
    first, second = outside.init(w), inside.init(w)
    for value in (2.0, 8.0):
        ours, first = outside.update(jnp.ones(()), first, w, value=value)
        theirs, second = inside.update(jnp.ones(()), second, w, value=value)
    assert first.inner_opt_state[0].num_updates == 1
    assert ours == -0.5  # both gradients scaled by the last value
    assert second[0].num_updates == 2
    assert theirs == pytest.approx(-(1.0 + 4.005 / 8.0) / 2, abs=2e-3)  # the second alone


def test_inject_hyperparams_passes_the_value() -> None:
    @optax.inject_hyperparams
    def build(learning_rate):
        return optax.chain(scale_by_alrc(**START), optax.sgd(learning_rate))

    static = ("num_stddev_below", "warmup", "center", "axis_name")
    static += ("num_stddev", "decay", "mu1_start", "mu2_start")
    static_only = optax.inject_hyperparams(scale_by_alrc, static_args=static)(**START)
    for optimizer, expected in ((build(learning_rate=0.1), -0.05), (static_only, 0.5)):
        state = optimizer.init(jnp.ones(()))
        update = jax.jit(lambda g, s, v, o=optimizer: o.update(g, s, value=v))
        updates, state = update(jnp.ones(()), state, 8.0)
        assert updates == pytest.approx(expected)


def test_apply_if_finite_passes_the_value_and_undoes_a_broken_step() -> None:
    optimizer = optax.apply_if_finite(optax.chain(scale_by_alrc(**START), optax.sgd(1.0)), 5)
    state = optimizer.init(jnp.ones(()))
    updates, state = optimizer.update(jnp.ones(()), state, value=8.0)
    assert updates == -0.5
    before = numbers(state.inner_state[0])
    updates, state = optimizer.update(jnp.array(jnp.nan), state, value=2.0)
    assert updates == 0.0
    assert numbers(state.inner_state[0]) == before
    assert before[2] == 1


# Recipes: each trains the same model, which a loop by hand trains too.


@pytest.fixture(scope="module")
def trained_by_hand() -> np.ndarray:
    """Gradient descent in NumPy, its gradients scaled as the reference says."""
    reference, w = Reference(**OPTIONS), np.zeros(3)
    for x, y in zip(*regression(), strict=True):
        residual = x @ w - y
        (clipped,) = reference([float(np.mean(residual**2))])
        w = w - 0.02 * clipped.factor * 2 * x.T @ residual / len(y)
    assert reference.num_clipped >= 3
    return w


def test_recipe_for_plain_jax(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    def loss_fn(w, moments, x, y):
        return clip(mean_squared(w, x, y), moments, settings)

    @jax.jit
    def step(w, moments, x, y):
        (_, moments), gradient = jax.value_and_grad(loss_fn, has_aux=True)(w, moments, x, y)
        return w - 0.02 * gradient, moments

    w, moments = jnp.zeros(3), init(settings)
    for x, y in zip(*regression(), strict=True):
        w, moments = step(w, moments, x, y)
    np.testing.assert_allclose(w, trained_by_hand, rtol=1e-4)


def test_recipe_for_nnx_with_clip(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    class Running(nnx.Variable):
        """Moments of the losses: a kind of its own, so that no optimizer touches it."""

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros(3))
            self.moments = Running(init(settings))

        def loss(self, x, y):
            loss, moments = clip(
                mean_squared(self.w[...], x, y), self.moments.get_value(), settings
            )
            self.moments.set_value(moments)
            return loss

    @nnx.jit
    def step(model, optimizer, x, y):
        optimizer.update(model, nnx.grad(lambda model: model.loss(x, y))(model))

    model = Model()
    optimizer = nnx.Optimizer(model, optax.sgd(0.02), wrt=nnx.Param)
    for x, y in zip(*regression(), strict=True):
        step(model, optimizer, x, y)
    np.testing.assert_allclose(model.w[...], trained_by_hand, rtol=1e-4)
    assert model.moments.get_value().num_updates == 40


def test_recipe_for_nnx_with_scale_by_alrc(trained_by_hand) -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros(3))

    @nnx.jit
    def step(model, optimizer, x, y):
        loss_fn = nnx.value_and_grad(lambda model: mean_squared(model.w[...], x, y))
        value, gradients = loss_fn(model)
        optimizer.update(model, gradients, value=value)

    model = Model()
    chain = optax.chain(scale_by_alrc(**OPTIONS), optax.sgd(0.02))
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)
    for x, y in zip(*regression(), strict=True):
        step(model, optimizer, x, y)
    np.testing.assert_allclose(model.w[...], trained_by_hand, rtol=1e-4)


def test_recipe_for_linen(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x, y):
            w = self.param("w", linen.initializers.zeros, (3,))
            moments = self.variable("alrc", "moments", init, settings)
            loss, after = clip(mean_squared(w, x, y), moments.value, settings)
            if not self.is_initializing():
                moments.value = after
            return loss

    @jax.jit
    def step(state, moments, x, y):
        def loss_fn(params):
            return state.apply_fn({"params": params, "alrc": moments}, x, y, mutable="alrc")

        gradients, variables = jax.grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients), variables["alrc"]

    xs, ys = regression()
    model = Model()
    variables = model.init(jax.random.key(0), xs[0], ys[0])
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optax.sgd(0.02))
    moments = variables["alrc"]
    for x, y in zip(xs, ys, strict=True):
        state, moments = step(state, moments, x, y)
    np.testing.assert_allclose(state.params["w"], trained_by_hand, rtol=1e-4)
    # It does not hand value= on, as the docstring of scale_by_alrc says.
    with pytest.raises(TypeError, match="value"):
        state.apply_gradients(grads=state.params, value=1.0)


def test_recipe_for_equinox(trained_by_hand) -> None:
    settings = Settings(**OPTIONS)

    class Model(eqx.Module):
        w: jax.Array
        moments: eqx.nn.StateIndex

        def __init__(self) -> None:
            self.w = jnp.zeros(3)
            self.moments = eqx.nn.StateIndex(init(settings))

        def loss(self, state, x, y):
            loss, moments = clip(mean_squared(self.w, x, y), state.get(self.moments), settings)
            return loss, state.set(self.moments, moments)

    @eqx.filter_jit
    def step(model, state, x, y):
        gradients, state = eqx.filter_grad(Model.loss, has_aux=True)(model, state, x, y)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.02 * g, gradients)), state

    model, state = eqx.nn.make_with_state(Model)()
    for x, y in zip(*regression(), strict=True):
        model, state = step(model, state, x, y)
    np.testing.assert_allclose(model.w, trained_by_hand, rtol=1e-4)
    assert state.get(model.moments).num_updates == 40
