"""Rows for the table of front ends: the pure function of alrc.jax, as it is and under jit."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from frontends import FrontEnd, Mask, Result, Structure

from alrc import Settings
from alrc.jax import Moments, clip, init


def differentiated(
    losses: jax.Array, moments: Moments, mask: jax.Array | None, settings: Settings
) -> tuple[jax.Array, jax.Array, Moments]:
    """Values, gradients for an upstream gradient of 3, and the next moments."""
    values, pull_back, moments = jax.vjp(
        lambda x: clip(x, moments, settings, mask), losses, has_aux=True
    )
    (gradients,) = pull_back(jnp.full_like(values, 3.0))
    return values, gradients, moments


# One for all runs: it compiles once for a shape and settings, however many tests use them.
jitted = partial(jax.jit, static_argnames="settings")(differentiated)


@partial(jax.jit, static_argnames="settings")
def scanned(losses: jax.Array, moments: Moments, settings: Settings) -> tuple[Moments, jax.Array]:
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
        values, gradients, self.state = self.call(x, self.state, weights, settings=self.static)
        assert (values.shape, values.dtype) == (x.shape, x.dtype)
        return values.tolist(), (gradients.astype(jnp.float32) / 3.0).tolist()

    def feed(self, losses: Sequence[float]) -> list[float]:
        self.state, values = scanned(jnp.asarray(losses, jnp.float32), self.state, self.static)
        return values.tolist()

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


ROWS: dict[str, type[FrontEnd]] = {"jax": Jax, "jax-jitted": JaxJitted}
