"""What ALRC adds to a whole jitted training step in JAX.

Run: python benchmarks/jax_step.py

The step is a small network's loss, gradient and Adam update, compiled as one and with its state
donated, in three sizes. All variants take turns in one process, in an order shuffled every round;
each carries its own state on from round to round and waits for it once per round. "extra" is the
median over the rounds of (variant - plain) within a round; "plain, again" is a second copy of the
plain step, whose extra says what the machine's noise makes of nothing. Times are wall-clock.
With NPROC=1 in the environment, XLA has one thread to run a step's operations on.
"""

import functools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from alrc import Settings
from alrc.jax import clip, init, scale_by_alrc

ROUNDS = 201
BATCH = 32
# Widths, and calls per round.
SIZES = {
    "small": ((16, 64, 1), 100),
    "small, deeper": ((16, 32, 32, 1), 100),
    "large": ((320, 320, 320, 1), 10),
}
SETTINGS = Settings()

Params = list[tuple[Array, Array]]
State = tuple[Params, Any, Any]  # parameters, the optimizer's state, the moments or None
Step = Callable[[State, Array, Array], State]


def network(widths: tuple[int, ...]) -> Params:
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    return [
        (jax.random.normal(key, (n, m)) / n**0.5, jnp.zeros(m))
        for key, n, m in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def losses_of(params: Params, x: Array, y: Array) -> Array:
    *hidden, (weight, bias) = params
    for w, b in hidden:
        x = jax.nn.relu(x @ w + b)
    return ((x @ weight + bias)[:, 0] - y) ** 2


def straightforward(loss: Array, moments: tuple[Array, Array]) -> tuple[Array, Any]:
    """What a user would write: raw moments, a where, a division."""
    mu1, mu2 = moments
    limit = mu1 + 3 * jnp.sqrt(mu2 - mu1**2 + 1e-8)
    detached = jax.lax.stop_gradient(loss)
    factor = jnp.where(detached > limit, limit / detached, 1.0)
    clipped = detached * factor
    mu1 = 0.999 * mu1 + 0.001 * clipped.mean()
    mu2 = 0.999 * mu2 + 0.001 * (clipped**2).mean()
    return loss * factor, (mu1, mu2)


def variants() -> dict[str, tuple[Any, Any, Callable[[], Any]]]:
    """By name: the optimizer, what is done to the losses and moments, and the first moments."""
    adam = optax.adam(1e-4)

    def ours(losses: Array, moments: Any) -> tuple[Array, Any]:
        return clip(losses, moments, SETTINGS)

    def nothing(losses: Array, moments: None) -> tuple[Array, None]:
        return losses, None

    def of_mean(limit: Callable[[Array, Any], tuple[Array, Any]]) -> Any:
        return lambda losses, moments: limit(losses.mean(), moments)

    def raw() -> tuple[Array, Array]:
        return jnp.array(25.0), jnp.array(900.0)

    def start() -> Any:
        return init(SETTINGS)

    def none() -> None:
        return None

    return {
        "plain": (adam, nothing, none),
        "plain, again": (adam, nothing, none),
        "clip, one loss": (adam, of_mean(ours), start),
        "clip, 32 losses": (adam, ours, start),
        "scale_by_alrc": (optax.chain(scale_by_alrc(), adam), nothing, none),
        "straightforward, one loss": (adam, of_mean(straightforward), raw),
        "straightforward, 32 losses": (adam, straightforward, raw),
    }


def training_step(optimizer: Any, limit: Any) -> Any:
    optimizer = optax.with_extra_args_support(optimizer)

    def total(params: Params, moments: Any, x: Array, y: Array) -> tuple[Array, Any]:
        losses, moments = limit(losses_of(params, x, y), moments)
        return losses.mean(), moments

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: State, x: Array, y: Array) -> State:
        params, inner, moments = state
        (loss, moments), gradient = jax.value_and_grad(total, has_aux=True)(params, moments, x, y)
        updates, inner = optimizer.update(gradient, inner, params, value=loss)
        return optax.apply_updates(params, updates), inner, moments

    return step


def measure(widths: tuple[int, ...], calls: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Microseconds per step in every round, and how often each step was compiled, by variant."""
    keys = jax.random.split(jax.random.key(1))
    x, y = jax.random.normal(keys[0], (BATCH, widths[0])), jax.random.normal(keys[1], (BATCH,))
    steps: dict[str, Any] = {}
    states: dict[str, State] = {}
    for name, (optimizer, limit, start) in variants().items():
        steps[name] = training_step(optimizer, limit)
        params = network(widths)
        states[name] = params, optimizer.init(params), start()

    def turn(name: str) -> float:
        step, state = steps[name], states[name]
        began = time.perf_counter()
        for _ in range(calls):
            state = step(state, x, y)
        jax.block_until_ready(state)
        states[name] = state
        return (time.perf_counter() - began) / calls * 1e6

    times: dict[str, list[float]] = {name: [] for name in steps}
    for name in steps:
        turn(name)
    for _ in range(ROUNDS):
        for name in random.sample(list(steps), len(steps)):
            times[name].append(turn(name))
    return times, {name: step._cache_size() for name, step in steps.items()}


def main() -> None:
    for title, (widths, calls) in SIZES.items():
        times, compiled = measure(widths, calls)
        plain = statistics.median(times["plain"])
        heading = f"{title} step, {'-'.join(map(str, widths))}"
        print(f"{heading:32}{'us':>8}{'extra us':>10}{'extra / plain':>15}{'compiled':>10}")
        for name, values in times.items():
            extra = statistics.median(a - b for a, b in zip(values, times["plain"], strict=True))
            print(
                f"  {name:30}{statistics.median(values):8.1f}{extra:10.1f}"
                f"{extra / plain:15.3f}{compiled[name]:10}"
            )


if __name__ == "__main__":
    main()
