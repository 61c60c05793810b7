"""Rivals that act on gradients and steps, written once more for one run, in plain NumPy, from
their published formulas; and a way to drive the arms through the same gradients."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alrc.lab.api import Arm

Array = NDArray[np.float64]
SHAPES = [(4, 3), (4,), (2, 3, 2, 2), (3, 1), (1, 5), ()]


@dataclass
class Judged:
    """What comes of a step: gradients, the share of it that is taken, state by its name."""

    gradients: list[Array]
    shares: list[float] = field(default_factory=lambda: [1.0] * len(SHAPES))
    taken: bool = True
    state: dict[str, Any] = field(default_factory=dict)


def norm(gradients: Sequence[Array]) -> float:
    return math.sqrt(sum(float((g * g).sum()) for g in gradients))


def clipped(gradients: Sequence[Array], limit: float) -> list[Array]:
    """As torch.nn.utils.clip_grad_norm_."""
    return [g * np.minimum(limit / (norm(gradients) + 1e-6), 1.0) for g in gradients]


class Value:
    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        return Judged([np.clip(g, -0.3, 0.3) for g in gradients])


class Units:
    """AGC; units are along the first axis."""

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        return Judged([self.clip(g, w) for g, w in zip(gradients, values, strict=True)])

    def clip(self, g: Array, w: Array) -> Array:
        if np.squeeze(g).ndim > 1:
            return np.stack([self.clip_unit(*unit) for unit in zip(g, w, strict=True)])
        return self.clip_unit(g, w)

    def clip_unit(self, g: Array, w: Array) -> Array:
        limit = 0.01 * max(np.sqrt((w**2).sum()), 1e-3)
        size = np.sqrt((g**2).sum())
        return g * (limit / max(size, 1e-6)) if size > limit else g


class Percentile:
    """AutoClip."""

    def __init__(self, percentile: float = 10, window: int | None = None) -> None:
        self.percentile, self.window, self.history = percentile, window, list[float]()

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        self.history.append(norm(gradients))
        last = self.history[-self.window :] if self.window else self.history
        state = {"ordered": sorted(last)}
        return Judged(clipped(gradients, np.percentile(last, self.percentile)), state=state)


class Outlier:
    """ZClip."""

    def __init__(self, max_norm: float | None = None) -> None:
        self.max_norm, self.first = max_norm, list[float]()

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        size = norm(gradients)
        if len(self.first) < 25:
            self.first.append(size)
            self.mean, self.variance = float(np.mean(self.first)), float(np.var(self.first))
            early = {} if len(self.first) < 25 else self.state()
            limited = clipped(gradients, self.max_norm) if self.max_norm else gradients
            return Judged(limited, state=early)
        sd = math.sqrt(self.variance)
        z = (size - self.mean) / (sd + 1e-6)
        kept = self.mean + 2.5 * sd / (z / 2.5) if z > 2.5 else size
        limit = kept if self.max_norm is None else min(kept, self.max_norm)
        self.mean = 0.97 * self.mean + 0.03 * kept
        self.variance = 0.97 * self.variance + 0.03 * (kept - self.mean) ** 2
        factor = limit / (size + 1e-6) if size > limit else 1.0
        return Judged([g * factor for g in gradients], state=self.state())

    def state(self) -> dict[str, float]:
        return {"mean": self.mean, "variance": self.variance}


class Tensors:
    """AdaGC."""

    def __init__(self) -> None:
        self.calls, self.usual = 0, [math.inf] * len(SHAPES)

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        self.calls += 1
        if self.calls <= 100:
            limited = clipped(gradients, 1.0)
            self.usual = [min(norm([g]), u) for g, u in zip(limited, self.usual, strict=True)]
            return Judged(limited, state={"usual": list(self.usual)})
        limited = []
        for i, g in enumerate(gradients):
            size, limit = norm([g]), 1.05 * self.usual[i]
            limited.append(g * (limit / (size + 1e-6)) if size > limit else g)
            self.usual[i] = 0.98 * self.usual[i] + 0.02 * min(size, limit)
        return Judged(limited, state={"usual": list(self.usual)})


class Skip:
    """OLMo-core's SkipStepOptimizer."""

    def __init__(self) -> None:
        self.losses, self.norms = list[float](), list[float]()

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        self.losses, self.norms = [*self.losses, loss][-129:], [*self.norms, norm(gradients)][-129:]
        if len(self.losses) < 64:
            return Judged(gradients)
        before = [(x[-1], np.array(x[:-1])) for x in (self.losses, self.norms)]
        ok = [last - past.mean() <= 6 * past.std(ddof=1) for last, past in before]
        return Judged(gradients, taken=all(ok))


class Slower:
    """metaseq's."""

    mean: float | None = None

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        if not math.isfinite(loss) or not math.isfinite(norm(gradients)):
            return Judged(gradients, taken=False, state={"mean": self.mean})
        ratio = loss / (loss if self.mean is None else self.mean)
        self.mean = loss if self.mean is None else 0.8 * self.mean + 0.2 * loss
        share = 1 / ratio**4 if ratio > 1 else 1.0
        return Judged(gradients, [share] * len(SHAPES), state={"mean": self.mean})


class Stable:
    """StableAdamW, from the recursion with corrected betas, for betas of 0.9 and 0.999."""

    def __init__(self) -> None:
        self.calls, self.u = 0, [np.zeros(shape) for shape in SHAPES]

    def step(self, loss: float, gradients: list[Array], values: list[Array]) -> Judged:
        self.calls += 1
        beta = 0.999 * (1 - 0.999 ** (self.calls - 1)) / (1 - 0.999**self.calls)
        shares = []
        for i, g in enumerate(gradients):
            self.u[i] = beta * self.u[i] + (1 - beta) * g * g
            rms = math.sqrt(np.mean(g * g / np.maximum(self.u[i], 1e-8**2)))
            shares.append(1 / max(1.0, rms))
        return Judged(gradients, shares)


class Descent:
    """The optimizer of one run, of the same kinds as that of make_optimizer."""

    def __init__(self, kind: str) -> None:
        self.kind, self.calls = kind, 0
        self.m, self.v = ([np.zeros(shape) for shape in SHAPES] for _ in range(2))

    def step(self, values: list[Array], judged: Judged) -> list[Array]:
        if not judged.taken:
            return values
        self.calls += 1
        return [
            w - 0.01 * share * self.direction(i, w, g)
            for i, (w, g, share) in enumerate(
                zip(values, judged.gradients, judged.shares, strict=True)
            )
        ]

    def direction(self, i: int, w: Array, g: Array) -> Array:
        if self.kind == "sgd":
            self.m[i] = 0.9 * self.m[i] + g + 0.1 * w
            return self.m[i]
        self.m[i] = 0.9 * self.m[i] + 0.1 * g
        self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
        m, v = self.m[i] / (1 - 0.9**self.calls), self.v[i] / (1 - 0.999**self.calls)
        return m / (np.sqrt(v) + 1e-8) + 0.1 * w


def make_optimizer(kind: str, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=0.1)
    return torch.optim.AdamW(parameters, 0.01, weight_decay=0.1)


class Driven:
    """An arm and an optimizer for several runs: as one in its stacked form, or each alone.

    Args:
        arm: As options made it.
        kind: Of the optimizer.
        values: Of the parameters of each run, ``(runs, ...)``.
        together: Whether the arm is stacked.
    """

    def __init__(self, arm: Arm, kind: str, values: list[Array], together: bool) -> None:
        runs = len(values[0])
        self.values = [torch.from_numpy(value.copy()) for value in values]
        self.gradients = [torch.zeros_like(value) for value in self.values]
        self.rows = [[nn.Parameter(value[run]) for value in self.values] for run in range(runs)]
        stacked = arm.stacked(runs)
        assert stacked is not None
        self.arms = [stacked] if together else [copy.deepcopy(arm) for _ in range(runs)]
        own = [[p for row in self.rows for p in row]] if together else self.rows
        self.optimizers = [make_optimizer(kind, parameters) for parameters in own]
        for each in self.arms:
            each.begin(torch.device("cpu"))

    def step(self, losses: Array, gradients: list[Array]) -> list[bool]:
        """Which runs took one."""
        for mine, given in zip(self.gradients, gradients, strict=True):
            mine.copy_(torch.from_numpy(given))
        taken: list[bool] = []
        loss = torch.from_numpy(losses)
        for i, (arm, optimizer) in enumerate(zip(self.arms, self.optimizers, strict=True)):
            alone = len(self.arms) > 1
            parameters = [nn.Parameter(v) for v in self.values] if not alone else self.rows[i]
            for p, g in zip(parameters, self.gradients, strict=True):
                p.grad = g[i] if alone else g
            arm.step_ok = True
            arm.after_backward("step", loss[i] if alone else loss, parameters, optimizer)
            ok = torch.as_tensor(arm.step_ok).expand(1 if alone else len(losses)).tolist()
            for run, may in enumerate(ok, i):
                for p, g in zip(self.rows[run], self.gradients, strict=True):
                    p.grad = g[run] if may else None
            optimizer.step()
            taken += ok
        return taken

    def state(self, name: str, run: int) -> Any:
        arm, row = (self.arms[0], run) if len(self.arms) == 1 else (self.arms[run], 0)
        rows = getattr(arm, name)
        return rows[row].numpy() if isinstance(rows, torch.Tensor) else rows[row]

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "arms": [arm.state_dict() for arm in self.arms],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)
        for arm, saved in zip(self.arms, state["arms"], strict=True):
            arm.load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
