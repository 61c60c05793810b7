"""A training to be watched, and an oracle that says what the logs of it should hold."""

import csv
import math
from pathlib import Path

import pytest
import torch
from reference import Reference
from torch import nn

from alrc.integrations.loggers import Spike

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
OUTLIERS = {(23, 2), (23, 5), (40, 0), (57, 7)}  # step, and place in its batch of 8
BROKEN = {(31, 3): math.nan, (44, 1): math.inf}
STEPS = 60


class Net(nn.Linear):
    """A regression of 4 inputs that starts at the truth, so that its losses are calm."""

    def __init__(self) -> None:
        super().__init__(4, 1)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def losses(self, step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(step)
        x = torch.randn(8, 4, generator=random)
        y = x.sum(1) + 0.2 * torch.rand(8, generator=random) - 0.1
        spoilt = torch.zeros(8)
        for i in range(8):
            y[i] += 5.0 * ((step, i) in OUTLIERS)
            spoilt[i] = BROKEN.get((step, i), 0.0)
        return (self(x).squeeze(1) - y).square() + spoilt


def key(step: int, place: int) -> str:
    return f"{step}/{place}.png"


def train(alrc, watch=None, steps=range(STEPS), net=None, **extra):
    """Trains, and returns the losses of each step before limiting."""
    net = net or Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    seen = []
    for step in steps:
        if watch:
            watch.name_next([key(step, place) for place in range(8)])
        losses = net.losses(step)
        seen.append(losses.tolist())
        losses = alrc(losses, **extra)
        optimizer.zero_grad()
        losses[losses.isfinite()].mean().backward()
        optimizer.step()
    return seen


class Oracle:
    """What the logs should hold, from the losses alone."""

    def __init__(self, **settings) -> None:
        self.groups = settings.pop("num_groups", None)
        self.references = [Reference(**settings) for _ in range(self.groups or 1)]

    def step(self, step, losses, mask=None, group=None, keys=None):
        """The spikes of one call, and adds it to what the scalars are made of."""
        mask = mask or [True] * len(losses)
        results = {}
        for g, reference in enumerate(self.references):
            members = [i for i in range(len(losses)) if group is None or group[i] == g]
            clipped = reference([losses[i] for i in members], [mask[i] for i in members])
            results |= {i: (g, result) for i, result in zip(members, clipped, strict=True)}
            seen = [losses[i] for i in members if mask[i]]
            self.seen[g] += [loss for loss in seen if math.isfinite(loss)]
            values = [results[i][1].value for i in members if mask[i]]
            self.limited[g] += [value for value in values if math.isfinite(value)]
        for i, loss in enumerate(losses):
            g, result = results[i]
            if result.limited or (mask[i] and not math.isfinite(loss)):
                limit = result.value if result.limited else math.nan
                place = step, 0, i, keys[i] if keys else "", g if self.groups else None
                yield Spike(*place, loss, limit, result.factor)

    def reset(self) -> None:
        self.seen = [[] for _ in self.references]
        self.limited = [[] for _ in self.references]

    def scalars(self, name: str = "alrc") -> dict[str, float]:
        result = {}
        for g, reference in enumerate(self.references):
            end = f"/{g}" if self.groups else ""
            seen = self.seen[g]
            result |= {
                f"{name}/loss{end}": math.fsum(seen) / len(seen) if seen else math.nan,
                f"{name}/clipped_fraction{end}": reference.num_clipped
                / max(reference.num_losses, 1),
                f"{name}/nonfinite{end}": reference.num_nonfinite,
                f"{name}/limit{end}": reference.upper,
                f"{name}/mean{end}": reference.mean,
                f"{name}/stddev{end}": math.sqrt(reference.variance),
                f"{name}/kept{end}": math.fsum(self.limited[g]) / math.fsum(seen) if seen else 1,
            }
            if reference.lower > -math.inf:
                result[f"{name}/limit_below{end}"] = reference.lower
        self.reset()
        return result

    def run(self, calls, every: int):
        """All spikes, and the scalars with their steps, of calls given as (losses, rest)."""
        spikes, scalars = [], []
        self.reset()
        for step, (losses, rest) in enumerate(calls):
            spikes += self.step(step, losses, **rest)
            if (step + 1) % every == 0 or step + 1 == len(calls):
                scalars.append((step + 1, self.scalars()))
        return spikes, scalars


class Memory(list):
    """A log that remembers."""

    def __call__(self, scalars, step) -> None:
        self.append((step, scalars))


def assert_same_spikes(spikes, expected) -> None:
    assert [spike[:5] for spike in spikes] == [spike[:5] for spike in expected]
    for spike, right in zip(spikes, expected, strict=True):
        assert spike[5:] == pytest.approx(right[5:], rel=2e-5, nan_ok=True), spike


def assert_same_scalars(log, expected) -> None:
    assert [step for step, _ in log] == [step for step, _ in expected]
    for (step, scalars), (_, right) in zip(log, expected, strict=True):
        assert scalars == pytest.approx(right, rel=1e-4, nan_ok=True), step


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
