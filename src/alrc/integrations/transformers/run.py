"""What the mixin and the callback have in common: an ALRC in one training after another."""

import math
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alrc.integrations.gradients import limit_gradient
from alrc.integrations.scalars import Kept, scalars
from alrc.integrations.states import are_same, copy_state
from alrc.torch import ALRC


def make_alrc(alrc: ALRC | Mapping[str, Any] | None) -> ALRC:
    return alrc if isinstance(alrc, ALRC) else ALRC(**(alrc or {}))


class Run:
    """Limits the losses of a training, and notices when they are not what is trained on.

    Args:
        who: Whose words a refusal is: the mixin or the callback.
        alrc: Keeps the moments.
    """

    def __init__(self, who: str, alrc: ALRC) -> None:
        self.who = who
        self.alrc = alrc
        self.num_losses = self.num_gradients = 0  # since the last step of the optimizer
        self._loss = torch.tensor(math.nan)  # the last one seen
        self._kept = Kept()

    def prepare(self, args: Any) -> None:
        """Moves ALRC to the device of the training, and lets all processes share its limit."""
        if args.n_gpu > 1:
            raise ValueError(
                f"{self.who}: each process must have one device, because copies of the model "
                f"would each limit their own losses; got n_gpu={args.n_gpu}. Start one process "
                "for each device, with torchrun or accelerate launch."
            )
        if args.world_size > 1 and self.alrc.sync is False:
            self.alrc.sync = True
        self.alrc.to(args.device)

    def begin(self, model: nn.Module, resumed: bool) -> None:
        """A training of the model begins, from a checkpoint or not."""
        for name, module in model.named_modules():
            if isinstance(module, ALRC):
                warnings.warn(
                    f"{self.who}: the model has an ALRC of its own, {name!r}. If that limits the "
                    "loss that is trained on, its gradient is scaled twice: leave one of them out.",
                    stacklevel=2,
                )
        _history(self.alrc).begin(self.alrc, model, resumed)
        self.num_losses = self.num_gradients = 0
        self._kept.take()

    def remember_start(self) -> None:
        """Keeps the moments that a first training begins with, before a checkpoint's come."""
        _history(self.alrc)

    def limit(self, loss: Tensor, scale: Tensor | float) -> Tensor:
        loss, seen = limit_gradient(self.alrc, loss, scale)
        return self.watch(loss, seen.loss, seen.loss, seen.limited)

    def watch(self, loss: Tensor, shown: Tensor, raw: Tensor, limited: Tensor) -> Tensor:
        """Waits for the gradient of a limited loss, and keeps what is to be logged of it."""
        self._loss = shown
        self._kept.add(raw, limited)
        self.num_losses += 1
        if loss.requires_grad:
            came: list[bool] = []

            def count(gradient: Tensor) -> None:
                self.num_gradients += not came  # a second backward pass counts no more
                came.append(True)

            loss.register_hook(count)  # type: ignore[no-untyped-call]
        return loss

    def check(self, loss: str, mend: str) -> None:
        """Before a step of the optimizer: each loss must have had its gradient, at least one."""
        losses, gradients = self.num_losses, self.num_gradients
        self.num_losses = self.num_gradients = 0
        if not losses == gradients > 0:
            raise RuntimeError(
                f"{self.who}: {loss} must be trained on, because its gradient is what is limited; "
                f"got {losses} losses and {gradients} gradients before a step of the optimizer. "
                f"{mend}"
            )

    def metrics(self) -> dict[str, float]:
        """What ALRC did, by name; waits for the device once."""
        numbers = {"loss": self._loss.float(), "kept": self._kept.take(), **scalars(self.alrc)}
        device = self.alrc.mean.device
        values = torch.stack([number.to(device) for number in numbers.values()]).tolist()
        pairs = zip(numbers, values, strict=True)
        return {f"alrc/{name}": value for name, value in pairs if math.isfinite(value)}

    def end(self) -> None:
        """A training is over; waits for its last exchange with other processes while they live."""
        self.alrc.wait()
        _history(self.alrc).left = copy_state(self.alrc)


@dataclass
class _History:
    """What the moments of an ALRC describe."""

    start: dict[str, Tensor]  # before the first training
    left: dict[str, Tensor] | None = None  # by the last training, if that has ended as it should
    model: "weakref.ref[nn.Module] | None" = None  # of that training

    def begin(self, alrc: ALRC, model: nn.Module, resumed: bool) -> None:
        model = _innermost(model)
        another = self.model is not None and self.model() is not model
        if another and not resumed:
            if self.left is None or are_same(self.left, copy_state(alrc)):
                alrc.load_state_dict(self.start)
            else:  # somebody has set them since
                self.start = copy_state(alrc)
        self.model, self.left = weakref.ref(model), None


_histories: "weakref.WeakKeyDictionary[ALRC, _History]" = weakref.WeakKeyDictionary()


def _history(alrc: ALRC) -> _History:
    history = _histories.get(alrc)
    if history is None:
        history = _histories[alrc] = _History(copy_state(alrc))
    return history


def _innermost(model: nn.Module) -> nn.Module:
    """Without what FSDP, DDP and torch.compile put around it."""
    while isinstance(
        inner := getattr(model, "module", getattr(model, "_orig_mod", None)), nn.Module
    ):
        model = inner
    return model


def warn_of_a_fresh_start(who: str, reason: str) -> None:
    warnings.warn(
        f"{who}: {reason}, so ALRC starts afresh: training goes on from the checkpoint, but not "
        "as if it had not been interrupted.",
        stacklevel=3,
    )
