"""Series: arrays that grow with each checkpoint; whatever is not as it was written is refused."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from alrc.lab.engine.files import Damaged
from alrc.lab.engine.series import Manifest, Series, is_present, read_series

ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)
MEND = "Remove the folder of this run, and it is trained anew."


def write(folder: Path, rows: np.ndarray = ROWS, *commits: int) -> Manifest:
    """A series of these rows, committed after so many steps, and at the end."""
    series = Series(folder / "series")
    for step, row in enumerate(rows):
        series.record(step, "loss.raw", torch.from_numpy(row))
        if step + 1 in commits:
            series.commit(step + 1)
    return series.commit(len(rows))


def read(folder: Path, manifest: Manifest) -> np.ndarray:
    return read_series(folder, {"series": manifest}, "loss.raw")


def path_of(folder: Path) -> Path:
    return folder / "series" / "loss.raw.npy"


@pytest.mark.parametrize("commits", [(), (1,), (3, 4), tuple(range(1, 9))])
def test_it_grows_into_the_same_file_however_often_it_is_committed(
    commits: tuple[int, ...], tmp_path: Path
) -> None:
    manifest = write(tmp_path, ROWS, *commits)
    assert manifest == {
        "loss.raw": {
            "shape": [8, 3],
            "dtype": "float32",
            "crc32": f"{zlib.crc32(ROWS.tobytes()):08x}",
        }
    }
    assert json.loads(json.dumps(manifest)) == manifest
    np.testing.assert_array_equal(read(tmp_path, manifest), ROWS)
    np.testing.assert_array_equal(np.load(path_of(tmp_path)), ROWS)
    once = tmp_path / "once"
    write(once)
    assert path_of(tmp_path).read_bytes() == path_of(once).read_bytes()


def test_numbers_of_all_kinds_come_back_bit_for_bit(tmp_path: Path) -> None:
    rows = np.array([[np.nan], [np.inf], [-np.inf], [-0.0], [1e-45], [3.4e38]], np.float32)
    found = read(tmp_path, write(tmp_path, rows, 2))
    np.testing.assert_array_equal(found.view(np.uint32), rows.view(np.uint32))
    assert is_present(found).all()  # a NaN of arithmetic is no absence


def test_plain_numbers_and_other_types_become_float32(tmp_path: Path) -> None:
    series = Series(tmp_path / "series")
    series.record(0, "number", 0.1)
    series.record(0, "half", torch.tensor([0.5], dtype=torch.bfloat16))
    series.record(0, "trained", torch.ones(2, requires_grad=True) * 2)
    manifest = series.commit(1)
    found = {n: read_series(tmp_path, {"series": manifest}, n) for n in manifest}
    assert {n: x.tolist() for n, x in found.items()} == {
        "number": [np.float32(0.1)],
        "half": [[0.5]],
        "trained": [[2, 2]],
    }


def test_rows_are_as_they_were_when_they_were_recorded(tmp_path: Path) -> None:
    weight = torch.zeros(1)
    series = Series(tmp_path / "series")
    series.record(0, "loss.raw", weight)
    weight += 1  # as an optimizer does
    assert read(tmp_path, series.commit(1)).tolist() == [[0]]


def test_steps_in_which_something_does_not_occur_are_absent(tmp_path: Path) -> None:
    series = Series(tmp_path / "series")
    for step, row in ((2, [1.0, np.nan]), (3, [np.nan, 4.0]), (6, [5.0, 6.0])):
        series.record(step, "loss.raw", torch.tensor(row))
        if step == 3:
            series.commit(5)
    found = read(tmp_path, series.commit(9))
    expected = np.full((9, 2), np.nan, np.float32)
    expected[[2, 3, 6]] = [[1, np.nan], [np.nan, 4], [5, 6]]
    np.testing.assert_array_equal(found, expected)
    assert np.flatnonzero(is_present(found)).tolist() == [2, 3, 6]


def test_it_goes_on_from_a_manifest(tmp_path: Path) -> None:
    manifest = write(tmp_path, ROWS[:5])
    series = Series(tmp_path / "series", manifest)
    for step in range(5, 8):
        series.record(step, "loss.raw", torch.from_numpy(ROWS[step]))
    np.testing.assert_array_equal(read(tmp_path, series.commit(8)), ROWS)


def test_what_came_after_the_manifest_is_removed(tmp_path: Path) -> None:
    series = Series(tmp_path / "series")
    for step in range(5):
        series.record(step, "loss.raw", torch.from_numpy(ROWS[step]))
    manifest = series.commit(5)
    series.record(5, "loss.raw", torch.full((3,), 9.0))
    series.record(5, "late", 1.0)
    series.commit(6)
    assert (tmp_path / "series" / "late.npy").exists()

    series = Series(tmp_path / "series", manifest)  # a crash before the next checkpoint
    assert [path.name for path in (tmp_path / "series").iterdir()] == ["loss.raw.npy"]
    for step in range(5, 8):
        series.record(step, "loss.raw", torch.from_numpy(ROWS[step]))
    np.testing.assert_array_equal(read(tmp_path, series.commit(8)), ROWS)


def test_the_means_of_the_last_rows_in_memory(tmp_path: Path) -> None:
    series = Series(tmp_path / "series")
    assert np.isnan(series.latest("loss.raw", 2))
    for step in range(3):
        series.record(step, "loss.raw", torch.from_numpy(ROWS[step]))
    assert series.latest("loss.raw", 2) == ROWS[1:3].mean()
    assert series.latest("loss.raw", 10) == ROWS[:3].mean()
    series.commit(3)
    assert np.isnan(series.latest("loss.raw", 2))


def header(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return change


def claim(*shape: int) -> Callable[[Path], None]:
    """Only the header says so."""

    def change(path: Path) -> None:
        with path.open("rb+") as stream:
            npy.write_array_header_1_0(
                stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )

    return change


NUMBERS = "hold float32 numbers of shape (8, 3); it has "
FAULTS = {
    "missing": (Path.unlink, "be there, because it is part of a run; it is missing"),
    "empty": (cut(0), "be a .npy file; EOF: reading magic string, expected 8 bytes got 0"),
    "no array": (flip(0), None),
    "truncated": (cut(-4), "have 224 bytes; it has 220"),
    "half": (cut(176), "have 224 bytes; it has 176"),
    "double": (header(ROWS.astype(np.float64)), f"{NUMBERS}float64 (8, 3)"),
    "big-endian": (header(ROWS.astype(">f4")), f"{NUMBERS}>f4 (8, 3)"),
    "by columns": (header(np.asfortranarray(ROWS)), f"{NUMBERS}float32 (8, 3)"),
    "wide": (header(np.zeros((8, 4), np.float32)), f"{NUMBERS}float32 (8, 4)"),
    "short": (header(ROWS[:7]), f"{NUMBERS}float32 (7, 3)"),
    "flat": (header(ROWS.ravel()), f"{NUMBERS}float32 (24,)"),
    "a number": (header(np.float32(1)), f"{NUMBERS}float32 ()"),
    "zeros": (
        header(np.zeros((8, 3), np.float32)),
        f"have the checksum {zlib.crc32(ROWS.tobytes()):08x}; it has "
        f"{zlib.crc32(bytes(96)):08x}, so it was changed",
    ),
    "a bit": (flip(-1), None),
}


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_as_it_was_written_is_refused(
    fault: str, goes_on: bool, tmp_path: Path
) -> None:
    manifest = write(tmp_path, ROWS, 4)
    damage, message = FAULTS[fault]
    damage(path_of(tmp_path))
    with pytest.raises(Damaged) as caught:
        Series(tmp_path / "series", manifest) if goes_on else read(tmp_path, manifest)
    if message is None:  # a checksum or a magic string that no one can guess
        assert str(caught.value).startswith(f"{path_of(tmp_path)} must ")
        assert str(caught.value).endswith(MEND)
    else:
        assert str(caught.value) == f"{path_of(tmp_path)} must {message}. {MEND}"


@pytest.mark.parametrize("damage", [header(np.zeros((9, 3), np.float32)), claim(9, 3)])
def test_a_finished_series_has_no_more_rows_than_its_manifest(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    manifest = write(tmp_path)
    damage(path_of(tmp_path))
    with pytest.raises(Damaged) as caught:
        read(tmp_path, manifest)
    assert str(caught.value) == f"{path_of(tmp_path)} must {NUMBERS}float32 (9, 3). {MEND}"


def test_rows_that_a_finished_series_did_not_have_are_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    with path_of(tmp_path).open("ab") as stream:
        stream.write(bytes(4))
    with pytest.raises(Damaged) as caught:
        read(tmp_path, manifest)
    assert str(caught.value) == f"{path_of(tmp_path)} must have 224 bytes; it has 228. {MEND}"


def test_an_unknown_series_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        read_series(tmp_path, {"series": write(tmp_path)}, "other")


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    series = Series(tmp_path)
    series.record(0, "loss", torch.ones(3))
    with pytest.raises(ValueError, match="same shape") as caught:
        series.record(1, "loss", torch.ones(2))
    assert str(caught.value) == (
        "loss must have the same shape in each step, because it is stored as an array; got (2,) in "
        "step 1 and (3,) before."
    )


@pytest.mark.parametrize("committed", [False, True])
def test_two_rows_of_a_step_are_refused(committed: bool, tmp_path: Path) -> None:
    series = Series(tmp_path)
    series.record(0, "loss", 1.0)
    if committed:
        series.commit(1)
    with pytest.raises(ValueError, match="once in a step") as caught:
        series.record(0, "loss", 2.0)
    assert str(caught.value) == (
        "loss must occur once in a step, because it is stored step by step; it came twice in step "
        "0. Give the losses of each phase names of their own."
    )
