"""The statistics of a benchmark, against SciPy and by hand."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from fabricated_benchmarks import ERROR, Made, fabricate
from scipy import stats

from alrc.lab.engine.files import Damaged
from alrc.lab.report.benchmark.compact import Workload
from alrc.lab.report.benchmark.effects import Effects, Estimate, pooled
from alrc.lab.report.benchmark.reading import read_bench
from alrc.lab.report.benchmark.summaries import summaries

PSNR = {"name": "held-out PSNR", "unit": "dB", "better": "higher"}


def values(workload: Workload, arm: str, which: str = "first") -> np.ndarray:
    return np.array([getattr(workload.runs[arm][s], which) for s in workload.seeds])


def only(folder: Path, made: Made) -> tuple[Effects, Workload]:
    bench = read_bench(fabricate(folder, [made]))
    return Effects(bench), bench.workloads[0]


@pytest.fixture
def two_parts(tmp_path: Path) -> Effects:
    made = [
        Made("a", {"alrc": -0.5}, part="one", noise=0.2),
        Made("b", {"alrc": -0.1}, part="one", noise=0.3),
        Made("c", {"alrc": 0.2}, part="two", noise=0.1, seeds=10),
    ]
    return Effects(read_bench(fabricate(tmp_path, made)))


def test_a_change_is_the_paired_mean_of_logarithms_with_its_t_interval(tmp_path: Path) -> None:
    effects, w = only(tmp_path, Made("w", {"alrc": -0.3}, noise=0.1))
    d = np.log(values(w, "alrc") / values(w, "off"))
    t = stats.ttest_rel(np.log(values(w, "alrc")), np.log(values(w, "off")))
    found = effects.effect(w, "alrc").estimate
    assert found.value == pytest.approx(d.mean())
    assert found.interval == pytest.approx(tuple(t.confidence_interval(0.95)))
    assert found.p == pytest.approx(t.pvalue)
    # Unpaired it would be wider, because a seed does the same to both.
    apart = stats.ttest_ind(np.log(values(w, "alrc")), np.log(values(w, "off")))
    assert found.interval[1] < apart.confidence_interval(0.95).high - 0.05


def test_higher_is_better_turns_the_sign(tmp_path: Path) -> None:
    metric = {"name": "accuracy", "unit": "", "better": "higher"}
    effects, w = only(tmp_path, Made("w", {"alrc": 0.3}, metrics=(metric,)))
    assert effects.effect(w, "alrc").estimate.value == pytest.approx(-0.3, abs=0.05)


def test_log_likelihoods_are_compared_by_magnitude(tmp_path: Path) -> None:
    metric = {"name": "log-likelihood", "unit": "nats", "better": "higher"}
    effects, w = only(tmp_path, Made("w", {"alrc": 0.3}, metrics=(metric,), level=-1.0))
    assert values(w, "off").max() < 0
    assert effects.effect(w, "alrc").estimate.value == pytest.approx(0.3, abs=0.05)


def test_identical_runs_have_an_interval_of_no_width(tmp_path: Path) -> None:
    effects, w = only(tmp_path, Made("w", {"alrc": 0.0}, seeds=2, same=["alrc"]))
    effect = effects.effect(w, "alrc")
    assert effect.identical
    assert effect.estimate.interval == (0.0, 0.0)


def test_a_run_that_diverged_counts_as_ten_times_worse_and_is_never_dropped(tmp_path: Path) -> None:
    made = Made("w", {"alrc": -0.3, "zclip": -0.3}, lost={"alrc": [0, 1, 2], "off": [2, 3]})
    effects, w = only(tmp_path, made)
    effect = effects.effect(w, "alrc")
    d = np.log(values(w, "alrc") / values(w, "off"))
    d[[0, 1, 2, 3]] = math.log(10), math.log(10), 0, -math.log(10)
    assert len(effect.differences) == 20
    assert effect.estimate.value == pytest.approx(d.mean())
    assert (effect.after, effect.before, effect.both) == (2, 1, 1)
    assert effect.p_diverged == pytest.approx(stats.binomtest(1, 3).pvalue)
    assert effect.diverges_more
    assert not effects.effect(w, "zclip").diverges_more


def test_a_run_that_is_marked_as_diverged_counts_so_whatever_its_value(tmp_path: Path) -> None:
    fabricate(tmp_path, [Made("w", {"alrc": -5.0})])
    table = tmp_path / "targets.csv"
    lines = table.read_text().splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("w,alrc,,7,"))
    cells = lines[row].split(",")
    cells[6] = "1"
    table.write_text("\n".join([*lines[:row], ",".join(cells), *lines[row + 1 :]]) + "\n")
    bench = read_bench(tmp_path)
    differences = Effects(bench).effect(bench.workloads[0], "alrc").differences
    assert differences[7] == pytest.approx(math.log(10))
    assert min(differences.values()) == pytest.approx(-math.log(100))  # none counts as more


def test_an_error_of_zero_counts_as_half_the_smallest_other(tmp_path: Path) -> None:
    fabricate(tmp_path, [Made("w", {"alrc": 0.0}, seeds=2)])
    table = tmp_path / "targets.csv"
    lines = table.read_text().splitlines()
    for i, value in ((1, "0.02"), (2, "0.01"), (3, "0"), (4, "0.01")):
        cells = lines[i].split(",")
        cells[4] = value
        lines[i] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n")
    bench = read_bench(tmp_path)
    found = Effects(bench).effect(bench.workloads[0], "alrc").differences
    assert found == pytest.approx({0: math.log(0.005 / 0.02), 1: 0.0})


def test_decibels_are_differences_of_pairs_in_which_neither_diverged(tmp_path: Path) -> None:
    made = Made(
        "w", {"alrc": -0.3}, second={"alrc": 0.2}, metrics=(ERROR, PSNR), lost={"alrc": [4]}
    )
    effects, w = only(tmp_path, made)
    effect = effects.effect(w, "alrc", "second")
    d = np.delete(values(w, "off", "second") - values(w, "alrc", "second"), 4)
    assert not effect.ratios
    assert effect.estimate.value == pytest.approx(d.mean())
    assert effects.pooled("alrc", [w], "second") is None


def test_a_first_metric_of_both_signs_is_refused_in_words(tmp_path: Path) -> None:
    fabricate(tmp_path, [Made("w", {"alrc": 0.0}, seeds=2)])
    table = tmp_path / "targets.csv"
    first, line, *rest = table.read_text().splitlines()
    cells = line.split(",")
    table.write_text("\n".join([first, ",".join([*cells[:4], "-1", *cells[5:]]), *rest]) + "\n")
    bench = read_bench(tmp_path)
    with pytest.raises(Damaged) as refusal:
        Effects(bench).effect(bench.workloads[0], "alrc")
    assert str(refusal.value) == (
        "targets.csv: first of w (held-out error) must have one sign, because changes are ratios; "
        "there are values of both. Put a metric that has ratios first in its task."
    )


def test_means_weigh_parts_alike_with_an_error_clustered_by_seed(two_parts: Effects) -> None:
    a, b, c = (np.log(values(w, "alrc") / values(w, "off")) for w in two_parts.bench.workloads)
    found = two_parts.pooled("alrc", two_parts.bench.workloads)
    assert found is not None
    assert found.value == pytest.approx(((a + b) / 2).mean() / 2 + c.mean() / 2)
    # Seeds 0 to 9 move all three workloads, 10 to 19 the first two.
    one = ((a + b) / 2 - (a + b).mean() / 2) / 2 / math.sqrt(20 * 19)
    one[:10] += (c - c.mean()) / 2 / math.sqrt(10 * 9)
    assert found.error == pytest.approx(math.sqrt((one**2).sum()))
    assert found.freedom == 9


def test_the_mean_over_workloads_with_the_same_seeds_is_a_paired_test_of_their_means() -> None:
    rows = np.random.default_rng(0).normal(0.3, 1, (4, 20))
    each = [dict(enumerate(row)) for row in rows]
    t = stats.ttest_1samp((rows[0] + rows[1] + 2 * rows[2]) / 4, 0)
    found = pooled([each[:2], each[2:3]])
    assert found is not None
    assert found.interval == pytest.approx(tuple(t.confidence_interval(0.95)))
    assert found.p == pytest.approx(t.pvalue)


def test_two_arms_are_compared_pair_by_pair(tmp_path: Path) -> None:
    effects, w = only(tmp_path, Made("w", {"alrc": -0.3, "zclip": -0.2}, noise=0.1))
    t = stats.ttest_rel(np.log(values(w, "alrc")), np.log(values(w, "zclip")))
    found = effects.pooled("alrc", [w], against="zclip")
    assert found is not None
    assert found.interval == pytest.approx(tuple(t.confidence_interval(0.95)))


def test_workloads_with_no_seed_in_common_are_independent() -> None:
    rng = np.random.default_rng(0)
    many, few = dict(enumerate(rng.normal(0, 1, 20))), dict(enumerate(rng.normal(0, 1, 10), 20))
    errors = [np.std(list(d.values()), ddof=1) / math.sqrt(len(d)) for d in (many, few)]
    for parts in ([[many, few]], [[many], [few]]):
        found = pooled(parts)
        assert found is not None
        assert found.error == pytest.approx(math.hypot(*errors) / 2)
        assert found.freedom == 9


def test_pairs_too_few_to_have_an_error_have_an_interval_without_ends() -> None:
    assert Estimate.of([0.5, 0.5]).interval == (-math.inf, math.inf)
    assert Estimate.of([0.5]).interval == (-math.inf, math.inf)
    assert Estimate.of([-0.5] * 20).interval == (-0.5, -0.5)
    assert not Estimate.of([0.5, 0.5]).resolved


def test_the_worst_case_is_the_largest_upper_end_of_any_workload(two_parts: Effects) -> None:
    uppers = {
        w.name: stats.ttest_rel(np.log(values(w, "alrc")), np.log(values(w, "off")))
        .confidence_interval(0.95)
        .high
        for w in two_parts.bench.workloads
    }
    found = summaries(two_parts)["alrc"]
    assert found.worst == pytest.approx(max(uppers.values()))
    assert found.worst_at.name == max(uppers, key=uppers.__getitem__) == "c"


def test_regret_is_the_distance_from_the_best_arm_plain_training_included(tmp_path: Path) -> None:
    effects = {"alrc": -0.5, "zclip": -0.2}
    made = [
        Made("a", effects, part="one", noise=0),
        Made("b", {"alrc": 0.1, "zclip": 0.3}, part="two", noise=0),
    ]
    found = summaries(Effects(read_bench(fabricate(tmp_path, made))))
    told: Mapping[str, tuple[float, float, str]] = {
        name: (s.regret, s.regret_worst, s.regret_at.name) for name, s in found.items()
    }
    expected = {"off": (0.25, 0.5, "a"), "alrc": (0.05, 0.1, "b"), "zclip": (0.3, 0.3, "a")}
    for arm, (mean, worst, at) in expected.items():
        assert told[arm][:2] == pytest.approx((mean, worst), abs=1e-4)
        assert arm == "zclip" or told[arm][2] == at  # its two are equal to rounding
