"""The rule that chooses defaults: for each clause a case in which it changes the choice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_benchmarks import ERROR, NATS, Made, fabricate, pair

from alrc.lab.report.benchmark.choosing import CANDIDATES, GROUPS, TOLERANCE
from alrc.lab.report.benchmark.decision import Decision, decide
from alrc.lab.report.benchmark.effects import DIVERGED, LARGEST, Effects
from alrc.lab.report.benchmark.reading import read_bench

PAPER, FAST, DIRTY, LOG = "alrc", "alrc recency=4", "alrc num_stddev=1", "alrc-log num_stddev=2"
GAINS = {PAPER: -0.1, FAST: -0.6, DIRTY: -0.9, LOG: -0.3}
NONE = dict.fromkeys(GAINS, 0.0)
CALM = 0.005  # noise of calm workloads: +1 % is resolved by 20 seeds


def decided(folder: Path, *pairs: Sequence[Made]) -> Decision:
    made = [made for pair in pairs for made in pair]
    return decide(Effects(read_bench(fabricate(folder, made))))


def workloads(gains: Mapping[str, float] = GAINS, calm: Mapping[str, float] = NONE) -> list[Made]:
    return pair(Made("a", gains), calm, noise=CALM)


def test_candidates_are_those_of_the_rule() -> None:
    assert len(CANDIDATES) == 24
    assert {"alrc", "alrc num_stddev=6 recency=10", "alrc-log", "alrc-log num_stddev=1.5"} <= set(
        CANDIDATES
    )


def test_the_rule_in_words_has_the_numbers_of_the_code() -> None:
    file = Path(__file__).parents[2] / "docs/benchmark/benchmark-rule.md"
    words = " ".join(file.read_text(encoding="utf-8").split())
    assert f"counts as {DIVERGED:g} times worse" in words
    assert f"more than a factor of {LARGEST:g}." in words
    assert f"at or below +{100 * math.expm1(TOLERANCE):.0f} %" in words
    for group in GROUPS.values():
        assert f"{', '.join(group[:-1])} and {group[-1]} alone" in words
    for name, values in (("num_stddev", "{1, 2, 3, 4, 6}"), ("recency", "{1, 2, 4, 10}")):
        assert f"`{name}` in {values}" in words
        told = {getattr(c, name) for c in CANDIDATES.values() if not c.log}
        assert values == "{" + ", ".join(f"{x:g}" for x in sorted(told)) + "}"


def test_ii_the_largest_gain_is_chosen(tmp_path: Path) -> None:
    d = decided(tmp_path, workloads())
    assert d.default.label == DIRTY
    assert d.default.admissible == (DIRTY, FAST, LOG, PAPER)


def test_i_what_harms_calm_training_is_not_admissible(tmp_path: Path) -> None:
    d = decided(tmp_path, workloads(calm=NONE | {DIRTY: 0.03}))
    assert d.default.label == FAST
    assert DIRTY in d.default.refused


def test_i_what_is_only_not_shown_to_be_harmless_is_not_admissible(tmp_path: Path) -> None:
    d = decided(tmp_path, pair(Made("a", GAINS), NONE, noise=0.1))
    assert d.default.fallback
    assert d.default.label == PAPER
    assert all(why.startswith("calm regression may cost +") for why in d.default.refused.values())


def test_i_one_calm_workload_that_is_harmed_is_enough(tmp_path: Path) -> None:
    fine = [replace(workloads()[1], name=f"calm-{i}", same=list(GAINS)) for i in range(9)]
    d = decided(tmp_path, workloads(calm=NONE | {DIRTY: 0.03}), fine)
    assert d.default.refused == {
        DIRTY: "a-calm costs more than 1 % of its first metric for certain"
    }


def test_i_the_second_metric_counts_in_classification_alone(tmp_path: Path) -> None:
    two = (ERROR, NATS)
    own = [
        replace(made, metrics=two, second={DIRTY: 0.05}, family="classification")
        for made in workloads()
    ]
    (tmp_path / "c").mkdir()
    (tmp_path / "r").mkdir()
    assert decided(tmp_path / "c", own).default.label == FAST
    regression = [replace(made, family="regression") for made in own]
    assert decided(tmp_path / "r", regression).default.label == DIRTY


def test_i_where_seeds_differ_too_much_what_is_not_shown_to_harm_is_admissible(
    tmp_path: Path,
) -> None:
    for name, harm, chosen in (("noise", -0.04, DIRTY), ("harm", 0.2, FAST)):
        own = [
            replace(made, family="control")
            for made in pair(Made("a", GAINS), NONE | {DIRTY: harm}, noise=0.1)
        ]
        (tmp_path / name).mkdir()
        d = decided(tmp_path / name, own)
        assert d.default.label == chosen, d.default.refused
    assert d.default.refused[DIRTY].startswith("calm control costs +")


def test_i_what_diverges_more_often_on_calm_data_is_not_admissible(tmp_path: Path) -> None:
    broken, calm = workloads(calm=NONE | {DIRTY: -0.9})
    lost = {DIRTY: [3]}
    d = decided(tmp_path, [broken, replace(calm, lost=lost)])
    assert d.default.refused == {DIRTY: "it diverges more often than plain training on a-calm"}
    both = tmp_path / "both"
    both.mkdir()
    d = decided(both, [broken, replace(calm, lost=lost | {"off": [5]})])
    assert d.default.label == DIRTY


def test_i_what_was_not_run_everywhere_is_not_admissible(tmp_path: Path) -> None:
    hard = Made("hard", {k: v for k, v in GAINS.items() if k != DIRTY}, part="other")
    d = decided(tmp_path, workloads(), [hard])
    assert d.default.label == FAST
    assert d.default.refused == {DIRTY: "it was not run on hard"}


def test_i_a_family_without_calm_workloads_admits_nothing(tmp_path: Path) -> None:
    d = decided(tmp_path, workloads(), [Made("text", GAINS, family="language", part="text")])
    assert d.default.fallback
    assert d.default.refused[DIRTY] == "there is no calm workload of language to judge it by"


def test_i_what_loses_more_in_traps_than_it_gains_is_not_admissible(tmp_path: Path) -> None:
    trap = Made("rare", NONE | {DIRTY: 1.2, FAST: 0.4}, kind="trap", part="other")
    d = decided(tmp_path, workloads(), [trap])
    assert d.default.label == FAST
    assert d.default.refused == {
        DIRTY: "it loses more on the traps, for certain, than it gains where something breaks"
    }


def test_iii_the_simplest_from_which_the_best_is_not_resolved_is_chosen(tmp_path: Path) -> None:
    close = GAINS | {FAST: -0.601, DIRTY: -0.602, PAPER: -0.3}
    d = decided(tmp_path, pair(Made("a", close, noise=0.1), NONE, noise=CALM))
    assert d.default.label == FAST
    assert {d.default.best, d.default.label} <= {FAST, DIRTY}


def test_iii_is_paired_so_that_what_seeds_do_to_both_is_no_noise(tmp_path: Path) -> None:
    # Levels of seeds differ by 30 %: unpaired, 2 % would not be resolved and FAST would be chosen.
    close = GAINS | {FAST: -0.88, DIRTY: -0.90}
    d = decided(tmp_path, pair(Made("a", close, noise=0.01), NONE, noise=CALM))
    assert d.default.label == DIRTY


@pytest.mark.parametrize("chosen", [FAST, DIRTY])
def test_parts_weigh_alike_however_many_workloads_they_have(tmp_path: Path, chosen: str) -> None:
    many = [Made(f"m{i}", {FAST: -0.6, DIRTY: -0.5}, part="many") for i in range(5)]
    few = Made("f", {FAST: 0.0, DIRTY: -0.05 if chosen == FAST else -0.2}, part="few")
    calm = Made("calm", {}, kind="calm", part="many", noise=CALM)
    d = decided(tmp_path, many, [few, replace(calm, effects={FAST: 0.0, DIRTY: 0.0})])
    assert d.default.label == chosen


def test_iv_families_that_want_different_settings_get_two(tmp_path: Path) -> None:
    text = Made("text", GAINS | {DIRTY: -0.2}, part="text", family="language")
    d = decided(tmp_path, workloads(), pair(text, NONE | {DIRTY: 0.05}, noise=CALM))
    assert d.default.label == FAST  # admissible everywhere
    assert d.recommended == {"regression-like": DIRTY, "cross-entropy-like": FAST}


def test_iv_a_choice_that_gains_nothing_more_is_not_recommended(tmp_path: Path) -> None:
    same = dict.fromkeys(GAINS, -0.5)
    text = Made("text", same, part="text", family="language", noise=0.1)
    d = decided(tmp_path, workloads(), pair(text, NONE, noise=CALM))
    assert d.by_group["cross-entropy-like"].label != d.default.label == DIRTY
    assert d.recommended == {"regression-like": DIRTY, "cross-entropy-like": DIRTY}


def test_iv_a_group_in_which_the_default_is_not_admissible_gets_its_own_choice(
    tmp_path: Path,
) -> None:
    loud = workloads(GAINS | {FAST: -1.5}, NONE | {DIRTY: 0.05})
    quiet = GAINS | {FAST: -0.2, DIRTY: -0.2, LOG: -0.2}
    text = pair(Made("text", quiet, part="text", family="language"), NONE, noise=CALM)
    trap = replace(text[0], name="rare", kind="trap", effects=NONE | {FAST: 0.5})
    d = decided(tmp_path, loud, [*text, trap])
    assert d.default.label == FAST
    assert d.recommended == {"regression-like": FAST, "cross-entropy-like": DIRTY}


def test_v_each_half_chooses_and_the_other_half_tells(tmp_path: Path) -> None:
    # On even seeds FAST diverges where it would be best, on odd ones DIRTY: neither half is right.
    lost = {FAST: range(1, 20, 2), DIRTY: range(0, 20, 2)}
    d = decided(tmp_path, pair(Made("a", GAINS, lost=lost), NONE, noise=CALM))
    (even, even_gain), (odd, odd_gain) = d.halves["even"], d.halves["odd"]
    assert (even, odd) == (FAST, DIRTY)
    gains = [gain.value for gain in (even_gain, odd_gain, d.quoted) if gain is not None]
    assert len(gains) == 3
    assert min(gains) > 2  # as bad as it gets
    assert gains[2] == pytest.approx((gains[0] + gains[1]) / 2)
    assert not d.primary.shown
    assert not any(level.counts for level in d.secondary.values())


def test_v_a_real_gain_is_shown_and_hands_its_level_on(tmp_path: Path) -> None:
    d = decided(tmp_path, workloads())
    assert d.primary.shown
    assert d.secondary["a"].shown
    assert d.secondary["a"].level == 0.05


def test_vi_log_goes_into_the_core_only_if_it_beats_linear(tmp_path: Path) -> None:
    d = decided(tmp_path, workloads())
    assert (d.best_linear, d.best_log, d.log_in_core) == (DIRTY, LOG, False)
    (tmp_path / "b").mkdir()
    d = decided(tmp_path / "b", workloads(GAINS | {LOG: -1.1}))
    assert (d.default.label, d.log_in_core) == (LOG, True)
    (tmp_path / "c").mkdir()
    d = decided(tmp_path / "c", workloads(GAINS | {LOG: -1.1}, NONE | {LOG: 0.05}))
    assert (d.default.label, d.best_log, d.log_in_core) == (DIRTY, None, False)


def test_vi_log_has_to_beat_linear_by_what_is_resolved(tmp_path: Path) -> None:
    close = GAINS | {LOG: -0.91}
    d = decided(tmp_path, pair(Made("a", close, noise=0.2), NONE, noise=CALM))
    assert d.log_over_linear is not None
    assert d.log_over_linear.interval[0] < 0 < d.log_over_linear.interval[1]
    assert not d.log_in_core


def test_a_choice_that_rests_on_one_part_is_told(tmp_path: Path) -> None:
    other = pair(Made("b", GAINS | {DIRTY: -0.2}, part="other"), NONE, noise=CALM)
    loud = workloads(GAINS | {DIRTY: -2.0})
    assert decided(tmp_path, loud, other).without == {"other": DIRTY, "targets": FAST}


def test_what_beats_the_paper_everywhere_is_told_from_what_does_not(tmp_path: Path) -> None:
    d = decided(tmp_path, workloads())
    assert d.over_paper is not None
    assert d.over_paper.interval[1] < 0
    assert d.beaten_by_paper == ()
    (tmp_path / "b").mkdir()
    trap = Made("rare", NONE | {DIRTY: 0.3}, kind="trap", part="other")
    assert decided(tmp_path / "b", workloads(), [trap]).beaten_by_paper == ("rare",)
