"""Numbers as people and programs spell them."""

import math
import re

__all__ = ["NUMBER", "is_number", "number"]

BLANK = frozenset({"", "-", "--", "none", "null", "n/a", "na", "<na>"})
# Also as Windows' C library and Java spell them.
NAN = re.compile(r"[+-]?(?:nan(?:\((?:ind|snan|\d*)\))?|1\.#(?:ind|qnan|snan)\d*)", re.I)
INFINITE = re.compile(r"([+-]?)(?:inf(?:inity)?|1\.#inf\d*|∞)", re.I)
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?(?:e[+-]?\d+)?", re.I)
# What Python prints of an array of one number.
WRAPPED = re.compile(r"(?:tensor|array|(?:np|numpy)\.\w+)\(\[?\s*([^,\])\s]+)", re.I)

# In running text, where a number ends at what is no part of it.
NUMBER = (
    r"(?:tensor\(\[?|np\.float\d+\()?"
    r"[+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|1\.#(?:INF|IND|QNAN)\d*|\d+\.?\d*|\.\d+|"
    r"[nN]a[nN](?:\(ind\))?|NAN|[iI]nf(?:inity)?|INF|∞)(?:[eE][+-]?\d+)?"
)


def number(text: str) -> float | None:
    """The number that a cell holds; None if it is blank.

    Raises:
        ValueError: The cell holds something else.

    Example:
        >>> [number(text) for text in ("1,234.5", " 2e-3", "-1.#INF", "tensor(0.5)", "")]
        [1234.5, 0.002, -inf, 0.5, None]
    """
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        pass
    text = text.strip().strip("\"'").strip()
    if text.lower() in BLANK:
        return None
    if wrapped := WRAPPED.match(text):
        text = wrapped[1]
    if NAN.fullmatch(text):
        return math.nan
    if infinite := INFINITE.fullmatch(text):
        return -math.inf if infinite[1] == "-" else math.inf
    if THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def is_number(text: str) -> bool:
    """Whether a cell holds a number, which a blank one does not."""
    try:
        return number(text) is not None
    except ValueError:
        return False
