"""Adaptive learning rate clipping for PyTorch: a module, and the pure functions beneath it."""

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.torch needs PyTorch, which is not installed here. Install it with: "
        'pip install "alrc[torch]"',
        name=error.name,
    ) from error

from alrc.rule import Moments
from alrc.torch.module import ALRC
from alrc.torch.pure import clip, init

__all__ = ["ALRC", "Moments", "clip", "init"]

for _public in (ALRC, clip, init):  # in reprs and pickles, wherever the files are
    _public.__module__ = __name__
