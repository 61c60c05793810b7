"""What a task gives in a step, or in words what is wrong with it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from alrc.lab.api import Networks, Outcome, Task

__all__ = ["check_depends", "outcome_of"]


def outcome_of(task: Task, phase: str, networks: Networks, batch: Any) -> Outcome:
    """The losses of a phase, and what is logged.

    Raises:
        ValueError: If there are no losses, or one is empty.
    """
    given: Any = getattr(task, phase)(networks, batch)
    outcome = given if isinstance(given, Outcome) else Outcome(given)
    losses = outcome.losses
    if isinstance(losses, Mapping) and losses:
        wrong = [
            name for name, x in losses.items() if not (isinstance(x, Tensor) and x.numel() > 0)
        ]
        if not wrong:
            return outcome
        given = losses[wrong[0]]
        words = f"{wrong[0]!r} as {_words(given)}"
    else:
        words = _words(losses)
    raise ValueError(
        f"{type(task).__name__}.{phase} must give its losses by name, each a tensor that is not "
        f"empty; it gave {words}."
    )


def check_depends(task: Task, phase: str, total: Tensor) -> None:
    """Refuses what can't be trained with.

    Raises:
        ValueError: If it is not one number, or does not depend on what is trained.
    """
    if total.numel() != 1 or not total.requires_grad:
        raise ValueError(
            f"{type(task).__name__}: the losses of {phase}, limited and combined, must be one "
            "number that depends on the networks, because their gradients are taken from it; it "
            + (f"has the shape {tuple(total.shape)}." if total.numel() != 1 else "does not.")
        )


def _words(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    return "nothing" if given is None or given == {} else f"a {type(given).__name__}"
