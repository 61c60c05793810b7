"""Runs of the first format, flat and of one task, as if they had been stored in today's."""

import math
import tokenize
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alrc.lab.engine.outcome import judge, last_tenth

__all__ = ["convert"]

LOSS, ERROR = "loss", "held-out error"
FILES = {"loss.raw": "losses", "loss.limited": "limited", "loss.limit": "limits"}
TASK = ("images", "power", "width", "sqrt_step")
ARM = ("num_stddev", "num_stddev_below", "mu1_start", "mu2_start")
TRAINING = ("batch_size", "optimizer", "learning_rate", "device", "compile")
DIVERGED_ABOVE = 3.0

Read = Callable[[Path, Mapping[str, Any], str], NDArray[np.float32]]


def convert(
    folder: Path, old: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], Read]:
    """config.json and result.json of today's format, and how to open a series.

    Raises:
        ValueError: If the folder does not hold a whole run of the first format.
    """
    if missing := {*TASK, *ARM, *TRAINING, "seed", "iterations", "task"} - old.keys():
        raise ValueError(f"config.json lacks {', '.join(sorted(missing))}")
    series = {name: _open(folder, old, name) for name in FILES}
    held_out = _load(folder / "held_out.npy")
    if held_out.ndim != 1 or not held_out.size:
        raise ValueError(f"held_out.npy has shape {held_out.shape}")
    losses, step, words = judge(series["loss.raw"], series["loss.limited"], DIVERGED_ABOVE)
    diverged = f"{LOSS} {words}" if words else None
    _check(result, series["loss.raw"])
    # What was stored is after the step, so that it is not to be compared with one that is not.
    metric = ERROR + (" (sqrt step)" if old["sqrt_step"] else "")
    task = {"power": old["power"], "width": old["width"]}
    spelt = [old["task"], *(f"{name}={value}" for name, value in task.items())]
    config = {
        "task": " ".join([*spelt, *([] if old["sqrt_step"] else ["sqrt_step=false"])]),
        "arm": _arm(old),
        "seed": old["seed"],
        "is_baseline": old["num_stddev"] is None,
        "task_options": {name: old[name] for name in TASK},
        "task_facts": {"images_sha256": old.get("images_sha256")},
        "arm_options": {name: old[name] for name in ARM},
        "sources": {},
        "training": {"steps": old["iterations"], **{name: old[name] for name in TRAINING}},
        "losses_limited": old["num_stddev"] is not None,
        "diverged_above": DIVERGED_ABOVE,
        "metrics": [{"name": metric, "unit": "", "better": "lower"}],
    }
    last = float(held_out[-1])
    if diverged is None and not math.isfinite(last):
        diverged = "held-out error is not finite"
    return (
        config,
        {
            "steps": old["iterations"],
            "metrics": {metric: last if math.isfinite(last) else None},
            "losses": {LOSS: losses},
            "diverged": diverged,
            "diverged_step": step,
            "pictures": [],
            "series": {
                name: {
                    "shape": list(array.shape),
                    "dtype": "float32",
                    "crc32": f"{zlib.crc32(array.tobytes()):08x}",
                }
                for name, array in series.items()
                if old["num_stddev"] is not None or name == "loss.raw"
            },
        },
        lambda folder, _, name: _open(folder, old, name),
    )


def _arm(old: Mapping[str, Any]) -> str:
    if old["num_stddev"] is None:
        return "off"
    words = [f"{name}={old[name]:g}" for name in ARM if old[name] is not None]
    return " ".join(["original" if old.get("original") else "alrc", *words])


def _load(path: Path) -> NDArray[np.float32]:
    try:
        array: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (SyntaxError, tokenize.TokenError) as fault:  # of what is no header
        raise ValueError(f"{path.name} is no .npy file ({fault})") from None
    if array.dtype != np.float32:
        raise ValueError(f"{path.name} has {array.dtype} instead of float32")
    return array


def _open(folder: Path, old: Mapping[str, Any], name: str) -> NDArray[np.float32]:
    steps, size = old["iterations"], old["batch_size"]
    shape = (steps,) if name == "loss.limit" else (steps, size)
    array = _load(folder / f"{FILES[name]}.npy")
    if array.shape != shape:
        raise ValueError(f"{FILES[name]}.npy has shape {array.shape} instead of {shape}")
    return array


def _check(result: Mapping[str, Any], raw: NDArray[np.float32]) -> None:
    """That the losses are those which result.json was made of: there is no checksum."""
    steps = last_tenth(len(raw))
    mean = float(raw[-steps:].mean(dtype=np.float64))
    stored = result.get("final_error")
    same = not math.isfinite(mean) if stored is None else math.isclose(mean, stored, rel_tol=1e-4)
    if not same:
        raise ValueError(
            f"losses.npy ends with a mean of {mean:.6g} over {steps:,} steps, and result.json says "
            f"{'not finite' if stored is None else f'{stored:.6g}'}, so that it was changed"
        )
