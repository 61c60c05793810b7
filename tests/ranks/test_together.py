"""All ranks together have one limit: that of the oracle and of one process, given all losses."""

import pytest
import torch
from ranks.comparing import (
    FAR,
    TOLERANCE,
    cases_and_worlds,
    joined,
    reference_state,
    reference_step,
    references_for,
    same,
)
from ranks.streams import CASES, COUNTS, STEPS, call, met, whole

from alrc import rule
from alrc.rule import Summary
from alrc.torch import ALRC


@cases_and_worlds
def test_ranks_together_do_what_the_oracle_does_with_the_whole_batch(seen, world, case) -> None:
    ranks = [rank[case]["read"] for rank in seen(world, "alone")]
    table = CASES[case]
    references = references_for(table.settings)
    coarse = {"rtol": 1e-2, "atol": 1e-2} if table.dtype == torch.bfloat16 else TOLERANCE
    limited = 0
    for step, parts in enumerate(zip(*ranks, strict=True)):
        given = whole(table, step, world)
        expected = reference_step(references, given)
        values, factors = joined([part[0] for part in parts]), joined([part[1] for part in parts])
        wanted, factor, close = (torch.tensor([one[i] for one in expected]) for i in range(3))
        assert (close > 1e-5).all()  # no loss so near a limit that rounding decides
        assert values.dtype == table.dtype
        torch.testing.assert_close(values.float(), wanted, **coarse, equal_nan=True)
        torch.testing.assert_close(factors.float(), factor, **coarse)
        limited += int((factor < 1).sum())
        state = reference_state(references, "num_groups" in table.settings)
        if table.settings.get("scale") == "log":  # where states have these names
            state |= {"geometric_mean": state["mean"], "log_variance": state["variance"]}
        tolerance = FAR if case == "far from zero" else TOLERANCE
        for name, number in parts[0][2].items():
            torch.testing.assert_close(
                torch.tensor(number, dtype=torch.float64),
                torch.tensor(state[name], dtype=torch.float64),
                **({"rtol": 0.0, "atol": 0.0} if name in COUNTS else tolerance),
                msg=lambda text, name=name, step=step: f"{name} at step {step}: {text}",
            )
    assert limited > 3


@cases_and_worlds
def test_ranks_together_do_what_one_process_does_with_the_whole_batch(seen, world, case) -> None:
    ranks = [rank[case]["read"] for rank in seen(world, "alone")]
    table = CASES[case]
    alrc = ALRC(**table.settings)
    tolerance = FAR if case == "far from zero" else TOLERANCE
    coarse = {"rtol": 1e-2, "atol": 1e-2} if table.dtype == torch.bfloat16 else tolerance
    for step, parts in enumerate(zip(*ranks, strict=True)):
        limited, factors = met(alrc, whole(table, step, world))
        torch.testing.assert_close(
            joined([part[0] for part in parts]), limited, **coarse, equal_nan=True
        )
        torch.testing.assert_close(joined([part[1] for part in parts]), factors, **coarse)
        torch.testing.assert_close(parts[0][2], alrc.to_dict(), **tolerance)


@cases_and_worlds
def test_every_rank_has_the_same_state_at_every_step_to_the_last_bit(seen, world, case) -> None:
    ranks = [rank[case] for rank in seen(world, "alone")]
    for mode in ("read", "blocking"):
        for states in zip(*([one[2] for one in rank[mode]] for rank in ranks), strict=True):
            assert all(state == states[0] for state in states)
        assert states[0] != ALRC(**CASES[case].settings).to_dict()


@cases_and_worlds
def test_reading_the_state_at_every_step_changes_nothing(seen, world, case) -> None:
    for rank in seen(world, "alone"):
        for read, silent in zip(rank[case]["read"], rank[case]["silent"], strict=True):
            same(silent[:2], read[:2])
        assert silent[2] == read[2]


@cases_and_worlds
def test_blocking_gives_the_same_numbers_to_the_last_bit(seen, world, case) -> None:
    for rank in seen(world, "alone"):
        same(rank[case]["blocking"], rank[case]["read"])


def test_the_limits_of_ranks_apart_are_others() -> None:
    """Without it the tests above might compare what would be the same without sync."""
    for case in CASES.values():
        thresholds = []
        for rank in range(2):
            alrc = ALRC(**case.settings)
            for step in range(STEPS):
                met(alrc, call(case, step, rank, 2))
            thresholds.append(alrc.threshold)
        assert not torch.isclose(*thresholds, rtol=1e-3).any()


@pytest.mark.parametrize("seed", range(5))
def test_python_floats_are_combined_as_the_rule_combines_arrays(seed) -> None:
    random = torch.Generator().manual_seed(seed)
    rows = torch.rand(4, 6, generator=random, dtype=torch.float64) * 10.0 ** (3 * seed)
    rows[:, 3:] = rows[:, 3:].floor()
    rows[seed % 4] = 0.0  # a rank without losses
    columns = [rule.Column(column) for column in zip(*rows.tolist(), strict=True)]
    summary = rule.combine(rule.Floats, Summary(*columns[:3]))
    expected = rule.combine(torch, Summary(*rows.unbind(1)[:3]))
    torch.testing.assert_close(torch.tensor(summary, dtype=torch.float64), torch.stack(expected))
