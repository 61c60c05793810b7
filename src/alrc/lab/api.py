"""All that a task or an arm of one's own imports: what the lab asks of them.

A task says what is learned, an arm what is done to its losses and gradients. The engine trains
each with each, and knows neither::

    from dataclasses import dataclass
    from typing import Annotated
    from alrc.lab.api import Arm, Ge, Gt, Metric, Outcome, Task
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "Arm",
    "Ge",
    "Gt",
    "Le",
    "Lt",
    "Metric",
    "Networks",
    "Options",
    "Outcome",
    "Picture",
    "Task",
    "Training",
]

Networks = Mapping[str, nn.Module]


class Options:
    """The base of dataclasses whose fields are options: of a task, an arm or of training.

    A field is written ``name: Annotated[int, Ge(1), "What it is, with its unit."] = 3``. From it
    come the option of the command line with its help, the key of a study's file, and the check:
    the type and the bounds hold when the object is made.

    Raises:
        ValueError: If the value of a field is of another type or out of its bounds.
    """

    def __post_init__(self) -> None:
        for name, (adapter, _) in _adapters(type(self)).items():  # type: ignore[arg-type]
            try:
                value = adapter.validate_python(getattr(self, name), strict=True)
                object.__setattr__(self, name, value)  # 1 becomes 1.0 where a float is asked for
            except ValidationError as error:
                # The last is that of the type that comes nearest, where there are several.
                said = error.errors()[0]["msg"].removeprefix("Input should be ")
                raise ValueError(
                    f"{type(self).__name__}: {name} must be {said}; got {getattr(self, name)!r}."
                ) from None

    def options(self) -> dict[str, Any]:
        """The options by name, as they were given."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def helps(cls) -> dict[str, str]:
        """What each option is, in words; empty where nothing was written."""
        return {name: words for name, (_, words) in _adapters(cls).items()}  # type: ignore[arg-type]


@functools.cache
def _adapters(cls: type[Options]) -> dict[str, tuple[TypeAdapter[Any], str]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        f.name: (TypeAdapter(hints[f.name]), _words(hints[f.name]))
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
    }


def _words(hint: Any) -> str:
    return next((x for x in getattr(hint, "__metadata__", ()) if isinstance(x, str)), "")


@dataclass(frozen=True)
class Training(Options):
    """How a network is trained, whatever the task and the arm."""

    steps: Annotated[int, Ge(10), "Training steps, >= 10."]
    batch_size: Annotated[int, Ge(1), "Examples per training step, >= 1."] = 1
    optimizer: Annotated[Literal["adam", "adamw", "sgd"], "Adam, AdamW, or gradient descent."] = (
        "adam"
    )
    learning_rate: Annotated[float, Gt(0), Lt(math.inf), "Step size at the start, > 0."] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1), "Of gradient descent, from 0 to below 1."] = 0.0
    weight_decay: Annotated[float, Ge(0), Lt(math.inf), "Of the optimizer, >= 0."] = 0.0
    evaluate_every: Annotated[
        int | None, Ge(1), "Steps between evaluations; without it, one at the end."
    ] = None
    checkpoint_seconds: Annotated[
        float, Ge(0), "Seconds between checkpoints, >= 0; what comes after one is lost in a kill."
    ] = 60.0
    store: Annotated[
        Literal["each", "mean"],
        "Keep every loss, or the means of each step alone, without pictures and checkpoint.",
    ] = "each"
    device: Annotated[str, "Where to train: cpu, cuda, cuda:1."] = "cpu"
    compile: Annotated[bool, "Send the networks through torch.compile."] = False

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """An optimizer as these options say, with PyTorch's defaults for all others."""
        rate, decay = self.learning_rate, self.weight_decay
        match self.optimizer:
            case "sgd":
                return torch.optim.SGD(parameters, rate, momentum=self.momentum, weight_decay=decay)
            case "adamw":
                return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
        # Fused: one call for all parameters saves a millisecond of a small network's step.
        return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)


@dataclass(frozen=True)
class Metric:
    """A number that a run is judged by.

    Args:
        name: As it stands in tables and on axes, such as ``"held-out error"``.
        unit: ``""`` for a plain number.
        better: Which direction is good.
    """

    name: str
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Outcome:
    """What a step gives, where it is more than its losses.

    Args:
        losses: Trained with, after each was limited by itself; any shape, the same in each step.
        logged: Only kept for the report; any shape, the same in each step.
        unlimited: Trained with as they are, and kept for the report as what is logged is: losses
            that no arm is to limit, such as those of an adversary. No name is that of another.
    """

    losses: Mapping[str, Tensor]
    logged: Mapping[str, Tensor] = field(default_factory=dict)
    unlimited: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An image of what a network makes of an example.

    Args:
        name: Of its file, without folder and ending.
        caption: What there is to see; it is the text for those who can't.
        pixels: Shape ``(H, W)`` or ``(H, W, 3)``, from 0 to 1.
    """

    name: str
    caption: str
    pixels: Any


class Task(Options):
    """What is learned: data, networks, losses, metrics. A subclass is a frozen dataclass.

    All that is random follows from the seed. The object is sent to other processes, so it has to
    be picklable and holds options alone; data are loaded where they are used first.

    A *phase* is one backward pass and one step of an optimizer. Most tasks have a single one,
    which is called ``"step"`` and is the method of that name. A task with several, such as a GAN
    or a second stage, lists those of each step in :meth:`phases`, has a method for each, and makes
    an optimizer for each in :meth:`optimizers`.
    """

    metrics: ClassVar[Sequence[Metric]]
    """What :meth:`evaluate` gives; the first is the primary one, which verdicts are about."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Options of :class:`Training` that fit this task, where none are given."""
    diverged_above: ClassVar[float] = 3.0
    """A run diverged if a loss's median over the last tenth is more than this times its median
    over the first tenth (or is NaN or infinite)."""
    places: ClassVar[Sequence[str]] = ()
    """Options that only say where data are, and may differ between machines; :meth:`describe`
    says what they are."""
    stackable: ClassVar[bool] = False
    """Whether runs may be trained together, as one network with a dimension more. It needs
    networks without buffers that change and without dropout, and :meth:`optimizers` as it is."""

    def build(self, seed: int) -> Networks:
        """The networks with the initial weights that belong to a seed."""
        raise NotImplementedError

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Any]:
        """The batches of the training steps from ``start`` on, without end: tensors, or tuples,
        lists or dicts of them, on the CPU. That of a step is the same whatever ``start`` was."""
        raise NotImplementedError

    def step(self, networks: Networks, batch: Any) -> Mapping[str, Tensor] | Outcome:
        """The losses of a batch by name, before they are limited; each of any shape.

        One loss per example is what lets an arm limit one example without the others.
        """
        raise NotImplementedError

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        """The metrics of networks in evaluation mode, without gradients, by name.

        It changes nothing in them. Random numbers that it draws are the same in every call.
        """
        raise NotImplementedError

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        """What needs no training gives in each metric, by its name: ``{"image mean": {...}}``.

        It stands beside results in reports. It depends on data alone: neither on a seed of a run
        nor on a network. Random numbers that it draws are the same in every call.
        """
        return {}

    def combine(self, phase: str, losses: Mapping[str, Tensor]) -> Tensor:
        """What a phase minimises: the sum of the means of its losses, of which those of a step
        are limited, and the unlimited ones as they were given."""
        return functools.reduce(torch.add, (loss.mean() for loss in losses.values()))

    def phases(self, step: int, training: Training) -> Sequence[str]:
        """The phases of a step, counted from 0 to below ``training.steps``, in their order."""
        return ("step",)

    def optimizers(self, networks: Networks, training: Training) -> Mapping[str, Optimizer]:
        """An optimizer for each phase."""
        parameters = [p for network in networks.values() for p in network.parameters()]
        return {"step": training.make_optimizer(parameters)}

    def schedules(
        self, optimizers: Mapping[str, Optimizer], training: Training
    ) -> Mapping[str, LRScheduler]:
        """A schedule of the learning rate for phases that have one, stepped after each."""
        return {}

    def pictures(self, networks: Networks) -> Iterable[Picture]:
        """What the report is to show of a finished run."""
        return ()

    def describe(self) -> Mapping[str, Any]:
        """What fixes the task beside its options, as plain values: a checksum of its data, say."""
        return {}


class Arm(Options):
    """What is done to losses and gradients. A subclass is a dataclass, not a frozen one.

    A run has one for each optimizer, so that phases of a task are not mixed. Its fields are its
    options. Everything else that :meth:`begin` or a later call sets on the
    object is its state, which is kept in checkpoints: tensors, numbers, lists, dicts, modules.
    """

    is_baseline: ClassVar[bool] = False
    """Whether it is what the others are compared with."""
    step_ok: bool | Tensor = True
    """Whether the optimizer may take its step; set by :meth:`after_backward`. Steps that were
    skipped are logged as ``skipped``, which is 1 in them."""

    def begin(self, device: torch.device) -> None:
        """Makes the state with which a run begins."""

    def threshold(self, name: str) -> Tensor | None:
        """The limit of the next losses of a name, for the report; None without one."""
        return None

    def limit(self, name: str, losses: Tensor) -> Tensor:
        """The losses to train with, of the same shape or reduced."""
        return losses

    def after_backward(
        self, phase: str, loss: Tensor, parameters: Sequence[nn.Parameter], optimizer: Optimizer
    ) -> None:
        """Changes the gradients of a phase, or sets :attr:`step_ok`.

        Args:
            phase: Its name.
            loss: What it minimises, from the limited losses: one number, detached.
            parameters: Of its optimizer, with their gradients.
            optimizer: Takes its step afterwards.
        """

    def stacked(self, members: int) -> "Arm | None":
        """The same arm for several runs that are trained together, to be faster than one by one.

        It is asked for only where this very class defines it. Losses, also that of
        :meth:`after_backward`, limits, trained parameters with their gradients, logged numbers, and
        :attr:`step_ok` if it is a tensor, then have a first axis more, of length ``members``; what
        is done to one must not depend on the others. It draws no random numbers, and leaves the
        optimizer as it is. With None, which is always right, each run has an arm of its own.
        """
        return None

    def logged(self) -> Mapping[str, float | Tensor]:
        """Numbers of the last phase for the report, the same names in each."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        return {
            name: value.state_dict() if isinstance(value, nn.Module) else value
            for name, value in vars(self).items()
            if name not in self.options()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Goes on from a state, after :meth:`begin`."""
        for name, value in state.items():
            if isinstance(module := getattr(self, name, None), nn.Module):
                module.load_state_dict(value)
            else:
                setattr(self, name, value)
        return self
