"""Folders of runs as the lab stores them, written with nothing of ours and without training."""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 200
ERROR = {"name": "held-out error", "unit": "", "better": "lower"}
NAN = "loss is NaN from step 101 on"
WOBBLE = (0.01, -0.02, 0.03, -0.015, 0.025, 0.0)  # that no two pairs are alike
PSNR = {"name": "PSNR", "unit": "dB", "better": "higher"}


def write_run(
    study: Path | None,
    arm: str = "off",
    seed: int = 0,
    *,
    metrics: Mapping[str, float] | None = None,
    listed: Sequence[Mapping[str, str]] = (ERROR,),
    task: str = "squares",
    task_options: Mapping[str, Any] | None = None,
    task_facts: Mapping[str, Any] | None = None,
    arm_options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    losses: Mapping[str, NDArray[np.float32]] | None = None,
    limit: float | None = None,
    diverged: str | None = None,
    diverged_step: int | None = None,
    logged: Mapping[str, NDArray[np.float32]] | None = None,
    arm_logged: Mapping[str, NDArray[np.float32]] | None = None,
    evaluations: Sequence[Sequence[float]] | None = None,
    pictures: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    baselines: Mapping[str, Mapping[str, float | None]] | None = None,
    name: str | None = None,
    folder: Path | None = None,
) -> Path:
    """A finished run; its losses fall, the same in each arm, unless others are given.

    Args:
        study: Its study's folder, or None with ``folder``.
        limit: Where the losses of an arm are limited; None is an arm that changes none.
        pictures: Caption of each, by its name.
    """
    fixed = {"steps": STEPS, "batch_size": 2, "optimizer": "adam", "learning_rate": 0.001}
    fixed |= training or {}
    steps = fixed["steps"]
    losses = losses or {"loss": falling(seed, steps, fixed["batch_size"])}
    metrics = metrics or {listed[0]["name"]: 1.0 + seed / 10}
    listed = [dict(metric) for metric in listed]
    config = {
        "format": 2,
        "task": task,
        "arm": arm,
        "seed": seed,
        "is_baseline": arm == "off",
        "task_options": {"width": 16} | _options(task) | dict(task_options or {}),
        "task_facts": {"data": "made up"} | dict(task_facts or {}),
        "arm_options": _options(arm) | dict(arm_options or {}),
        "sources": dict(sources or {}),
        "training": fixed,
        "losses_limited": limit is not None,
        "diverged_above": 3.0,
        "metrics": listed,
    }
    series: dict[str, NDArray[np.float32]] = {}
    for key, raw in losses.items():
        series[f"{key}.raw"] = raw
        if limit is not None:
            with np.errstate(invalid="ignore"):
                series[f"{key}.limited"] = np.where(raw > limit, np.float32(limit), raw)
            series[f"{key}.limit"] = np.full(steps, limit, np.float32)
            series[f"{key}.limit"][:10] = math.inf
    series |= {f"logged.{key}": values for key, values in (logged or {}).items()}
    series |= {f"arm.{key}": values for key, values in (arm_logged or {}).items()}
    if name is None:
        digest = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
        name = f"{task.split()[0]}-{arm.split()[0]}-seed{seed}-{digest}".replace("/", "_")
    path = folder or study / "runs" / name  # type: ignore[operator]
    (path / "series").mkdir(parents=True)
    for key, array in series.items():
        np.save(path / "series" / f"{key}.npy", array.astype("<f4"))
    rows = evaluations or [[steps, *(metrics.get(m["name"], math.nan) for m in listed)]]
    np.save(path / "evaluation.npy", np.array(rows, np.float64))
    for key in pictures or {}:
        (path / "pictures").mkdir(exist_ok=True)
        (path / "pictures" / f"{key}.png").write_bytes(png(seed))
    result = {
        "format": 2,
        "steps": steps,
        "seconds": 1.5,
        "metrics": {m["name"]: _plain(metrics.get(m["name"], math.nan)) for m in listed},
        "losses": {key: _summary(raw, series.get(f"{key}.limited")) for key, raw in losses.items()},
        "diverged": diverged,
        "diverged_step": diverged_step,
        "pictures": [
            {"file": f"pictures/{key}.png", "caption": text}
            for key, text in (pictures or {}).items()
        ],
        "series": {
            key: {
                "shape": list(array.shape),
                "dtype": "float32",
                "crc32": f"{zlib.crc32(array.astype('<f4').tobytes()):08x}",
            }
            for key, array in series.items()
        },
    }
    if baselines is not None:
        result["baselines"] = baselines
    (path / "config.json").write_text(json.dumps(config))
    (path / "result.json").write_text(json.dumps(result))
    return path


def _options(spelt: str) -> dict[str, float]:
    """Those that ``NAME key=value ...`` gives."""
    pairs = (word.split("=") for word in spelt.split()[1:])
    return {key: float(value) for key, value in pairs}


def write_pairs(
    study: Path,
    values: Mapping[str, Callable[[int], float]],
    seeds: int = 6,
    metric: Mapping[str, str] = ERROR,
    **options: Any,
) -> None:
    """A run for each arm and seed, whose metric is a function of the seed; NaN is diverged."""
    for arm, value in values.items():
        for seed in range(seeds):
            lost = math.isnan(value(seed))
            write_run(
                study,
                arm,
                seed,
                metrics={metric["name"]: value(seed)},
                listed=[metric],
                losses={"loss": exploding(seed, 101)}
                if lost
                else {"loss": falling(seed, scale=1 + len(arm) / 100)},
                limit=None if arm in ("off", "clip") else 4.0,
                diverged=NAN if lost else None,
                diverged_step=101 if lost else None,
                **options,
            )


def off(seed: int) -> float:
    return 2.0 + seed


def lower(seed: int) -> float:
    return (0.8 + WOBBLE[seed % 6]) * off(seed)


def higher(seed: int) -> float:
    return (1.3 + WOBBLE[seed % 6]) * off(seed)


def unclear(seed: int) -> float:
    return (1 + 3 * WOBBLE[seed % 6] - 0.02) * off(seed)


def diverging(value: Callable[[int], float], *lost: int) -> Callable[[int], float]:
    return lambda seed: math.nan if seed in lost else value(seed)


def falling(
    seed: int, steps: int = STEPS, size: int = 2, scale: float = 1.0
) -> NDArray[np.float32]:
    """Losses that fall from about 10 to 1, with a heavy tail; the same for the same seed."""
    random = np.random.default_rng(seed)
    trend = 1 + 9 * np.exp(-np.arange(steps) / (steps / 8))
    noise = random.lognormal(0, 0.6, (steps, size))
    return (scale * trend[:, None] * noise).astype(np.float32)


def exploding(seed: int, step: int, steps: int = STEPS, size: int = 2) -> NDArray[np.float32]:
    """Losses that are NaN from a step on, counted from 1."""
    losses = falling(seed, steps, size)
    losses[step - 1 :] = math.nan
    return losses


def _summary(raw: NDArray[np.float32], limited: NDArray[np.float32] | None) -> dict[str, Any]:
    means = raw.reshape(len(raw), -1).mean(axis=1, dtype=np.float64)
    tenth = max(len(raw) // 10, 1)
    finite = np.isfinite(raw)
    after = raw if limited is None else limited
    numbers = {
        "training_loss": float(means[-tenth:].mean()),
        "first_median": float(np.median(means[:tenth])),
        "last_median": float(np.median(means[-tenth:])),
        "largest": float(raw.max(where=finite, initial=0)),
        "count": int(raw.size),
        "limited": int((raw != after)[finite].sum()),
        "nonfinite": int((~finite).sum()),
        "kept": float(after[finite].sum() / raw[finite].sum()),
    }
    return {key: _plain(number) for key, number in numbers.items()}


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


def png(shade: int) -> bytes:
    """A grey picture of 32 x 32 pixels."""
    size = 32
    rows = (
        b"\0" + bytes((40 * shade + 3 * (x + y)) % 256 for x in range(size)) for y in range(size)
    )

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    body = zlib.compress(b"".join(rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


OLD: dict[str, Any] = {
    "task": "supersampling",
    "images": "photographs",
    "images_sha256": "0" * 64,
    "power": 4,
    "width": 16,
    "sqrt_step": True,
    "iterations": STEPS,
    "batch_size": 2,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "num_stddev": None,
    "seed": 0,
    "num_stddev_below": None,
    "mu1_start": None,
    "mu2_start": None,
    "original": False,
    "evaluate_every": None,
    "device": "cpu",
    "compile": False,
}


def write_old_run(
    study: Path, held_out: float = 1.0, losses: NDArray[np.float32] | None = None, **changes: Any
) -> Path:
    """A finished run of the first format: one flat config.json and four arrays beside it."""
    config = OLD | changes
    name = "-".join(f"{key}{value}" for key, value in changes.items()) or "run"
    path = study / "runs" / name
    path.mkdir(parents=True)
    raw = falling(config["seed"], config["iterations"], config["batch_size"])
    raw = raw if losses is None else losses
    limit = math.inf if config["num_stddev"] is None else 15.0
    with np.errstate(invalid="ignore"):
        limited = np.where(raw > limit, np.float32(limit), raw)
    np.save(path / "losses.npy", raw)
    np.save(path / "limited.npy", limited)
    np.save(path / "limits.npy", np.full(len(raw), limit, np.float32))
    np.save(path / "held_out.npy", np.array([held_out], np.float32))
    (path / "config.json").write_text(json.dumps(config))
    final = float(raw.mean(axis=1)[-(len(raw) // 10) :].mean(dtype=np.float64))
    result = {
        "final_error": _plain(final),
        "largest_spike": _plain(float(raw[len(raw) // 5 :].mean(axis=1).max())),
        "held_out_error": _plain(held_out),
        "num_clipped": int((raw != limited)[np.isfinite(raw)].sum()),
        "num_losses": raw.size,
    }
    (path / "result.json").write_text(json.dumps(result))
    return path
