"""The task that restores photographs: its hot squares, its losses, and what is never hot."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from alrc.lab.api import Training
from alrc.lab.data.images import Images
from alrc.lab.data.order import example_order, uniforms
from alrc.lab.engine.checks import check_task
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.tasks import photographs as module
from alrc.lab.tasks.photographs import Photographs
from alrc.lab.tasks.supersampling.preprocessing import augment, halve_resolution


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    """Noise, which the task takes for photographs."""
    rng = np.random.default_rng(0)
    noise = Images("noise", *(rng.integers(0, 256, (50, 3, 32, 32), np.uint8) for _ in range(2)))
    monkeypatch.setattr(module, "load_images", {"photographs": noise}.__getitem__)
    module._held_out.cache_clear()
    yield noise
    module._held_out.cache_clear()


def stream(task: Photographs, batches: int, size: int = 4, start: int = 0, seed: int = 5):
    taken = list(islice(task.batches(seed, size, start), batches))
    assert all(x.shape == (size, 3, 32, 32) for batch in taken for x in batch)
    return [torch.cat(part) for part in zip(*taken, strict=True)]


@pytest.mark.parametrize("restore", ["denoising", "supersampling"])
def test_the_task_keeps_what_the_engine_relies_on(restore: str) -> None:
    check_task(f"photographs restore={restore} width=2", steps=10)


def test_the_share_of_hot_targets_is_exact() -> None:
    """Of the real photographs."""
    task = Photographs(broken=0.02)
    count = len(task.data.training)
    hot = (task.hot_squares(0) >= 0).all(1)
    assert hot.sum() == round(0.02 * count)
    assert (task.hot_squares(1) != task.hot_squares(0)).any()  # each seed has its own
    assert not (Photographs(broken=0.0).hot_squares(0) >= 0).any()
    assert (Photographs(broken=1.0).hot_squares(0) >= 0).all()


@pytest.mark.usefixtures("images")
def test_an_example_is_always_hot_or_never_and_at_the_same_place() -> None:
    task = Photographs(broken=0.3, hot=99.0)
    _, targets = stream(task, 50)  # four visits of each image
    order = example_order(50, 5, 0, 200)
    hot = targets.numpy() == 99
    assert len({order[i] for i in range(200) if hot[i].any()}) == 15
    seen: dict[int, np.ndarray] = {}
    for image, where in zip(order, hot, strict=True):
        assert (seen.setdefault(image, where) == where).all()
        if where.any():
            row, column = task.hot_squares(5)[image]
            expected = np.zeros((3, 32, 32), bool)
            expected[:, row : row + 8, column : column + 8] = True
            assert (where == expected).all()


@pytest.mark.parametrize("restore", ["denoising", "supersampling"])
@pytest.mark.usefixtures("images")
def test_examples_do_not_depend_on_where_a_run_begins(
    restore: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Photographs(restore=restore, broken=0.3)
    monkeypatch.setattr(module, "BLOCK", 12)
    whole = stream(task, 20)
    monkeypatch.setattr(module, "BLOCK", 7)
    later = stream(task, 13, start=7)
    for expected, got in zip(whole, later, strict=True):
        assert torch.equal(expected[28:], got)


def test_targets_are_augmented_images_and_inputs_are_never_hot(images: Images) -> None:
    random = torch.from_numpy(uniforms(5, 0, 100))
    expected = augment(torch.from_numpy(images.training[example_order(50, 5, 0, 100)]), random)
    inputs, targets = stream(Photographs(restore="supersampling", broken=0.5, hot=99.0), 25)
    clean = targets != 99
    assert torch.equal(targets[clean], expected[clean])
    torch.testing.assert_close(inputs, halve_resolution(expected))
    inputs, targets = stream(Photographs(broken=0.5, hot=99.0), 25)
    noise = (inputs - expected).numpy()
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    assert abs(noise.mean()) < 0.01
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1  # each its own


@pytest.mark.parametrize("restore", ["denoising", "supersampling"])
def test_held_out_images_are_others_and_never_hot(images: Images, restore: str) -> None:
    everything = Photographs(restore=restore, broken=1.0, hot=99.0)
    inputs, targets = everything.held_out(50)
    expected = augment(torch.from_numpy(images.held_out), module.NOT_AUGMENTED.expand(50, 3))
    assert torch.equal(targets, expected)
    assert inputs.max() < 99
    calm = Photographs(restore=restore, broken=0.0).held_out(50)
    assert torch.equal(inputs, calm[0])  # the same in the calm twin


@pytest.mark.parametrize("power", [2, 4])
@pytest.mark.usefixtures("images")
def test_losses_and_metrics_are_those_of_the_formula(power: int) -> None:
    task = Photographs(power=power)
    network = torch.nn.Conv2d(3, 3, 1)
    x, y = (part[:4].numpy().astype(np.float64) for part in stream(task, 1))

    def made(x: np.ndarray) -> np.ndarray:
        weight, bias = (p.detach().double().numpy() for p in network.parameters())
        return np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]

    losses = task.step({"network": network}, tuple(part[:4] for part in stream(task, 1)))["loss"]
    expected = [25 * np.mean(np.abs(d) ** power) for d in made(x) - y]
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-4)
    x, y = (part.numpy().astype(np.float64) for part in task.held_out(module.HELD_OUT))
    d = made(x) - y
    with torch.no_grad():
        got = task.evaluate({"network": network})
    assert got == pytest.approx(
        {
            "held-out error": 25 * np.mean(np.abs(d) ** power),
            "held-out PSNR": np.mean(10 * np.log10(4 / np.mean(d**2, axis=(1, 2, 3)))),
        },
        rel=1e-4,
    )


@pytest.mark.usefixtures("images")
def test_a_new_network_is_the_identity_and_each_seed_has_other_weights() -> None:
    task = Photographs(width=3)
    x = torch.rand(2, 3, 32, 32)
    one, other = (task.build(seed)["network"] for seed in (0, 1))
    assert torch.equal(one(x), x)
    assert not torch.equal(one.layers[1].weight, other.layers[1].weight)


@pytest.mark.usefixtures("images")
def test_a_picture_shows_inputs_outputs_and_targets() -> None:
    task = Photographs(width=2)
    with torch.no_grad():
        (picture,) = task.pictures(task.build(0))
    assert picture.pixels.shape == (3 * 32, module.SHOWN * 32, 3)
    inputs, targets = task.held_out(module.SHOWN)
    for row, images in enumerate((inputs, inputs, targets)):  # a new network changes nothing
        shown = picture.pixels[32 * row : 32 * (row + 1), :32]
        np.testing.assert_allclose((shown - 0.5) * 4, images[0].permute(1, 2, 0), atol=1e-5)


@pytest.mark.usefixtures("images")
def test_runs_that_are_trained_together_are_those_of_each_alone(tmp_path: Path) -> None:
    task = Named("task", "photographs").having({"width": 2, "broken": 0.3})
    training = Training(**Photographs.defaults | {"steps": 12})
    specs = {
        f"{arm}-{seed}": Spec(task, Named("arm", arm), training, seed)
        for arm in ("off", "alrc")
        for seed in (0, 1)
    }
    together = run_job(Job(specs), tmp_path / "together")
    for name, spec in specs.items():
        alone = run_job(Job({name: spec}), tmp_path / "alone")[name]
        assert together[name]["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)
