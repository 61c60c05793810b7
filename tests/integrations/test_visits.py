"""The log of visits: which named examples each call had, however many losses of theirs count."""

import gzip
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from watching import START

from alrc.integrations.loggers import Watch, read_spikes
from alrc.integrations.spikes import csv_lines
from alrc.integrations.visits import Visit, VisitLog, is_visits, read_visits, visits_beside
from alrc.torch import ALRC


def logged(path: Path) -> Counter[tuple[int, str]]:
    """How many losses each example had in each call."""
    found = Counter[tuple[int, str]]()
    for step, losses, keys in read_visits(path):
        for key in keys:
            found[step, key] += losses
    return found


@pytest.mark.parametrize("every", [1, 4, 100])
@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_each_named_example_is_logged_with_each_of_its_calls(tmp_path, every, kind) -> None:
    alrc, expected = ALRC(**START), Counter[tuple[int, str]]()
    order = random.Random(0)
    with Watch(alrc, spikes=tmp_path / "spikes.csv", every=every) as watch:
        for step in range(10):
            keys = order.sample(range(20), 3)
            if step == 5:  # nothing names these
                alrc(torch.ones(3))
                continue
            watch.name_next(kind(keys))
            alrc(torch.tensor([1.0, 9.0, math.nan]))
            expected.update((step, str(key)) for key in keys)
    assert logged(tmp_path / "spikes-visits.csv.gz") == expected
    keys = {(spike.step, spike.key) for spike in read_spikes(tmp_path / "spikes.csv")}
    assert {key for key in keys if key[1]} <= expected.keys()


def test_only_losses_that_count_are_visits(tmp_path) -> None:
    """Of tokens: the mask leaves out some of a row, or all; NaN counts, as a broken one."""
    alrc = ALRC(**START)
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    losses = torch.ones(4, 3)
    losses[2, 1], losses[3, 0] = math.nan, math.nan
    with Watch(alrc, spikes=tmp_path / "spikes.csv") as watch:
        watch.name_next(["a", "b", "c", "d"])
        alrc(losses, mask)
        watch.name_next(["a", "b", "c", "c"])
        alrc(losses)
    first, second = {"a": 2, "c": 3, "d": 2}, {"a": 3, "b": 3, "c": 6}
    expected = {(i, key): n for i, x in enumerate((first, second)) for key, n in x.items()}
    assert logged(tmp_path / "spikes-visits.csv.gz") == expected


def test_a_named_call_of_which_no_loss_counts_is_no_visit_and_takes_no_place(tmp_path) -> None:
    path = tmp_path / "spikes-visits.csv.gz"
    with Watch(ALRC(**START), spikes=tmp_path / "spikes.csv", every=1) as watch:
        watch.name_next("ab")
        watch._alrc(torch.tensor([1.0, 2.0]))
        before = path.read_bytes()
        watch.name_next("cd")
        watch._alrc(torch.tensor([1.0, 2.0]), torch.tensor([False, False]))
        assert path.read_bytes() == before
    assert logged(path) == {(0, "a"): 1, (0, "b"): 1}


def test_without_names_there_is_no_log_of_visits(tmp_path) -> None:
    with Watch(ALRC(**START), spikes=tmp_path / "spikes.csv") as watch:
        watch._alrc(torch.tensor([1.0, 9.0]))
    assert [path.name for path in tmp_path.iterdir()] == ["spikes.csv"]


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_a_run_that_goes_on_replaces_later_rows_and_one_that_was_cut_short(tmp_path, cut) -> None:
    def run(folder: str, first: int, last: int) -> Path:
        alrc, path = ALRC(**START), tmp_path / folder / "spikes.csv"
        with Watch(alrc, spikes=path, every=4, step=first) as watch:
            for step in range(first, last):
                watch.name_next([f"{step}-{i}" for i in range(3)])
                alrc(torch.tensor([1.0, 9.0, 2.0]))
        return visits_beside(path)

    whole, parts = run("whole", 0, 20), run("parts", 0, 14)
    torn = gzip.compress("13,1,caf\N{LATIN SMALL LETTER E WITH ACUTE}\n".encode() * 9)
    with parts.open("ab") as file:
        file.write(torn[:-cut])
    assert {step for step, *_ in read_visits(parts)} >= set(range(14))  # of what is whole
    run("parts", 10, 20)
    assert [*read_visits(parts)] == [*read_visits(whole)]
    assert len([*read_visits(whole)]) == 20
    assert sorted(path.name for path in parts.parent.iterdir()) == [parts.name, "spikes.csv"]


NAMES = {
    "a,b": "a,b",
    'say "x"': 'say "x"',
    '"': '"',
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}/\N{SNOWMAN}.png": "caf\xe9/\u2603.png",
    " x ": " x ",
    "1e3": "1e3",
    "=1+1": "=1+1",
    "two\nlines": "two lines",
    "a\rb\u2028c\x0bd\x1ce\x85f": "a b c d e f",
    ("train", 3): "('train', 3)",
    7: "7",
    torch.tensor(8): "8",
    np.int64(9): "9",
    2.5: "2.5",
    None: "None",
    b"raw": "b'raw'",
}


def test_names_of_any_kind_come_back_as_text_from_both_logs(tmp_path) -> None:
    alrc, path = ALRC(**START), tmp_path / "new" / "spikes.csv"
    with Watch(alrc, spikes=path) as watch:
        for key in NAMES:  # alone as well: a name by itself may not be quoted for the others
            watch.name_next([key])
            alrc(torch.tensor([9.0]))
        watch.name_next([*NAMES])
        alrc(torch.full((len(NAMES),), 1e6))
    texts = [*NAMES.values()]
    alone = [Visit(step, 1, [text]) for step, text in enumerate(texts)]
    assert [*read_visits(visits_beside(path))] == [*alone, Visit(len(texts), 1, texts)]
    assert [spike.key for spike in read_spikes(path)] == [*texts, *texts]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_and_limits_come_back_to_the_last_bit(tmp_path, dtype) -> None:
    alrc = ALRC(3, 0.999, 1.0, 2.0, scale="linear").to(torch.float64)
    losses = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = (10 ** (6 * losses)).to(dtype)
    with Watch(alrc, spikes=tmp_path / "spikes.csv") as watch:
        watch.name_next(range(200))
        limited = alrc(losses)
    spikes = read_spikes(tmp_path / "spikes.csv")
    assert len(spikes) > 100
    for spike in spikes:
        found = torch.tensor([spike.loss, spike.limit], dtype=torch.float64).to(dtype)
        assert found.tolist() == [losses[spike.index].item(), limited[spike.index].item()]


def test_rows_of_numbers_are_named_by_all_of_them(tmp_path) -> None:
    alrc, path = ALRC(**START), tmp_path / "spikes.csv"
    with Watch(alrc, spikes=path) as watch:
        watch.name_next(torch.tensor([[1, 2], [3, 4]]))
        alrc(torch.tensor([[9.0, 9.0, 1.0], [1.0, 1.0, 9.0]]))
    assert [*read_visits(visits_beside(path))] == [Visit(0, 3, ["[1, 2]", "[3, 4]"])]
    assert [spike.key for spike in read_spikes(path)] == ["[1, 2]", "[1, 2]", "[3, 4]"]


def test_a_visit_of_one_of_100_000_examples_takes_less_than_4_bytes(tmp_path) -> None:
    order = random.Random(0)
    log = VisitLog(tmp_path / "x-visits.csv.gz")
    for call in range(0, 200, 100):
        rows = ([call + i, 1, *order.choices(range(10**5), k=64)] for i in range(100))
        log.append(call, csv_lines(rows))
    assert log.path.stat().st_size < 4 * 200 * 64


def test_a_damaged_log_is_refused_in_words(tmp_path) -> None:
    path = tmp_path / "spikes-visits.csv.gz"
    for damage, why in (
        (b"step,1,a\n", "Not a gzipped file (b'st')"),
        (gzip.compress(b"step,1,a\n"), "invalid literal for int() with base 10: 'step'"),
        (gzip.compress(b"3\n"), "not enough values to unpack (expected at least 2, got 1)"),
    ):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"^Watch: ") as error:
            [*read_visits(path)]
        assert str(error.value) == (
            f"Watch: {path} must be a log of visits, as a Watch writes it; it can't be read: "
            f"{why}. Remove it, or get it back from where it was copied."
        )


@pytest.mark.parametrize("name", ["spikes.csv", "spikes-rank3.csv", "log", "a.b.txt"])
def test_logs_of_visits_are_told_from_spike_logs_by_name(name: str) -> None:
    assert is_visits(visits_beside(Path(name)))
    assert not is_visits(Path(name))
