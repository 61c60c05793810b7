"""The control task: its physics, its record, its losses, and what is judged."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from together import assert_together_is_alone
from torch import Tensor

from alrc.lab.engine.checks import check_task
from alrc.lab.tasks import control
from alrc.lab.tasks.control import (
    Control,
    cost,
    drive,
    inputs,
    make_record,
    starts,
    true_values,
)

TINY = "control width=4 broken=0.1"
Batch = tuple[Tensor, ...]


def batches(task: Control, steps: int, start: int = 0, seed: int = 3) -> list[Batch]:
    return list(islice(task.batches(seed, 32, start), steps))


def driven(angle: float, speed: float, torque: float) -> tuple[float, float]:
    """By hand: two steps of 0.05 s of a rod of length and mass 1, whose inertia is 1/3."""
    for _ in range(2):
        acceleration = (10 / 2 * math.sin(angle) + torque) / (1 / 3)
        speed = min(max(speed + 0.05 * acceleration, -8.0), 8.0)
        angle += 0.05 * speed
    return math.atan2(math.sin(angle), math.cos(angle)), speed


def test_the_task_keeps_what_is_asked_of_it() -> None:
    check_task(TINY, steps=10)


def test_runs_together_have_the_losses_of_runs_alone(tmp_path: Path) -> None:
    assert_together_is_alone(TINY, tmp_path)


def test_a_pendulum_moves_as_by_hand() -> None:
    states = np.random.default_rng(0).uniform([-np.pi, -8], [np.pi, 8], (50, 2))
    actions = np.arange(50) % 3
    want = [driven(*s, 2.0 * (a - 1)) for s, a in zip(states, actions, strict=True)]
    np.testing.assert_allclose(drive(states, actions), want, atol=1e-12)


def test_it_stays_at_the_top_and_at_the_bottom_and_costs_0_there_and_1_here() -> None:
    rest = np.array([[0.0, 0.0], [-np.pi, 0.0]])
    np.testing.assert_allclose(drive(rest, np.array([1, 1])), rest, atol=1e-12)
    np.testing.assert_allclose(cost(rest), [0, 1])
    # Too weak to lift it at once: held to one side it comes to rest far below the top.
    state, highest = np.array([np.pi, 0.0]), 1.0
    for _ in range(200):
        state = drive(state, np.array(2))
        highest = min(highest, float(cost(state)))
    assert highest > 0.5


def test_a_record_goes_on_where_it_was_and_costs_what_the_new_state_costs() -> None:
    record = make_record(1, broken=0.0)
    assert len(record.states) == 5000
    np.testing.assert_array_equal(record.next_states, drive(record.states, record.actions))
    np.testing.assert_array_equal(record.states[100:], record.next_states[:-100])
    np.testing.assert_array_equal(record.rewards, (np.cos(record.next_states[:, 0]) - 1) / 2)
    assert (np.bincount(record.actions) > 1500).all()


def test_the_share_of_misread_rewards_is_what_is_asked_for_and_all_else_stays() -> None:
    clean, broken = make_record(1, 0.0), make_record(1, 0.02)
    misread = clean.rewards != broken.rewards
    assert misread.mean() == pytest.approx(0.02, abs=4 * math.sqrt(0.02 * 0.98 / 5000))
    assert set(broken.rewards[misread]) == {-10.0, 10.0}
    for name in ("states", "actions", "next_states"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(broken, name))
    again, other = make_record(1, 0.02), make_record(2, 0.02)
    np.testing.assert_array_equal(broken.rewards, again.rewards)
    assert (misread != (np.abs(other.rewards) == 10)).any()


def test_batches_are_of_the_record_whatever_the_start() -> None:
    task = Control(broken=0.1)
    whole, later = batches(task, 10), batches(task, 4, start=6)
    for got, want in zip(later, whole[6:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
    record = make_record(3, 0.1)
    rows = {
        (*before, action, reward, *after)
        for before, action, reward, after in zip(
            inputs(record.states).tolist(),
            record.actions.tolist(),
            torch.tensor(record.rewards, dtype=torch.float32).tolist(),
            inputs(record.next_states).tolist(),
            strict=True,
        )
    }
    for before, action, reward, after in whole:
        for i in range(32):
            row = (*before[i].tolist(), action[i].item(), reward[i].item(), *after[i].tolist())
            assert row in rows


def test_losses_and_gradients_are_those_of_squared_errors_whose_targets_stand_still() -> None:
    task = Control(gamma=0.7, broken=0.3, width=5)
    networks = {"q": task.build(0)["q"].double()}
    before, actions, rewards, after = (
        x.double() if x.is_floating_point() else x for x in batches(task, 1)[0]
    )
    losses = task.step(networks, (before, actions, rewards, after))["loss"]
    losses.mean().backward()

    with torch.no_grad():
        targets = rewards.numpy() + 0.7 * networks["q"](after).numpy().max(1)

    def by_hand() -> np.ndarray:
        with torch.no_grad():
            scores = networks["q"](before).numpy()
        return np.square(targets - scores[np.arange(32), actions.numpy()])

    assert losses.shape == (32,)
    np.testing.assert_allclose(losses.detach().numpy(), by_hand(), rtol=1e-12)
    for parameter in networks["q"].parameters():
        values, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for i in range(0, len(values), 3):
            value, sides = values[i].item(), []
            for moved in (value + 1e-6, value - 1e-6):
                values[i] = moved
                sides.append(by_hand().mean())
            values[i] = value
            slope = (sides[0] - sides[1]) / 2e-6
            assert gradient[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_true_values_are_what_the_best_of_all_short_plans_get() -> None:
    states, values = true_values(0.3)
    some = states[::997]
    best = np.full(len(some), -np.inf)
    for plan in np.ndindex(*[3] * 5):
        now, total = some, np.zeros(len(some))
        for k, action in enumerate(plan):
            now = drive(now, np.full(len(now), action))
            total -= 0.3**k * cost(now)
        best = np.maximum(best, total)
    # What comes later is at most 0.3^5 / 0.7; the rest is interpolation.
    np.testing.assert_allclose(values[::997], best, atol=0.3**5 / 0.7 + 2e-3)


class Knowing(torch.nn.Module):
    """Scores actions by the true value of where they lead, looked up at the next grid point."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.gamma, (_, values) = gamma, true_values(gamma)
        self.values = values.reshape(control.GRID - 1, control.GRID)

    def forward(self, x: Tensor) -> Tensor:
        cosine, sine, speed = x.double().numpy().T
        states = np.stack([np.arctan2(sine, cosine), speed * 8], axis=1)
        after = drive(states[:, None], np.arange(3))
        places = (after / [np.pi, 8] + 1) / 2 * (control.GRID - 1)
        i, j = places.round().astype(int).transpose(2, 0, 1)
        return torch.from_numpy(self.gamma * self.values[i % (control.GRID - 1), j] - cost(after))


def test_one_who_knows_has_no_error_and_swings_it_up_and_one_who_does_nothing_pays_for_it() -> None:
    task = Control()
    knowing = task.evaluate({"q": Knowing(task.gamma)})
    assert knowing["value error"] < 0.1
    assert knowing["cost of an attempt"] < 14

    still = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(still.weight)
    with torch.no_grad():
        still.bias.copy_(torch.tensor([-1.0, 0.0, -1.0]))
        doing_nothing = task.evaluate({"q": still})
    _, truth = true_values(task.gamma)
    assert doing_nothing["value error"] == pytest.approx(np.sqrt(np.mean(truth**2)))
    now, total = starts(), 0.0
    for _ in range(50):
        now = drive(now, np.ones(50, np.int64))
        total += cost(now).mean()
    assert doing_nothing["cost of an attempt"] == pytest.approx(total)
