"""The model that the tests of optimizers and recipes train, on data with outliers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OPTIONS = {"num_stddev": 3, "scale": "linear", "decay": 0.9, "warmup": 5}


def regression(steps: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((steps, 8, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32) + rng.standard_normal((steps, 8))
    y[15::6] += 100.0
    return x, y.astype(np.float32)


def mean_squared(w: jax.Array, x: Any, y: Any) -> jax.Array:
    return jnp.mean((x @ w - y) ** 2)
