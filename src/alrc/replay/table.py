"""The table of what rules would have done: cells for any terminal or page, and lines of text."""

import math
from collections.abc import Sequence

from alrc.replay.outcomes import Outcome

__all__ = ["cells", "legend", "lines", "percent"]

# What the columns are, in their order; the last is left out where nothing rose.
COLUMNS = {
    "limited": "rows that the rule would have turned down",
    "kept": "what is left of the sum of the losses",
    "near": "first row whose limit is within 1.2 times the usual loss; before, it is higher",
    "cut": "share of what rose above the usual loss that is cut off",
}


def cells(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Rows of cells, the first of them names; what is not known is empty."""
    rows = [("rule", *COLUMNS)]
    for one in outcomes:
        near = "not yet" if one.settled is None else str(one.settled)
        rows.append(
            (
                one.name,
                f"{one.num_limited:,}",
                percent(one.kept),
                "" if one.settings is None else near,
                percent(one.excess_cut),
            )
        )
    rose = not all(math.isnan(one.excess_cut) for one in outcomes)
    return rows if rose else [row[:-1] for row in rows]


def legend(outcomes: Sequence[Outcome], head: Sequence[str]) -> list[str]:
    """What the columns of this head mean, and the rules that are not ALRC's."""
    words = [f"{name}: {meaning}." for name, meaning in COLUMNS.items() if name in head]
    others = [one.name for one in outcomes if one.settings is None]
    if others:
        words.append(f"{' and '.join(others)}: rules that act on the gradient, by its norm.")
    return words


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table as text, with its legend."""
    rows = cells(outcomes)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            word.ljust(width) if i == 0 else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ] + ["", *legend(outcomes, rows[0])]


def percent(share: float) -> str:
    """Never rounded to none or all, unless it is that; empty for NaN.

    Example:
        >>> [percent(share) for share in (0.0, 0.0002, 0.335, 0.99996, 1.0)]
        ['0 %', '0.02 %', '33.5 %', '> 99.99 %', '100 %']
    """
    if math.isnan(share):
        return ""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    for digits in (1, 2):
        shown = f"{100 * share:.{digits}f}"
        if float(shown) not in (0.0, 100.0):
            return f"{shown} %"
    return "< 0.01 %" if share < 0.5 else "> 99.99 %"
