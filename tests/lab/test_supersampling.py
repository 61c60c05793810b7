"""The supersampling task: its stream of examples and its loss."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alrc.lab.api import Outcome, Training
from alrc.lab.data.images import Images
from alrc.lab.data.order import example_order, uniforms
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import read_series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import train
from alrc.lab.tasks.supersampling import task as module
from alrc.lab.tasks.supersampling.network import SupersamplingNetwork
from alrc.lab.tasks.supersampling.preprocessing import augment, halve_resolution
from alrc.lab.tasks.supersampling.task import Supersampling
from alrc.torch import ALRC


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    """Noise, which the task takes for photographs."""
    rng = np.random.default_rng(0)
    noise = Images("noise", *(rng.integers(0, 256, (20, 3, 32, 32), np.uint8) for _ in range(2)))
    monkeypatch.setattr(module, "load_images", {"photographs": noise}.__getitem__)
    return noise


def stream(batch_size: int, examples: int = 48, seed: int = 5, block: int = 256):
    batches = Supersampling().batches(seed, batch_size, block=block)
    taken = list(islice(batches, examples // batch_size))
    assert all(x.shape == (batch_size, 3, 32, 32) for batch in taken for x in batch)
    return [torch.cat(part) for part in zip(*taken, strict=True)]


def losses(error: str, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return step(Supersampling(error=error), outputs, targets).losses["loss"]


def step(task: Supersampling, outputs: torch.Tensor, targets: torch.Tensor) -> Outcome:
    return task.step({"network": lambda _: outputs}, (None, targets))


@pytest.mark.parametrize(("batch_size", "block"), [(1, 1), (1, 7), (1, 48), (4, 6), (16, 1)])
@pytest.mark.usefixtures("images")
def test_examples_do_not_depend_on_how_many_are_prepared(batch_size: int, block: int) -> None:
    for got, want in zip(stream(batch_size, block=block), stream(1), strict=True):
        assert torch.equal(got, want)  # bit for bit


def test_examples_are_training_images_in_order_augmented_and_halved(images: Images) -> None:
    inputs, targets = stream(4)
    order = example_order(20, 5, 0, 48)
    expected = augment(
        torch.from_numpy(images.training[order]), torch.from_numpy(uniforms(5, 0, 48))
    )
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(inputs, halve_resolution(expected))


@pytest.mark.usefixtures("images")
def test_another_seed_gives_other_examples() -> None:
    _, first = stream(1, seed=0)
    _, second = stream(1, seed=1)
    assert (first != second).flatten(1).any(1).all()


@pytest.mark.parametrize(("error", "power"), [("squared", 2), ("quartic", 4)])
def test_loss_is_that_of_the_paper_and_the_error_is_kept_beside_it(error: str, power: int) -> None:
    rng = np.random.default_rng(2)
    scale = np.array([0.1, 1, 1.3, 1.5, 2, 10]).reshape(-1, 1, 1, 1)
    outputs = rng.normal(size=(6, 3, 32, 32)) * scale
    targets = rng.normal(size=(6, 3, 32, 32)) * 0.1
    errors = [25 * np.mean((y - x) ** power) for y, x in zip(outputs, targets, strict=True)]
    expected = [error if error < 50 else error**0.5 for error in errors]
    got = step(Supersampling(error=error), torch.tensor(outputs), torch.tensor(targets))
    np.testing.assert_allclose(got.losses["loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(got.logged["error"], errors, rtol=1e-12)


@pytest.mark.parametrize(("difference", "loss"), [(1.0, 25.0), (1.4, 49.0), (1.5, 56.25**0.5)])
def test_the_root_is_taken_from_50_on(difference: float, loss: float) -> None:
    outputs = torch.full((1, 3, 8, 8), difference, dtype=torch.float64)
    got = losses("squared", outputs, torch.zeros_like(outputs))
    assert got.tolist() == pytest.approx([loss])


def test_the_root_is_taken_at_exactly_50() -> None:
    outputs = torch.tensor([[2.0, 2.0, 0.0, 0.0]], dtype=torch.float64)  # mean square 2: loss 50
    got = losses("squared", outputs, torch.zeros_like(outputs))
    assert got.tolist() == pytest.approx([50**0.5])


@pytest.mark.parametrize("error", ["squared", "quartic"])
def test_a_perfect_output_has_gradient_zero_not_nan(error: str) -> None:
    outputs = torch.zeros(1, 3, 8, 8, requires_grad=True)
    losses(error, outputs, torch.zeros(1, 3, 8, 8)).sum().backward()
    assert (outputs.grad == 0).all()


def test_network_has_the_weights_of_its_seed() -> None:
    network = Supersampling(width=4).build(seed=7)["network"]
    for got, want in zip(
        network.parameters(), SupersamplingNetwork(4, seed=7).parameters(), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("batch_size", "start"), [(1, 13), (4, 5), (16, 2)])
@pytest.mark.usefixtures("images")
def test_examples_from_a_later_step_on_are_those_of_the_whole_stream(
    batch_size: int, start: int
) -> None:
    task = Supersampling()
    whole = islice(task.batches(5, batch_size, block=7), start, start + 6)
    later = islice(task.batches(5, batch_size, start, block=7), 6)
    for expected, got in zip(whole, later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(expected, got, strict=True))


def test_without_the_sqrt_step_large_losses_stay() -> None:
    outputs, targets = torch.full((1, 3, 32, 32), 2.0), torch.zeros(1, 3, 32, 32)
    assert step(Supersampling(), outputs, targets).losses["loss"].item() == 20.0  # sqrt(25 * 2**4)
    plain = step(Supersampling(sqrt_step=False), outputs, targets)
    assert plain.losses["loss"].item() == 400.0


def test_metrics_are_means_over_standardised_held_out_images(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    x = images.held_out.astype(np.float64)
    x = x - x.mean((1, 2, 3), keepdims=True)
    targets = torch.from_numpy(x / x.std((1, 2, 3), keepdims=True)).float()
    network = torch.nn.Conv2d(3, 3, 1, bias=False)
    network.weight.data = -1.5 * torch.eye(3)[:, :, None, None]
    squares = (-1.5 * halve_resolution(targets) - targets).double().square().mean((1, 2, 3))
    assert (25 * squares).max() > 50 > (25 * squares).min()  # so that the root matters
    expected = {
        "held-out error": (25 * squares).mean().item(),
        "held-out loss": np.mean([x if x < 50 else x**0.5 for x in (25 * squares).tolist()]),
        "held-out PSNR": np.mean(10 * np.log10(4 / squares.numpy())),
    }
    got = Supersampling(error="squared").evaluate({"network": network.requires_grad_(False)})
    assert got == pytest.approx(expected, rel=1e-5)
    assert list(got) == [metric.name for metric in Supersampling.metrics]


def test_the_description_tells_other_images_apart(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Supersampling().describe()
    changed = images.held_out.copy()
    changed[0, 0, 0, 0] ^= 1
    other = Images(images.name, images.training, changed)
    monkeypatch.setattr(module, "load_images", {"photographs": other}.__getitem__)
    second = Supersampling().describe()
    assert first["images"] == second["images"] == "noise"
    assert first["images_sha256"] != second["images_sha256"]


@pytest.mark.usefixtures("images")
def test_a_picture_shows_inputs_outputs_and_targets() -> None:
    task = Supersampling(width=2)
    with torch.no_grad():
        (picture,) = task.pictures(task.build(0))
    assert picture.pixels.shape == (3 * 32, 8 * 32, 3)
    _, targets = module._prepared(module.load_images("photographs").held_out[:1])
    shown = picture.pixels[64:, :32]  # the target of the first, below its input and its output
    np.testing.assert_allclose((shown - 0.5) * 4, targets[0].permute(1, 2, 0), atol=1e-5)


def test_the_learning_rate_falls_tenfold_after_the_papers_number_of_steps() -> None:
    task, training = Supersampling(width=1), Training(steps=10, batch_size=1000, learning_rate=0.5)
    optimizers = task.optimizers(task.build(0), training)
    schedule = task.schedules(optimizers, training)["step"]
    rates = []
    for _ in range(7001):
        optimizers["step"].step()
        schedule.step()
        rates.append(optimizers["step"].param_groups[0]["lr"])
    assert rates[3498:3500] == pytest.approx([0.5, 0.05])  # 3.5 million examples
    assert rates[6998:7000] == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize(
    ("error", "arm", "training"),
    [
        ("quartic", "alrc num_stddev=0.1", {}),
        ("squared", "off", {"batch_size": 4, "optimizer": "sgd", "learning_rate": 3e-3}),
    ],
)
@pytest.mark.usefixtures("images")
def test_the_engine_gives_the_losses_of_a_plain_loop_bit_for_bit(
    tmp_path: Path, error: str, arm: str, training: dict[str, Any]
) -> None:
    """What is compared with is written out: the paper's loop."""
    how = Training(**{"steps": 40, "learning_rate": 0.1 / 128, **training})
    task = Named("task", "supersampling", (("error", error), ("width", 2)))
    spec = Spec(task, Named.parse("arm", arm, tmp_path), how, 3)
    task_of.cache_clear()
    with RunFolder(tmp_path, spec.config) as folder:
        result = train(spec, folder)
    task_of.cache_clear()  # no other test shall meet these images

    network = SupersamplingNetwork(2, seed=3).to(memory_format=torch.channels_last)
    kind = torch.optim.Adam if how.optimizer == "adam" else torch.optim.SGD
    # Rounded as the lab's is: the form with a kernel of its own rounds otherwise than Adam's loop.
    optimizer = kind(network.parameters(), how.learning_rate, fused=kind is torch.optim.Adam)
    alrc = ALRC(0.1, scale="linear")
    power = {"squared": 2, "quartic": 4}[error]
    raw, limited = [], []
    for inputs, targets in islice(Supersampling().batches(3, how.batch_size), how.steps):
        x = 25 * (network(inputs) - targets).pow(power).flatten(1).mean(1)
        loss = torch.where(x < 50, x, x.clamp(min=50).sqrt())
        raw.append(loss.detach())
        loss = alrc(loss) if arm != "off" else loss
        limited.append(loss.detach())
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    np.testing.assert_array_equal(read_series(tmp_path, result, "loss.raw"), torch.stack(raw))
    if arm != "off":
        stored = read_series(tmp_path, result, "loss.limited")
        np.testing.assert_array_equal(stored, torch.stack(limited))
        assert (stored != read_series(tmp_path, result, "loss.raw")).any()
