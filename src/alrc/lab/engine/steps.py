"""What a task gives in a step, or in words what is wrong with it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from alrc.lab.api import Arm, Networks, Outcome, Task, Training

__all__ = [
    "SKIPPED",
    "act_and_step",
    "check_any_depends",
    "check_depends",
    "check_limited",
    "optimizer_of",
    "outcome_of",
    "schedules_of",
]

SKIPPED = "skipped"  # logged as 1 in the steps that an arm skips, unless it logs that itself


def optimizer_of(task: Task, phase: str, optimizers: Mapping[str, Optimizer]) -> Optimizer:
    """That of a phase.

    Raises:
        ValueError: If there is none, or no method for the phase.
    """
    name = type(task).__name__
    if not callable(getattr(task, phase, None)):
        raise ValueError(
            f"{name} must have a method {phase}(networks, batch), because its phases name it."
        )
    if phase not in optimizers:
        raise ValueError(
            f"{name}.optimizers must give one for each phase; it gave {', '.join(optimizers)}, and "
            f"none for {phase}."
        )
    return optimizers[phase]


def schedules_of(
    task: Task, optimizers: Mapping[str, Optimizer], training: Training
) -> Mapping[str, LRScheduler]:
    """Those of the phases that have one.

    Raises:
        ValueError: If there is one for something else, which nothing would ever step.
    """
    schedules = task.schedules(optimizers, training)
    if others := schedules.keys() - optimizers.keys():
        raise ValueError(
            f"{type(task).__name__}.schedules must give them by phase, of which there are "
            f"{', '.join(optimizers)}; it gave one for {min(others)}."
        )
    return schedules


def outcome_of(task: Task, phase: str, networks: Networks, batch: Any) -> Outcome:
    """The losses of a phase, and what is logged.

    Raises:
        ValueError: If there are no losses, one is empty, or two have the same name.
    """
    given: Any = getattr(task, phase)(networks, batch)
    outcome = given if isinstance(given, Outcome) else Outcome(given)
    wrong = _wrong_losses(outcome)
    if wrong is not None:
        raise ValueError(
            f"{type(task).__name__}.{phase} must give its losses by name, each a tensor that is "
            f"not empty; it gave {wrong}."
        )
    for name in outcome.unlimited:
        for kind in ("losses", "logged"):
            if name in getattr(outcome, kind):
                raise ValueError(
                    f"{type(task).__name__}.{phase} must give unlimited losses names of their own, "
                    f"by which they are combined and stored; {name!r} is in {kind} too. Rename one."
                )
    return outcome


def _wrong_losses(outcome: Outcome) -> str | None:
    """What is given in the place of losses, in words."""
    both = (outcome.losses, outcome.unlimited)
    for losses in both:
        if not isinstance(losses, Mapping):
            return _words(losses)
        for name, x in losses.items():
            if not (isinstance(x, Tensor) and x.numel() > 0):
                return f"{name!r} as {_words(x)}"
    return None if any(both) else "nothing"


def check_limited(task: Task, first: str) -> None:
    """Refuses a first step without a loss that an arm may limit: by them runs are compared.

    Args:
        task: What is learned.
        first: The name of the first such loss; empty without any.

    Raises:
        ValueError: If there is none.
    """
    if not first:
        raise ValueError(
            f"{type(task).__name__} must give a loss that an arm may limit in its first step, "
            "because by it runs are compared; all that it gave were unlimited."
        )


def act_and_step(
    arm: Arm, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
) -> bool:
    """Lets an arm act on gradients, and then the optimizer, if it may.

    Returns:
        Whether a step was taken: also one that the arm took itself.
    """
    taken: list[bool] = []
    hook = optimizer.register_step_post_hook(lambda *_: taken.append(True))
    try:
        arm.step_ok = True
        arm.after_backward(phase, loss, parameters, optimizer)
        if arm.step_ok:
            optimizer.step()
    finally:
        hook.remove()
    return bool(taken)


def check_depends(task: Task, phase: str, total: Tensor) -> None:
    """Refuses what can't be trained with.

    Raises:
        ValueError: If it is not one number, or does not depend on what is trained.
    """
    if total.numel() != 1:
        raise _not_trainable(task, phase, f"has the shape {tuple(total.shape)}")
    check_any_depends(task, phase, [total])


def check_any_depends(task: Task, phase: str, losses: Iterable[Tensor]) -> None:
    """Refuses limited losses of which none depends on what is trained."""
    if not any(loss.requires_grad for loss in losses):
        raise _not_trainable(task, phase, "does not")


def _not_trainable(task: Task, phase: str, words: str) -> ValueError:
    return ValueError(
        f"{type(task).__name__}: the losses of {phase}, limited and combined, must be one number "
        f"that depends on the networks, because their gradients are taken from it; it {words}."
    )


def _words(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    return "nothing" if given is None or given == {} else f"a {type(given).__name__}"
