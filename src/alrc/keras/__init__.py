"""Adaptive learning rate clipping for Keras 3, on TensorFlow, JAX and PyTorch."""

try:
    import keras as _keras  # noqa: F401 - so that its absence is explained before anything needs it
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.keras needs Keras, which is not installed here. Install it with: "
        'pip install "alrc[keras]"'
        if error.name == "keras"
        else f"alrc.keras needs a backend for Keras, and {error.name} is not installed here. "
        "Install it, or set KERAS_BACKEND to one of tensorflow, jax and torch that is, before "
        "Python starts.",
        name=error.name,
    ) from error

from alrc.keras.layer import ALRC
from alrc.keras.model import ALRCMixin, ALRCModel

__all__ = ["ALRC", "ALRCMixin", "ALRCModel"]

for _public in (ALRC, ALRCMixin, ALRCModel):
    _public.__module__ = __name__  # under which files and pickles find them
