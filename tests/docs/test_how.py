"""docs/how.md: where the rule comes to rest is as it says, by the rule itself."""

import re
from pathlib import Path

import pytest
import torch

from alrc.torch import ALRC

PAGE = (Path(__file__).parents[2] / "docs/how.md").read_text(encoding="utf-8")
PROSE = " ".join(PAGE.split())
NUMBERS = ["1", "1.5", "2", "3", "4"]
SPREADS = (0.3, 1.0, 2.0)


def table() -> dict[str, list[float]]:
    rows = re.findall(r"^\| ([\d.]+) \| (.*) \|$", PAGE, re.MULTILINE)
    return {n: [float(x.removesuffix(" %")) for x in cells.split(" | ")] for n, cells in rows}


@pytest.mark.parametrize("num_stddev", NUMBERS)
def test_the_table_of_where_it_rests_is_what_training_losses_do(num_stddev: str) -> None:
    limited, largest, *kept = table()[num_stddev]
    n = float(num_stddev)
    assert largest == pytest.approx(100 / (1 + n * n), rel=0.02)
    for spread, share in zip(SPREADS, kept, strict=True):
        generator = torch.Generator().manual_seed(0)
        alrc = ALRC(n, decay=0.98)
        seen = torch.zeros(3, dtype=torch.float64)
        for call in range(600):
            losses = torch.randn(2000, generator=generator).mul(spread).exp()
            result = alrc(losses)
            if call >= 300:
                seen += torch.stack([(result < losses).sum(), result.sum(), losses.sum()])
        number, after, before = seen.tolist()
        assert 100 * number / 600_000 == pytest.approx(limited, rel=0.05, abs=0.02)
        assert 100 * after / before == pytest.approx(share, abs=1.5)


@pytest.mark.parametrize("num_stddev", [2.0, 3.0])
def test_no_more_losses_are_limited_for_long_than_the_page_proves(num_stddev: float) -> None:
    """Of the worst case, a share p of losses that are equal, and far above all others."""
    for share in (0.05, 0.15, 0.4, 0.8):
        losses = torch.ones(100)
        losses[: int(100 * share)] = 1000.0
        alrc = ALRC(num_stddev, decay=0.9)
        for _ in range(2000):
            before = alrc.num_clipped.item()
            alrc(losses)
        last = (alrc.num_clipped.item() - before) / 100
        assert last <= 1 / (1 + num_stddev**2)
    assert "at most $1 / (1 + n^2)$ of the losses are limited" in PROSE


def calls_until_tenfold_losses_pass(num_stddev: float, stddev: float) -> int:
    alrc = ALRC(num_stddev)
    state = {"geometric_mean": 1.0, "log_variance": stddev**2, "num_updates": 10**6}
    alrc.load_dict(state)
    for call in range(20_000):
        if alrc(torch.tensor(10.0)).item() == 10.0:
            return call
    raise AssertionError("they never pass")


def test_the_numbers_of_calls_until_tenfold_losses_pass_are_those_of_the_rule() -> None:
    spread, constant = (
        {n: calls_until_tenfold_losses_pass(n, stddev) for n in (2.0, 1.5, 3.0)}
        for stddev in (0.3, 0.0)
    )
    assert (
        "that takes {:,} calls with $n = 2$, {:,} with $n = 1.5$, {:,} with $n = 3$".format(
            *spread.values()
        )
        in PROSE
    )
    assert "its floor, {:,}, {:,} and {:,}.".format(*constant.values()) in PROSE
