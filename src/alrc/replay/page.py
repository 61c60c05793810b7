"""Replayed curves as one page of HTML that needs no other file and no network."""

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from numpy.typing import ArrayLike
from plotly.offline import get_plotlyjs

from alrc.files import written_whole
from alrc.replay import look, table
from alrc.replay.advice import to_paste
from alrc.replay.curve import Curve, Integers
from alrc.replay.outcomes import Judge
from alrc.replay.replay import Replay
from alrc.replay.thinning import thinned

__all__ = ["write_page"]

# Blocks that all curves of a page are thinned to together, and the fewest of one.
BLOCKS, FEWEST_BLOCKS = 8_000, 3_000
# Curves up to this length come with the limits of the other settings too.
COMPARED_UP_TO = 1_000_000


def write_page(found: Sequence[tuple[Curve, Replay]], path: Path) -> None:
    """Writes curves, verdicts and tables as a page to look into: it zooms and says what is where.

    All is in one file of about 5 MB, of which 4.8 MB draw; it opens without a network. Curves of
    more than some ten thousand rows are thinned, so that no spike is lost. The file appears whole
    or not at all.

    Args:
        found: Curves, and what was found on them.
        path: The file; an older one is replaced.

    Raises:
        ValueError: If there is nothing to show.
        OSError: If the file cannot be written.
    """
    if not found:
        raise ValueError(
            "replay: there must be a curve for a page to show, because each gets a chart; got "
            "none. Pass [(curve, replay(curve))]."
        )
    blocks = max(BLOCKS // len(found), FEWEST_BLOCKS)
    page = _template().render(
        logs=[_log(curve, one, blocks) for curve, one in found],
        plotly=get_plotlyjs(),
        css=_beside("page.css"),
        js=_beside("page.js"),
    )
    with written_whole(path) as part:
        # Names of files may be no text.
        part.write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")


@cache
def _template() -> Template:
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = table.percent
    return environment.get_template("page.html")


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _log(curve: Curve, found: Replay, blocks: int) -> dict[str, Any]:
    """What the template says of a log, and what its chart shows."""
    rows = thinned(found, blocks)
    head, *cells = table.cells(found.rules)
    rules = [one for one in found.rules if one.settings is not None]
    compared = rules if len(curve) <= COMPARED_UP_TO else rules[:1]
    return {
        "curve": curve,
        "found": found,
        "head": head,
        "cells": cells,
        "legend": table.legend(found.rules, head),
        "num_shown": len(compared),
        "paste": to_paste(found.verdict, ""),
        "thinned": len(rows) if len(rows) < len(curve) else None,
        "width": -(-len(curve) // blocks),
        "chart": _chart(curve, found, rows) | {"rules": _rules(curve, found, rows, len(compared))},
    }


def _chart(curve: Curve, found: Replay, rows: Integers) -> dict[str, Any]:
    """Numbers for the script: arrays are bytes, which keep NaN and every digit."""
    along, log = look.axis(curve), look.is_log(found)
    places = along.places
    steps = curve.steps if curve.steps is not None and along.name == "row" else None
    room = 0.01 * (places[-1] - places[0]) or 1.0
    return {
        "axis": along.name,
        "words": along.words,
        "log": log,
        "heights": [look.y_range(found, which) for which in (False, log)],
        "places": [float(places[0] - room), float(places[-1] + room)],
        "rows": _bytes(rows, "<i4"),
        "x": _bytes(places[rows], "<f8"),
        "steps": None if steps is None else _bytes(steps[rows], "<f8"),
        "losses": _bytes(found.losses[rows], "<f8"),
        "findings": [
            {
                "kind": place.kind,
                "colour": look.COLOURS[place.kind],
                "spans": _bytes(place.rows, "<i4"),
                "places": _bytes(place.ends, "<f8"),
            }
            for place in look.found_places(found, along)
        ],
    }


def _rules(curve: Curve, found: Replay, rows: Integers, number: int) -> list[dict[str, Any]]:
    """The limits that each of the first rules sets to the rows that are shown."""
    judge = Judge(found.losses, found.seen, found.verdict, curve.starts, curve.steps_per_row)
    shown = []
    for place, one in enumerate(found.rules[:number]):
        assert one.settings is not None  # those without come last
        bounds, limited = judge.limits(one.settings)[:2] if place else (found.limits, found.limited)
        # Single precision is enough to look at, but for what was asked for; larger is no limit.
        kind = "f4" if place else "f8"
        below = bounds.lower[rows]
        shown.append(
            {
                "name": one.name,
                "limited": _bytes(limited[rows], "u1"),
                "num": one.num_limited,
                "of": one.num_losses,
                "kind": kind,
                "upper": _bytes(bounds.upper[rows], f"<{kind}"),
                "lower": _bytes(below, f"<{kind}") if np.isfinite(below).any() else None,
            }
        )
    return shown


def _bytes(numbers: ArrayLike, kind: str) -> str:
    with np.errstate(over="ignore"):
        raw = np.asarray(numbers).astype(kind).tobytes()
    return base64.b64encode(raw).decode("ascii")
