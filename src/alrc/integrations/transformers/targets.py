"""What a batch's targets are, and what the sum of their losses was divided by."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

IGNORED = -100  # the label of what is no target, in all of transformers


class Targets(NamedTuple):
    """What the model is to predict: the labels that its loss compares the logits with."""

    labels: Tensor
    shifted: bool  # the logits of each position belong to the label of the next

    def number(self) -> Tensor:
        # Of a batch without targets, 0: its loss becomes 0 * inf, which ALRC keeps out.
        return self.labels.ne(IGNORED).sum()


def find_targets(model: Any, inputs: Mapping[str, Any]) -> Targets | None:
    """The targets among the inputs of a model, or None if they have no labels."""
    labels = inputs.get("shift_labels")
    if isinstance(labels, Tensor):
        return Targets(labels, False)
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor):
        return None
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    causal = getattr(model, "loss_function", None) is ForCausalLMLoss and not encoder_decoder
    shifted = causal and labels.dim() > 1
    return Targets(labels[..., 1:] if shifted else labels, shifted)


class Normalization:
    """Whether a loss is divided by ``num_items_in_batch`` or is the mean of its micro-batch.

    No signature tells: the heads for classification take the number and leave it unused. So the
    number of the first micro-batch is marked, and what is computed from it is marked too: the
    loss is, if it was divided by the number. Nothing waits for the device.

    Args:
        who: Whose words a warning is.
        stated: What the user says, if anything: True for divided, False for a mean.
    """

    def __init__(self, who: str, stated: bool | None = None) -> None:
        self.who = who
        self.is_divided = stated

    @contextlib.contextmanager
    def marked(self, number: Tensor | int | None) -> Iterator[Tensor | int | None]:
        """The number to give to the model, which is marked as long as nothing is known."""
        if number is None or self.is_divided is not None:
            yield number
        else:
            with without_compiler():
                yield self.mark(number)

    def mark(self, number: Tensor | int) -> Tensor:
        _Marked.was_read = False
        marked = torch.as_tensor(number).clone()
        marked.__class__ = _Marked
        return marked

    def learn(self, loss: Tensor) -> Tensor:
        """Looks at the loss of a number that was marked; returns the loss without a mark."""
        if self.is_divided is None:
            self.is_divided = isinstance(loss, _Marked)
            if _Marked.was_read and not self.is_divided:
                self.is_divided = True
                warnings.warn(
                    f"{self.who}: whether the loss is divided by num_items_in_batch can't be told, "
                    "because that was read as a plain number (.item(), say); taken for divided. If "
                    "it is, compute with the tensor itself. If the loss is the mean of its batch, "
                    "set loss_is_scaled_for_ga = False in the class of a Trainer with "
                    "ALRCTrainerMixin.",
                    stacklevel=2,
                )
        unmarked: Tensor = unmark(loss)
        return unmarked


def without_compiler() -> contextlib.AbstractContextManager[Any]:
    """Where a loss is computed with a number that is marked: compiled models know no marks."""
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


def unmark(x: Any) -> Any:
    if isinstance(x, _Marked):
        x.__class__ = Tensor  # type: ignore[assignment]
    return x


class _Marked(Tensor):
    """A number that leaves its mark, which is its type, on all that is computed from it."""

    was_read: ClassVar[bool]  # as a plain number, which has no mark

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in _READING:
            _Marked.was_read = True
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if type(x) is Tensor:
                x.__class__ = _Marked  # as_subclass would make a view, which DDP's loss can't be
        return result


_READING = {"item", "tolist", "numpy", "data_ptr", "__array__", "__int__", "__float__", "__index__"}
