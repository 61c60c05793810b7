"""What comes of a run: its metrics, what happened to its losses, and whether it diverged."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.image
import numpy as np
import torch
from numpy.typing import NDArray

from alrc.lab.api import Networks, Picture, Task
from alrc.lab.engine.files import storing, written_whole
from alrc.lab.engine.randomness import kept, seed_all
from alrc.lab.engine.series import Manifest, is_present, read_series

__all__ = [
    "Judged",
    "baselines",
    "evaluate",
    "evaluate_all",
    "evaluating",
    "judge",
    "last_tenth",
    "save_pictures",
    "summarise",
]

CHUNK = 2**22  # losses to look at at a time
EVALUATION_SEED = 20_200_420  # unlike those of runs


def last_tenth(steps: int) -> int:
    """Steps at the end of a run by which it is judged."""
    return max(steps // 10, 1)


@contextmanager
def evaluating(networks: Networks) -> Iterator[None]:
    """Evaluation mode without gradients; nothing of it is left afterwards."""
    with kept(_device_of(networks)), _in_evaluation(networks):
        yield


@contextmanager
def _in_evaluation(networks: Networks) -> Iterator[None]:
    """What is drawn is the same each time, so that metrics of a pair don't differ by it, nor those
    of runs that were trained alone and together."""
    modes = [(m, m.training) for network in networks.values() for m in network.modules()]
    try:
        for network in networks.values():
            network.eval()
        with torch.no_grad():
            seed_all(EVALUATION_SEED)
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device_of(networks: Networks) -> torch.device:
    devices = (p.device for network in networks.values() for p in network.parameters())
    return next(devices, torch.device("cpu"))


def evaluate(task: Task, networks: Networks) -> list[float]:
    """The metrics in their order.

    Raises:
        ValueError: If the task gives others than it lists.
    """
    return evaluate_all(task, [networks])[0]


def evaluate_all(task: Task, runs: Sequence[Networks]) -> list[list[float]]:
    """The metrics of each run."""
    with kept(_device_of(runs[0])):
        return [_evaluate(task, networks) for networks in runs]


def _evaluate(task: Task, networks: Networks) -> list[float]:
    names = [metric.name for metric in task.metrics]
    with _in_evaluation(networks):
        values = task.evaluate(networks)
    if set(values) != set(names):
        raise ValueError(
            f"{type(task).__name__}.evaluate must give {', '.join(names)}, because metrics lists "
            f"them; it gave {', '.join(values) or 'nothing'}."
        )
    return [float(values[name]) for name in names]


def baselines(task: Task) -> dict[str, dict[str, float | None]]:
    """What needs no training gives, by its name and the metric's; None stands for NaN, infinity.

    Raises:
        ValueError: If the task gives metrics that it does not list, or not all of them.
    """
    networks = dict[str, torch.nn.Module]()
    with evaluating(networks):
        given = task.baselines()
    names = [metric.name for metric in task.metrics]
    for baseline, values in given.items():
        if set(values) != set(names):
            raise ValueError(
                f"{type(task).__name__}.baselines must give {', '.join(names)} of each, because "
                f"metrics lists them; of {baseline!r} it gave {', '.join(values) or 'nothing'}."
            )
    return {
        baseline: {name: _finite(float(values[name])) for name in names}
        for baseline, values in given.items()
    }


def save_pictures(task: Task, networks: Networks, folder: Path) -> list[dict[str, str]]:
    """Writes pictures/*.png, and returns their captions."""
    saved = dict[str, str]()
    with evaluating(networks):
        for picture in task.pictures(networks):
            file = f"pictures/{picture.name}.png"
            if not picture.name or re.search(r"[/\\\0]", picture.name) or file in saved:
                raise ValueError(
                    f"{type(task).__name__}.pictures must give each a name of its own, without / "
                    f"and \\, because they are files; got {picture.name!r}"
                    f"{' twice' if file in saved else ''}."
                )
            with storing(folder):
                (folder / "pictures").mkdir(exist_ok=True)
            saved[file] = picture.caption + _draw(task, picture, folder / file)
    return [{"file": file, "caption": caption} for file, caption in saved.items()]


def _draw(task: Task, picture: Picture, file: Path) -> str:
    """Writes a picture, and returns what has to be said of it: networks that diverged give NaN."""
    pixels = np.asarray(picture.pixels, np.float64)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"{type(task).__name__}.pictures: the pixels of {picture.name!r} must be of shape "
            f"(H, W) or (H, W, 3); got {np.shape(picture.pixels)}."
        )
    broken = np.isnan(pixels).any(axis=2)
    with written_whole(file) as part:
        shown = np.clip(np.nan_to_num(pixels), 0, 1)
        matplotlib.image.imsave(part, shown, format="png")
    return f" {broken.sum():,} of {broken.size:,} pixels are NaN, shown black." * bool(broken.any())


class Judged(NamedTuple):
    """What comes of a loss.

    Attributes:
        numbers: As result.json has them; None stands for NaN and infinity.
        step: From which on it was not finite, if it diverged so.
        words: How it diverged, as what follows its name; None if it did not.
    """

    numbers: dict[str, float | None]
    step: int | None
    words: str | None


def summarise(
    folder: Path,
    config: Mapping[str, Any],
    manifest: Manifest,
    metrics: Mapping[str, float],
    counts: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """What result.json says of the losses of a run, from its stored series and last metrics.

    Args:
        folder: Of the run.
        config: Its config.json.
        manifest: Of its series.
        metrics: At the end.
        counts: What was counted of each loss while training, if only means of steps are stored.
    """
    reasons: list[tuple[int | None, str]] = []
    losses = {}
    for name in [n.removesuffix(".raw") for n in manifest if n.endswith(".raw")]:
        raw = read_series(folder, {"series": manifest}, f"{name}.raw")
        limited = raw
        if config["losses_limited"] and counts is None:
            limited = read_series(folder, {"series": manifest}, f"{name}.limited")
        counted = None if counts is None else counts[name]
        judged = judge(raw, limited, float(config["diverged_above"]), counted)
        losses[name] = judged.numbers
        reasons += [(judged.step, f"{name} {judged.words}")] if judged.words else []
    reasons += [(None, f"{n} is {_word(x)}") for n, x in metrics.items() if not math.isfinite(x)]
    step, words = reasons[0] if reasons else (None, None)
    return {"losses": losses, "diverged": words, "diverged_step": step}


def judge(
    raw: NDArray[np.float32],
    limited: NDArray[np.float32],
    diverged_above: float,
    counts: Mapping[str, float] | None = None,
) -> Judged:
    """Numbers about a loss, and whether it diverged.

    Args:
        raw: A row for each step, before limiting.
        limited: The same as it was trained with, or one loss for each step.
        diverged_above: Multiple of the median at first, above which the one at last has diverged.
        counts: What was counted while training, where ``raw`` has but the mean of each step.
    """
    steps = np.flatnonzero(is_present(raw))
    means = _means(raw, steps)
    course = _course(means)
    numbers = {**course, **(counts or _counts(raw, limited, steps))}
    step, words = _divergence(means, steps, course, diverged_above)
    return Judged({name: _finite(x) for name, x in numbers.items()}, step, words)


def _course(means: NDArray[np.float64]) -> dict[str, float]:
    """Where a loss began and ended, from its means over the steps in which it occurs."""
    tenth = last_tenth(len(means))
    first, last = (x[np.isfinite(x)] for x in (means[:tenth], means[-tenth:]))
    return {
        "training_loss": float(means[-tenth:].mean()) if means.size else math.nan,
        "first_median": float(np.median(first)) if first.size else math.nan,
        "last_median": float(np.median(last)) if last.size else math.nan,
    }


def _divergence(
    means: NDArray[np.float64],
    steps: NDArray[np.int64],
    course: Mapping[str, float],
    above: float,
) -> tuple[int | None, str | None]:
    """The step and the words, if a loss diverged. A few bad batches are no divergence."""
    tenth, broken = last_tenth(len(means)), ~np.isfinite(means)
    if broken[-tenth:].mean() > 0.5:
        well = np.flatnonzero(~broken)
        at = well[-1] + 1 if well.size else 0  # from here on it was never well again
        if at < len(means):
            return int(steps[at]) + 1, f"is {_word(means[at])} from step {steps[at] + 1:,} on"
        count = f"{broken[-tenth:].sum():,} of its last {tenth:,} steps"
        return int(steps[broken][0]) + 1, f"is NaN or infinite in {count}"
    if course["last_median"] > above * course["first_median"] > 0:
        return None, (
            f"has a median of {course['last_median']:.4g} over its last tenth, more than "
            f"{above:g} times the {course['first_median']:.4g} of its first"
        )
    return None, None


def _counts(
    raw: NDArray[np.float32], limited: NDArray[np.float32], steps: NDArray[np.int64]
) -> dict[str, float]:
    """How many losses there were, how many were limited, and what was kept of their sum."""
    counts = dict.fromkeys(("count", "limited", "nonfinite"), 0)
    total, kept, largest = 0.0, 0.0, -math.inf
    chunks = min(max(math.ceil(raw.size / CHUNK), 1), len(steps))
    for some in np.array_split(steps, chunks):
        x, y = raw[some].astype(np.float64), limited[some].astype(np.float64)
        if y.shape != x.shape:  # limited as one loss per batch, whose mean was rounded to float32
            x, y = (z.reshape(len(z), -1).mean(axis=1) for z in (x, y))
            y = np.where(np.isclose(x, y, rtol=1e-6, atol=0), x, y)
        finite = np.isfinite(x)
        counts["count"] += x.size
        counts["nonfinite"] += int((~finite).sum())
        counts["limited"] += int((finite & (x != y)).sum())
        total, kept = total + float(x[finite].sum()), kept + float(y[finite].sum())
        largest = max(largest, float(x.max(where=finite, initial=-math.inf)))
    return {"largest": largest, "kept": kept / total if total else 1.0, **counts}


def _means(raw: NDArray[np.float32], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = raw[steps].reshape(len(steps), -1).mean(axis=1, dtype=np.float64)
    return means


def _word(x: float) -> str:
    return "NaN" if math.isnan(x) else "infinite"


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
