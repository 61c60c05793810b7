"""A callback for Lightning that limits losses without a change to the LightningModule."""

import multiprocessing
import os
import warnings
import weakref
from collections.abc import Mapping
from typing import Any, Literal

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.integrations.lightning needs Lightning, which is not installed here. Install it "
        'with: pip install "alrc[lightning]"',
        name=error.name,
    ) from error
import torch
from torch import Tensor

from alrc.integrations.gradients import hang_gradient
from alrc.integrations.passes import Passes
from alrc.integrations.scalars import Kept, scalars
from alrc.integrations.states import are_same, copy_state
from alrc.torch import ALRC

__all__ = ["ALRCCallback"]


class ALRCCallback(Callback):
    """Scales the gradient of each training loss as :class:`alrc.torch.ALRC` would.

    The same training as with ``return alrc(loss)`` in ``training_step``, whatever the precision,
    the accumulation and the strategy; only the loss that Lightning reports stays as it was. The
    moments are saved in Lightning's checkpoints, and training goes on from them as if never
    interrupted. Losses of validation and test move nothing.

    ALRC sees the loss that ``training_step`` returns, not divided by
    ``accumulate_grad_batches`` and not multiplied by the scaler of float16, so that its limit
    keeps its unit. With several processes all of them share one limit; each must then call
    ``backward`` equally often.

    To limit each example by itself, or to mask some, call :class:`alrc.torch.ALRC` in
    ``training_step`` instead: a callback sees no more than the loss of the batch.

    The moments belong to the training of one module. A second ``fit`` of the same module goes on
    from them; a ``fit`` of another, as in cross-validation, starts from those that this callback
    had before the first; and one with ``ckpt_path`` goes on from those in the checkpoint.

    Args:
        num_stddev: As in :class:`alrc.torch.ALRC`, like the eight after it.
        decay: Share of the old moments kept at each backward pass.
        mu1_start: First estimate of the mean loss.
        mu2_start: First estimate of the mean squared loss.
        num_stddev_below: Standard deviations below the mean at which low losses are raised.
        warmup: Losses to watch before the first is limited.
        recency: How much more recent losses weigh in the average that the automatic start is.
        center: Point towards which gradients are scaled.
        scale: ``"log"``: the mean and standard deviations are those of the losses' logarithms.
        name: What its logged metrics start with, and what tells its state from that of another
            ALRCCallback in the same checkpoint; Lightning refuses two of one name.
        backward: Manual optimization only: which ``manual_backward`` of each training batch this
            callback limits, counted from 0. Two losses of different meaning need a limit each:
            ``ALRCCallback(name="discriminator", backward=0)`` and
            ``ALRCCallback(name="generator", backward=1)``. Where their order varies from batch
            to batch, call one :class:`alrc.torch.ALRC` for each loss in ``training_step``. None:
            every backward pass goes through this callback.

    Attributes:
        alrc: The :class:`alrc.torch.ALRC` that keeps the moments and counts.

    Logs:
        At each step that the trainer logs, under ``name``: ``alrc/loss``, the last loss that
        ALRC saw (with several processes, that of the first); ``alrc/limit``, ``alrc/mean`` and
        ``alrc/stddev``, by which the next loss is judged; ``alrc/clipped_fraction`` and
        ``alrc/nonfinite``, the share of limited losses and the number of NaN and infinite ones
        since the start; and ``alrc/kept``, what the limits left of the sum of the losses since
        the step that was logged before (with several processes, of the first's).

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting is out of range; when training starts, if ``backward`` is given
            in automatic optimization, or another callback limits the same backward pass; in
            training, if a loss is not one number.
        RuntimeError: When a checkpoint is loaded, if the state in it is damaged; after a batch,
            if an optimizer has stepped on gradients that this callback could not limit.

    Warns:
        UserWarning: When training starts, if the module has an ALRC of its own, or if these
            moments will stay in processes that Lightning forks or spawns; after an epoch, if no
            loss came by.

    Example:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from alrc.integrations.lightning import ALRCCallback
        >>> class Regression(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(1, 1)
        ...     def training_step(self, batch):
        ...         return self.net(batch).square().mean()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=1e-3)
        >>> callback = ALRCCallback(num_stddev=2.0)
        >>> trainer = Trainer(
        ...     callbacks=[callback], max_epochs=1, accelerator="cpu", barebones=True
        ... )
        >>> data = torch.ones(80, 1)
        >>> data[76:] = 100.0  # the last batch
        >>> trainer.fit(Regression(), torch.utils.data.DataLoader(data, batch_size=4))
        >>> print(callback.alrc.num_clipped.item(), "of", callback.alrc.num_losses.item())
        1 of 20
    """

    def __init__(
        self,
        num_stddev: float = 2.0,
        decay: float = 0.999,
        mu1_start: float | None = None,
        mu2_start: float | None = None,
        *,
        num_stddev_below: float | None = None,
        warmup: int = 10,
        recency: float = 1.0,
        center: Literal["zero", "mean"] = "zero",
        scale: Literal["log", "linear"] = "log",
        name: str = "alrc",
        backward: int | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(
                "ALRCCallback: name must be a str, because metrics are logged under it; got "
                f"{name!r}. Type name='generator', say."
            )
        if backward is not None and (isinstance(backward, bool) or not isinstance(backward, int)):
            raise TypeError(
                "ALRCCallback: backward must be a whole number, or None for every backward pass; "
                f"got {backward!r}. Type backward=0 for the first manual_backward of each batch."
            )
        if backward is not None and backward < 0:
            raise ValueError(
                "ALRCCallback: backward must be 0 or more, because passes are counted from the "
                f"first of each batch; got {backward}. Type backward=0 for the first."
            )
        self.alrc = ALRC(
            num_stddev,
            decay,
            mu1_start,
            mu2_start,
            num_stddev_below=num_stddev_below,
            warmup=warmup,
            recency=recency,
            center=center,
            scale=scale,
        )
        self.name, self.backward = name, backward
        self._made_in = os.getpid()
        # Whose training the moments are of, and what they were before it.
        self._module: weakref.ref[LightningModule] | None = None
        self._start: dict[str, Any] = {}
        self._left: dict[str, Any] = {}  # what they were after it
        self._take_off = _nothing  # the factor that hangs on a loss
        self._last_loss: Tensor | None = None  # that ALRC saw, for the log
        self._kept = Kept()
        self._passes = Passes(backward, automatic=True)  # until a training starts

    def __getstate__(self) -> dict[str, Any]:
        # Neither a weak reference nor a hook can be pickled.
        return {**self.__dict__, "_module": None, "_take_off": _nothing}

    @property
    def state_key(self) -> str:
        """What the state is called in ``checkpoint["callbacks"]``."""
        return f"{type(self).__qualname__}[name={self.name}]"

    def state_dict(self) -> dict[str, Any]:
        """A copy of the moments and counts, which loads with ``weights_only=True``."""
        # Copied, because a checkpoint may be written while training goes on.
        return copy_state(self.alrc)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict()`` returned."""
        self.alrc.load_state_dict(state_dict)
        self._module = None  # these moments were given, not learnt from the module before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning loads a checkpoint after this.
        if stage != "fit":
            return
        if self._has_moved():  # then the processes share memory, and each would move the moments
            self.alrc.load_state_dict(self.state_dict(), assign=True)
        if self._module is None:
            self._start = self.state_dict()
        elif self._module() is not pl_module:
            if self._left and not are_same(self._left, self.state_dict()):
                self._start = self.state_dict()  # somebody has set them since
            self.alrc.load_state_dict(self._start)
        self._left = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.backward is not None and pl_module.automatic_optimization:
            raise ValueError(
                "ALRCCallback: backward must be None for a module with automatic optimization, "
                f"which has one backward pass for each loss; got {self.backward}. Leave backward "
                "out, or set automatic_optimization = False in the module."
            )
        self._check_that_losses_are_limited_once(trainer, pl_module)
        self._warn_of_moments_that_stay_here(trainer)
        self._last_loss, self._kept = None, Kept()
        self._passes = Passes(self.backward, pl_module.automatic_optimization)
        self.alrc.to(trainer.strategy.root_device)
        self.alrc.sync = trainer.world_size > 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._module = weakref.ref(pl_module)  # only now: some strategies load a checkpoint late

    def on_train_batch_start(self, *_: Any) -> None:
        self._passes.start_batch()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if not self._passes.next_is_limited():
            return
        if loss.numel() != 1:
            raise ValueError(
                "ALRCCallback: a loss that goes backward must be one number, because it gets one "
                f"factor; got a loss of shape {tuple(loss.shape)}. Call alrc.torch.ALRC in "
                "training_step, which limits each loss by itself."
            )
        self._passes.limit(loss.requires_grad)
        scale = _unscaling(trainer, pl_module, loss)
        came = self._passes.count_gradient
        seen, self._take_off = hang_gradient(self.alrc, loss, scale, came=came)
        self._last_loss = seen.loss
        if trainer.loggers:
            self._kept.add(seen.loss, seen.limited)

    def on_after_backward(self, *_: Any) -> None:
        self._take_off()  # a loss that goes backward once more gets a factor of its own
        self._take_off = _nothing

    def on_before_optimizer_step(self, *_: Any) -> None:
        self._passes.step()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        has_stepped = self._passes.end_batch()
        if self._last_loss is None or not _is_logged(trainer, pl_module, has_stepped):
            return
        metrics = {"loss": self._last_loss, **scalars(self.alrc), "kept": self._kept.take()}
        named = {f"{self.name}/{key}": value for key, value in metrics.items()}
        # No batch size goes in here; where Lightning can't infer one, it demands it nonetheless.
        pl_module.log_dict(named, on_step=True, on_epoch=False, batch_size=1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._passes.end_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.alrc.wait()  # while the other ranks are still there
        self._left = self.state_dict()

    def _check_that_losses_are_limited_once(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        for other in trainer.callbacks:  # type: ignore[attr-defined] # set from outside
            if other is self or not isinstance(other, ALRCCallback):
                continue
            if None in (self.backward, other.backward) or self.backward == other.backward:
                raise ValueError(
                    "ALRCCallback: each backward pass must have one callback, because each scales "
                    f"its gradient; got {self.name!r} with backward={self.backward} and "
                    f"{other.name!r} with backward={other.backward}. Take one out of callbacks; "
                    "or, in manual optimization, type backward=0 for the one and backward=1 for "
                    "the other."
                )
        names = [name for name, child in pl_module.named_modules() if isinstance(child, ALRC)]
        if names and self.backward is None:
            warnings.warn(
                "ALRCCallback: each loss must be limited once; got a module that has an ALRC of "
                f"its own, {', '.join(names)}. If training_step calls it, take the callback out "
                "of callbacks, or the ALRC out of the module.",
                stacklevel=2,
            )

    def _has_moved(self) -> bool:
        """True in a process that was started by the one in which this callback was made."""
        parent = multiprocessing.parent_process()
        return parent is not None and parent.pid == self._made_in

    def _warn_of_moments_that_stay_here(self, trainer: Trainer) -> None:
        if self._has_moved() and trainer.is_global_zero:
            warnings.warn(
                "ALRCCallback: moments must be learnt in the process that goes on with them; got "
                "a strategy that trains in processes of its own, such as ddp_spawn or "
                "ddp_notebook, from which Lightning brings back the weights alone. Save "
                "checkpoints during training and go on from them with ckpt_path, or type "
                "strategy='ddp'.",
                stacklevel=2,
            )


def _nothing() -> None:
    """Nothing hangs on any loss."""


def _is_logged(trainer: Trainer, pl_module: LightningModule, has_stepped: bool) -> bool:
    """True at the end of a batch after which the trainer writes its log.

    At all others ``log`` would be in vain, and for seven metrics takes longer than a small
    training step.
    """
    number: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set from outside
    if pl_module.automatic_optimization:
        step, is_complete = trainer.global_step, has_stepped  # not while batches are accumulated
    else:  # a batch with several steps of optimizers, or none, is one step of the log
        step, is_complete = trainer.fit_loop.total_batch_idx + 1, True
    due = number > 0 and step % number == 0
    return bool(trainer.loggers) and is_complete and (due or trainer.should_stop)


def _unscaling(trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> float | Tensor:
    """What makes the loss that is about to go backward the loss that the module returned."""
    scale = float(trainer.accumulate_grad_batches) if pl_module.automatic_optimization else 1.0
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return scale
    # What a loss of 1 is multiplied by, on its device: get_scale() would wait for that.
    one = torch.ones((), dtype=torch.float32, device=loss.device)
    scaled: Tensor = scaler.scale(one)
    return scale / scaled
