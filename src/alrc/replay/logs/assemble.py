"""From a table to a curve: which rows, where runs begin, what the rows hide."""

from dataclasses import dataclass, replace

import numpy as np

from alrc.replay.curve import Curve, Floats, Integers
from alrc.replay.logs import columns, notes, order, refusals
from alrc.replay.logs.choice import choose, first_unread
from alrc.replay.logs.table import Table

__all__ = ["curve_of", "curves_of"]


@dataclass
class _Rows:
    """The rows that are read, as they are narrowed and put in order."""

    rows: Integers
    losses: Floats
    steps: Integers | None
    epochs: Floats | None
    starts: tuple[int, ...] = (0,)

    def take(self, which: "Integers | np.ndarray[tuple[int, ...], np.dtype[np.bool]]") -> None:
        self.rows, self.losses = self.rows[which], self.losses[which]
        self.steps = None if self.steps is None else self.steps[which]
        self.epochs = None if self.epochs is None else self.epochs[which]


def curve_of(table: Table, name: str, column: str | None = None) -> Curve:
    """The curve in a table.

    Args:
        table: What a reader filled.
        name: Of the log.
        column: Which to read; None for that which is the training loss.

    Raises:
        LogRefused: There is no curve in it.
    """
    chosen, said = choose(table, name, column)
    rows = _place(table, chosen, said)
    said += notes.left_out(table, rows.rows, chosen)
    _order(table, rows, said)
    kept = rows.losses
    by_epoch = _is_by_epoch(rows)
    if len(kept) < refusals.FEWEST:
        kind = "epochs" if by_epoch or "epoch" in columns.words(chosen) else "steps"
        raise refusals.few(name, len(kept), chosen, kind, first_unread(table))
    if not np.isfinite(kept).any():
        raise refusals.infinite(name, len(kept), chosen)
    per_row = 1 if rows.steps is None else order.stride(rows.steps, rows.starts)
    averaged = _is_averaged(table, chosen, rows.steps, by_epoch, per_row)
    said += [table.running] if table.running else notes.of_rows(averaged, per_row, by_epoch)
    said += notes.of_bins(table, chosen)
    return Curve(
        name=name,
        column=chosen,
        losses=kept,
        steps=rows.steps,
        steps_per_row=float(per_row),
        averaged=averaged,
        starts=rows.starts,
        epochs=rows.epochs,
        gradient_norm=_beside(table, rows, columns.norm_among(table.columns)),
        learning_rate=_beside(table, rows, columns.rate_among(table.columns)),
        columns=tuple(columns.candidates(table)),
        notes=(*notes.of_values(table, kept, chosen), *said),
        format=table.format,
    )


def _place(table: Table, chosen: str, said: list[str]) -> _Rows:
    """The rows that have the loss and, if rows say it, their step and epoch."""
    column = table.columns[chosen]
    rows = _Rows(column.rows, column.values, None, None)
    steps = _position(table, rows.rows, columns.step_among(table.columns))
    epochs = _position(table, rows.rows, [n for n in table.columns if columns.is_epoch(n)])
    counter = epochs if steps is None else steps
    if counter is None:
        return rows
    placed = np.isfinite(counter)
    said += notes.unplaced(int(np.sum(~placed)))
    rows.steps = None if steps is None else np.where(placed, steps, 0).astype(np.int64)
    rows.epochs = epochs
    rows.take(placed)
    return rows


def _position(table: Table, rows: Integers, names: list[str]) -> Floats | None:
    """The first of these columns that most of the rows have."""
    for name in names:
        values, found = table.columns[name].at(rows)
        # Larger numbers are no steps: they would not fit, and no training is so long.
        values[~(np.abs(values) < 2**62)] = np.nan
        if np.mean(found & np.isfinite(values)) > 0.5:
            return values
    return None


def _beside(table: Table, rows: _Rows, names: list[str]) -> Floats | None:
    """What the first of these columns has in the rows that are read."""
    for name in names:
        values, found = table.columns[name].at(rows.rows)
        if found.any():
            return values
    return None


def _order(table: Table, rows: _Rows, said: list[str]) -> None:
    """Redrawn rows go, runs that wrote between one another are parted, starts are found."""
    if (
        rows.steps is not None
        and rows.epochs is not None
        and np.isfinite(rows.epochs).all()
        and order.counts_within_epochs(rows.steps, rows.epochs)
    ):
        rows.steps = order.put_behind(rows.steps, rows.epochs)
        said.append("Steps count anew in each epoch; epochs were put behind one another.")
    if rows.steps is not None and len(rows.losses) > 1:
        same = np.diff(rows.steps) == 0
        again = same & (rows.losses[1:] == rows.losses[:-1])
        said += notes.redrawn(int(again.sum()))
        said += notes.repeated(int((same & ~again).sum()), len(rows.losses))
        rows.take(np.concatenate([[True], ~again]))
    counter = rows.steps
    if counter is None and rows.epochs is not None:
        counter = np.floor(rows.epochs).astype(np.int64)
    marks = np.searchsorted(rows.rows, np.array(table.starts, np.int64))
    begun = {0, *(int(mark) for mark in marks if mark < len(rows.losses))}
    if counter is not None:
        apart = order.tracks(counter) if rows.steps is not None else None
        if apart is not None:
            rows.take(np.concatenate(apart))
            begun = {0, *np.cumsum([len(track) for track in apart])[:-1].tolist()}
            said += notes.parted([len(track) for track in apart])
        else:
            begun |= set(order.falls(counter).tolist())
    rows.starts = tuple(sorted(begun))
    said += notes.of_starts(rows.steps, rows.starts, len(table.starts))


def _is_by_epoch(rows: _Rows) -> bool:
    """Whether each row is an epoch of its own."""
    if rows.epochs is None or len(rows.epochs) < 2:
        return rows.epochs is not None and rows.steps is None
    whole = np.floor(rows.epochs) == rows.epochs
    gaps = np.diff(rows.epochs)
    return bool(whole.all() and np.mean(gaps != 0) == 1)


def _is_averaged(
    table: Table, chosen: str, steps: Integers | None, by_epoch: bool, per_row: int
) -> bool | None:
    own = columns.words(chosen)
    if table.running or "epoch" in own or (steps is None and by_epoch):
        return True
    if "step" in own:
        return False
    # A mean over one step is that step.
    return table.averaged if steps is None or per_row > 1 else False


def curves_of(table: Table, name: str, column: str | None = None) -> list[Curve]:
    """The curves in a table: one, or one for each run where columns are named for runs."""
    names = columns.candidates(table)
    runs = {n: run for n in names if (run := columns.run_and_key(n)[0])}
    losses = [n for n in runs if columns.rank(n) is not None]
    if column is None and len(runs) == len(names) and len({runs[n] for n in losses}) > 1:
        return [replace(curve_of(table, name, n), name=f"{name}: {runs[n]}") for n in losses]
    return [curve_of(table, name, column)]
