"""The picture shows each loss, each limit and all that was found: read off its artists."""

import math
import os
import struct
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from alrc.replay.curve import Curve
from alrc.replay.picture import draw, figure
from alrc.replay.replay import replay


def noisy(size=500, seed=0):
    return 2 + 0.1 * np.random.default_rng(seed).normal(size=size)


def seen(losses, name="run.log", **others):
    curve = Curve(name, "train/loss", np.asarray(losses, dtype=np.float64), **others)
    return curve, replay(curve)


def panel(*found):
    return figure(found).axes[0]


def line(axes, label):
    return next(one for one in axes.lines if one.get_label().startswith(label))


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_each_row_of_a_short_curve_is_where_its_step_and_loss_are():
    losses = noisy()
    curve, found = seen(losses, steps=np.arange(500) * 10 + 7)
    axes = panel((curve, found))
    x, y = line(axes, "loss").get_data()
    assert x.tolist() == [10 * row + 7 for row in range(500)]
    assert y.tolist() == losses.tolist()
    assert axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "train/loss"


def test_rows_are_counted_where_a_log_has_no_steps():
    axes = panel(seen(noisy()))
    assert line(axes, "loss").get_xdata().tolist() == list(range(500))
    assert axes.get_xlabel() == "row"


def test_rows_are_counted_where_steps_come_again_and_each_run_has_its_line():
    steps = np.concatenate((np.arange(200), np.arange(150, 450)))
    axes = panel(seen(noisy(), steps=steps, starts=(0, 200)))
    assert axes.get_xlabel() == "row (steps begin anew, or come again)"
    (lines,) = (one for one in axes.collections if isinstance(one, LineCollection))
    assert [segment[:, 0].tolist() for segment in lines.get_segments()] == [[199.5, 199.5]]
    assert "restart" in words(axes)


def test_one_spike_in_a_hundred_thousand_rows_is_drawn_limited_shaded_and_named():
    losses = noisy(100_000)
    losses[61_803] = 9.0
    axes = panel(seen(losses))
    x, y = line(axes, "loss").get_data()
    assert len(x) < 10_000
    assert (x[np.nanargmax(y)], np.nanmax(y)) == (61_803, 9.0)
    x, y = line(axes, "limited").get_data()
    assert (61_803, 9.0) in zip(x.tolist(), y.tolist(), strict=True)
    (shade,) = (one for one in axes.collections if isinstance(one, PolyCollection))
    (box,) = shade.get_paths()
    assert (box.vertices[:, 0].min(), box.vertices[:, 0].max()) == (61_802.5, 61_803.5)
    assert "isolated spikes" in words(axes)


def test_the_limit_is_that_of_the_rule_and_what_exceeds_it_is_marked():
    losses = noisy()
    losses[[100, 300]] = 5.0, 7.0
    curve, found = seen(losses)
    axes = panel((curve, found))
    limit = line(axes, "limit").get_ydata()
    assert np.isnan(limit[:10]).all()  # there is none yet
    assert limit[10:].tolist() == found.limits.upper[10:].tolist()
    over = [row for row in range(10, 500) if losses[row] > limit[row]]
    x, y = line(axes, "limited").get_data()
    assert x.tolist() == over
    assert y.tolist() == [losses[row] for row in over]
    assert line(axes, "limited").get_label() == f"limited: {len(over)} of 500"


def test_losses_that_are_not_finite_are_marked_at_the_top():
    losses = noisy()
    losses[[50, 51, 200]] = math.nan, math.nan, math.inf
    axes = panel(seen(losses))
    marks = line(axes, "NaN")
    x, y = marks.get_data()
    assert x[np.isfinite(y)].tolist() == [50, 51, 200]
    assert set(y[np.isfinite(y)]) == {0.985}
    assert marks.get_transform() == axes.get_xaxis_transform()
    assert marks.get_label() == "NaN: 2, inf: 1"
    assert np.isnan(line(axes, "loss").get_ydata()[[50, 51, 200]]).all()


def test_on_a_logarithmic_axis_losses_that_are_not_above_0_are_marked_at_the_bottom():
    losses = noisy() * np.geomspace(100, 0.1, 500)
    losses[400] = 0.0
    axes = panel(seen(losses))
    assert axes.get_yscale() == "log"
    x, y = line(axes, "not above 0").get_data()
    assert x[np.isfinite(y)].tolist() == [400]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        (noisy(), "linear"),
        (noisy() - 2, "linear"),
        (noisy() * np.geomspace(1, 20, 500), "log"),
        (np.full(500, 3.0), "linear"),
        (np.append(noisy(), 1e307), "log"),
        (np.append(noisy() - 2, [1e300, -1e300]), "linear"),
    ],
)
def test_the_axis_is_logarithmic_where_losses_are_above_0_and_span_a_decade(losses, scale):
    axes = panel(seen(losses))
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < min(losses)
    assert high > max(losses)


def test_the_title_is_the_verdict_and_names_are_no_markup():
    name = "$x_1$\n<b>\x07 {curly} 損失.log"
    curve, found = seen(noisy(), name)
    axes = panel((curve, found))
    assert axes.get_title(loc="left").replace("\n", " ") == found.verdict.sentence
    assert "$x_1$ <b> {curly} 損失.log: 500 losses" in words(axes)


def test_each_log_has_a_panel(tmp_path):
    drawn = figure([seen(noisy(seed=seed), f"{seed}.log") for seed in range(3)])
    shown = [axes for axes in drawn.axes if axes.axison]
    assert [words(axes)[-1] for axes in shown] == [f"{seed}.log: 500 losses" for seed in range(3)]


def test_a_png_is_written_and_nothing_else_is_changed(tmp_path):
    before = dict(matplotlib.rcParams)
    draw([seen(noisy(), "損失 \udcff.log")], tmp_path / "curve.png")
    assert dict(matplotlib.rcParams) == before
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    content = (tmp_path / "curve.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (1020, 528)


def test_a_spike_is_seen_in_the_pixels(tmp_path):
    """In the columns of the spike there is the loss's blue high above where it is elsewhere."""
    losses = noisy(50_000)
    losses[25_000] = 9.0
    draw([seen(losses)], tmp_path / "curve.png")
    pixels = matplotlib.image.imread(tmp_path / "curve.png")[:, :, :3]
    blue = (pixels[:, :, 2] > 0.6) & (pixels[:, :, 0] < 0.35)
    heights = [int(column.argmax()) for column in blue.T if column.any()]  # of the highest one
    assert sorted(heights)[0] < sorted(heights)[len(heights) // 2] - 150
    assert all(a <= b for a, b in pairwise(sorted(heights)))


def test_the_picture_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "curve.png").write_bytes(b"before")
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        draw([seen(noisy())], tmp_path / "curve.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert (tmp_path / "curve.png").read_bytes() == b"before"


def test_a_picture_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be") as refusal:
        draw([], tmp_path / "curve.png")
    assert str(refusal.value) == (
        "replay: there must be a curve to draw, because each gets a panel; got none. Pass "
        "[(curve, replay(curve))]."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_written_where_a_system_opens_no_folders(tmp_path, monkeypatch):
    def denied(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    windows = SimpleNamespace(**(vars(os) | {"name": "nt", "open": denied}))
    monkeypatch.setattr("alrc.files.os", windows)
    draw([seen(noisy())], tmp_path / "curve.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_a_title_that_is_too_long_is_cut_off_after_three_lines():
    curve, found = seen(noisy())
    words = " ".join(f"word{number}" for number in range(100))
    finding = replace(found.verdict.findings[0], sentence=words)
    verdict = replace(found.verdict, findings=(finding,))
    title = panel((curve, replace(found, verdict=verdict))).get_title(loc="left")
    assert title.count("\n") == 2
    assert title.endswith(" ...")
    assert words.startswith(title.removesuffix(" ...").replace("\n", " "))
