"""The state: its precision, evaluation, saving and resuming, and what is refused."""

import json
import math
import warnings

import pytest
from agreement import stream
from table import ROWS, bits, started

# Precision, modes, checkpoints


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_moments_stay_float32_and_move_under_half_precision_losses(row, dtype) -> None:
    front_end = started(row)
    values, factors = front_end([1.5, 9.0], dtype=dtype)
    assert values == [1.5, 4.0]
    assert factors == [1.0, pytest.approx(4 / 9, rel=4e-3)]
    mean, variance, num_updates = front_end.moments
    # The losses lie 0.5 and 3 from the old mean, and 1.25 from their own. Neither step would show
    # in half precision.
    assert mean == pytest.approx(1 + 0.001 * 1.75, rel=1e-6)
    assert variance == pytest.approx(1 + 0.001 * (1.25**2 - 1) + 0.001 * 0.999 * 1.75**2, rel=1e-6)
    assert num_updates == 1


@pytest.mark.parametrize("row", ROWS)
def test_evaluation_is_the_identity_and_moves_nothing(row) -> None:
    front_end, losses = started(row), [0.5, 1e9, math.nan]
    front_end([3.0, 9.0])
    before = front_end.save()
    values, factors = front_end.evaluate(losses)
    assert bits(values) == bits(losses)
    assert factors == [1.0] * 3
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("saved_after", [5, 60], ids=["while it warms up", "later"])
@pytest.mark.parametrize("recency", [1.0, 4.0])
def test_resumed_training_is_bit_for_bit_the_uninterrupted_run(row, saved_after, recency) -> None:
    settings = {"num_stddev": 1.0, "decay": 0.9, "recency": recency}
    batches = stream(calls=120)
    whole = ROWS[row](**settings)
    for batch in batches[:saved_after]:
        whole(*batch)
    resumed = ROWS[row](**settings)
    resumed.load(json.loads(json.dumps(whole.save())))
    num_clipped = 0
    for batch in batches[saved_after:]:
        expected, got = whole(*batch), resumed(*batch)
        assert [bits(x) for x in got] == [bits(x) for x in expected]
        assert resumed.save() == whole.save()
        num_clipped += sum(factor < 1 for factor in expected[1])
    assert num_clipped > 0


DAMAGED = {
    "nan mean": ({"mean": math.nan}, "mean must be finite in float32; got nan"),
    "infinite mean": ({"mean": -math.inf}, "mean must be finite in float32; got -inf"),
    "overflowing mean": ({"mean": 1e60}, "mean must be finite in float32; got 1e+60"),
    "negative variance": ({"variance": -0.5}, "variance must be at least 0; got -0.5"),
    "nan variance": ({"variance": math.nan}, "variance must be finite in float32; got nan"),
    "no number": ({"mean": [1.0, 1.0]}, "mean must be a number; got [1.0, 1.0]"),
    "text": ({"variance": "1.0"}, "variance must be a number; got '1.0'"),
    "negative count": (
        {"num_losses": -1},
        "num_losses must be a count, 0 or more, in int64; got -1",
    ),
    "count beyond int64": (
        {"num_updates": 2.0**63},
        "num_updates must be a count, 0 or more, in int64; got 9.223372036854776e+18",
    ),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_state_is_refused_in_words_and_nothing_is_taken_over(row, case) -> None:
    damage, problem = DAMAGED[case]
    front_end, other = started(row), started(row)
    other([9.0])
    before = front_end.save()
    with pytest.raises(ValueError, match="must be") as error:
        front_end.load({**other.save(), **damage})
    assert str(error.value) == (
        f"{front_end.who}: the saved {problem}. The state is damaged or not one of ALRC's: load "
        "another, or start afresh."
    )
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
def test_half_a_state_is_refused_in_words_and_nothing_is_taken_over(row) -> None:
    front_end = started(row)
    before = front_end.save()
    with pytest.raises(ValueError, match="must have") as error:
        front_end.load({"mean": 5.0, "num_updates": 3})
    assert str(error.value) == (
        f"{front_end.who}: the saved state must have mean, variance, num_updates; variance is "
        "missing from mean, num_updates. Pass what to_dict() returned."
    )
    assert front_end.save() == before


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("recency", [1.0, 4.0])
def test_state_keeps_structure_shapes_and_dtypes_from_the_first_call_to_the_last(
    row, recency
) -> None:
    front_end = ROWS[row](recency=recency)
    first = front_end.structure
    shape = front_end.shape
    assert first[:2] == [("mean", shape, "float32"), ("variance", shape, "float32")]
    assert first[2] in [("num_updates", shape, "int32"), ("num_updates", shape, "int64")]
    for dtype in ("float32", "bfloat16", "float16"):
        for losses in ([1.0], [], [1.0, math.nan, 0.0]):
            front_end(losses, dtype=dtype)
            assert front_end.structure == first
    front_end([1.0, 2.0], [0.5, 0.0])
    assert front_end.structure == first
    front_end.load(front_end.save())
    assert front_end.structure == first


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("recency", [1.0, 4.0])
def test_a_second_call_compiles_nothing(row, recency) -> None:
    front_end = ROWS[row](recency=recency)
    front_end([1.0, 2.0, 3.0])
    first = front_end.compilations
    assert first > 0 or not front_end.compiles
    for batch in ([4.0, 5.0, 1e9], [math.nan, 0.0, 1.0], [math.inf] * 3, [1.0, 2.0, 3.0]) * 5:
        front_end(batch)
    assert front_end.compilations == first


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("recency", [1.0, 1e300])
@pytest.mark.thin("recency", 1.0)
def test_nothing_is_written_printed_or_warned_in_ordinary_use(row, recency, capfd) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        front_end = ROWS[row](recency=recency)
        front_end([1.0, 2.0])
        front_end.evaluate([1.0, 2.0])
        front_end.load(front_end.save())
    assert capfd.readouterr() == ("", "")
