"""The words in which losses, masks and groups are refused, the same in every front end.

Each function makes the exception; who raises it gives the facts, and what to type instead in its
own framework.
"""

import warnings

from alrc.settings import first_frame_outside_alrc


def loss(who: str, got: str, mend: str, kind: str = "array", name: str = "loss") -> TypeError:
    return TypeError(
        f"{who}: {name} must be a floating {kind}, because it is scaled to its limit; got {got}. "
        f"{mend}"
    )


def warn_of_signs(who: str) -> None:
    """Of losses below 0 on the logarithmic scale, wherever looking costs no wait."""
    warnings.warn(
        f"{who}: loss has numbers below 0, which have no logarithm: they come back as they are, "
        "neither limited nor in the moments, and are counted as not finite. For losses of either "
        "sign, pass center='mean' and scale='linear'.",
        stacklevel=first_frame_outside_alrc(),
    )


def mask_kind(who: str, mask: object, mend: str, kind: str = "an array") -> TypeError:
    return TypeError(
        f"{who}: mask must be {kind}, True or positive where a loss counts; got {mask!r}. {mend}"
    )


def mask_shape(who: str, mask: object, losses: object, mend: str) -> ValueError:
    return ValueError(
        f"{who}: mask must have the shape of loss, because it says which losses count; got a mask "
        f"of shape {mask} and losses of shape {losses}. {mend}"
    )


def check_group(
    who: str, group: object, num_groups: int | None, build: str, needed: str
) -> int | None:
    """The number of groups; None if there are none. A group is given if and only if there are.

    Args:
        build, needed: What to type for groups, and where a group is missing.
    """
    if num_groups is None and group is not None:
        raise ValueError(
            f"{who}: group must be left out, because the moments are shared by all losses; got "
            f"{group!r}. {build}, or call it without group."
        )
    if num_groups is not None and group is None:
        raise ValueError(
            f"{who}: group must say which of the {num_groups} groups the losses are in; got None. "
            f"Pass group=index{needed}"
        )
    return num_groups


def group_kind(who: str, got: str, mend: str) -> TypeError:
    return TypeError(f"{who}: group must hold whole numbers; got {got}. {mend}")


def group_shape(who: str, group: object, losses: object, mend: str) -> ValueError:
    return ValueError(
        f"{who}: group must be one number or have the shape of loss; got a group of shape {group} "
        f"and losses of shape {losses}. {mend}"
    )


def group_range(who: str, num_groups: int, low: int, high: int) -> ValueError:
    got = low if low == high else f"{low} to {high}"
    return ValueError(
        f"{who}: group must be from 0 to {num_groups - 1}, because there are {num_groups} groups; "
        f"got {got}. Pass a larger num_groups, or other numbers."
    )


def fixed_setting(who: str, name: str, value: object) -> AttributeError:
    return AttributeError(
        f"{who}: {name} is fixed when it is built, because every call relies on it; got "
        f"{name} = {value!r}. Build another with the settings that you want"
        + (
            "."
            if name in ("num_groups", "scale")
            else ", and hand it the state: new.load_dict(old.to_dict())."
        )
    )
