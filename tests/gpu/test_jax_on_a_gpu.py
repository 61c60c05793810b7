"""What only a GPU can show of alrc.jax: no transfer in a compiled step, and the CPU's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alrc import Settings
from alrc.jax import clip, init, scale_by_alrc

SETTINGS = {
    "log": Settings(num_stddev=1.0),
    "linear": Settings(num_stddev=1.0, scale="linear", mu1_start=1.0, mu2_start=2.0),
    "groups": Settings(num_stddev=1.0, num_groups=3),
}


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if jax.default_backend() != "gpu":  # not on import: JAX at work forbids forks
        pytest.skip("needs a GPU that JAX can use")


def feed(steps: int = 40) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    spikes = [30.0 if step % 7 == 6 else 1.0 for step in range(steps)]
    return [(spike * (random.random(16) + 0.1)).astype(np.float32) for spike in spikes]


@pytest.mark.parametrize("name", SETTINGS)
def test_compiled_steps_stay_on_the_gpu_with_the_numbers_of_the_cpu(name: str) -> None:
    settings = SETTINGS[name]
    group = None if settings.num_groups is None else np.arange(16) % 3

    @jax.jit
    def step(losses, moments, group):
        values, pull_back, after = jax.vjp(
            lambda x: clip(x, moments, settings, group=group), losses, has_aux=True
        )
        return values, pull_back(jnp.ones_like(values))[0], after

    results = []
    for device in (jax.devices("cpu")[0], jax.devices("gpu")[0]):
        moments = jax.device_put(init(settings), device)
        places = None if group is None else jax.device_put(group, device)
        losses = [jax.device_put(x, device) for x in feed()]
        step(losses[0], moments, places)  # compiles
        rows = []
        with jax.transfer_guard("disallow"):
            for x in losses:
                values, gradient, moments = step(x, moments, places)
                rows.append((values, gradient, moments))
        assert rows[-1][0].devices() == {device}
        results.append(jax.device_get(rows))
    for expected, got in zip(*results, strict=True):
        jax.tree.map(lambda e, g: np.testing.assert_allclose(g, e, 2e-5, 1e-6), expected, got)
    assert min(row[1].min() for row in results[1]) < 0.5


def test_the_optax_transformation_scales_updates_as_on_the_cpu() -> None:
    results = []
    for device in (jax.devices("cpu")[0], jax.devices("gpu")[0]):
        with jax.default_device(device):
            transformation = optax.chain(scale_by_alrc(num_stddev=1.0), optax.sgd(1.0))
            weights = {"w": jnp.ones(4)}
            state = transformation.init(weights)
            update = jax.jit(transformation.update)
            rows = []
            for x in feed():
                updates, state = update({"w": jnp.ones(4)}, state, weights, value=jnp.mean(x))
                rows.append(updates["w"])
        results.append(jax.device_get(rows))
    np.testing.assert_allclose(results[1], results[0], 2e-5, 1e-6)
    assert np.max(results[1]) > -0.5 > np.min(results[1])
