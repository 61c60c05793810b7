"""Figures: what they show, and that a file is whole or not there."""

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import skimage.io
from matplotlib.figure import Figure

from alrc.lab.engine.training import Run, RunConfig
from alrc.lab.report.figures import draw_comparison, moving_mean, save


def make_run(num_stddev: float | None = None, scale: float = 1.0) -> Run:
    losses = scale * np.random.default_rng(0).exponential(size=(100, 2)).astype(np.float32)
    limits = np.full(100, np.inf, np.float32)
    if num_stddev is not None:
        limits[10:] = 2
    config = RunConfig(100, 2, num_stddev=num_stddev)
    return Run(config, losses, limits, np.fmin(losses, limits[:, None]), np.zeros(1))


def test_moving_mean_is_the_mean_of_each_window() -> None:
    values = np.random.default_rng(0).normal(size=20).astype(np.float32)
    expected = [np.mean(values[i : i + 6].astype(float)) for i in range(15)]
    np.testing.assert_allclose(moving_mean(values, 6), expected, rtol=1e-12)


def test_every_clipped_loss_is_a_point_at_its_unclipped_value() -> None:
    plain, alrc = make_run(), make_run(3.0, scale=1.5)
    axes = draw_comparison(plain, alrc, "title", "label").axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    step, example = np.nonzero(alrc.clipped)
    assert len(step) > 10
    name = f"cut off by ALRC: {len(step)} losses ({len(step) / 200:.1%})"
    points = np.stack([step + 1, alrc.losses[step, example]], 1)
    np.testing.assert_array_equal(lines[name], points)
    np.testing.assert_array_equal(lines["limit set by ALRC"][:, 1], alrc.limits)
    for label, run in (("plain", plain), ("with ALRC", alrc)):
        curve = lines[f"{label}, mean over 5"]
        np.testing.assert_array_equal(curve[:, 0], np.arange(3, 99))  # middles of the windows
        np.testing.assert_array_equal(curve[:, 1], moving_mean(run.errors, 5))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == (
        "iteration",
        "label",
        "log",
    )


def test_a_run_that_diverged_and_one_never_clipped_are_drawn(tmp_path: Path) -> None:
    plain, alrc = make_run(), make_run()
    plain.losses[40:60] = np.inf
    plain.losses[60:] = np.nan
    save(draw_comparison(plain, alrc, "title", "label"), tmp_path / "figure.png")
    assert skimage.io.imread(tmp_path / "figure.png").ndim == 3


def test_save_writes_a_png_wide_enough_to_read(tmp_path: Path) -> None:
    save(draw_comparison(make_run(), make_run(3.0), "title", "label"), tmp_path / "figure.png")
    height, width, _ = skimage.io.imread(tmp_path / "figure.png").shape
    assert (width, height) == (1350, 750)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("before", [None, b"an older figure"])
def test_nothing_half_written_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    path = tmp_path / "figure.png"
    if before is not None:
        path.write_bytes(before)

    def break_off(figure: Figure, part: Path, **options: object) -> NoReturn:
        Path(part).write_bytes(b"half a fig")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(OSError, match="disk full"):
        save(Figure(), path)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == ({} if before is None else {"figure.png": before})
