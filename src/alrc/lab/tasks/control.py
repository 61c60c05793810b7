"""A pendulum that learns from a record how to swing up and stay there."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alrc.lab.api import Ge, Gt, Le, Lt, Metric, Networks, Task

__all__ = ["Control", "Record", "cost", "drive", "make_record", "starts", "true_values"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TORQUES = np.array([-2.0, 0.0, 2.0])  # too weak to lift it at once
GRAVITY, SECONDS, HELD = 10.0, 0.05, 2  # an action is held for two steps
FASTEST = 8.0  # radians a second
EPISODES, LENGTH = 100, 50  # of the record
GLITCH = 10.0  # what a broken sensor reads, up or down, where costs are from 0 to 1
GRID = 81  # points along angle and speed, where true values are computed
ATTEMPT = 50  # actions by which a network is judged


def drive(states: Floats, actions: Integers) -> Floats:
    """Where pendulums of length and mass 1 are after an action.

    Args:
        states: Angle from upright and speed, in radians (a second), ``(..., 2)``.
        actions: Which torque, ``(...)``.
    """
    angle, speed = states[..., 0], states[..., 1]
    for _ in range(HELD):
        faster = 1.5 * GRAVITY * np.sin(angle) + 3 * TORQUES[actions]
        speed = (speed + SECONDS * faster).clip(-FASTEST, FASTEST)
        angle = angle + SECONDS * speed
    return np.stack([(angle + np.pi) % (2 * np.pi) - np.pi, speed], axis=-1)


def cost(states: Floats) -> Floats:
    """How far the end is below the top: 0 there, 1 at the bottom."""
    below: Floats = (1 - np.cos(states[..., 0])) / 2
    return below


class Record(NamedTuple):
    """Transitions: from which state, with which action, to what."""

    states: Floats
    actions: Integers
    rewards: Floats
    next_states: Floats


def make_record(seed: int, broken: float) -> Record:
    """Of pendulums that begin anywhere and are driven at random; some rewards were misread."""
    random = np.random.default_rng(seed)
    states = [random.uniform([-np.pi, -FASTEST], [np.pi, FASTEST], (EPISODES, 2))]
    actions = random.integers(len(TORQUES), size=(LENGTH, EPISODES))
    for some in actions:
        states.append(drive(states[-1], some))
    before, after = np.concatenate(states[:-1]), np.concatenate(states[1:])
    is_broken = random.random(len(before)) < broken
    misread = random.choice([-GLITCH, GLITCH], len(before))
    return Record(before, actions.flatten(), np.where(is_broken, misread, -cost(after)), after)


@functools.cache
def true_values(gamma: float) -> tuple[Floats, Floats]:
    """States on a grid, ``(n, 2)``, and the best discounted return from each, ``(n,)``.

    By value iteration, with linear interpolation between the points.
    """
    angles = np.linspace(-np.pi, np.pi, GRID)[:-1]  # both ends are the same
    speeds = np.linspace(-FASTEST, FASTEST, GRID)
    states = np.stack(np.meshgrid(angles, speeds, indexing="ij"), axis=-1).reshape(-1, 2)
    after = drive(states[:, None], np.arange(len(TORQUES)))
    places = (after / [np.pi, FASTEST] + 1) / 2 * (GRID - 1)
    corner = np.minimum(places.astype(np.int64), GRID - 2)
    right, up = np.moveaxis(places - corner, -1, 0)
    first, second = corner[..., 0] * GRID, (corner[..., 0] + 1) % (GRID - 1) * GRID
    points = np.stack([first, first + 1, second, second + 1]) + corner[..., 1]
    shares = np.stack([(1 - right) * (1 - up), (1 - right) * up, right * (1 - up), right * up])
    values = np.zeros(len(states))
    for _ in range(int(10 / (1 - gamma))):
        values = (gamma * (shares * values[points]).sum(0) - cost(after)).max(1)
    return states, values


@dataclass(frozen=True)
class Control(Task):
    """Swings a pendulum up: Q-learning from a record, with squared temporal-difference errors.

    Off-policy, with a network that takes its targets from itself: what is known to diverge. Each
    action costs how far the end is below the top.

    References:
        L. Baird, "Residual algorithms: reinforcement learning with function approximation",
        ICML (1995)
    """

    broken: Annotated[float, Ge(0), Le(1), "Share of rewards that the sensor misread."] = 0.0
    gamma: Annotated[float, Gt(0), Lt(1), "Discount of an action."] = 0.9
    width: Annotated[int, Ge(1), "Units of each of the two hidden layers."] = 48

    metrics: ClassVar = (Metric("cost of an attempt"), Metric("value error"))
    defaults: ClassVar = {"steps": 4000, "batch_size": 32, "learning_rate": 2e-3}
    # A batch with a misread reward has some hundred times the loss of one without, and either may
    # be the median of a tenth of the run: only what grows without end has diverged.
    diverged_above: ClassVar = 10_000.0
    stackable: ClassVar = True

    def build(self, seed: int) -> Networks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, second = nn.Linear(3, self.width), nn.Linear(self.width, self.width)
            last = nn.Linear(self.width, len(TORQUES))
            return {"q": nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Inputs, actions, rewards, and inputs afterwards."""
        record = make_record(seed, self.broken)
        parts = (
            inputs(record.states),
            torch.from_numpy(record.actions),
            _tensor(record.rewards),
            inputs(record.next_states),
        )
        for step in count(start):
            random = np.random.default_rng([seed, step])
            drawn = torch.from_numpy(random.integers(len(record.actions), size=batch_size))
            yield tuple(part[drawn] for part in parts)

    def step(self, networks: Networks, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The squared temporal-difference error of each transition."""
        before, actions, rewards, after = batch
        targets = rewards + self.gamma * networks["q"](after).detach().amax(1)
        values = networks["q"](before).gather(1, actions[:, None])[:, 0]
        return {"loss": (targets - values).square()}

    def evaluate(self, networks: Networks) -> dict[str, float]:
        """What greedy actions cost from fixed starts, and the error of the values on a grid."""
        states, truth = true_values(self.gamma)
        error = _scores(networks, states).max(1) - truth
        total, now = np.zeros(len(starts())), starts()
        for _ in range(ATTEMPT):
            now = drive(now, _scores(networks, now).argmax(1))
            total += cost(now)
        return {
            "cost of an attempt": float(total.mean()),
            "value error": float(np.sqrt(np.mean(error**2))),
        }


def starts() -> Floats:
    """Where attempts begin: hanging more or less, at rest."""
    return np.stack([np.pi + np.linspace(-1, 1, 50), np.zeros(50)], axis=1)


def inputs(states: Floats) -> Tensor:
    """What the network sees of states: no jump where an angle begins anew."""
    angle, speed = states[..., 0], states[..., 1]
    return _tensor(np.stack([np.cos(angle), np.sin(angle), speed / FASTEST], axis=-1))


def _scores(networks: Networks, states: Floats) -> Floats:
    device = next(networks["q"].parameters()).device
    scores: Floats = networks["q"](inputs(states).to(device)).double().cpu().numpy()
    return scores


def _tensor(x: Floats) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
