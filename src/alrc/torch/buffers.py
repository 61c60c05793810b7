"""What may have come into the state's buffers, and on which road; PyTorch only."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from alrc import state
from alrc.rule import LARGEST_MOMENT
from alrc.settings import Settings
from alrc.torch import inputs

Buffers = dict[str, Any]  # tensors by name, as a module keeps them


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
    for name in state.NAMES:
        given, wanted = buffers[name].dtype, dtype(name)
        if given == wanted:
            continue
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"ALRC: {name} must be {wanted}, in which it can move; got {given}. Call alrc once "
                "in training before it is compiled, or alrc.reset_parameters() after a cast."
            )
        buffers[name].data = buffers[name].data.to(wanted)
        warnings.warn(
            f"ALRC: {name} must be {wanted}, in which it can move; got {given}, from a cast by "
            "other means than alrc.to(), which leaves it alone. Going on in "
            f"{wanted} with the rounded number. Take ALRC out of that cast; in "
            "FullyShardedDataParallel, MixedPrecision(buffer_dtype=torch.float32).",
            stacklevel=4,
        )
    if inputs.is_readable(buffers["mean"]):
        try:
            found = next(
                filter(None, (problem(x, buffers[x], settings.shape) for x in state.NAMES))
            )
        except StopIteration:
            return
        except RuntimeError:
            pass  # no number to read: a call under vmap
        else:
            reset(buffers, settings)
            warnings.warn(
                f"ALRC: its state must be one of ALRC's, or fresh; got memory that nothing has "
                f"set: {found}. Starting afresh. Call alrc.reset_parameters() after "
                "to_empty(), or after from_pretrained() of a checkpoint without ALRC's state.",
                stacklevel=4,
            )
            return
    # Where nothing can be read without a wait, nothing can be said; but it can be mended.
    sound = (buffers["mean"].abs() < LARGEST_MOMENT) & (buffers["variance"] < LARGEST_MOMENT)
    for name in (*state.WHOLE, "variance"):
        sound = sound & (buffers[name] >= 0)
    kept = {name: buffers[name].clone() for name in state.NAMES}
    reset(buffers, settings)
    for name in state.NAMES:
        buffers[name].copy_(torch.where(sound, kept[name], buffers[name]))


def load_problems(saved: Mapping[str, Any], prefix: str, settings: Settings) -> list[str]:
    """All that is wrong with the state in a checkpoint, in words."""
    values = {name: saved[prefix + name] for name in state.NAMES}
    problems = {name: problem(name, value, settings.shape) for name, value in values.items()}
    if not any(problems.values()):
        return []
    if other := _other_groups(values.values(), settings):
        return [f"ALRC: {prefix}mean and the rest of the state {other}"]
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
