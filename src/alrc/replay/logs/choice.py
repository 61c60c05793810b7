"""Which column of a table is the training loss, or why none is."""

import numpy as np

from alrc.replay.logs import columns, refusals
from alrc.replay.logs.table import Table, Unread

__all__ = ["choose", "first_unread"]

# Words that name or describe a run. No log of steps has a column of words that is called so.
OF_RUNS = frozenset(
    (
        *("name", "run", "runs", "id", "state", "status"),
        *("created", "user", "notes", "tags", "trial", "experiment"),
    )
)


def first_unread(table: Table) -> Unread | None:
    """The first line that could not be read."""
    found = [unread for _, unread in table.unread.values()]
    if table.first_text is not None:
        found.append(Unread(*table.first_text))
    return min(found, key=lambda unread: unread.line, default=None)


def choose(table: Table, name: str, column: str | None) -> tuple[str, list[str]]:
    """The column to read, and what there is to say about that choice.

    Raises:
        LogRefused: No column is it, or the table has a run in each row.
    """
    names = columns.candidates(table)
    if not names:
        raise refusals.numberless(name, first_unread(table))
    _refuse_runs(table, name)
    if column is not None:
        return _named(column, names, name), []
    ranks = {n: r for n in names if (r := 1 if n in table.losses else columns.rank(n)) is not None}
    if not ranks:
        raise refusals.lossless(name, names, first_unread(table))
    # A loss that is kept in many rows is the curve; the same name in a few is its summary.
    most = max(len(table.columns[n]) for n in ranks)
    full = [n for n in ranks if len(table.columns[n]) >= min(refusals.FEWEST, most)]
    best = min(ranks[n] for n in full)
    equal = [n for n in full if ranks[n] == best]
    # A limit is for losses above zero, which parts of a GAN's loss are not.
    equal.sort(key=lambda n: (not _is_positive(table, n), -len(table.columns[n])))
    others = sorted(set(equal[1:]), key=names.index)
    if not others:
        return equal[0], []
    why = "the first that is above 0 throughout" if _is_positive(table, equal[0]) else "the first"
    return equal[0], [
        f"Several columns may be the training loss; {equal[0]!r} was read, {why}. The others: "
        f"{refusals.listed(others)}."
    ]


def _is_positive(table: Table, column: str) -> bool:
    values = table.columns[column].values
    return bool(np.all(values[np.isfinite(values)] > 0))


def _named(column: str, names: list[str], name: str) -> str:
    if column in names:
        return column
    folded = column.casefold().strip()
    for matches in (
        [n for n in names if n.casefold().strip() == folded],
        [n for n in names if n.casefold().strip().endswith(folded)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise refusals.ambiguous(name, column, matches)
    raise refusals.unknown(name, column, names)


def _refuse_runs(table: Table, name: str) -> None:
    of_runs = [text for text in table.texts if not OF_RUNS.isdisjoint(columns.words(text))]
    if of_runs and not any(columns.is_position(n) and _counts(table, n) for n in table.columns):
        raise refusals.runs(name, of_runs[0])


def _counts(table: Table, column: str) -> bool:
    """Whether it says where in training a row is, rather than how long or with which batch size."""
    changes = np.diff(table.columns[column].values)
    return bool((changes > 0).any() and (changes < 0).mean() < 0.1)
