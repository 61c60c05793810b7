"""Adaptive learning rate clipping for JAX: pure functions, and a transformation for optax."""

try:
    import jax  # noqa: F401 - here, so that its absence is named
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'alrc.jax needs JAX, which is not installed here. Install it with: pip install "alrc[jax]"',
        name=error.name,
    ) from error

from alrc.jax.clipping import clip, init
from alrc.jax.optax import scale_by_alrc
from alrc.rule import Moments

__all__ = ["Moments", "clip", "init", "scale_by_alrc"]

for _public in (clip, init, scale_by_alrc):  # in reprs and pickles, wherever the files are
    _public.__module__ = __name__
