"""Runs: the same twice, the same data in both arms, ALRC the only difference."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alrc.lab.data.images import Images
from alrc.lab.engine.training import Run, RunConfig, train
from alrc.lab.tasks.supersampling.task import Supersampling
from alrc.torch import ALRC


class Slope:
    """One weight w, starting at 0, with losses (w - target)^2."""

    def network(self, seed: int) -> nn.Module:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        return network

    def batches(
        self, seed: int, batch_size: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in count(start):
            rng = np.random.default_rng([seed, step])
            targets = 1 + 0.1 * rng.standard_t(2, (batch_size, 1))
            yield torch.ones(batch_size, 1), torch.tensor(targets, dtype=torch.float32)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def held_out_error(self, network: nn.Module) -> float:
        return float((next(network.parameters()).detach() - 1.0).square())


@pytest.fixture(scope="module")
def task() -> Supersampling:
    images = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), np.uint8)
    return Supersampling(Images("noise", images, images[:1]), width=2, block=16)


def assert_equal(first: Run, second: Run) -> None:
    for name in ("losses", "limits", "limited", "held_out"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("num_stddev", [None, 1.0])
def test_the_same_seed_gives_the_same_run(task: Supersampling, num_stddev: float | None) -> None:
    config = RunConfig(60, num_stddev=num_stddev, seed=3)
    torch.manual_seed(0)
    first = train(task, config)
    torch.manual_seed(1)
    assert_equal(first, train(task, config))
    assert (first.losses != train(task, RunConfig(60, num_stddev=num_stddev)).losses).any()


def test_arms_are_the_same_until_the_first_clipped_loss(task: Supersampling) -> None:
    plain = train(task, RunConfig(60))
    alrc = train(task, RunConfig(60, num_stddev=1.0))
    first = int(alrc.clipped.any(1).argmax())
    assert alrc.clipped.any()
    assert first >= 10  # the warm-up
    np.testing.assert_array_equal(plain.losses[: first + 1], alrc.losses[: first + 1])
    assert (plain.losses[first + 1 :] != alrc.losses[first + 1 :]).any()


def test_a_limit_out_of_reach_changes_nothing(task: Supersampling) -> None:
    plain, alrc = train(task, RunConfig(40)), train(task, RunConfig(40, num_stddev=1e6))
    np.testing.assert_array_equal(plain.losses, alrc.losses)
    assert not plain.clipped.any()
    assert not alrc.clipped.any()
    assert np.isinf(plain.limits).all()
    assert np.isfinite(alrc.limits[10:]).all()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_limits_and_clipped_losses_are_those_of_alrc(batch_size: int) -> None:
    run = train(Slope(), RunConfig(300, batch_size, learning_rate=0.01, num_stddev=2.0))
    assert 0 < run.clipped.sum() < 0.2 * run.clipped.size
    alrc = ALRC(num_stddev=2.0)
    for losses, limit, clipped in zip(run.losses, run.limits, run.clipped, strict=True):
        assert limit == alrc.threshold.item()
        limited = alrc(torch.from_numpy(losses)).numpy()
        assert limited.max() <= limit
        np.testing.assert_array_equal(clipped, losses > limit)  # losses are unclipped
    assert run.losses.dtype == run.limits.dtype == np.float32
    assert run.clipped.dtype == np.bool_


def replay(run: Run, batch_size: int, rate: float, num_stddev: float | None) -> list[float]:
    """Mean losses of gradient descent on Slope, in plain Python floats."""
    weight, errors = 0.0, []
    alrc = None if num_stddev is None else ALRC(num_stddev)
    for (_, targets), _ in zip(Slope().batches(0, batch_size), run.errors, strict=False):
        losses = [(weight - target) ** 2 for target in targets.flatten().tolist()]
        factors = [1.0] * batch_size
        if alrc is not None:
            limited = alrc(torch.tensor(losses)).tolist()
            factors = [after / before for after, before in zip(limited, losses, strict=True)]
        errors.append(sum(losses) / batch_size)
        slopes = [
            factor * 2 * (weight - target)
            for factor, target in zip(factors, targets.flatten().tolist(), strict=True)
        ]
        weight -= rate * sum(slopes) / batch_size
    return errors


@pytest.mark.parametrize("num_stddev", [None, 1.0])
def test_sgd_is_plain_gradient_descent_on_the_mean_loss(num_stddev: float | None) -> None:
    config = RunConfig(100, 4, "sgd", 0.05, num_stddev=num_stddev)
    run = train(Slope(), config)
    assert run.clipped.any() == (num_stddev is not None)
    np.testing.assert_allclose(run.errors, replay(run, 4, 0.05, num_stddev), rtol=1e-3)


def test_adam_takes_the_steps_of_adam() -> None:
    run = train(Slope(), RunConfig(10, learning_rate=0.01))
    weight, first, second = 0.0, 0.0, 0.0
    for step, (_, target) in zip(range(1, 11), Slope().batches(0, 1), strict=False):
        assert run.losses[step - 1, 0] == pytest.approx((weight - target.item()) ** 2, rel=1e-4)
        slope = 2 * (weight - target.item())
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        scaled = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        weight -= 0.01 * scaled


def test_the_learning_rate_falls_tenfold_after_the_papers_number_of_steps() -> None:
    # At batch size 200,000 that is every int(10000 / 200000 * 350) = 17 steps.
    class Constant(Slope):
        def batches(
            self, seed: int, batch_size: int, start: int = 0
        ) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield torch.ones(batch_size, 1), torch.zeros(batch_size, 1)

        def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.flatten(1).mean(1)  # slope 1: the loss falls by the learning rate

    run = train(Constant(), RunConfig(40, 200_000, "sgd", 1.0))
    steps = -np.diff(run.losses[:, 0])
    expected = np.repeat([1, 0.1, 0.01], [17, 17, 5])
    np.testing.assert_allclose(steps, expected, rtol=1e-2)  # float32 sums of 200,000 slopes


def test_report_comes_after_every_step() -> None:
    seen = []

    def report(step: int, run: Run) -> None:
        seen.append((step, float(run.losses[step - 1, 0])))

    run = train(Slope(), RunConfig(12), report)
    assert seen == list(zip(range(1, 13), run.losses[:, 0].tolist(), strict=True))


def test_results_of_a_run() -> None:
    losses = np.arange(60, dtype=np.float32).reshape(30, 2)
    losses[5, 1], losses[6, 0] = 1000, 500  # steps 6 and 7; the first fifth is steps 1 to 6
    run = Run(RunConfig(30, 2), losses, np.full(30, np.inf), losses, np.zeros(1))
    assert run.errors[2] == 4.5
    assert run.final_error == 56.5  # of steps 28 to 30
    assert run.largest_spike == (500 + 13) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"iterations": 9},
            "iterations must be at least 10, because a run is judged by its last tenth; got 9.",
        ),
        (
            {"batch_size": 0},
            "batch_size must be at least 1, because it counts the examples of a step; got 0.",
        ),
        ({"optimizer": "rmsprop"}, "optimizer must be 'adam' or 'sgd'; got 'rmsprop'."),
        (
            {"learning_rate": 0.0},
            "learning_rate must be greater than 0 and finite, because it is the size of a step; "
            "got 0.0.",
        ),
        (
            {"learning_rate": float("nan")},
            "learning_rate must be greater than 0 and finite, because it is the size of a step; "
            "got nan.",
        ),
        ({"seed": -1}, "seed must be from 0 to 2**63 - 1; got -1."),
        ({"seed": 2**63}, "seed must be from 0 to 2**63 - 1; got 9223372036854775808."),
        (
            {"num_stddev": 0.0},
            "ALRC: num_stddev must be greater than 0, because it counts the standard deviations "
            "above the mean at which losses are limited; got 0.0. Pass num_stddev=3.0, or "
            "num_stddev=math.inf to limit nothing on that side.",
        ),
    ],
)
def test_config_out_of_range_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        RunConfig(**{"iterations": 10, **arguments})
    assert str(caught.value) == message


def test_config_at_the_edges_is_accepted() -> None:
    RunConfig(10, 1, "sgd", 1e-30, num_stddev=1e-3, seed=2**63 - 1)
