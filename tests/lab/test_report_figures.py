"""Figures of a report: what is drawn in them, read back from their axes."""

import json
import math
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fabricated_studies import NAN, PSNR, exploding, falling, png, write_pairs, write_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alrc.lab.report import curves, limiting, overview
from alrc.lab.report.drawing import BLOCKS, block_means, styles
from alrc.lab.report.markup import Image
from alrc.lab.report.report import write_report

Drawn = dict[str, Axes]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The axes of each figure, by its name."""
    found: Drawn = {}

    def image(figure: Figure, name: str, alt: str) -> Image:
        found[name] = figure.axes[0]
        return Image(f"figures/{name}.png", alt, png(0), "<svg></svg>")

    for module in (curves, limiting, overview):
        monkeypatch.setattr(module, "image", image)
    return found


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """Points of each curve, by its label."""
    return {str(line.get_label()): np.array(line.get_xydata()) for line in axes.lines}


def test_block_means_are_those_of_the_steps_in_which_a_loss_occurs() -> None:
    values = np.array([1.0, 3.0, math.nan, 5.0, math.nan, math.nan])
    steps, means = block_means(values)
    np.testing.assert_array_equal(steps, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(means, values)
    steps, means = block_means(np.repeat(np.arange(1.0, BLOCKS + 1), 3))
    np.testing.assert_array_equal(means, np.arange(1, BLOCKS + 1))
    np.testing.assert_array_equal(steps[:2], [2, 5])
    nan = np.full(2 * BLOCKS, math.nan)
    nan[::2], nan[:2] = 7, math.nan
    assert np.isnan(block_means(nan)[1][0])
    np.testing.assert_array_equal(block_means(nan)[1][1:], 7)


def test_a_curve_is_the_median_over_the_seeds_that_did_not_diverge(
    tmp_path: Path, drawn: Drawn
) -> None:
    for seed in range(3):
        write_run(tmp_path, "off", seed)
    write_run(tmp_path, "off", 3, losses={"loss": exploding(3, 101)}, diverged=NAN)
    write_report(tmp_path)
    axes = drawn["setting1-loss0"]
    expected = np.median([falling(seed).mean(axis=1) for seed in range(3)], axis=0)
    curve = lines(axes)["off (1 of 4 diverged)"]
    np.testing.assert_allclose(curve, np.stack([np.arange(1, 201), expected], 1), rtol=1e-6)
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(max(falling(s).mean(axis=1).max() for s in range(3)))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "loss, before limiting")
    assert axes.get_yscale() == "log"


def test_one_spike_does_not_rule_the_axis(tmp_path: Path, drawn: Drawn) -> None:
    for seed in range(5):
        losses = falling(seed)
        losses[150] *= 1 + 1e6 * (seed == 0)
        write_run(tmp_path, "off", seed, losses={"loss": losses})
    write_report(tmp_path)
    low, high = drawn["setting1-loss0"].get_ylim()
    assert high < 100
    line = lines(drawn["setting1-loss0"])["off"][40:, 1]
    assert low < line.min() < line.max() < high


def test_losses_that_may_be_negative_have_a_linear_axis(tmp_path: Path, drawn: Drawn) -> None:
    write_run(tmp_path, "off", losses={"loss": falling(0) - 2})
    write_report(tmp_path)
    assert drawn["setting1-loss0"].get_yscale() == "linear"


def test_a_loss_of_some_steps_alone_is_drawn_there(tmp_path: Path, drawn: Drawn) -> None:
    second = falling(0)
    second[:150] = math.nan
    write_run(tmp_path, "off", losses={"first": falling(0), "second": second})
    write_report(tmp_path)
    assert lines(drawn["setting1-loss1"])["off"][:, 0].min() == 151
    assert len(lines(drawn["setting1-loss0"])["off"]) == 200


def test_what_tasks_and_arms_log_is_drawn_by_its_name(tmp_path: Path, drawn: Drawn) -> None:
    norms = falling(0, size=1)[:, 0]
    write_run(tmp_path, "off", logged={"error": norms})
    write_run(tmp_path, "clip", logged={"error": 2 * norms}, arm_logged={"norm": 3 * norms})
    write_report(tmp_path)
    for name, label, expected in (
        ("setting1-logged0", "error", {"off": norms, "clip": 2 * norms}),
        ("setting1-arm0", "norm", {"clip": 3 * norms}),
    ):
        assert drawn[name].get_ylabel() == label
        curves = lines(drawn[name])
        assert curves.keys() == expected.keys()
        for arm, values in expected.items():
            np.testing.assert_allclose(curves[arm][:, 1], values, rtol=1e-6)


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path: Path, drawn: Drawn) -> None:
    write_run(tmp_path, "off")
    (tmp_path / "figures").mkdir()
    for name in ("setting7-loss0.png", "mine.png"):
        (tmp_path / "figures" / name).write_bytes(png(0))
    write_report(tmp_path)
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}.png" for name in (*drawn, "mine")}


def test_differences_are_of_pairs_of_a_seed(tmp_path: Path, drawn: Drawn) -> None:
    for seed, gain in enumerate((0.7, 0.8, 0.9)):
        write_run(tmp_path, "off", seed)
        write_run(tmp_path, "alrc", seed, limit=4.0, losses={"loss": falling(seed, scale=gain)})
    write_run(tmp_path, "alrc", 9, limit=4.0, losses={"loss": 100 * falling(9)})
    write_report(tmp_path)
    axes = drawn["setting1-difference0"]
    np.testing.assert_allclose(lines(axes)["alrc"][:, 1], -20, rtol=1e-4)
    assert axes.get_ylabel() == "loss: difference to off (%)"


def test_metrics_are_drawn_at_the_steps_of_all_evaluations(tmp_path: Path, drawn: Drawn) -> None:
    write_run(tmp_path, "off", 0, evaluations=[[100, 4.0], [200, 2.0]])
    write_run(tmp_path, "off", 1, evaluations=[[50, 9.0], [100, 6.0], [200, 4.0]])
    write_report(tmp_path)
    axes = drawn["setting1-metric1"]
    np.testing.assert_array_equal(lines(axes)["off"], [[100, 5], [200, 3]])
    assert axes.get_ylabel() == "held-out error"


def test_survival_falls_where_losses_cease_to_be_finite(tmp_path: Path, drawn: Drawn) -> None:
    words = "loss has a median of 9 over the last tenth, more than 3 times the 1 of the first"
    outcomes = (("loss is NaN or infinite in 12 of its last 20 steps", 51), (words, None))
    for seed, (diverged, step) in enumerate((*outcomes, (None, None), (None, None))):
        write_run(tmp_path, "off", seed, diverged=diverged, diverged_step=step)
    write_report(tmp_path)
    axes = drawn["setting1-survival"]
    np.testing.assert_array_equal(lines(axes)["off"], [[0, 100], [51, 75], [200, 50]])
    assert axes.get_ylabel() == "runs not yet diverged (%)"


def test_no_survival_is_drawn_where_nothing_diverged(tmp_path: Path, drawn: Drawn) -> None:
    write_run(tmp_path, "off")
    write_report(tmp_path)
    assert not any("survival" in name for name in drawn)


def test_limit_and_what_was_cut_off_are_drawn(tmp_path: Path, drawn: Drawn) -> None:
    write_run(tmp_path, "alrc", 0, limit=4.0)
    write_report(tmp_path)
    axes = drawn["setting1-arm0-loss0"]
    np.testing.assert_array_equal(
        lines(axes)["limit (median)"][10:], [[s, 4] for s in range(11, 201)]
    )
    left, cut = (c.get_paths()[0].vertices[:, 1] for c in axes.collections)
    assert left.max() == 4
    assert cut.max() == falling(0).max()
    assert left.min() == falling(0).min()


def test_histograms_hold_each_finite_loss_once_before_and_after(
    tmp_path: Path, drawn: Drawn
) -> None:
    write_run(tmp_path, "alrc", 0, limit=4.0)
    write_run(tmp_path, "alrc", 1, limit=4.0, losses={"loss": exploding(1, 191)}, diverged=NAN)
    write_report(tmp_path)
    axes = drawn["setting1-arm0-loss0-histogram"]
    finite = np.concatenate([falling(0).ravel(), falling(1)[:190].ravel()])
    before, after = (patch.get_data() for patch in axes.patches)
    expected, _ = np.histogram(finite, before.edges)
    np.testing.assert_array_equal(before.values, expected)
    assert after.values.sum() == finite.size == 780
    assert after.values[after.edges[:-1] > 4].sum() == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("loss", "number of losses")


def test_infinite_losses_are_cut_off_from_no_height(tmp_path: Path, drawn: Drawn) -> None:
    losses = falling(0)
    losses[50] = 99, math.inf
    write_run(tmp_path, "alrc", limit=4.0, losses={"loss": losses})
    write_report(tmp_path)
    _, cut = (c.get_paths()[0].vertices[:, 1] for c in drawn["setting1-arm0-loss0"].collections)
    assert cut.max() == 99


def test_a_batch_limited_as_one_loss_is_shown_by_its_mean(tmp_path: Path, drawn: Drawn) -> None:
    run = write_run(tmp_path, "alrc", limit=4.0)
    mean = falling(0).mean(axis=1)
    replace(run, "loss.limited", np.minimum(mean, np.float32(4)))
    write_report(tmp_path)
    left, cut = (c.get_paths()[0].vertices[:, 1] for c in drawn["setting1-arm0-loss0"].collections)
    assert (left.max(), cut.max()) == (4, mean.max())
    before, after = (p.get_data() for p in drawn["setting1-arm0-loss0-histogram"].patches)
    assert before.values.sum() == after.values.sum() == 200


def replace(run: Path, name: str, values: np.ndarray) -> None:
    """Stores another series in a run."""
    np.save(run / "series" / f"{name}.npy", values.astype("<f4"))
    result = json.loads((run / "result.json").read_text())
    crc = zlib.crc32(values.astype("<f4").tobytes())
    result["series"][name] |= {"shape": list(values.shape), "crc32": f"{crc:08x}"}
    (run / "result.json").write_text(json.dumps(result))


def test_a_forest_has_a_dot_for_each_pair(tmp_path: Path, drawn: Drawn) -> None:
    lost = math.nan
    write_pairs(
        tmp_path,
        {"off": lambda s: 2.0, "alrc": lambda s: 2.0 + s, "clip": lambda s: lost if s else 1.0},
        seeds=3,
    )
    write_report(tmp_path)
    axes = drawn["setting1-forest"]
    zero, dots, mean, interval, *rest = axes.lines
    np.testing.assert_allclose(dots.get_xdata(), [0, 50, 100], atol=1e-9)
    np.testing.assert_allclose(mean.get_xdata(), [100 * ((1 * 1.5 * 2) ** (1 / 3) - 1)])
    assert len(interval.get_xdata()) == 2
    np.testing.assert_allclose(rest[0].get_xdata(), [-50])
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["alrc", "clip\n† 2 of 3 diverged"]
    label = axes.figure.get_supxlabel()
    assert label.replace("\n", " ") == "held-out error: difference to off (%), left of 0 is better"
    assert zero.get_xdata() == [0, 0]
    assert not axes.yaxis.label.get_parse_math()  # a name with dollar signs is a name


def test_a_forest_has_arrows_for_what_is_too_far_to_be_told(tmp_path: Path, drawn: Drawn) -> None:
    write_pairs(tmp_path, {"off": lambda s: 1.0, "alrc": lambda s: 9.0**s / 3}, seeds=3)
    write_report(tmp_path)
    axes = drawn["setting1-forest"]
    arrows = [
        (line.get_marker(), *line.get_xdata()) for line in axes.lines if len(line.get_xdata())
    ]
    assert [arrow for arrow in arrows if arrow[0] in "<>"] == [(">", 1000.0)] * 2  # dot, interval
    assert axes.get_xlim()[1] < 1200


def test_a_forest_says_which_side_is_better(tmp_path: Path, drawn: Drawn) -> None:
    write_pairs(tmp_path, {"off": lambda s: 20.0, "alrc": lambda s: 21.0 + s}, 2, PSNR)
    write_report(tmp_path)
    label = drawn["setting1-forest"].figure.get_supxlabel()
    assert label == "PSNR: difference to off (dB), right of 0 is better"


def test_a_forest_names_whole_arms_which_may_differ_at_their_end(
    tmp_path: Path, drawn: Drawn
) -> None:
    longest = "alrc mu1_start=25 mu2_start=900 num_stddev=3"
    arms = ["clip", longest, f"{longest} decay=0.5", f"{longest} warmup=20"]
    write_pairs(tmp_path, {"off": lambda s: 2.0} | dict.fromkeys(arms, lambda s: 2.0 + s), seeds=2)
    write_report(tmp_path)
    axes = drawn["setting1-forest"]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert sorted(label.replace("\n", " ") for label in labels) == sorted(arms)
    axes.figure.draw_without_rendering()
    boxes = sorted(
        tuple(tick.get_window_extent().extents[[1, 3]]) for tick in axes.get_yticklabels()
    )
    assert all(low[1] < high[0] for low, high in pairwise(boxes))  # none lies upon another


def test_many_arms_are_told_apart_without_colours() -> None:
    arms = [f"alrc num_stddev={n}" for n in range(6)]
    found = styles(["off", *arms], ["off"])
    assert len({str(style["linestyle"]) for style in found.values()}) == 7
    assert len({style["color"] for style in found.values()}) == 7


def test_a_panel_has_the_best_arms_if_they_are_many(tmp_path: Path, drawn: Drawn) -> None:
    write_run(tmp_path, "off", metrics={"held-out error": 5.0})
    for n in range(1, 9):
        write_run(tmp_path, f"alrc num_stddev={n}", metrics={"held-out error": 9.0 - n}, limit=4.0)
    write_report(tmp_path)
    assert list(lines(drawn["setting1-loss0"])) == [
        "off",
        *(f"alrc num_stddev={n}" for n in range(3, 9)),
    ]
    assert (
        "A panel shows the baseline and the 6 arms whose median of the primary metric is best; "
        "all are in the tables."
    ) in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_settings_without_figures_are_told(tmp_path: Path, drawn: Drawn) -> None:
    for batch in range(1, 15):
        write_run(tmp_path, "off", training={"batch_size": batch}, losses={"loss": falling(0)})
    write_report(tmp_path)
    assert ("Figures are drawn of the first 12 of 14 settings; the tables have them all.") in (
        tmp_path / "report.md"
    ).read_text(encoding="utf-8")
    assert "setting12-loss0" in drawn
    assert "setting13-loss0" not in drawn
