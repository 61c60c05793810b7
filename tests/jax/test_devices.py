"""Losses that are spread over an axis, or over devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_scripts import run
from reference import Reference

from alrc import Settings
from alrc.jax import clip, init

jitted = jax.jit(clip, static_argnames=("settings", "axis_name"))


@pytest.mark.parametrize("offset", [0.0, 1e4], ids=["", "far from the start"])
@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_along_an_axis_the_moments_see_the_losses_of_all(shards, offset, scale) -> None:
    settings = Settings(num_stddev=1.0, decay=0.9, warmup=2, scale=scale)
    rng = np.random.default_rng(0)

    @partial(jax.vmap, in_axes=(0, None, 0), out_axes=(0, None), axis_name="device")
    def spread_out(x, moments, mask):
        return clip(x, moments, settings, mask, axis_name="device")

    together = apart = init(settings)
    reference = Reference(num_stddev=1.0, decay=0.9, warmup=2, scale=scale)
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
    options = dict(num_stddev=0.5, decay=0.9, warmup=2, scale="linear")
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


SHARDED_GROUPS = """
    import jax, jax.numpy as jnp, numpy as np
    from functools import partial
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from alrc import Settings
    from alrc.jax import clip, init

    # Explicit axes are the default of make_mesh since JAX 0.9.
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    settings = Settings(num_stddev=1.0, decay=0.9, warmup=2, num_groups=3, scale="linear")
    rng = np.random.default_rng(0)

    def call(x, moments, group, mask=None):
        values, pull_back, moments = jax.vjp(
            lambda x: clip(x, moments, settings, mask, group=group), x, has_aux=True
        )
        return values, pull_back(jnp.full_like(x, 3.0))[0], moments

    @jax.jit
    def scanned(x, moments, group, mask):  # a carry may not change, in its sharding neither
        def body(moments, _):
            values, gradients, moments = call(x, moments, group, mask)
            return moments, (values, gradients)
        moments, (values, gradients) = jax.lax.scan(body, moments, None, 1)
        return values[0], gradients[0], moments

    def compare(ours, theirs):
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
            np.testing.assert_allclose(one, other, rtol=2e-6)

    compiled = jax.jit(call)
    num_clipped = 0
    for spec in (P("data"), P("data", "model")):
        place = partial(jax.device_put, device=NamedSharding(mesh, spec))
        shape = (4, 2)[: len(spec)]
        whole = split = init(settings)
        for step in range(8):
            x = rng.lognormal(size=shape).astype(np.float32)
            x.flat[0] *= 30 if step > 4 else 1
            index = rng.integers(-1, 4, shape)
            mask = rng.choice(np.float32([0, 1, 2]), shape)
            for group, local in ((index, place(index)), (np.int32(1), np.int32(1))):
                expected = compiled(x, whole, group, mask)
                ours = compiled(place(x), split, local, place(mask))
                compare(ours, expected)
                if group.ndim:
                    compare(scanned(place(x), split, local, place(mask)), expected)
                for array in ours[:2]:
                    assert jax.typeof(array) == jax.typeof(place(x))
                for before, after in zip(split, ours[2]):
                    assert jax.typeof(after).sharding.spec == jax.typeof(before).sharding.spec
                num_clipped += np.sum(expected[0] != x)
                whole, split = expected[2], ours[2]
    assert num_clipped > 10
    compare(call(place(x), split, place(index)), compiled(x, whole, index))  # not compiled

    models = partial(jax.device_put, device=NamedSharding(mesh, P("data")))
    x = rng.lognormal(size=(2, 6)).astype(np.float32)
    index = rng.integers(0, 3, (2, 6))
    start = jax.vmap(lambda _: init(settings))(jnp.arange(2))
    together = jax.jit(jax.vmap(call))
    compare(together(models(x), models(start), models(index)), together(x, start, index))
    print("done")
"""


def test_groups_of_explicitly_sharded_losses_equal_those_of_one_device() -> None:
    flags = "--xla_force_host_platform_device_count=4"
    result = run(SHARDED_GROUPS, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done\n"


def test_groups_along_an_axis_and_all_else_pass_where_ranks_may_not_differ() -> None:
    settings = Settings(
        num_groups=3, mu1_start=1.0, mu2_start=2.0, decay=0.5, num_stddev=3, scale="linear"
    )
    losses, group = jnp.array([[8.0, 2.0], [1.0, 3.0]]), jnp.array([[0, 1], [1, 1]])

    @partial(jax.vmap, axis_name="i", out_axes=(0, None))
    def call(losses, group):
        return clip(losses, init(settings), settings, axis_name="i", group=group)

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        values, moments = call(losses, group)
    assert values.tolist() == [[4.0, 2.0], [1.0, 3.0]]
    assert moments.mean.tolist() == [1 + 0.5 * 3, 1 + 0.5 * 1, 1.0]
    assert moments.num_updates.tolist() == [1, 1, 0]
