"""What is said of a curve on a terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from alrc.replay import table
from alrc.replay.advice import to_paste
from alrc.replay.curve import Curve
from alrc.replay.logs.columns import is_loss
from alrc.replay.outcomes import Outcome
from alrc.replay.replay import Replay

__all__ = ["as_json", "record", "view"]

NARROW = 60  # columns
COLOURS = {
    "calm": "green",
    "restart": "green",
    "periodic": "yellow",
    "isolated spikes": "yellow",
    "excursions": "red",
    "level shift": "red",
    "divergence": "red",
}


def view(curve: Curve, found: Replay, width: int, named: bool = False) -> list[RenderableType]:
    """All that is said of a curve, piece by piece, the verdict first.

    Args:
        curve: As it was read.
        found: What is said of it.
        width: Columns of the terminal.
        named: Whether the name of the log stands before the verdict.
    """
    verdict = Text(found.verdict.sentence, f"bold {COLOURS[found.verdict.kind]}")
    if named:
        verdict = Text.assemble((f"{curve.name}: ", "bold"), verdict)
    said = [
        *(finding.sentence for finding in found.verdict.findings[1:]),
        *("", *curve.notes, *_others(curve)),
        *("", *found.mattered),
    ]
    after = [*("", *found.notes), *("", found.remedy), to_paste(found.verdict, found.suggestion)]
    rules = _rules(found.rules, width)
    return [verdict, *map(Text, said), Text(), *rules, *map(Text, after)]


def _others(curve: Curve) -> list[str]:
    """The other losses, unless they were told already."""
    others = [name for name in curve.columns if name != curve.column and is_loss(name)]
    if not others or any("Several columns" in note for note in curve.notes):
        return []
    shown = ", ".join(others[:8]) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    return [f"Other losses, which --column would read: {shown}."]


def _rules(outcomes: Sequence[Outcome], width: int) -> list[RenderableType]:
    """The table of rules, and what its columns mean."""
    head, *rows = table.cells(outcomes)
    if width < NARROW:  # without the words around, and where the limit is near
        head, *rows = [(_bare(rule), *cells[:2], *cells[3:]) for rule, *cells in (head, *rows)]
    shown = Table(box=None, pad_edge=False, padding=(0, 1 if width < NARROW else 2, 0, 0))
    for place, name in enumerate(head):
        shown.add_column(name, justify="right" if place else "left", header_style="bold")
    for row in rows:
        shown.add_row(*map(Text, row))
    return [shown, Text(), *map(Text, table.legend(outcomes, head))]


def _bare(rule: str) -> str:
    arguments = rule.removeprefix("ALRC(").removesuffix(")")
    return arguments or rule


def as_json(found: Sequence[tuple[Curve, Replay]], refused: Mapping[str, str]) -> str:
    """A list: an object for each curve, then one for each log that was refused."""
    records = [record(*one) for one in found]
    records += [{"name": name, "refused": words} for name, words in refused.items()]
    return json.dumps(records, indent=1, allow_nan=False)


def record(curve: Curve, found: Replay) -> dict[str, Any]:
    """All that is said of a curve as plain values; None for what is not known."""
    said = found.to_dict()
    if curve.steps is not None:
        for finding in said["verdict"]["findings"]:
            finding["steps"] = [
                [int(curve.steps[first]), int(curve.steps[end - 1])]
                for first, end in finding["rows"]
            ]
    return {
        "name": curve.name,
        "format": curve.format,
        "column": curve.column,
        "columns": list(curve.columns),
        "values": len(curve),
        "steps_per_row": curve.steps_per_row,
        "averaged": curve.averaged,
        **said,
        "notes": [*curve.notes, *found.notes],
    }
