"""The state as plain numbers by name: the form that is checked and moves between frameworks."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alrc.rule import KINDS, LARGEST_MOMENT, Counts, Moments
from alrc.settings import SMALLEST_MEAN, Settings

MOMENTS = Moments._fields
COUNTS = Counts._fields
NAMES = MOMENTS + COUNTS
WHOLE = NAMES[2:]  # those that are whole numbers


def saved_names(scale: str) -> tuple[str, ...]:
    """Under which the numbers of NAMES are saved: a state tells by them of which scale it is."""
    return (*KINDS[scale]._fields, *COUNTS)


def other_scale(saved: Iterable[str], scale: str) -> str | None:
    """The scale of a state with these names, if it is another than ``scale``, else None."""
    others = [other for other in KINDS if other != scale]
    return next((x for x in others if set(KINDS[x]._fields[:2]) <= set(saved)), None)


def scale_refusal(who: str, what: str, wanted: str, got: str) -> ValueError:
    return ValueError(
        f"{who}: {what} must be that of scale={wanted!r}, because the moments of losses and those "
        f"of their logarithms are different numbers; got that of scale={got!r}. Pass "
        f"scale={got!r}, or start afresh."
    )


class ShowsState:
    """What every front end that keeps a state shows of it, as arrays of its own."""

    _of_losses: Callable[[], tuple[Any, Any]]  # mean and variance, in the unit of the loss
    _thresholds: Callable[[], tuple[Any, Any]]  # lower and upper

    @property
    def mu1(self) -> Any:
        """Running mean of the limited losses, the paper's first moment; of the state's shape.

        With scale ``"log"``, that of log-normal losses with these moments, exp(m + v / 2).
        """
        return self._of_losses()[0]

    @property
    def mu2(self) -> Any:
        """Running mean square of the limited losses, the second moment; of the state's shape.

        With scale ``"log"``, that of log-normal losses with these moments, exp(2 m + 2 v).
        """
        mean, variance = self._of_losses()
        return variance + mean * mean

    @property
    def threshold(self) -> Any:
        """The upper limit for the next losses; inf while there is none."""
        return self._thresholds()[1]

    @property
    def threshold_below(self) -> Any:
        """The lower limit for the next losses; -inf while there is none."""
        return self._thresholds()[0]


def problem(name: str, number: Any) -> str | None:
    """What must hold for the number called ``name`` and does not, or None."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return f"a number; got {number!r}"
    if name in WHOLE:
        # Fractions come of averaged checkpoints, and are cut.
        return None if 0 <= number < 2**63 else f"a count, 0 or more, in int64; got {number}"
    if not abs(number) < LARGEST_MOMENT:
        return f"finite in float32; got {number}"
    if name == "geometric_mean" and number < SMALLEST_MEAN:
        return f"greater than 0 in float32; got {number}"
    return f"at least 0; got {number}" if "variance" in name and number < 0 else None


def checked(
    who: str, saved: Mapping[str, Any], num_groups: int | None = None, scale: str = "linear"
) -> dict[str, Any]:
    """All of the numbers that were saved, by NAMES and in their order; counts not saved are 0.

    JSON may have made 7 of 7.0, or 7.0 of 7: the counts come back as int, the others as float.
    With groups, each name has a list of numbers, one for each group. Arrays are taken, too, as
    checkpoints of other libraries hold them.

    Raises:
        TypeError: If ``saved`` is no mapping.
        ValueError: If a moment is missing, a name unknown, or a number impossible; or if it is
            the state of another scale or number of groups.
    """
    names = saved_names(scale)
    moments, whole = names[: len(MOMENTS)], names[2:]
    if not isinstance(saved, Mapping):
        raise TypeError(
            f"{who}: the saved state must be a dict of numbers by name; got {saved!r}. Pass what "
            "to_dict() returned."
        )
    if other := other_scale(saved, scale):
        raise scale_refusal(who, "the saved state", scale, other)
    if missing := [name for name in moments if name not in saved]:
        raise ValueError(
            f"{who}: the saved state must have {_listed(moments)}; {_listed(missing)} is missing "
            f"from {_listed(saved) or 'it'}. Pass what to_dict() returned."
        )
    if unknown := [name for name in saved if name not in names]:
        raise ValueError(
            f"{who}: the saved state must have no names but {_listed(names)}; got "
            f"{_listed(unknown)}. Pass what to_dict() returned."
        )
    plain = {name: x.tolist() if hasattr(x, "tolist") else x for name, x in saved.items()}
    for name, value in plain.items():
        if num_groups is not None and not (isinstance(value, list) and len(value) == num_groups):
            raise ValueError(
                f"{who}: the saved {name} must be a list of {num_groups} numbers, one for each "
                f"group; got {value!r}. Pass the num_groups that the state was saved with."
            )
        for number in [value] if num_groups is None else value:
            if found := problem(name, number):
                raise ValueError(
                    f"{who}: the saved {name} must be {found}. The state is damaged or not one of "
                    "ALRC's: load another, or start afresh."
                )

    def complete(name: str) -> Any:
        kind = int if name in whole else float
        if num_groups is None:
            return kind(plain.get(name, 0))
        return [kind(number) for number in plain.get(name, [0] * num_groups)]

    return {name: complete(own) for name, own in zip(NAMES, names, strict=True)}


def start(settings: Settings, saved: Mapping[str, Any] | None) -> Moments:
    """The Python numbers that a front end's ``init`` starts from: those saved, if there are any."""
    if saved is None:
        groups = settings.num_groups
        first = (*settings.start, 0)
        return Moments(*(first if groups is None else ([number] * groups for number in first)))
    numbers = checked("init", saved, settings.num_groups, settings.scale)
    return Moments(*(numbers[name] for name in MOMENTS))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))
