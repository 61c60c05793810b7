"""The tasks partial-stem and stem-supersampling: losses, schedules, memory, phases, completion."""

import math
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from typer.testing import CliRunner

from alrc.lab.api import Training
from alrc.lab.cli.commands import app
from alrc.lab.data.order import uniforms
from alrc.lab.data.stem import paths
from alrc.lab.engine.checks import check_task
from alrc.lab.engine.finished import open_run
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.tasks.stem import partial_stem
from alrc.lab.tasks.stem.hard_examples import HardExamples
from alrc.lab.tasks.stem.judging import scores
from alrc.lab.tasks.stem.losses import block_losses, staircase
from alrc.lab.tasks.stem.partial_stem import PartialStem
from alrc.lab.tasks.stem.stem_supersampling import StemSupersampling

SMALL = {"size": "XS", "side": 32}


def first_batch(task: PartialStem | StemSupersampling, batch_size: int = 1) -> tuple:
    return next(task.batches(0, batch_size, 0))


@pytest.mark.parametrize(
    "task",
    [
        "partial-stem size=XS side=32",
        "partial-stem size=XS side=32 path=infill spiral_side=64 block=8 damaged=0.5",
        "partial-stem size=XS side=32 hard_examples=true adversarial=true",
        "stem-supersampling side=32 width=8 damaged=0.5",
    ],
)
def test_the_tasks_keep_what_the_engine_relies_on(task: str) -> None:
    check_task(task, steps=12)


def test_losses_of_blocks_are_means_over_their_pixels_and_of_the_image_over_them() -> None:
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(2, 3, 12, 8))
    for power in (2, 4):
        ours = block_losses(torch.tensor(images), torch.tensor(targets), power, block=4)
        expected = [
            [
                200
                * np.mean(
                    (images[k, r : r + 4, c : c + 4] - targets[k, r : r + 4, c : c + 4]) ** power
                )
                for r in (0, 4, 8)
                for c in (0, 4)
            ]
            for k in range(3)
        ]
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)
        whole = block_losses(torch.tensor(images), torch.tensor(targets), power)
        np.testing.assert_allclose(whole.numpy(), np.mean(expected, axis=1), rtol=1e-12)


def test_the_learning_rate_falls_in_eight_steps_in_each_stage() -> None:
    """For 1,000,000 steps: 3e-4 to 250,000, down to 3.75e-5; 1e-4 from 500,000 on, and down."""
    for step, rate in {
        0: 3e-4,
        249_999: 3e-4,
        281_249: 3e-4,
        281_250: 3e-4 * 7 / 8,
        312_500: 3e-4 * 6 / 8,
        499_999: 3.75e-5,
        500_000: 1e-4,
        749_999: 1e-4,
        781_250: 1e-4 * 7 / 8,
        999_999: 1.25e-5,
    }.items():
        assert 3e-4 * staircase(step, 1_000_000) == pytest.approx(rate, rel=1e-12), step


def rates(task: PartialStem | StemSupersampling, steps: int) -> dict[str, list[float]]:
    """What the optimizers of a run have at each of its steps."""
    training = Training(steps=steps, learning_rate=3e-4)
    networks = task.build(0)
    optimizers = task.optimizers(networks, training)
    schedules = task.schedules(optimizers, training)
    seen: dict[str, list[float]] = {phase: [] for phase in optimizers}
    for step in range(steps):
        for phase in task.phases(step, training):
            seen[phase].append(optimizers[phase].param_groups[0]["lr"])
            optimizers[phase].step()
            schedules[phase].step()
    return seen


def test_a_run_of_one_stage_has_the_first_half_of_the_schedule() -> None:
    seen = rates(PartialStem(**SMALL), 16)
    expected = [3e-4] * 9 + [3e-4 * (1 - j / 8) for j in range(1, 8)]
    assert seen == {"step": pytest.approx(expected)}


def test_a_run_of_two_stages_has_all_of_it_and_discriminators_a_third() -> None:
    seen = rates(PartialStem(**SMALL, adversarial=True), 32)
    stage = [1.0] * 9 + [1 - j / 8 for j in range(1, 8)]
    assert seen["step"] == pytest.approx([3e-4 * x for x in stage])
    assert seen["refine"] == pytest.approx([1e-4 * x for x in stage])
    assert seen["discriminate"] == pytest.approx([1e-4] * 16)


def test_supersampling_halves_its_rate_twice_and_freezes_half_way() -> None:
    seen = rates(StemSupersampling(side=32, width=8), 16)
    assert seen["step"] == pytest.approx([3e-4] * 2 + [1.5e-4] * 2 + [7.5e-5] * 4)
    assert seen["frozen"] == pytest.approx([7.5e-5] * 8)
    training = Training(steps=16)
    task = StemSupersampling(side=32, width=8)
    optimizers = task.optimizers(task.build(0), training)
    (schedule,) = set(task.schedules(optimizers, training).values())
    betas = []
    for _ in range(16):
        betas.append(optimizers["step"].param_groups[0]["betas"][0])
        optimizers["step"].step()
        schedule.step()
    assert betas == [0.9] * 8 + [0.5] * 8


def test_frozen_steps_leave_the_statistics_of_normalisation_and_train_the_rest() -> None:
    task = StemSupersampling(side=32, width=8)
    networks, batch = task.build(0), first_batch(StemSupersampling(side=32, width=8), 4)
    task.step(networks, batch)
    network = networks["network"]
    before = {n: b.clone() for n, b in network.named_buffers()}
    outcome = task.frozen(networks, batch)
    assert all(torch.equal(b, before[n]) for n, b in network.named_buffers())
    outcome.losses["loss"].mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_weight_decay_is_half_the_sum_of_squares_of_all_that_is_trained() -> None:
    task = StemSupersampling(side=32, width=8)
    networks = task.build(0)
    squares = sum(float((p.detach().double() ** 2).sum()) for p in networks["network"].parameters())
    (decay,) = task.step(networks, first_batch(task, 2)).unlimited.values()
    assert decay.item() == pytest.approx(1e-5 * squares / 2, rel=1e-5)


def test_supersampling_sees_every_fifth_pixel_and_is_scaled_by_what_it_sees() -> None:
    crops = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs, targets = StemSupersampling(side=32, width=8).pairs(crops)
    for crop, seen, target in zip(crops.numpy(), inputs.numpy(), targets.numpy(), strict=True):
        grid = crop[1::5, 1::5]  # (32 mod 5) // 2 is 1
        centre, half = (grid.max() + grid.min()) / 2, (grid.max() - grid.min()) / 2
        np.testing.assert_allclose(seen, (grid - centre) / half, atol=1e-6)
        kernel = np.exp(-0.5 * (np.arange(-1, 2) / 1.5) ** 2)
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        blurred = ndimage.correlate((crop - centre) / half, kernel, mode="mirror")
        np.testing.assert_allclose(target, blurred, atol=1e-5)


def test_supersampling_is_scaled_by_the_crop_where_visited_pixels_are_nearly_alike() -> None:
    crop = torch.zeros(1, 32, 32)
    crop[0, 2, 2] = 10.0  # between those that are visited
    crop[0, 1, 1] = 0.1
    inputs, targets = StemSupersampling(side=32, width=8).pairs(crop)
    torch.testing.assert_close(inputs.max(), torch.tensor(0.05 / 0.25))
    assert targets.max() < 10 / 0.25


def test_both_losses_are_beside_blurred_targets_at_their_sizes() -> None:
    task = PartialStem(**SMALL, block=8)
    networks, batch = task.build(0), first_batch(task)
    inputs, target, *_ = batch
    inner, outer = networks["generator"](inputs)
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 2.5) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    whole = target[0].numpy()
    outcome = task.step(networks, batch)
    for name, made, truth in (("inner", inner, whole[::2, ::2]), ("outer", outer, whole)):
        blurred = ndimage.correlate(truth, kernel, mode="mirror")
        expected = 200 * np.mean((made[0].detach().numpy() - blurred) ** 2)
        assert outcome.losses[name].shape == (1, (truth.shape[0] // 8) ** 2)
        assert outcome.losses[name].mean().item() == pytest.approx(expected, rel=1e-4)
    assert outcome.logged["squared error"].shape == (1,)


def test_the_adversary_s_loss_reaches_the_generator_and_the_discriminators_theirs() -> None:
    task = PartialStem(**SMALL, adversarial=True)
    networks, batch = task.build(0), first_batch(task)
    apart = task.discriminate(networks, batch).unlimited
    task.combine("discriminate", apart).backward()
    assert all(p.grad is None for p in networks["generator"].parameters())
    assert all(p.grad is not None for p in networks["adversary"].parameters())
    refined = task.refine(networks, batch)
    assert set(refined.losses) == {"inner", "together"}
    refined.unlimited["adversarial"].backward()
    graded = {n for n, p in networks["generator"].named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in graded} == {"inner", "enter", "leave"}


def test_a_perfect_judge_costs_a_generator_that_is_found_out_1_for_each_scale() -> None:
    task = PartialStem(**SMALL, adversarial=True)
    networks, batch = task.build(0), first_batch(task)
    networks["adversary"].forward = lambda images, random: torch.zeros(2, len(images))
    assert task.refine(networks, batch).unlimited["adversarial"] == 2
    apart = task.discriminate(networks, batch).unlimited
    assert [x.item() for x in apart.values()] == [1, 1]  # true ones are not known as such


def by_hand(losses: list[float], random: np.ndarray) -> list[tuple[int | None, float]]:
    """The rules of the buffer in plain Python: which slot each step stores in, and the limit."""
    mean, square, share, limit, told = 1.5, 4.0, 0.2, 0.0, []
    for seen, (loss, (first, _, last)) in enumerate(zip(losses, random.tolist(), strict=True)):
        is_old = first < 0.2 and seen >= 50
        kept = not is_old and (seen < 50 or loss > limit)
        slot = seen if seen < 50 else min(int(last * 50), 49)
        mean, square = 0.99 * mean + 0.01 * loss, 0.99 * square + 0.01 * loss**2
        share = 0.99 * share + 0.01 * kept
        stddev = math.sqrt(max(square - mean**2, 0))
        limit = 0.99 * limit + 0.01 * (mean + (-5 if share < 0.2 else 5) * stddev)
        told.append((slot if kept else None, limit))
    return told


def test_the_memory_keeps_and_shows_examples_by_the_original_s_rules() -> None:
    rng = np.random.default_rng(0)
    random = rng.random((400, 3)).astype(np.float32)
    losses = rng.lognormal(size=400).astype(np.float32)
    memory, slots = HardExamples([(2,)]), np.zeros((50, 2), np.float32)
    for step, (slot, limit) in enumerate(by_hand(losses.tolist(), random)):
        fresh = torch.full((1, 2), float(step + 1))
        (example,), is_old = memory.recall([fresh], torch.from_numpy(random[step]))
        if step >= 50 and random[step, 0] < 0.2:
            expected = slots[min(int(random[step, 1] * 50), 49)]
            assert is_old
            np.testing.assert_array_equal(example[0].numpy(), expected)
        else:
            assert not is_old
            assert torch.equal(example, fresh)
        memory.learn([example], is_old, torch.tensor(losses[step]), torch.from_numpy(random[step]))
        if slot is not None:
            slots[slot] = step + 1
        np.testing.assert_array_equal(memory.slots[0].numpy(), slots)
        assert memory.limit.item() == pytest.approx(limit, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_the_memory_learns_nothing_from_losses_that_are_not_finite(loss: float) -> None:
    memory = HardExamples([(2,)])
    random = torch.full((3,), 0.5)
    for number in range(60):
        memory.learn(
            [torch.full((1, 2), 1.0)], torch.tensor(False), torch.tensor(1.0 + number), random
        )
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    memory.learn([torch.full((1, 2), 9.0)], torch.tensor(False), torch.tensor(loss), random)
    after = memory.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_scores_are_those_of_their_formulas() -> None:
    rng = np.random.default_rng(0)
    truths = rng.uniform(-1, 1, (3, 16, 16)).astype(np.float32)
    images = truths + rng.normal(0, 0.1, truths.shape).astype(np.float32)
    found = scores(torch.from_numpy(images), torch.from_numpy(truths))
    squares = np.mean((images.astype(float) - truths) ** 2, axis=(1, 2))
    assert found["held-out error"] == pytest.approx(200 * squares.mean())
    assert found["held-out PSNR"] == pytest.approx(np.mean(10 * np.log10(4 / squares)))
    assert 0.9 < found["held-out SSIM"] < 1
    same = scores(torch.from_numpy(truths), torch.from_numpy(truths) * 1)
    assert same["held-out SSIM"] == pytest.approx(1)


def test_pieces_of_a_whole_scan_s_spiral_are_seen_where_one_is_asked_for() -> None:
    task = PartialStem(**SMALL, spiral_side=96)
    whole = paths.dwell(paths.spiral(96, 0.05))
    masks = {tuple(batch[0][0, 1].flatten().tolist()) for batch in islice(task.batches(0, 1), 20)}
    assert len(masks) > 15
    windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32)).reshape(-1, 32 * 32)
    every = {tuple(window.tolist()) for window in windows}
    assert masks <= every
    alone = islice(PartialStem(**SMALL).batches(0, 1), 5)
    assert len({tuple(batch[0][0, 1].flatten().tolist()) for batch in alone}) == 1


@pytest.mark.parametrize(("path", "share"), [("infill", 0.0453), ("dwell", 0.1746)])
def test_the_share_that_is_visited_is_that_of_the_whole_spiral(path, share) -> None:
    """Those of the original's files: its mask has a mean of 0.0453, its scans are 82.54 % zeros."""
    assert PartialStem(spiral_side=512, path=path).visited == pytest.approx(share, abs=5e-5)


def test_networks_complete_what_they_were_trained_with_from_values_alone() -> None:
    """A scan of the training data, given as a file would, is the input of training again."""
    for options in ({"path": "infill"}, {"path": "dwell"}):
        task = PartialStem(**SMALL, **options)
        networks, batch = task.build(0), first_batch(task)
        inputs = batch[0]
        mask = task.masks(np.zeros((1, 2), np.float32))
        scan = inputs[:, 0]
        there = scan[mask > 0]
        values = torch.where(mask > 0, (scan - there.min()) / (there.max() - there.min()), 0.0)
        seen = []
        networks["generator"].register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        completed = task.complete(networks, values, mask)
        assert completed.shape == (1, 32, 32)
        (given,) = seen
        assert given.shape == inputs.shape
        on_path = (mask > 0)[0].numpy()
        ours, theirs = (x[0, 0].numpy() for x in (given, inputs))
        if options["path"] == "dwell":
            # The range of the path alone is taken for that of the whole image.
            assert np.corrcoef(ours[on_path], theirs[on_path])[0, 1] > 0.999
            assert abs(ours - theirs).max() < 0.3
            assert (ours[~on_path] == 0).all()
            assert torch.equal(given[:, 1], inputs[:, 1])
        else:  # gaps are filled from the same pixels
            np.testing.assert_array_equal(ours, theirs)


def test_the_command_completes_a_scan_as_the_task_does_in_the_units_of_the_scan(
    tmp_path: Path,
) -> None:
    options = {**SMALL, "path": "infill", "average": 1}
    task = Named("task", "partial-stem", tuple(options.items()))
    run_job(Job({"run": Spec(task, Named("arm", "off"), Training(10), 0)}), tmp_path)
    mask = paths.spiral(32, 0.05)
    scan = np.random.default_rng(0).uniform(500, 900, (32, 32)).astype(np.float32)
    tifffile.imwrite(tmp_path / "scan.tif", np.where(mask > 0, scan, 0))
    names = {"--checkpoint": "run", "--scan": "scan.tif", "--out": "whole.tif"}
    words = [w for option, name in names.items() for w in (option, str(tmp_path / name))]
    result = CliRunner().invoke(app, ["lab", "complete", *words])
    assert result.exit_code == 0, result.output
    partial_stem, networks = open_run(tmp_path / "run", "partial-stem")
    least, most = scan[mask > 0].min(), scan[mask > 0].max()
    values = np.where(mask > 0, (scan - least) / (most - least), 0)[None].astype(np.float32)
    with torch.no_grad():
        alone = partial_stem.complete(networks, *map(torch.from_numpy, (values, mask[None])))[0]
    expected = (alone.numpy() + 1) / 2 * (most - least) + least
    np.testing.assert_allclose(tifffile.imread(tmp_path / "whole.tif"), expected, rtol=1e-4)


def test_a_sharp_scan_is_learned_in_the_range_of_its_visited_pixels() -> None:
    """Whoever completes one knows no other; what was never visited may lie beyond."""
    task = PartialStem(**SMALL, path="infill", spiral_side=64)
    beyond = 0
    for inputs, targets, *_ in islice(task.batches(0, 1), 10):
        visited = inputs[0, 0].numpy()
        target = targets[0].numpy()
        ranges = [
            (target[mask > 0].min(), target[mask > 0].max())
            for mask in np.lib.stride_tricks.sliding_window_view(
                paths.spiral(64, 0.05), (32, 32)
            ).reshape(-1, 32, 32)
            if np.allclose(target[mask > 0], 2 * visited[mask > 0] - 1, atol=1e-5)
        ]
        assert ranges  # the path is there
        assert ranges[0] == pytest.approx((-1, 1), abs=1e-5)
        beyond += bool(abs(target).max() > 1.001)
    assert beyond


def test_what_is_learned_in_another_range_is_judged_in_that_of_the_truth() -> None:
    task = PartialStem(**SMALL, path="infill", spiral_side=64)
    _, targets, _, _ = held_out = partial_stem._held_out(task)
    masks = task.masks(uniforms(partial_stem.HELD_OUT_SEED, 0, len(targets), 2, partial_stem.PLACE))
    answers = []
    for target, mask in zip(targets.numpy(), masks.numpy(), strict=True):
        there = target[mask > 0]
        answers.append((target - there.min()) / (there.max() - there.min()) * 2 - 1)
    told = iter(torch.split(paths.blur(torch.from_numpy(np.stack(answers))), 16))

    class Knowing(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> tuple[None, torch.Tensor]:
            return None, next(told)

    assert len(held_out[0]) > 16
    found = task.evaluate({"generator": Knowing(1, 1)})
    assert found["held-out error"] == pytest.approx(0, abs=1e-6)


def test_a_network_of_times_refuses_a_mask_that_says_only_where() -> None:
    task = PartialStem(**SMALL)
    message = (
        "this network was trained with the time that the beam was at each pixel (path = dwell), "
        "and the mask says only where it was. Pass --mask with a file of times, or a run that was "
        "trained with --path infill."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        task.complete(task.build(0), torch.rand(1, 32, 32), torch.ones(1, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"side": 40},
            "PartialStem: side must be a multiple of 16, because networks of size S halve it so "
            "often; got 40. Pass 32.",
        ),
        (
            {"block": 12},
            "PartialStem: block must divide half of the side, because losses are of whole blocks "
            "at both sizes; got 12 and a side of 64.",
        ),
        (
            {"spiral_side": 48},
            "PartialStem: spiral_side is that of whole scans, so it must be at least side, 64; got "
            "48. Leave it out if they are as large.",
        ),
        (
            {"spiral_side": 512, "coverage": 0.01},
            "PartialStem: side must be at least 1 / coverage, because turns of a spiral are as far "
            "apart, and an example between two of them shows nothing; got a side of 64 and a "
            "coverage of 0.01. Pass a larger side or coverage.",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PartialStem(**options)


def test_hard_examples_are_shown_one_by_one() -> None:
    task = PartialStem(**SMALL, hard_examples=True)
    message = (
        "PartialStem: batch_size must be 1 with hard_examples, which are shown again one by one; "
        "got 4. Leave out one of them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        task.optimizers(task.build(0), Training(10, batch_size=4))


def test_damaged_examples_are_as_many_as_asked_for_and_held_out_tiles_never_are() -> None:
    clean, broken = (PartialStem(**SMALL, damaged=share) for share in (0.0, 0.25))
    pairs = zip(islice(clean.batches(1, 8), 40), islice(broken.batches(1, 8), 40), strict=True)
    changed = sum(int((a[1] != b[1]).flatten(1).any(1).sum()) for a, b in pairs)
    assert 45 < changed < 115  # of 320; 80 on average
    assert clean.baselines() == broken.baselines()
