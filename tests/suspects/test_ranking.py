"""Suspects are ranked as an oracle ranks them, from logs that Watch wrote."""

import csv
import io
import math
import random
import tracemalloc
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from alrc.integrations.loggers import Watch
from alrc.integrations.spikes import Spike, Table, csv_lines
from alrc.integrations.visits import Visit, VisitLog, visits_beside
from alrc.suspects import Suspect, rank_suspects, write_csv
from alrc.torch import ALRC

LIMIT = 4.0
STILL = {"num_stddev": 3, "mu1_start": 1.0, "mu2_start": 2.0, "decay": 1 - 1e-12}


def examples() -> dict[str, list[float]]:
    """All losses of each example: some are bad more often, some harder, some are not finite."""
    order = random.Random(1)
    made = {}
    for i in range(40):
        bad = order.choice([0.0, 0.0, 0.2, 0.5, 1.0])
        visits = order.randrange(1, 12)
        losses = [5.0 + order.expovariate(0.1) if order.random() < bad else 1.0] * visits
        losses = [x if order.random() < 0.9 else 1.0 for x in losses]
        made[f"{i}.png"] = [math.nan if order.random() < 0.03 else x for x in losses]
    return made


def watch_all(path: Path, made: dict[str, list[float]], **watching: int) -> None:
    """As many calls as need be, each with a loss of each example that has one left."""
    alrc = ALRC(**STILL, scale="linear")
    with Watch(alrc, spikes=path, every=5, **watching) as watch:
        for call in range(max(map(len, made.values()))):
            present = {key: x[call] for key, x in made.items() if call < len(x)}
            watch.name_next([*present])
            alrc(torch.tensor([*present.values()], dtype=torch.float64))


def expected(made: dict[str, list[float]], by: str) -> list[tuple[str, int, int, int]]:
    """By exact shares, then by how many are not finite, then by factors; or by factors first."""

    def badness(item: tuple[str, list[float]]) -> tuple[float | Fraction, ...]:
        broken, limited = counts(item[1])
        share, left = Fraction(broken + limited, len(item[1])), factor(made, item[0])
        return (-share, -broken, left) if by == "share" else (left, -share)

    found = {key: x for key, x in made.items() if sum(counts(x))}
    ranked = sorted(found.items(), key=badness)
    return [(key, len(x), *reversed(counts(x))) for key, x in ranked]


def factor(made: dict[str, list[float]], key: str) -> float:
    hardest = min(LIMIT / x for losses in made.values() for x in losses if x > LIMIT)
    factors = [hardest if math.isnan(x) else min(1.0, LIMIT / x) for x in made[key]]
    return math.prod(factors) ** (1 / len(factors))


def counts(losses: list[float]) -> tuple[int, int]:
    """Those that are not finite, and those that are limited."""
    return sum(map(math.isnan, losses)), sum(x > LIMIT for x in losses)


@pytest.mark.parametrize("by", ["factor", "share"])
def test_examples_are_ranked_by_how_often_and_how_hard_they_were_limited(tmp_path, by) -> None:
    made = examples()
    watch_all(tmp_path / "spikes.csv", made)
    ranking = rank_suspects([tmp_path / "spikes.csv"], by=by)
    right = expected(made, by)
    assert [suspect[:4] for suspect in ranking.suspects] == right
    assert ranking.visits == sum(map(len, made.values()))
    assert ranking.limited == sum(x[2] for x in right)
    assert ranking.nonfinite == sum(x[3] for x in right) > 0
    assert ranking.notes == ()
    for suspect in ranking.suspects:
        assert suspect.factor == pytest.approx(factor(made, suspect.key), rel=1e-6)
        assert suspect.share == (suspect.limited + suspect.nonfinite) / suspect.visits
    # The test tells this order from others that one could think of.
    by_number = sorted(right, key=lambda x: -x[2] - x[3])
    shares = [(x[2] + x[3]) / x[1] for x in right]
    other = expected(made, {"factor": "share", "share": "factor"}[by])
    assert by_number != right != other
    assert len(set(shares)) < len(shares)


def test_logs_of_all_ranks_and_of_several_runs_are_one(tmp_path, monkeypatch) -> None:
    made = examples()
    parts: list[dict[str, list[float]]] = [{}, {}, {}]
    for i, (key, losses) in enumerate(made.items()):
        for part, some in zip(parts, (losses[:3], losses[3:6], losses[6:]), strict=True):
            if some and (part is not parts[0] or i % 2 or len(losses) > 3):
                part[key] = some
    whole = {key: [x for part in parts for x in part.get(key, [])] for key in made}
    whole = {key: losses for key, losses in whole.items() if losses}
    watch_all(tmp_path / "spikes.csv", parts[0])
    watch_all(tmp_path / "other.csv", parts[2])
    monkeypatch.setattr("alrc.integrations.loggers._rank", lambda: 1)
    watch_all(tmp_path / "spikes.csv", parts[1])
    ranking = rank_suspects([tmp_path / "spikes.csv", tmp_path / "other.csv"])
    assert [suspect[:4] for suspect in ranking.suspects] == expected(whole, "factor")
    # A shell's * names the files of other ranks, and the logs of visits, as well.
    assert len([*tmp_path.iterdir()]) == 6
    again = rank_suspects(sorted(tmp_path.iterdir()))
    assert sorted(again.suspects) == sorted(ranking.suspects)


def write(path: Path, spikes: list[Spike], visits: list[Visit]) -> None:
    Table("test", path).append(Spike._fields, 0, csv_lines(spikes))
    if visits:
        rows = csv_lines([step, losses, *keys] for step, losses, keys in visits)
        VisitLog(visits_beside(path)).append(0, rows)


def limited(key: str, factor: float, step: int = 0) -> Spike:
    return Spike(step, 0, 0, key, None, 4 / factor, 4.0, factor)


def test_losses_that_a_lower_limit_raised_are_no_suspects(tmp_path) -> None:
    raised = Spike(0, 0, 1, "easy", None, 0.1, 0.5, 5.0)
    write(tmp_path / "s.csv", [limited("bad", 0.5), raised], [Visit(0, 1, ["bad", "easy"])])
    ranking = rank_suspects([tmp_path / "s.csv"])
    assert ranking.suspects == [Suspect("bad", 1, 1, 0, 1.0, 0.5)]
    assert ranking.notes == (
        "Losses that a lower limit raised do not count here: 1.",
        "Of 1 examples, 1 had a single visit: their share is 1, and only the factor ranks them. "
        "Several passes over the data tell more.",
    )


def test_names_without_a_log_of_visits_are_refused_in_words(tmp_path) -> None:
    """Of one rank among two as well: by the visits of the other, its shares would be wrong."""
    path, other = tmp_path / "s.csv", tmp_path / "s-rank1.csv"
    write(path, [limited("a", 0.1)], [Visit(0, 1, ["a", "b"])])
    write(other, [limited("a", 0.1)], [])
    with pytest.raises(FileNotFoundError) as error:
        rank_suspects([path])
    assert str(error.value) == (
        "suspects: beside a spike log must be its log of visits, because it says how often each "
        f"example was seen; {tmp_path / 's-rank1-visits.csv.gz'} does not exist. Copy it from "
        "where the run wrote both, or let this version of Watch log another run."
    )


def test_a_rank_that_named_nothing_needs_no_log_of_visits(tmp_path) -> None:
    write(tmp_path / "s.csv", [limited("a", 0.5)], [Visit(0, 2, ["a", "b"])])
    write(tmp_path / "s-rank1.csv", [limited("", 0.5)], [])
    ranking = rank_suspects([tmp_path / "s.csv"])
    assert [(x.key, x.share) for x in ranking.suspects] == [("a", 0.5)]
    assert ranking.notes == ("Rows of the spike logs that name no example were left out: 1.",)


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_spike_log_whose_last_line_was_cut_short_is_read_as_far_as_it_is_whole(
    tmp_path, cut
) -> None:
    path = tmp_path / "s.csv"
    rows = [limited("a", 0.5), limited("b", 0.25, 1), limited("b", 0.25, 2)]
    write(path, rows, [Visit(step, 1, ["a", "b", "c"]) for step in range(4)])
    whole = path.read_bytes()
    last = len(whole) - whole.rindex(b"\n", 0, -1) - 1
    path.write_bytes(whole[: len(whole) - cut * last // 41] if cut else whole)
    ranking = rank_suspects([path])
    found = [(x.key, x.limited, x.visits) for x in ranking.suspects]
    assert found == [("b", 1 if cut else 2, 4), ("a", 1, 4)]


def test_rows_without_a_name_are_counted_and_left_out(tmp_path) -> None:
    visits = [Visit(0, 3, ["a"])]
    write(tmp_path / "s.csv", [limited("", 0.1), limited("a", 0.5), limited("", 0.1, 1)], visits)
    ranking = rank_suspects([tmp_path / "s.csv"])
    assert [x.key for x in ranking.suspects] == ["a"]
    assert ranking.notes == ("Rows of the spike logs that name no example were left out: 2.",)


def test_a_log_of_visits_that_is_behind_makes_no_share_above_1(tmp_path) -> None:
    spikes = [limited("a", 0.5, step) for step in range(3)]
    write(tmp_path / "s.csv", spikes, [Visit(0, 1, ["a"]), Visit(1, 1, ["a"])])
    ranking = rank_suspects([tmp_path / "s.csv"])
    assert ranking.suspects == [Suspect("a", 3, 3, 0, 1.0, pytest.approx(0.5))]
    assert ranking.notes == (
        "Examples that were limited more often than the log of visits has them, because it is "
        "behind while a run goes on: 1. Their share was set to 1.",
    )


def test_examples_with_too_few_visits_are_left_out_and_counted(tmp_path) -> None:
    visits = [Visit(0, 1, ["a", "b"]), Visit(1, 3, ["b"])]
    write(tmp_path / "s.csv", [limited("a", 0.5), limited("b", 0.5)], visits)
    ranking = rank_suspects([tmp_path / "s.csv"], min_visits=4)
    assert [(x.key, x.share) for x in ranking.suspects] == [("b", 0.25)]
    assert ranking.notes == ("Examples with fewer than 4 visits were left out: 1.",)


def test_another_order_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^suspects: ") as error:
        rank_suspects([tmp_path / "s.csv"], by="loss")
    assert str(error.value) == (
        "suspects: by must be factor (how often and how hard) or share (how often); got loss. "
        'Pass by="factor".'
    )


def test_what_is_no_log_of_named_examples_is_refused_in_words(tmp_path) -> None:
    nowhere, unnamed, other = (tmp_path / name for name in ("no.csv", "unnamed.csv", "other.csv"))
    write(unnamed, [limited("", 0.5)], [])
    other.write_text("step,loss\n1,2\n")
    just_begun, empty, factor = (tmp_path / f"{name}.csv" for name in ("begun", "empty", "factor"))
    write(just_begun, [], [])
    empty.touch()
    write(factor, [limited("a", 0.5)._replace(factor=0.0)], [Visit(0, 1, ["a"])])
    half = tmp_path / "half.csv"
    half.write_text(",".join(Spike._fields) + "\n0,0,0,a,,8.0,4.0,0.5\n1,0,0,a,,eight,4.0,0.5\n")
    visits = tmp_path / "half-visits.csv.gz"
    refusals = {
        nowhere: f"there must be a spike log; got {nowhere}, which does not exist. Pass what Watch "
        "was given as spikes.",
        **{
            path: f"the examples must have names, because these are what is ranked; {path} names "
            "none. Call watch.name_next(keys) before each call of ALRC, with an index or a file "
            "name for each loss."
            for path in (unnamed, just_begun, empty)
        },
        factor: f"{factor} must be a spike log, as a Watch writes it; line 2 can't be read: a "
        "factor is above 0, not 0.0. Remove that line, or pass another path.",
        other: f"{other} must have the columns step, rank, index, key, group, loss, limit, factor; "
        "it has step, loss. Pass another path.",
        half: f"{half} must be a spike log, as a Watch writes it; line 3 can't be read: could not "
        "convert string to float: 'eight'. Remove that line, or pass another path.",
        visits: "there must be a spike log, because it says which losses were limited; got "
        f"{visits}. Pass what Watch was given as spikes.",
    }
    for path, words in refusals.items():
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            rank_suspects([path])
        assert str(error.value) == f"suspects: {words}"


def test_memory_does_not_grow_with_the_number_of_visits(tmp_path) -> None:
    def peak(calls: int) -> int:
        path = tmp_path / f"{calls}.csv"
        keys = [str(i) for i in range(50)]
        spikes = [limited(keys[call % 9], 0.5, call) for call in range(calls)]
        write(path, spikes, [Visit(call, 1, keys) for call in range(calls)])
        del spikes
        tracemalloc.start()
        ranking = rank_suspects([path])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert ranking.visits == 50 * calls
        return most

    peak(10)  # what is loaded once
    assert peak(10_000) < 1.5 * peak(1_000)


def test_a_csv_file_has_a_row_for_each_suspect() -> None:
    file = io.StringIO()
    write_csv([Suspect('a,"b"', 3, 1, 1, 2 / 3, 0.1), Suspect("c", 1, 1, 0, 1.0, 0.5)], file)
    rows = [*csv.DictReader(io.StringIO(file.getvalue()))]
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert (rows[0]["key"], float(rows[0]["share"]), rows[1]["visits"]) == ('a,"b"', 2 / 3, "1")
