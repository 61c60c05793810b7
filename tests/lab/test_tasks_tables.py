"""Regression, heavy tails and digits: what is broken, how often, and what is never."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from alrc.lab.api import Task, Training
from alrc.lab.data.tables import load_table, some, split
from alrc.lab.engine.batched import Ensemble
from alrc.lab.engine.checks import check_task
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.trainer import Trainer
from alrc.lab.tasks.digits import CLASSES, RARE, Digits
from alrc.lab.tasks.heavy_tails import HeavyTails
from alrc.lab.tasks.regression import Regression

TASKS = [
    "regression",
    "regression data=breast-cancer broken=0.1 power=4",
    "regression precision=bfloat16 power=4",
    "regression precision=float16 power=4 broken=0.0",
    "heavy-tails",
    "heavy-tails df=inf error=quartic broken=0.02",
    "heavy-tails error=gaussian df=3.0",
    "digits wrong=0.2",
    "digits rare=0.1 precision=float16",
    "digits loss=hinge precision=bfloat16",
    "digits loss=triplet",
]


def task_from(text: str) -> Task:
    return task_of(Named.parse("task", text, Path.cwd()))


def net(outputs: Tensor) -> dict[str, Any]:
    """A network that gives the same whatever it gets."""
    return {"network": lambda _: outputs}


@pytest.mark.parametrize("task", TASKS)
def test_the_engine_can_rely_on_them(task: str) -> None:
    check_task(task)


@pytest.mark.parametrize("task", TASKS)
def test_members_of_an_ensemble_are_what_they_are_alone(task: str, tmp_path: Path) -> None:
    named, arm = (Named.parse(*x, Path.cwd()) for x in (("task", task), ("arm", "alrc")))
    training = Training(steps=30, batch_size=4, learning_rate=1e-3)
    specs = {str(seed): Spec(named, arm, training, seed) for seed in (0, 1)}
    ensemble = Ensemble(specs, Series(tmp_path / "all"))
    alone = [Trainer(spec, Series(tmp_path / name)) for name, spec in ensemble.specs.items()]
    batches = ensemble.batches()
    for _ in range(30):
        batch = next(batches)
        ensemble.advance(batch)
        for trainer, own in zip(alone, batch, strict=True):
            trainer.advance(own)
    # Half precision may round a gradient to the neighbouring number.
    tolerance = 1e-4 if task_from(task).options().get("precision", "float32") == "float32" else 0.02
    expected = torch.tensor([trainer.evaluate() for trainer in alone])
    torch.testing.assert_close(torch.tensor(ensemble.evaluate()), expected, rtol=tolerance, atol=0)


def taken(task: Task, seed: int, start: int, steps: int, batch_size: int = 8) -> list[Tensor]:
    batches = islice(task.batches(seed, batch_size, start), steps)
    return [torch.cat(part) for part in zip(*batches, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 7, 16])
@pytest.mark.parametrize("task", [Regression(), HeavyTails(), Digits(loss="triplet")])
def test_an_example_depends_on_seed_and_position_alone(task: Task, batch_size: int) -> None:
    whole = taken(task, 3, 0, 180, batch_size=50)  # more than are prepared at a time
    steps = 8000 // batch_size
    some_of_them = taken(task, 3, steps, 20, batch_size)
    for expected, got in zip(whole, some_of_them, strict=True):
        position = steps * batch_size
        assert torch.equal(got, expected[position : position + 20 * batch_size])


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.002, 1), (0.02, 6), (0.1, 30), (1, 295)])
def test_so_many_training_targets_are_wrong_by_so_much(share: float, count: int) -> None:
    for seed in range(3):
        inputs, targets = Regression(broken=share, shift=20.0).training(seed)
        clean_inputs, clean = Regression(broken=0.0).training(seed)
        assert torch.equal(inputs, clean_inputs)
        moves = targets - clean
        assert (moves != 0).sum() == count
        torch.testing.assert_close(moves[moves != 0].abs(), torch.full((count,), 20.0))
        assert count < 30 or ((moves > 0).any() and (moves < 0).any())


@pytest.mark.parametrize("data", ["diabetes", "breast-cancer"])
def test_tables_are_standardised_and_split_anew_for_each_seed(data: Any) -> None:
    table = load_table(data)
    task = Regression(data=data, broken=0.0)
    for seed in range(2):
        training, held_out = split(len(table.targets), seed, 1 / 3)
        assert not set(training) & set(held_out)
        assert len(training) + len(held_out) == len(table.targets)
        inputs, targets = task.training(seed)
        x, y = table.inputs[training], table.targets[training]
        np.testing.assert_allclose(inputs, (x - x.mean(0)) / x.std(0), atol=1e-5)
        np.testing.assert_allclose(targets, (y - y.mean()) / y.std(), atol=1e-5)
        network = task.build(seed)["network"]
        x_out, y_out = table.inputs[held_out], table.targets[held_out]
        given = torch.from_numpy(((x_out - x.mean(0)) / x.std(0)).astype(np.float32))
        with torch.no_grad():
            errors = network(given).squeeze(1).numpy() - (y_out - y.mean()) / y.std()
            broken = Regression(data=data, broken=1.0).evaluate({"network": network})
            assert broken == task.evaluate({"network": network})  # held-out targets are clean
        assert broken["held-out error"] == pytest.approx(np.mean(errors**2), rel=1e-4)
        assert broken["held-out median absolute error"] == pytest.approx(
            np.sort(np.abs(errors))[(len(errors) - 1) // 2], rel=1e-4
        )
    assert set(split(400, 0, 0.5)[0]) != set(split(400, 1, 0.5)[0])


@pytest.mark.parametrize("power", [2, 4])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_losses_are_powers_in_their_precision(power: Any, precision: Any) -> None:
    outputs = torch.tensor([[0.1], [3.0], [15.9], [16.1], [-30.0], [300.0]])
    targets = torch.tensor([0.3, 1.0, 0.0, 0.0, 0.0, 0.0])
    task = Regression(power=power, precision=precision)
    losses = task.step(net(outputs), (targets, targets))["loss"]
    assert losses.dtype == torch.float32
    exact = (outputs[:, 0] - targets).double().numpy() ** power
    if precision == "float16":
        largest = 65504
        assert (losses.isinf().numpy() == (exact > largest)).all()
        assert losses.isinf().sum() == {2: 1, 4: 3}[power]
    finite = losses.isfinite().numpy()
    rounding = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}[precision]
    np.testing.assert_allclose(losses[finite], exact[finite], rtol=rounding)


def test_heavy_tails_are_those_of_the_distribution_about_the_function() -> None:
    for df, distribution in ((1.5, stats.t(1.5)), (3.0, stats.t(3)), (float("inf"), stats.norm())):
        task = HeavyTails(df=df, noise=0.1)
        inputs, targets = taken(task, 0, 0, 500, batch_size=100)
        a, b, c, d, e = (inputs.double().numpy().T / np.sqrt(12) + 0.5)[:5]
        clean = 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e
        assert abs(((clean - 14.414) / 4.882).mean()) < 0.02
        assert ((clean - 14.414) / 4.882).std() == pytest.approx(1, abs=0.02)
        noise = (targets.numpy() - (clean - 14.414) / 4.882) / 0.1
        for limit in (0.0, 2.0, -2.0, 5.0):
            assert (noise > limit).mean() == pytest.approx(distribution.sf(limit), abs=0.01)


def test_a_share_of_fresh_targets_is_wrong_and_the_rest_the_same() -> None:
    _, clean = taken(HeavyTails(), 0, 0, 1000)
    _, broken = taken(HeavyTails(broken=0.1), 0, 0, 1000)
    moves = (broken - clean)[broken != clean]
    assert len(moves) / len(clean) == pytest.approx(0.1, abs=0.015)
    np.testing.assert_allclose(moves.abs(), 30, rtol=1e-4)
    assert 0.4 < (moves > 0).float().mean() < 0.6


def test_likelihood_is_that_of_a_normal_distribution_and_has_both_signs() -> None:
    mean, log_variance, targets = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    outputs = torch.stack([mean, 2 * log_variance - 2], dim=1)
    losses = HeavyTails(error="gaussian").step(net(outputs), (mean, targets))["loss"]
    expected = nn.GaussianNLLLoss(reduction="none")(mean, targets, outputs[:, 1].exp())
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    assert (losses < 0).any()
    assert (losses > 0).any()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 1.0])
def test_so_many_training_labels_are_wrong(share: float) -> None:
    images, labels = Digits(wrong=share).training(0)
    clean_images, clean = Digits().training(0)
    assert torch.equal(images, clean_images)
    assert (labels != clean).sum() == np.ceil(share * len(clean))
    assert labels.min() >= 0
    assert labels.max() < CLASSES


def test_two_classes_are_rare_and_all_are_held_out() -> None:
    _, clean = Digits().training(0)
    _, labels = Digits(rare=0.1).training(0)
    for label in range(CLASSES):
        before, after = ((x == label).sum().item() for x in (clean, labels))
        assert after < 0.2 * before if label in RARE else after == before
    common = sum((clean == label).sum().item() for label in RARE)
    assert sum((labels == label).sum().item() for label in RARE) == np.ceil(0.1 * common)


def test_error_rates_are_means_over_classes_where_some_are_rare() -> None:
    labels = load_table("digits").targets[split(1797, 0, 0.5)[1]]
    always_three = torch.zeros(len(labels), CLASSES)
    always_three[:, 3] = 5.0

    class Three(nn.Module):
        seed = torch.tensor(0)

        def forward(self, _: Tensor) -> Tensor:
            return always_three

    wrong = (labels != 3).sum()
    plain = Digits().evaluate({"network": Three()})
    assert plain["held-out error rate"] == pytest.approx((wrong + 0.5) / (len(labels) + 1))
    nats = np.log(9 + np.exp(5)) - 5 * (labels == 3)
    assert plain["held-out log-loss"] == pytest.approx(nats.mean())
    balanced = Digits(rare=0.5).evaluate({"network": Three()})
    counts = np.bincount(labels)
    rates = (np.where(np.arange(CLASSES) == 3, 0, counts) + 0.5) / (counts + 1)
    assert balanced["held-out error rate"] == pytest.approx(rates.mean())
    assert balanced["held-out log-loss"] == pytest.approx(np.log(9 + np.exp(5)) - 0.5)
    assert list(Digits(loss="hinge").evaluate({"network": Three()})) == ["held-out error rate"]


def test_a_network_that_gives_nan_is_always_wrong() -> None:
    network = Digits().build(0)["network"]
    network.layers[-1].bias.data.fill_(torch.nan)
    assert Digits().evaluate({"network": network})["held-out error rate"] > 0.99


def test_cross_entropy_and_hinge_losses_are_those_of_their_formulas() -> None:
    scores = torch.randn(40, CLASSES, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(40) % CLASSES
    x, rows = scores.double().numpy(), np.arange(40)
    got = Digits().step(net(scores), (labels, labels))["loss"]
    np.testing.assert_allclose(got, np.log(np.exp(x).sum(1)) - x[rows, labels], rtol=1e-5)
    margins = [min(x[i, y] - x[i, j] for j in range(10) if j != y) for i, y in enumerate(labels)]
    got = Digits(loss="hinge").step(net(scores), (labels, labels))["loss"]
    np.testing.assert_allclose(got, np.maximum(0, 1 - np.array(margins)), atol=1e-5)
    assert (got == 0).any()


def test_triplets_are_of_two_labels_and_their_loss_is_that_of_its_formula() -> None:
    task = Digits(loss="triplet", wrong=0.1)
    images, labels = task.training(2)
    batch = taken(task, 2, 0, 300)
    place = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    first, same, other = (
        torch.tensor([place[image.numpy().tobytes()] for image in part]) for part in batch
    )
    assert (labels[first] == labels[same]).all()
    assert (labels[first] != labels[other]).all()
    assert (first != same).all()
    assert len(set(same.tolist())) > 800  # of 899 that occur
    assert len(set(other.tolist())) > 800
    network = task.build(2)["network"]
    with torch.no_grad():
        losses = task.step({"network": network}, tuple(batch))["loss"]
        a, p, n = (network(x).double().numpy() for x in batch)
    a, p, n = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, p, n))
    expected = ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 0.2
    np.testing.assert_allclose(losses, np.maximum(expected, 0), atol=1e-5)


def test_a_share_is_rounded_up_and_smaller_ones_are_among_larger() -> None:
    assert [len(some(30, 0, x)) for x in (0.0, 0.001, 0.1, 0.101, 1.0)] == [0, 1, 3, 4, 30]
    assert set(some(100, 5, 0.1)) < set(some(100, 5, 0.3))


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_table("iris")
    assert str(caught.value) == (
        "load_table: name must be diabetes, breast-cancer or digits; got 'iris'."
    )
