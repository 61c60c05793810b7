"""The words in which a log is refused that is no loss curve."""

from collections.abc import Sequence

from alrc.replay.logs.table import Unread

__all__ = ["FEWEST", "LogRefused"]

FEWEST = 20  # losses that say what is usual
READABLE = (
    "a TensorBoard event file, a CSV or a table of numbers, JSON or JSON lines, one number per "
    "line, or what a training program prints (step 10 | loss 2.31)"
)


class LogRefused(ValueError):
    """A log that is not read as a loss curve; its message says why, and what to do instead."""


def shorten(text: str, most: int = 60) -> str:
    text = text.strip()
    return repr(text if len(text) <= most else f"{text[: most - 3]}...")


def listed(names: Sequence[str], most: int = 12) -> str:
    words = ", ".join(names[:most])
    return f"{words} and {len(names) - most} more" if len(names) > most else words


def _first(unread: Unread | None) -> str:
    if unread is None:
        return ""
    return f" The first line that could not be read is line {unread.line}: {shorten(unread.text)}."


def missing(name: str) -> LogRefused:
    return LogRefused(
        f"{name}: a log must be there to be read; got no file or folder of this "
        "name. Check the path."
    )


def empty(name: str) -> LogRefused:
    return LogRefused(f"{name}: a log must have something in it; got an empty one.")


def binary(name: str, kind: str, mend: str) -> LogRefused:
    return LogRefused(f"{name}: a log must be {READABLE}; got {kind}. {mend}")


def numberless(name: str, unread: Unread | None) -> LogRefused:
    return LogRefused(
        f"{name}: a log must have losses in it; got no number in a column, nor one "
        f"beside the name of a loss or a step."
        f"{_first(unread)} What can be read is {READABLE}."
    )


def lossless(name: str, columns: Sequence[str], unread: Unread | None) -> LogRefused:
    return LogRefused(
        f"{name}: one column must be the training loss; got none that is called so among "
        f"{listed(columns)}.{_first(unread)} If one of them is, name it: --column {columns[0]!r} "
        f"(in Python, column={columns[0]!r})."
    )


def unknown(name: str, column: str, columns: Sequence[str]) -> LogRefused:
    return LogRefused(
        f"{name}: the column must be one of {listed(columns)}; got {column!r}. Type one of these."
    )


def ambiguous(name: str, column: str, columns: Sequence[str]) -> LogRefused:
    return LogRefused(
        f"{name}: the column must be one alone; got {column!r}, which is any of "
        f"{listed(columns)}. Type it in full."
    )


def runs(name: str, column: str) -> LogRefused:
    return LogRefused(
        f"{name}: each row must be a step of training; got a table with a run in each row "
        f"(column {column!r} names them) and no step. Export the history of one run instead."
    )


def several(name: str, curves: Sequence[str]) -> LogRefused:
    return LogRefused(
        f"{name}: one curve must be meant; got {len(curves)}: {listed(curves)}. Name one of them, "
        "or read all with read_logs."
    )


def few(name: str, count: int, column: str, rows: str, unread: Unread | None) -> LogRefused:
    mend = (
        " They are means of epochs, which hide what happens within one: log the loss of each step."
        if rows == "epochs"
        else " Give a longer log."
    )
    return LogRefused(
        f"{name}: a curve must have at least {FEWEST} losses, because fewer do not say what is "
        f"usual; got {count} from column {column!r}.{_first(unread)}{mend}"
    )


def infinite(name: str, count: int, column: str) -> LogRefused:
    return LogRefused(
        f"{name}: some losses must be finite; got {count} from column {column!r}, all of them NaN "
        "or infinite. Log from before the divergence, or name another column."
    )


def nothing_in(folder: str) -> LogRefused:
    return LogRefused(
        f"{folder}: a folder must hold a log; got none that can be read, which is {READABLE}. Name "
        "the file itself."
    )
