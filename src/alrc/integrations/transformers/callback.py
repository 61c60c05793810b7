"""The callback, which limits the loss that a model returns by a hook on the model."""

import contextlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from alrc.integrations.transformers.run import Run, make_alrc, warn_of_a_fresh_start
from alrc.integrations.transformers.targets import (
    Normalization,
    find_targets,
    unmark,
    without_compiler,
)
from alrc.torch import ALRC

NUMBER = "num_items_in_batch"


class ALRCTrainerCallback(TrainerCallback, ExportableState):
    """Limits the losses of any Trainer: ``Trainer(..., callbacks=[ALRCTrainerCallback()])``.

    For models that compute their own loss, one for each micro-batch. The moments are saved in
    each checkpoint's ``trainer_state.json``, and ``train(resume_from_checkpoint=...)`` goes on
    from them as if never interrupted, with nothing to set. Evaluation and prediction move
    nothing, nor do copies of the model that are made in training. With several processes, all
    share one limit. What a loss was divided by is seen in the first micro-batch of a training,
    which is why that one runs without torch.compile.

    The moments belong to the model they were taken from, as with :class:`ALRCTrainerMixin`: a
    training of the same model goes on from them, one of another model begins as the first
    training with this ALRC began.

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
        >>> callback = ALRCTrainerCallback(alrc=ALRC(num_stddev=2.5))
        >>> # Trainer(model, arguments, callbacks=[callback]).train()
        >>> callback.alrc.num_clipped
        tensor(0)
    """

    def __init__(
        self,
        alrc: ALRC | Mapping[str, Any] | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self._run = Run(type(self).__name__, make_alrc(alrc))
        if saved is not None:
            self.alrc.load_dict(saved)
        self._normalization = Normalization(self._run.who)
        self._in_step = False
        self._release: weakref.finalize[Any, Any] | None = None

    @property
    def alrc(self) -> ALRC:
        """Keeps the moments."""
        return self._run.alrc

    @alrc.setter
    def alrc(self, alrc: ALRC) -> None:
        self._run.alrc = alrc

    def state(self) -> dict[str, Any]:
        """What the Trainer saves in ``trainer_state.json``: the arguments of another one."""
        saved = {"alrc": asdict(self.alrc.settings), "saved": self.alrc.to_dict()}
        return {"args": saved, "attributes": {}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        name = self._run.who
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
        self._run.prepare(args)
        self._run.remember_start()
        if state.global_step and saved:  # a training that is resumed
            self.alrc.load_dict(saved["args"]["saved"])
        elif state.global_step:
            warn_of_a_fresh_start(name, "the checkpoint has none of its moments")
            state.stateful_callbacks[name] = self.state()  # the Trainer asks for the name
        self._run.begin(model, resumed=state.global_step > 0)
        self._normalization = Normalization(name)
        self._unhook()
        self._hook(model)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._in_step = True
        if self._may_be_first:
            self._eager.enter_context(without_compiler())

    def _mark_number(self, model: nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
        """Before the model is called."""
        number = inputs.get(NUMBER)
        if number is None or self._normalization.is_divided is not None:
            return None
        return args, {**inputs, NUMBER: self._normalization.mark(number)}

    def _limit(self, model: nn.Module, args: Any, inputs: dict[str, Any], outputs: Any) -> Any:
        """After the model was called: its outputs, with a loss that is limited."""
        self._may_be_first = False
        self._eager.close()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            self._unhook()
            raise ValueError(
                f"{self._run.who}: the model must return its loss, because that is what is "
                "limited; got outputs without one, as with compute_loss_func or inputs without "
                "labels. Use ALRCTrainerMixin."
            )
        scale: Tensor | float = 1.0
        targets, number = find_targets(model, inputs), inputs.get(NUMBER)
        if number is not None:
            loss = self._normalization.learn(loss)
            if targets is not None and self._normalization.is_divided:
                scale = unmark(number) / targets.number()
        loss = self._run.limit(loss, scale)
        if isinstance(outputs, Mapping):
            outputs["loss"] = loss  # type: ignore[index]
            return outputs
        if hasattr(outputs, "_make"):  # a named tuple
            return outputs._make([loss, *outputs[1:]])
        return (loss, *outputs[1:])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._in_step = False
        try:
            self._run.check(
                "each loss that the model returns",
                "If your Trainer computes another loss, use ALRCTrainerMixin.",
            )
        except RuntimeError:
            self._unhook()
            raise

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            metrics = self._run.metrics()
            logs.update(metrics)
            state.log_history[-1].update(metrics)  # a copy of the logs, made before this call

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._unhook()
        self._run.end()

    def _hook(self, model: nn.Module) -> None:
        before, after = _Hook(self, "_mark_number"), _Hook(self, "_limit")
        handles = contextlib.ExitStack()
        for handle in (
            model.register_forward_pre_hook(before, with_kwargs=True),
            model.register_forward_hook(after, with_kwargs=True),
        ):
            handles.callback(handle.remove)
        self._eager = handles.enter_context(contextlib.ExitStack())
        self._may_be_first = True
        # An exception in training calls no callback: then the hooks go when this object does.
        self._release = weakref.finalize(self, handles.close)

    def _unhook(self) -> None:
        self._in_step = False
        if self._release is not None:
            self._release()


class _Hook:
    """Calls a method of the callback while a step is under way; in copies it does nothing."""

    def __init__(self, callback: ALRCTrainerCallback, method: str) -> None:
        self._callback, self._method = weakref.ref(callback), method

    def __call__(self, model: nn.Module, *args: Any) -> Any:
        return self._call(model, *args)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _call(self, model: nn.Module, *args: Any) -> Any:
        callback = self._callback()
        if callback and callback._in_step and model.training and torch.is_grad_enabled():
            return getattr(callback, self._method)(model, *args)
        return None

    def __reduce__(self) -> Any:
        # A copied or pickled model brings its hooks along.
        return _do_nothing_hook, ()


def _do_nothing_hook() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(*args: Any) -> None:
    pass
