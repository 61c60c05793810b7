"""ALRC in Hugging Face's Trainer: a mixin for a Trainer's class, or a callback for any Trainer.

The Trainer divides the loss of a micro-batch by the number of targets of all batches that are
accumulated, on all processes if need be, and multiplies it by the number of processes. ALRC sees
neither: its losses are means over the targets of one micro-batch, whatever the settings. The loss
that the Trainer reports stays as it is.

accelerate alone needs no integration::

    alrc = ALRC(sync=True).to(accelerator.device)
    accelerator.register_for_checkpointing(alrc)  # saved and loaded with the rest
    with accelerator.accumulate(model):
        accelerator.backward(alrc(loss))  # divides for accumulation after ALRC
"""

import math
import os
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

try:
    from transformers import Trainer, TrainerCallback
    from transformers.loss.loss_utils import ForCausalLMLoss
    from transformers.trainer_callback import ExportableState
    from transformers.trainer_utils import get_last_checkpoint
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.integrations.transformers needs transformers and accelerate, which are not both "
        'installed here. Install them with: pip install "alrc[transformers]"',
        name=error.name,
    ) from error

from alrc.integrations.gradients import hang_gradient, limit_gradient
from alrc.integrations.scalars import scalars
from alrc.torch import ALRC

__all__ = ["ALRCTrainerCallback", "ALRCTrainerMixin"]

FILE = "alrc.pt"
IGNORED = -100  # the label of what is no target, in all of transformers

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object  # the mixin comes in front of whichever Trainer the user has


class ALRCTrainerMixin(_Base):
    """Limits the losses of a Trainer: ``class MyTrainer(ALRCTrainerMixin, Trainer)``.

    The losses may be the model's own, smoothed, or those of ``compute_loss_func``. A checkpoint
    holds the moments in ``alrc.pt``, and ``train(resume_from_checkpoint=...)`` goes on from them
    as if never interrupted. Evaluation and prediction move nothing. With several processes, all
    share one limit. What ALRC did is logged beside the Trainer's loss, as ``alrc/loss`` (the last
    one it saw on this process), ``alrc/limit``, ``alrc/mean``, ``alrc/stddev``,
    ``alrc/clipped_fraction`` and ``alrc/nonfinite`` (of all losses so far); numbers that are not
    finite are left out, since JSON has none.

    Args:
        *args: For the Trainer, and ``**kwargs`` too.
        alrc: Keeps the moments; None for ``ALRC()``; or a dict of ALRC's arguments. It is at hand
            as ``trainer.alrc``.
        alrc_per: ``"batch"`` limits the mean loss of each micro-batch. ``"sequence"`` limits the
            mean loss of each sequence (or labelled example) by itself, so that one bad sequence
            does not take the others down with it; for models whose loss is the cross entropy of
            their logits, at the cost of computing it a second time.

    Raises:
        ValueError: If ``alrc_per`` is none of both, if a process has several devices, or if the
            loss of a sequence can't be told: with label smoothing or ``compute_loss_func``, or
            in training, where there are no logits or labels that give the model's loss.

    Note:
        A few models take ``num_items_in_batch`` and yet return the mean of their batch, such as
        ``GPT2ForSequenceClassification``. The Trainer then leaves out to divide for gradient
        accumulation, and ALRC's losses are too large by that. Tell it with
        ``loss_is_scaled_for_ga = False`` in the class, and both are right; before transformers
        5.19, only ALRC's losses are.

    Example:
        >>> from transformers import Trainer
        >>> from alrc.integrations.transformers import ALRCTrainerMixin
        >>> class MyTrainer(ALRCTrainerMixin, Trainer):
        ...     pass
        >>> # MyTrainer(model, arguments, alrc=ALRC(num_stddev=3.0)).train()
    """

    def __init__(
        self,
        *args: Any,
        alrc: ALRC | Mapping[str, Any] | None = None,
        alrc_per: Literal["batch", "sequence"] = "batch",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if alrc_per not in ("batch", "sequence"):
            raise ValueError(
                "ALRCTrainerMixin: alrc_per must be 'batch' or 'sequence', what one loss is the "
                f"mean of; got {alrc_per!r}. Leave it out for 'batch'."
            )
        if alrc_per == "sequence" and (self.label_smoother or self.compute_loss_func):
            raise ValueError(
                "ALRCTrainerMixin: alrc_per='sequence' needs the model's own loss, because it is "
                "computed again for each sequence; got "
                f"{'label smoothing' if self.label_smoother else 'compute_loss_func'}. Pass "
                "alrc_per='batch'."
            )
        self.alrc = _prepared("ALRCTrainerMixin", _made(alrc), self.args)
        self.alrc_per = alrc_per
        self._alrc_loss: Tensor | None = None  # the last one seen
        self._alrc_checked = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not (model.training and torch.is_grad_enabled()):
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if not (self.model_accepts_loss_kwargs or self.compute_loss_func):
            num_items_in_batch = None  # which old versions give all the same, and leave unused
        targets = _targets(self.model, inputs)  # before the Trainer takes the labels out
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if self.alrc_per == "sequence":
            loss = self._limit_sequences(loss, outputs, targets, num_items_in_batch)
        else:
            scale: Tensor | float = 1.0
            if num_items_in_batch is not None and targets is not None:
                number = targets.number()
                scale = self._divisor(number, num_items_in_batch) / number
            loss, seen = limit_gradient(self.alrc, loss, scale)
            self._alrc_loss = seen.loss
        return (loss, outputs) if return_outputs else loss

    def _divisor(self, num_targets: Tensor, num_items: Tensor | int | None) -> Tensor:
        """What the sum of the losses of the targets was divided by, all in all."""
        if num_items is None:
            return num_targets
        mean = getattr(self, "loss_is_scaled_for_ga", None) is False
        if self.label_smoother and not self.compute_loss_func:  # old ones take no number
            mean |= "num_items_in_batch" not in signature(self.label_smoother.__call__).parameters
        divisor = num_targets if mean else torch.as_tensor(num_items)
        if self.args.average_tokens_across_devices:  # and then multiplied by
            tp_size = self.get_tp_size() if hasattr(self, "get_tp_size") else 1  # from 4.53
            divisor = divisor / (self.accelerator.num_processes // tp_size)
        return divisor

    def _limit_sequences(
        self, loss: Tensor, outputs: Any, targets: "_Targets | None", num_items: Any
    ) -> Tensor:
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        labels = None if targets is None else targets.labels
        if logits is not None and targets is not None and targets.shifted:
            logits = logits[..., :-1, :]
        if (
            logits is None
            or targets is None
            or labels is None
            or labels.is_floating_point()
            or labels.shape != logits.shape[:-1]
        ):
            raise ValueError(
                "ALRCTrainerMixin: alrc_per='sequence' needs logits, and the number of a class as "
                "the label of each position, because they make the loss of each sequence; got "
                f"{_described(logits)} as logits and {_described(labels)} as labels. Pass "
                "alrc_per='batch'."
            )
        losses = nn.functional.cross_entropy(
            logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        sums = losses.view(len(labels), -1).sum(1)
        counts = labels.ne(IGNORED).view(len(labels), -1).sum(1)
        divisor = self._divisor(counts.sum(), num_items)
        if not self._alrc_checked:  # once, since looking waits for the device
            given, own = loss.item(), (sums.detach().sum() / divisor).item()
            if abs(given - own) > 1e-2 * abs(given):
                raise ValueError(
                    "ALRCTrainerMixin: alrc_per='sequence' needs a model whose loss is the cross "
                    "entropy of its logits, because it is computed again for each sequence; got a "
                    f"loss of {given:.4g}, and {own:.4g} from the logits. Pass alrc_per='batch'; "
                    "or, if the model leaves num_items_in_batch unused, set "
                    "loss_is_scaled_for_ga = False in the Trainer's class."
                )
            self._alrc_checked = math.isfinite(given)
        means = (sums.detach() / counts.clamp_min(1)).requires_grad_()
        (factor,) = torch.autograd.grad(self.alrc(means, mask=counts > 0).sum(), means)
        self._alrc_loss = means.detach().sum() / (counts > 0).sum()
        # Adds the change of the gradient and no value; where there is none, exactly nothing.
        change = (torch.where(factor != 1, sums, 0.0) * (factor - 1)).sum() / divisor
        return loss + (change - change.detach()).to(loss.dtype)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # of training, not of an evaluation or at the end
            logs.update(_metrics(self.alrc, self._alrc_loss))
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            path = os.path.join(str(output_dir or self.args.output_dir), FILE)
            torch.save(self.alrc.state_dict(), path + ".tmp")
            os.replace(path + ".tmp", path)  # whole or not at all

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        if folder:
            path = os.path.join(folder, FILE)
            if os.path.exists(path):
                self.alrc.load_state_dict(torch.load(path, "cpu", weights_only=True))
            else:
                _warn_of_a_fresh_start("ALRCTrainerMixin", f"{folder} has no {FILE}")
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        _ = self.alrc.mu1  # waits for the last exchange with other processes, while they are there
        return result


class ALRCTrainerCallback(TrainerCallback, ExportableState):
    """Limits the losses of any Trainer: ``Trainer(..., callbacks=[ALRCTrainerCallback()])``.

    For models that compute their own loss, one for each micro-batch. The moments are saved in
    each checkpoint's ``trainer_state.json``, and ``train(resume_from_checkpoint=...)`` goes on
    from them as if never interrupted, with nothing to set. Evaluation and prediction move
    nothing. With several processes, all share one limit.

    The metrics of :class:`ALRCTrainerMixin` arrive in ``trainer.state.log_history``, and in
    callbacks that come after this one. Those of ``report_to`` come before: to have the metrics in
    them too, move them, as in ``trainer.add_callback(trainer.pop_callback(TensorBoardCallback))``.

    Args:
        alrc: Keeps the moments; None for ``ALRC()``; or a dict of ALRC's arguments.
        saved: What ``alrc.to_dict()`` returned, to go on from; None: go on from ``alrc`` as it
            is.

    Raises:
        ValueError: When training begins, if the Trainer smooths labels, if a process has several
            devices, or if there are two of these callbacks; in training, if the model returns no
            loss, as with ``compute_loss_func``.
        RuntimeError: In training, if the model's loss is not what is trained on.

    Note:
        ``TrainingArguments(restore_callback_states_from_checkpoint=True)`` is not needed. With
        it, the Trainer puts a new callback in the place of this one, with an ``alrc`` of its own.

    Example:
        >>> from alrc.integrations.transformers import ALRCTrainerCallback
        >>> from alrc.torch import ALRC
        >>> callback = ALRCTrainerCallback(alrc=ALRC(num_stddev=3.0))
        >>> # Trainer(model, arguments, callbacks=[callback]).train()
        >>> callback.alrc.num_clipped
        tensor(0)
    """

    def __init__(
        self,
        alrc: ALRC | Mapping[str, Any] | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.alrc = _made(alrc)
        if saved is not None:
            self.alrc.load_dict(saved)
        self._loss: Tensor | None = None
        self._num_losses = self._num_gradients = 0  # of this step
        self._remove_hook: weakref.finalize[Any, Any] | None = None

    def state(self) -> dict[str, Any]:
        """What the Trainer saves in ``trainer_state.json``: the arguments of another one."""
        saved = {"alrc": asdict(self.alrc.settings), "saved": self.alrc.to_dict()}
        return {"args": saved, "attributes": {}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        name = type(self).__name__
        if args.label_smoothing_factor:
            raise ValueError(
                f"{name}: label_smoothing_factor must be 0, because the Trainer then trains on a "
                f"loss that no callback can see; got {args.label_smoothing_factor}. Use "
                "ALRCTrainerMixin."
            )
        saved = state.stateful_callbacks.get(name)
        if isinstance(saved, list):
            raise ValueError(
                f"{name}: there must be one of them, because each would scale the gradient; got "
                f"{len(saved)}. Take the others out of callbacks."
            )
        _prepared(name, self.alrc, args)
        if state.global_step and saved:  # a training that is resumed
            self.alrc.load_dict(saved["args"]["saved"])
        elif state.global_step:
            _warn_of_a_fresh_start(name, "the checkpoint has none of its moments")
            state.stateful_callbacks[name] = self.state()  # the Trainer asks for the name
        self._num_losses = self._num_gradients = 0
        self._unhook()
        me = weakref.ref(self)

        def hook(module: nn.Module, _: Any, inputs: dict[str, Any], outputs: Any) -> None:
            callback = me()
            if callback and module.training and torch.is_grad_enabled():
                callback._limit(module, inputs, outputs)

        handle = model.register_forward_hook(hook, with_kwargs=True)
        # An exception in training calls no callback: then the hook goes when this object does.
        self._remove_hook = weakref.finalize(self, handle.remove)

    def _limit(self, model: nn.Module, inputs: dict[str, Any], outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            self._unhook()
            raise ValueError(
                f"{type(self).__name__}: the model must return its loss, because that is what is "
                "limited; got outputs without one, as with compute_loss_func or inputs without "
                "labels. Use ALRCTrainerMixin."
            )
        scale: Tensor | float = 1.0
        targets, num_items = _targets(model, inputs), inputs.get("num_items_in_batch")
        if num_items is not None and targets is not None:
            scale = num_items / targets.number()
        self._loss = hang_gradient(self.alrc, loss, scale).loss
        self._num_losses += 1
        loss.register_hook(self._count)  # type: ignore[no-untyped-call]

    def _count(self, gradient: Tensor) -> None:
        self._num_gradients += 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        losses, gradients = self._num_losses, self._num_gradients
        self._num_losses = self._num_gradients = 0
        if not losses == gradients > 0:
            self._unhook()
            raise RuntimeError(
                f"{type(self).__name__}: each loss that the model returns must be trained on, "
                f"because its gradient is what is limited; got {losses} losses and {gradients} "
                "gradients before a step of the optimizer. If your Trainer computes another "
                "loss, use ALRCTrainerMixin."
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            metrics = _metrics(self.alrc, self._loss)
            logs.update(metrics)
            state.log_history[-1].update(metrics)  # a copy of the logs, made before this call

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._unhook()
        _ = self.alrc.mu1  # waits for the last exchange with other processes, while they are there

    def _unhook(self) -> None:
        if self._remove_hook is not None:
            self._remove_hook()


class _Targets(NamedTuple):
    """What the model is to predict: the labels that its loss compares the logits with."""

    labels: Tensor
    shifted: bool  # the logits of each position belong to the label of the next

    def number(self) -> Tensor:
        # Of a batch without targets, 0: its loss becomes 0 * inf, which ALRC keeps out.
        return self.labels.ne(IGNORED).sum()


def _targets(model: Any, inputs: Mapping[str, Any]) -> _Targets | None:
    labels = inputs.get("shift_labels")
    if isinstance(labels, Tensor):
        return _Targets(labels, False)
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor):
        return None
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    causal = getattr(model, "loss_function", None) is ForCausalLMLoss and not encoder_decoder
    shifted = causal and labels.dim() > 1
    return _Targets(labels[..., 1:] if shifted else labels, shifted)


def _described(x: Any) -> str:
    return f"a {x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else "nothing"


def _made(alrc: ALRC | Mapping[str, Any] | None) -> ALRC:
    return alrc if isinstance(alrc, ALRC) else ALRC(**(alrc or {}))


def _prepared(who: str, alrc: ALRC, args: Any) -> ALRC:
    if args.n_gpu > 1:
        raise ValueError(
            f"{who}: each process must have one device, because copies of the model would each "
            f"limit their own losses; got n_gpu={args.n_gpu}. Start one process for each device, "
            "with torchrun or accelerate launch."
        )
    if args.world_size > 1 and alrc.sync is False:
        alrc.sync = True
    return alrc.to(args.device)


def _warn_of_a_fresh_start(who: str, reason: str) -> None:
    warnings.warn(
        f"{who}: {reason}, so ALRC starts afresh: training goes on from the checkpoint, but not "
        "as if it had not been interrupted.",
        stacklevel=3,
    )


def _metrics(alrc: ALRC, loss: Tensor | None) -> dict[str, float]:
    """What ALRC did, by name; waits for the device once."""
    numbers = scalars(alrc) if loss is None else {"loss": loss.float(), **scalars(alrc)}
    pairs = zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True)
    return {f"alrc/{name}": value for name, value in pairs if math.isfinite(value)}
