"""The state as plain numbers by name: the form that is checked and moves between frameworks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alrc.rule import LARGEST_MOMENT, Moments
from alrc.settings import Settings

MOMENTS = Moments._fields
COUNTS = ("num_losses", "num_clipped", "num_nonfinite")
NAMES = MOMENTS + COUNTS
WHOLE = NAMES[2:]  # those that are whole numbers


class Readings:
    """What every front end that keeps a state shows of it, as arrays of its own."""

    mean: Any
    variance: Any
    _thresholds: Callable[[], tuple[Any, Any]]  # lower and upper

    @property
    def mu2(self) -> Any:
        """Running mean square of the limited losses, the second moment; shape ``()``."""
        return self.variance + self.mean * self.mean

    @property
    def threshold(self) -> Any:
        """The upper limit for the next losses; inf while there is none; shape ``()``."""
        return self._thresholds()[1]

    @property
    def threshold_below(self) -> Any:
        """The lower limit for the next losses; -inf while there is none; shape ``()``."""
        return self._thresholds()[0]


def problem(name: str, number: Any) -> str | None:
    """What must hold for the number called ``name`` and does not, or None."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return f"a number; got {number!r}"
    if name in WHOLE:
        sound = 0 <= number < 2**63 and number % 1 == 0
        return None if sound else f"a count, 0 or more, in int64; got {number}"
    if not abs(number) < LARGEST_MOMENT:
        return f"finite in float32; got {number}"
    return f"at least 0; got {number}" if name == "variance" and number < 0 else None


def checked(who: str, saved: Mapping[str, Any]) -> dict[str, float]:
    """All of the numbers that were saved, in the order of NAMES; counts that were not are 0.

    JSON may have made 7 of 7.0, or 7.0 of 7: the counts come back as int, the others as float.

    Raises:
        TypeError: If ``saved`` is no mapping.
        ValueError: If a moment is missing, a name unknown, or a number impossible.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(
            f"{who}: the saved state must be a dict of numbers by name; got {saved!r}. Pass what "
            "to_dict() returned."
        )
    if missing := [name for name in MOMENTS if name not in saved]:
        raise ValueError(
            f"{who}: the saved state must have {_listed(MOMENTS)}; {_listed(missing)} is missing "
            f"from {_listed(saved) or 'it'}. Pass what to_dict() returned."
        )
    if unknown := [name for name in saved if name not in NAMES]:
        raise ValueError(
            f"{who}: the saved state must have no names but {_listed(NAMES)}; got "
            f"{_listed(unknown)}. Pass what to_dict() returned."
        )
    for name, number in saved.items():
        if found := problem(name, number):
            raise ValueError(
                f"{who}: the saved {name} must be {found}. The state is damaged or not one of "
                "ALRC's: load another, or start afresh."
            )
    return {name: (int if name in WHOLE else float)(saved.get(name, 0)) for name in NAMES}


def start(settings: Settings, saved: Mapping[str, Any] | None) -> Moments:
    """The Python numbers that a front end's ``init`` starts from: those saved, if there are any."""
    if saved is None:
        return Moments(*settings.start, 0)
    numbers = checked("init", saved)
    return Moments(*(numbers[name] for name in MOMENTS))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))
