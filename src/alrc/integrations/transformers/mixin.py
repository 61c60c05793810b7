"""The mixin, which limits the losses of a Trainer where they are computed."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from alrc.integrations.transformers.callback import ALRCTrainerCallback
from alrc.integrations.transformers.run import Run, make_alrc, warn_of_a_fresh_start
from alrc.integrations.transformers.sequences import are_those_of, limit_sequences, sequences_of
from alrc.integrations.transformers.targets import Normalization, Targets, find_targets
from alrc.torch import ALRC

FILE = "alrc.pt"
# Old Trainers don't, and always multiply in their compute_loss.
_ASKS_FOR_TP_SIZE = "get_tp_size" in Trainer.compute_loss.__code__.co_names

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object  # the mixin comes in front of whichever Trainer the user has


class ALRCTrainerMixin(_Base):
    """Limits the losses of a Trainer: ``class MyTrainer(ALRCTrainerMixin, Trainer)``.

    The losses may be the model's own, smoothed, or those of ``compute_loss_func`` or of a Trainer
    behind the mixin; a ``compute_loss`` in the class itself has to call ``super().compute_loss``.
    ALRC sees the mean loss of each micro-batch, whether the model divides by the number of targets
    of all accumulated batches or, as heads for classification do, returns that mean. A checkpoint
    holds the moments in ``alrc.pt``, and ``train(resume_from_checkpoint=...)`` goes on from them
    as if never interrupted. Evaluation and prediction move nothing. With several processes, all
    share one limit. What ALRC did is logged beside the Trainer's loss, as ``alrc/loss`` (the last
    one it saw on this process), ``alrc/kept`` (what the limits left of the sum of the losses
    since the last log on this process: 1 when none was limited), ``alrc/limit``, ``alrc/mean``,
    ``alrc/stddev``, ``alrc/clipped_fraction`` and ``alrc/nonfinite`` (of all losses so far);
    numbers that are not finite are left out, since JSON has none.

    The moments belong to the model they were taken from. Training the same model object again
    goes on from them, also in another Trainer with the same ALRC. A training of another model
    (each of ``model_init``, of a hyperparameter search or of a cross-validation) that is not
    resumed begins as the first training with this ALRC began; or, if you have set its moments
    since the last one, with those.

    Args:
        *args: For the Trainer, and ``**kwargs`` too.
        alrc: Keeps the moments; None for ``ALRC()``; or a dict of ALRC's arguments. It is at hand
            as ``trainer.alrc``.
        alrc_per: ``"batch"`` limits the mean loss of each micro-batch. ``"sequence"`` limits the
            mean loss of each sequence (or labelled example) by itself, so that one bad sequence
            does not take the others down with it; for models whose loss is the cross entropy of
            their logits, at the cost of computing it a second time.

    Raises:
        TypeError: If the class has the mixin behind a Trainer, where it would do nothing.
        ValueError: If ``alrc_per`` is none of both, if a process has several devices, if there
            is an :class:`ALRCTrainerCallback` too, or if the loss of a sequence can't be told:
            with label smoothing or ``compute_loss_func``, or in training, where no logits or
            labels give the model's loss, or where its gradient does not go through them.
        RuntimeError: Before a step of the optimizer, if the losses that are trained on did not
            come through the mixin's ``compute_loss``.

    Note:
        What a loss was divided by is seen in the first micro-batch of a training, which is why
        that one runs without torch.compile. Where it can't be seen, a warning says so; then
        ``loss_is_scaled_for_ga`` in the class tells it, as it tells the Trainer from transformers
        5.19 on: True for losses divided by ``num_items_in_batch``, False for means.

    Example:
        >>> from transformers import Trainer
        >>> from alrc.integrations.transformers import ALRCTrainerMixin
        >>> class MyTrainer(ALRCTrainerMixin, Trainer):
        ...     pass
        >>> # MyTrainer(model, arguments, alrc=ALRC(num_stddev=2.5)).train()
    """

    _alrc_normalization: Normalization
    _alrc_sequences_checked: bool
    _alrc_tp_size: int | None

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
        self.alrc_per = alrc_per
        self._alrc_run = Run("ALRCTrainerMixin", make_alrc(alrc))
        self._alrc_run.prepare(self.args)
        self._alrc_forget_model()
        self.add_callback(_Checks(self._alrc_run, type(self)))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order[: order.index(ALRCTrainerMixin)]:
            first = next(base for base in cls.__bases__ if issubclass(base, Trainer))
            raise TypeError(
                f"ALRCTrainerMixin: it must come before the Trainer, or else that hides it and no "
                f"loss is limited; got {first.__name__} before it in the bases of {cls.__name__}. "
                f"Write class {cls.__name__}(ALRCTrainerMixin, {first.__name__})."
            )

    @property
    def alrc(self) -> ALRC:
        """Keeps the moments."""
        return self._alrc_run.alrc

    @alrc.setter
    def alrc(self, alrc: ALRC) -> None:
        self._alrc_run.alrc = alrc

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
        targets = find_targets(self.model, inputs)  # before the Trainer takes the labels out
        # Many Trainers have no outputs to return in training: ask where they are needed.
        with_outputs = {"return_outputs": True} if return_outputs or self._alrc_by_sequence else {}
        self._alrc_tp_size = None
        if not _ASKS_FOR_TP_SIZE and _calls_the_trainers_own(type(self)):
            self.get_tp_size()
        with self._alrc_normalization.marked(num_items_in_batch) as number:
            result: Any = super().compute_loss(
                model, inputs, num_items_in_batch=number, **with_outputs
            )
        loss, outputs = result if with_outputs else (result, None)
        if num_items_in_batch is not None:
            loss = self._alrc_normalization.learn(loss)
        if self._alrc_by_sequence:
            loss = self._alrc_limit_sequences(loss, outputs, targets, num_items_in_batch)
        else:
            scale: Tensor | float = 1.0
            if num_items_in_batch is not None and targets is not None:
                own = targets.number()
                scale = self._alrc_divisor(own, num_items_in_batch) / own
            loss = self._alrc_run.limit(loss, scale)
        return (loss, outputs) if return_outputs else loss

    @property
    def _alrc_by_sequence(self) -> bool:
        return self.alrc_per == "sequence"

    def _alrc_limit_sequences(
        self, loss: Tensor, outputs: Any, targets: Targets | None, num_items: Tensor | int | None
    ) -> Tensor:
        sequences = sequences_of(outputs, targets)
        divisor = self._alrc_divisor(sequences.counts.sum(), num_items)
        if not self._alrc_sequences_checked:  # once, since looking waits for the device
            self._alrc_sequences_checked = are_those_of(loss, sequences, divisor)
        loss, seen = limit_sequences(self.alrc, loss, sequences, divisor)
        return self._alrc_run.watch(loss, seen.loss, seen.total, seen.limited)

    def _alrc_divisor(self, own: Tensor, num_items: Tensor | int | None) -> Tensor:
        """What the sum of the losses of the batch's own targets was divided by, all in all."""
        if num_items is None:
            return own
        divisor = torch.as_tensor(num_items) if self._alrc_normalization.is_divided else own
        if self.args.average_tokens_across_devices and self._alrc_tp_size is not None:
            divisor = divisor / (self.accelerator.num_processes // self._alrc_tp_size)
        return divisor

    def get_tp_size(self) -> int:
        # The Trainer asks for it where it multiplies the loss, and other Trainers don't.
        size = super().get_tp_size() if hasattr(Trainer, "get_tp_size") else 1
        self._alrc_tp_size = size
        return size

    def call_model_init(self, trial: Any = None) -> Any:
        model = super().call_model_init(trial)
        if hasattr(self, "callback_handler"):  # in which old Trainers leave the one before
            self.callback_handler.model = model
        return model

    def _alrc_forget_model(self) -> None:
        """What is learned from the first batch of a training, to be learned again."""
        stated = getattr(self, "loss_is_scaled_for_ga", None)
        self._alrc_normalization = Normalization("ALRCTrainerMixin", stated)
        self._alrc_sequences_checked = False

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # of training, not of an evaluation or at the end
            logs.update(self._alrc_run.metrics())
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
        if any(isinstance(c, ALRCTrainerCallback) for c in self.callback_handler.callbacks):
            raise ValueError(
                "ALRCTrainerMixin: there must be no ALRCTrainerCallback beside it, because each "
                "would scale the gradient; got one in callbacks. Take one of the two out."
            )
        self._alrc_forget_model()
        self._alrc_run.remember_start()
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        if folder:
            path = os.path.join(folder, FILE)
            if os.path.exists(path):
                self.alrc.load_state_dict(torch.load(path, "cpu", weights_only=True))
            else:
                warn_of_a_fresh_start("ALRCTrainerMixin", f"{folder} has no {FILE}")
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self._alrc_run.end()
        return result


def _calls_the_trainers_own(kind: type) -> bool:
    """Whether compute_loss behind the mixin comes to that of Trainer, as far as names tell."""
    order = kind.__mro__
    behind = order[order.index(ALRCTrainerMixin) + 1 : order.index(Trainer)]
    functions = (vars(base)["compute_loss"] for base in behind if "compute_loss" in vars(base))
    return all("compute_loss" in f.__code__.co_names for f in functions if hasattr(f, "__code__"))


class _Checks(TrainerCallback):
    """Sees whether the losses that are limited are those that the Trainer trains on."""

    def __init__(self, run: Run, trainer: type) -> None:
        self.run, self.trainer = run, trainer

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.run.begin(model, resumed=state.global_step > 0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        name = self.trainer.__name__
        if self.run.num_losses == 0:
            raise RuntimeError(
                "ALRCTrainerMixin: its compute_loss must be called for each batch, because that is "
                "where the loss is limited; got no call before a step of the optimizer, since "
                f"{self._hiding()} comes first. Let that call super().compute_loss(...), or write "
                f"it into a class behind the mixin: class {name}(ALRCTrainerMixin, TheirTrainer)."
            )
        self.run.check(
            "each loss that its compute_loss returns",
            "If another loss is to be trained on, compute it in a class behind the mixin: "
            f"class {name}(ALRCTrainerMixin, TheirTrainer). One that is only looked at, compute "
            "under torch.no_grad().",
        )

    def _hiding(self) -> str:
        methods = ("compute_loss", "training_step")
        return next(
            f"{base.__name__}.{method}"
            for base in self.trainer.__mro__
            for method in methods
            if method in vars(base)
        )
