"""What may have come into the state's buffers, and on which road; PyTorch only."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from alrc import state
from alrc.rule import LARGEST_MOMENT
from alrc.settings import SMALLEST_MEAN, Settings
from alrc.torch import inputs

# No training counts so far; what lies about in memory, such as addresses, is mostly larger.
_LARGEST_COUNT = 2**40
_WRONG_DTYPE = (
    "ALRC: its moments must be float32, in which they can move, and its counts int64; got"
)
Buffers = Mapping[str, Any]  # tensors by the names of state.NAMES, whatever they are saved under


def dtype(name: str) -> torch.dtype:
    return torch.int64 if name in state.WHOLE else torch.float32


def reset(buffers: Buffers, settings: Settings) -> None:
    """Sets the moments to their start and the counts to 0."""
    numbers = dict(zip(("mean", "variance"), settings.start, strict=True))
    for name in state.NAMES:
        buffers[name].fill_(numbers.get(name, 0))


def vet(buffers: Buffers, settings: Settings) -> None:
    """Sees that the buffers hold a state, whoever has put them there, and resets them if not.

    Checkpoints are checked when they are loaded; but others set buffers, too: from_pretrained()
    leaves those that a checkpoint lacks to chance, and FullyShardedDataParallel casts them.
    """
    cast = {name: buffers[name].dtype for name in state.NAMES if buffers[name].dtype != dtype(name)}
    if cast and torch.compiler.is_compiling():
        raise RuntimeError(
            f"{_WRONG_DTYPE} {cast}. Call alrc once in training before it is compiled, which mends "
            "them, or take it out of that cast."
        )
    for name in cast:
        buffers[name].data = buffers[name].data.to(dtype(name))
    if cast:
        warnings.warn(
            f"{_WRONG_DTYPE} {cast}, from a cast by other means than alrc.to(), which leaves them "
            "alone. Going on in float32 with rounded numbers. Take ALRC out of that cast; in "
            "FullyShardedDataParallel, MixedPrecision(buffer_dtype=torch.float32).",
            stacklevel=6,
        )
    given = {name: buffers[name].clone() for name in state.NAMES}
    sound = (given["mean"].abs() < LARGEST_MOMENT) & (given["variance"] < LARGEST_MOMENT)
    if settings.scale == "log":
        sound = sound & (given["mean"] >= SMALLEST_MEAN)
    used = given["mean"] != 0
    for name in (*state.WHOLE, "variance"):
        sound, used = sound & (given[name] >= 0), used | (given[name] != 0)
    sound = sound & used  # memory that is all 0 becomes the start, which may be something else
    sound = sound & (given["num_clipped"] <= given["num_losses"])
    for name in state.WHOLE:
        sound = sound & (given[name] < _LARGEST_COUNT)
    reset(buffers, settings)
    for name in state.NAMES:
        buffers[name].copy_(torch.where(sound, given[name], buffers[name]))
    if not inputs.is_readable(sound):
        return  # mended, but nothing can be said without waiting for the device
    try:
        if sound.all():
            return
    except RuntimeError:
        return  # no number to read: a call under vmap
    changed = [name for name in state.NAMES if not buffers[name].equal(given[name])]
    if changed:
        got = ", ".join(f"{name} {given[name].tolist()}" for name in changed)
        warnings.warn(
            "ALRC: its state must be one that training has left, or fresh; got memory that nothing "
            f"has set: {got}. Starting afresh. Call alrc.reset_parameters() after to_empty(), or "
            "after from_pretrained() of a checkpoint without ALRC's state.",
            stacklevel=6,
        )


def load_problems(saved: Mapping[str, Any], prefix: str, settings: Settings) -> list[str]:
    """All that is wrong with the state in a checkpoint, in words."""
    values = {name: saved[prefix + name] for name in state.saved_names(settings.scale)}
    problems = {name: problem(name, value, settings.shape) for name, value in values.items()}
    if not any(problems.values()):
        return []
    if other := _other_groups(values.values(), settings):
        return [f"ALRC: {prefix}{next(iter(values))} and the rest of the state {other}"]
    return [
        f"ALRC: {prefix}{found}. The checkpoint is damaged or not one of ALRC's: load another, or "
        "remove ALRC's keys from it and load it with strict=False to start afresh."
        for found in problems.values()
        if found
    ]


def problem(name: str, value: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with this value for the state called ``name``, or None."""
    if not isinstance(value, Tensor) or value.shape != shape or value.is_complex():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        return f"{name} must be a real tensor of shape {shape}; got {got}"
    if value.is_meta:
        return None
    numbers = value.reshape(-1).tolist()
    found = next(filter(None, (state.problem(name, number) for number in numbers)), None)
    return found and f"{name} must be {found}"


def _other_groups(values: Iterable[Any], settings: Settings) -> str | None:
    """What to say if these are the state of another number of groups, or None."""
    (shape, *others) = {getattr(value, "shape", (0, 0)) for value in values}
    if others or len(shape) > 1 or shape == settings.shape:
        return None
    saved = shape[0] if shape else None
    return (
        f"must be that of num_groups={settings.num_groups}; got that of num_groups={saved}. Build "
        f"ALRC with num_groups={saved}, or remove ALRC's keys from the checkpoint and load it with "
        "strict=False to start afresh."
    )
