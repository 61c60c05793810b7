"""Rows for the table of front ends: the pure function of alrc.jax, as it is and under jit."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from frontends import FrontEnd, Mask, Result, Structure

from alrc import Settings
from alrc.jax import Moments, clip, init


def amid_others(
    losses: jax.Array, moments: Moments, settings: Settings, mask: jax.Array | None = None
) -> tuple[jax.Array, Moments]:
    """clip, with groups: the losses are those of group 1, amid wild losses of other groups."""
    n = moments.num_updates[0]
    wild = jnp.stack([n * 1e3 - 1e4, jnp.nan, jnp.where(n % 7 == 3, jnp.inf, 1e-3)])
    wild = wild.astype(losses.dtype)
    losses = jnp.concatenate([wild[:2], losses.reshape(-1), wild[2:]])
    if mask is not None:
        mask = jnp.concatenate([jnp.array([0.5, 2.0]), mask, jnp.array([1.0])])
    index = jnp.array([0, 2, *[1] * (len(losses) - 3), 2])
    limited, moments = clip(losses, moments, settings, mask, group=index)
    return limited[2:-1], moments


def differentiated(
    losses: jax.Array,
    moments: Moments,
    mask: jax.Array | None,
    settings: Settings,
    clip: Callable[..., tuple[jax.Array, Moments]],
) -> tuple[jax.Array, jax.Array, Moments]:
    """Values, gradients for an upstream gradient of 3, and the next moments."""
    values, pull_back, moments = jax.vjp(
        lambda x: clip(x, moments, settings, mask), losses, has_aux=True
    )
    (gradients,) = pull_back(jnp.full_like(values, 3.0))
    return values, gradients, moments


# One for all runs: it compiles once for a shape and settings, however many tests use them.
jitted = partial(jax.jit, static_argnames=("settings", "clip"))(differentiated)


@partial(jax.jit, static_argnames=("settings", "clip"))
def scanned(
    losses: jax.Array,
    moments: Moments,
    settings: Settings,
    clip: Callable[..., tuple[jax.Array, Moments]],
) -> tuple[Moments, jax.Array]:
    """The next moments and the values of single losses, one after another."""
    return jax.lax.scan(lambda m, x: clip(x, m, settings)[::-1], moments, losses)


compilations = 0


def count(event: str, duration: float, **_: Any) -> None:
    global compilations
    compilations += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(count)


class Jax(FrontEnd):
    """clip, operation by operation."""

    compiles = True
    examples = 5
    call = staticmethod(differentiated)
    clip = staticmethod(clip)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.state = init(self.settings)
        # The rule asks whether a start was given, not which: one for all, or each would compile.
        self.static = (
            self.settings
            if self.settings.automatic
            else dataclasses.replace(self.settings, mu1_start=1.0, mu2_start=2.0)
        )

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        x = jnp.asarray(losses, dtype)
        weights = None if mask is None else jnp.asarray(mask, jnp.float32)
        values, gradients, self.state = self.call(
            x, self.state, weights, settings=self.static, clip=self.clip
        )
        assert (values.shape, values.dtype) == (x.shape, x.dtype)
        return values.tolist(), (gradients.astype(jnp.float32) / 3.0).tolist()

    def feed(self, losses: Sequence[float]) -> list[float]:
        self.state, values = scanned(
            jnp.asarray(losses, jnp.float32), self.state, self.static, clip=self.clip
        )
        return values.reshape(-1).tolist()

    def save(self) -> dict[str, float]:
        return self.state.to_dict()

    def load(self, saved: dict[str, float]) -> None:
        self.state = init(self.settings, saved=saved)

    @property
    def structure(self) -> Structure:
        return [(name, x.shape, str(x.dtype)) for name, x in self.state._asdict().items()]

    @property
    def compilations(self) -> int:
        return compilations


class JaxJitted(Jax):
    """clip as it is used, compiled."""

    examples = FrontEnd.examples
    call = staticmethod(jitted)


class JaxGrouped(JaxJitted):
    """clip with groups, as it is used."""

    shape = (3,)
    examples = 10
    clip = staticmethod(amid_others)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, num_groups=3)

    def save(self) -> dict[str, float]:
        return {name: numbers[1] for name, numbers in self.state.to_dict().items()}

    def load(self, saved: dict[str, float]) -> None:
        if isinstance(saved, dict):
            saved = {name: [number] * 3 for name, number in saved.items()}
        super().load(saved)


ROWS: dict[str, type[FrontEnd]] = {
    "jax": Jax,
    "jax-jitted": JaxJitted,
    "jax-grouped": JaxGrouped,
}
