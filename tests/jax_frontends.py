"""Rows for the table of front ends: the pure function of alrc.jax, as it is and under jit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from frontends import FrontEnd, Mask, Result

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


class Jax(FrontEnd):
    """clip, operation by operation."""

    call = staticmethod(differentiated)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.state = init(self.settings)

    def __call__(self, losses: list[float], mask: Mask = None) -> Result:
        x = jnp.asarray(losses, jnp.float32)
        weights = None if mask is None else jnp.asarray(mask, jnp.float32)
        values, gradients, self.state = self.call(x, self.state, weights, settings=self.settings)
        assert (values.shape, values.dtype) == (x.shape, x.dtype)
        return values.tolist(), (gradients / 3.0).tolist()

    @property
    def moments(self) -> tuple[float, float, int]:
        mean, variance, num_updates = self.state
        return mean.item(), variance.item(), num_updates.item()


class JaxJitted(Jax):
    """clip as it is used, compiled."""

    call = staticmethod(jitted)


ROWS: dict[str, type[FrontEnd]] = {"jax": Jax, "jax-jitted": JaxJitted}
