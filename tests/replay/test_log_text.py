"""Encodings, spellings of numbers, and logs that come piece by piece."""

import codecs
import gzip
import io
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alrc.replay.logs import LogReader, LogRefused, delimited, read_log
from alrc.replay.logs.cells import number
from alrc.replay.logs.delimited import DelimitedReader, layout_of

LINES = [f"step {step} | loss {3 - step / 40:.3f} | norm 1.{step:03d}" for step in range(40)]
LOSSES = [float(f"{3 - step / 40:.3f}") for step in range(40)]
TEXT = "\n".join(LINES) + "\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.removesuffix("\n").encode(),
        gzip.compress(TEXT.encode()),
        "é\n".encode("latin-1") + TEXT.encode(),
        TEXT.replace("loss", "\x1b[32mloss\x1b[0m").encode(),
        TEXT.replace("step", "0/9\x08\x08\x08step").encode(),
    ],
    ids=[
        *("utf-8", "bom", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "crlf", "cr"),
        *("no newline", "gzip", "latin-1", "colours", "backspaces"),
    ],
)
def test_a_log_is_read_in_whatever_encoding_and_with_whatever_line_ends(tmp_path, data):
    (tmp_path / "log").write_bytes(data)
    curve = read_log(tmp_path / "log")
    assert curve.losses.tolist() == LOSSES
    assert curve.steps.tolist() == list(range(40))
    assert curve.gradient_norm[1] == 1.001


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    curve = read_log("-")
    assert (curve.name, curve.losses.tolist()) == ("standard input", LOSSES)


SPELLINGS = {
    "1,234.5": 1234.5,
    "12,345,678": 12345678.0,
    " 2e-3 ": 0.002,
    '"0.5"': 0.5,
    ".5": 0.5,
    "5.": 5.0,
    "1.03E+01": 10.3,
    "tensor(0.25, device='cuda:0')": 0.25,
    "np.float32(0.5)": 0.5,
    "Infinity": math.inf,
    "-inf": -math.inf,
    "1.#INF": math.inf,
    "-1.#INF00": -math.inf,
    "∞": math.inf,
    "NaN": math.nan,
    "-nan(ind)": math.nan,
    "1.#IND": math.nan,
    "-1.#QNAN0": math.nan,
    "": None,
    "None": None,
    "n/a": None,
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_number_is_read_as_it_is_spelled(text):
    wanted = SPELLINGS[text]
    assert number(text) == wanted or (math.isnan(number(text)) and math.isnan(wanted))


@pytest.mark.parametrize("text", ["abc", "1_000", "1,23", "0.5%", "10/20", "1.2.3", "0x10"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"no number|could not convert"):
        number(text)


@pytest.mark.parametrize("spelling", ["nan", "inf", "-inf", "NaN", "Infinity"])
def test_losses_that_are_not_finite_stay_where_they_were(tmp_path, spelling):
    lines = [*LINES[:25], f"step 25 | loss {spelling} | norm {spelling}", *LINES[26:]]
    (tmp_path / "log").write_text("\n".join(lines))
    curve = read_log(tmp_path / "log")
    np.testing.assert_equal(curve.losses[25], float(spelling))
    assert np.isfinite(np.delete(curve.losses, 25)).all()
    nans = int("n" in spelling.lower()[:1])
    assert f"Of these, {nans} are NaN and {1 - nans} infinite." in curve.notes


def test_a_growing_log_is_read_up_to_its_last_whole_line():
    log = LogReader("run.log")
    log.feed(TEXT.encode()[: TEXT.index("step 30") + 10])
    assert log.curve().losses.tolist() == LOSSES[:30]
    log.feed(TEXT.encode()[TEXT.index("step 30") + 10 :])
    assert log.curve().losses.tolist() == LOSSES


def test_a_log_without_a_whole_line_has_nothing_in_it_yet():
    log = LogReader("run.log")
    log.feed(b"step 0 | lo")
    with pytest.raises(LogRefused) as refused:
        log.curve()
    assert str(refused.value) == "run.log: a log must have something in it; got an empty one."
    log.feed(TEXT.encode()[len("step 0 | lo") :])
    assert log.curve().losses.tolist() == LOSSES


@pytest.mark.parametrize("times", [1, 200], ids=["shorter than its head", "longer"])
def test_the_last_line_of_a_log_that_has_ended_is_whole_without_a_newline(times):
    log = LogReader("run.log")
    log.feed((TEXT * times).encode().removesuffix(b"\n"))
    assert len(log.curve().losses) == 40 * times - 1
    log.end()
    assert len(log.curve().losses) == len(log.curve().losses) == 40 * times


def test_a_growing_log_beyond_its_head_goes_on_where_it_was():
    rows = [f"{step},{step % 100 / 7!r}" for step in range(20_000)]
    data = ("step,loss\n" + "\n".join(rows) + "\n").encode()
    log = LogReader("run.csv")
    for begin in range(0, len(data), 50_000):
        log.feed(data[begin : begin + 50_000])
        assert len(log.curve().losses) == data[: begin + 50_000].count(b"\n") - 1
    assert log.curve().losses.tolist() == [step % 100 / 7 for step in range(20_000)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_pieces_of_whatever_size_give_the_same_curve(sizes):
    data, log, begin = TEXT.encode("utf-16"), LogReader("run.log"), 0
    for size in [*sizes, len(data)]:
        log.feed(data[begin : begin + size])
        begin += size
    assert log.curve().losses.tolist() == LOSSES


CELLS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr), st.sampled_from(["", "1", "x"])
)


@example([["1", "2"], ["3", "4", "5", "6"]])
@example([["1", "2", ""]])  # a gap in the last column before what is read at once
@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=8))
def test_tables_read_at_once_hold_what_is_read_line_by_line(rows):
    """Rows of other lengths, which may sum up to the right number of cells, are among them."""
    head = "a,b,loss\n" + "1,2,3\n" * 9
    body = "".join(",".join(row) + "\n" for row in rows)
    tail = "4000.125,5000.125,6000.125\n" * 160
    assert len(tail) > delimited.BULK
    by_line = table_of(head, *(body + tail).splitlines(keepends=True))
    for at_once in (table_of(head, body + tail), table_of(head, body, tail)):
        assert_same(at_once, by_line)


def table_of(head, *pieces):
    reader = DelimitedReader(layout_of(head.splitlines()))
    for piece in (head, *pieces):
        reader.feed(piece)
    return reader.table


def assert_same(one, other):
    assert (one.rows, one.unread) == (other.rows, other.unread)
    assert one.columns.keys() == other.columns.keys()
    for name in other.columns:
        np.testing.assert_array_equal(one.columns[name].rows, other.columns[name].rows)
        np.testing.assert_array_equal(one.columns[name].values, other.columns[name].values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as outside of tests
@pytest.mark.parametrize(
    ("head", "line", "last"),
    [
        ("1.5\n" * 20, "1234.5\n", "1 2\n\n"),  # as many numbers as lines
        ("1.5\n" * 20, "1234.5\n", "\n"),
        ("1.5\n" * 20, "1234.5\n", "3x\n"),
        ("1 2\n" * 20, "1234.5 2\n", "1\n1 2 3\n"),
        ("a,b\n1,2\n", "1234.5,2\n", "1,3x\n"),
    ],
)
def test_faults_that_many_numbers_go_before_are_found(head, line, last):
    many = line * 1000
    at_once = table_of(head, many + last)
    assert_same(at_once, table_of(head, *(many + last).splitlines(keepends=True)))
    assert at_once.rows >= 1000
    assert bool(at_once.unread) == (last != "\n")


@pytest.mark.parametrize("data", [b"", b"   \n \n"])
def test_an_empty_log_is_refused(tmp_path, data):
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(LogRefused) as refused:
        read_log(tmp_path / "log")
    assert str(refused.value) == "log: a log must have something in it; got an empty one."
