"""ALRC as a module: the state in buffers, the modes, saving and loading."""

import copy
import dataclasses
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from alrc import refusals, rule, state
from alrc.opaque import check_outside_of_backward
from alrc.rule import Counts, Floats, Moments, Step, Summary
from alrc.settings import Settings
from alrc.torch import buffers, host, inputs, pure, ranks

_SETTINGS = frozenset(field.name for field in dataclasses.fields(Settings))
StepHook = Callable[["ALRC", Tensor, Tensor | None, Tensor | int | None, Step], object]


def _waiting(name: str) -> Any:
    """A buffer, as it is when the exchange with other ranks that is under way has ended."""

    def read(self: "ALRC") -> Any:
        self.wait()
        own = self._buffers
        return own[name] if name in own else self._state()[name]

    return property(read)


class ALRC(state.ShowsState, nn.Module):
    r"""Keeps outlier losses from wrecking training, without silencing them.

    A loss whose logarithm is more than ``num_stddev`` running standard deviations above the
    running mean is lowered to that limit, and its gradient is scaled by limit / loss. The outlier
    still pulls the parameters along its own gradient, only less hard; a plain ``minimum`` would
    give it no gradient at all. Every other loss comes back as it is, bit for bit.

    .. math::
        s &= \max(\sqrt{v},\ 10^{-4}), \qquad T = e^{m + n s} \\
        x' &= \min(x, T), \qquad \partial x' / \partial x = \min(1,\ T / x) \\
        d &= \mathrm{mean}(\log x' - m), \qquad r = \mathrm{mean}((\log x' - m)^2) \\
        m &\leftarrow m + (1 - b)\,d, \qquad
        v \leftarrow b\,v + (1 - b)\,r - (1 - b)^2 d^2

    With ``scale="linear"`` and ``num_stddev=3`` it is the paper's rule: the same without
    logarithms, :math:`T = m + n s` and :math:`s = \max(\sqrt{v},\ 10^{-4} |m|)`, which is the
    paper's recursion on the moments :math:`\mu_1 = m` and :math:`\mu_2 = v + m^2`. The limit of
    a call comes from the calls before it, so no loss helps to set the limit it is judged by.

    Args:
        num_stddev: Number :math:`n` of standard deviations above the mean at which losses are
            limited, > 0. Larger limits fewer losses; ``math.inf`` only tracks the moments.
        decay: Share :math:`b` of the old moments kept at each call, in ``[0, 1)``. Larger
            remembers longer: 0.999 is about the last 1,000 calls.
        mu1_start: First estimate of the mean loss. Guess high rather than low: too high only
            delays the first limited loss. Leave out together with ``mu2_start`` to start
            automatically, from the average of the losses seen so far.
        mu2_start: First estimate of the mean squared loss, at least ``mu1_start**2``.
        num_stddev_below: Number of standard deviations below the mean at which low losses are
            raised, > 0, or None for no lower limit. Larger raises fewer losses. Its product with
            ``num_stddev`` must be above 1.
        warmup: Calls to watch before the first loss is limited, >= 1; automatic start only.
        recency: How much more recent calls weigh in the average that the automatic start is, >= 1
            and finite: call :math:`k` weighs about :math:`k^{c-1}`, with :math:`c` for recency. 1
            is the plain average. Larger forgets the losses of the first calls sooner; automatic
            start only.
        center: Point towards which gradients are scaled. ``"zero"`` (the paper): by limit / loss,
            for losses >= 0. ``"mean"``: by (limit - mean) / (loss - mean), for losses of either
            sign, with scale ``"linear"``.
        scale: ``"log"``: the mean and the standard deviations are those of logarithms of losses;
            only losses > 0 count, and the starts are taken as moments of log-normal losses. Needs
            center ``"zero"``. ``"linear"`` (the paper): those of the losses themselves.
        num_groups: Number of groups with moments and a limit of their own, >= 1: one for each
            data source, task, class or range of diffusion timesteps. Each call then says which
            group its losses are in: ``alrc(loss, group=index)``. None: one limit for all.
        sync: True for one limit on all ranks of ``torch.distributed``, or the process group of
            the ranks that share one. Every rank must then make the same calls in training: an
            empty loss, or one that is masked altogether, counts as a call. Inside and outside
            of ``DistributedDataParallel``, and under ``no_sync()``. False: no collective ever,
            and a limit for each rank.
        async_op: True to let the collective run until the next call, or until the state is read,
            waits for it; False to wait at once. The numbers are the same.
        device: Where to keep the state; None for torch's default device.

    Shape:
        - loss: ``(*)``, floating: one loss per example, before any mean, or one loss per batch.
        - mask: the shape of ``loss``: True or a positive weight for losses that count.
        - group: the shape of ``loss``, or ``()`` for all: whole numbers below ``num_groups``.
        - result: ``(*)``, with the shape, dtype and device of ``loss``.

    State:
        Buffers in ``state_dict()``, of shape ``()``, or ``(num_groups,)``: ``mean`` and
        ``variance``, which stay float32 whatever ``.half()`` or ``.to(dtype)`` does to the model,
        and the counts ``num_updates``, ``num_losses``, ``num_clipped`` and ``num_nonfinite``,
        int64. With ``sync`` all of them are those of all ranks, and the same on every rank.
        With scale ``"log"`` the first two are called ``geometric_mean``, :math:`e^m`, and
        ``log_variance``. ``mu1``, ``mu2`` and ``threshold`` are in the unit of the loss on either
        scale: with ``"log"``, :math:`\mu_1 = e^{m + v / 2}` and :math:`\mu_2 = e^{2 m + 2 v}`.

    Note:
        In ``eval()`` mode, and where gradients are off (``torch.no_grad()``), losses pass
        through and nothing moves. A NaN or infinite loss comes back as it came, is counted, and
        never enters the moments; so does a finite one that float32 moments cannot hold, from
        4.6e18 on, if there is no limit for it. With center ``"zero"``, a loss of exactly 0 comes
        back and counts nowhere. With scale ``"log"``, a loss below 0 comes back and counts as not
        finite, as its logarithm is; a warning tells of it, on the CPU at once, on other devices
        of the first call only. On the CPU, losses of
        which none is limited are returned as the same tensor: work in place on the result would
        change the loss that you log. Call it outside a region of activation checkpointing:
        inside, the losses would meet it twice, the second time with other moments, which it
        refuses.

    Raises:
        TypeError: From the constructor, if a setting is of the wrong type; from the call, if
            ``loss`` is not a floating tensor.
        ValueError: From the constructor, if a setting is out of range; from the call, if
            ``mask`` has another shape than ``loss``, anything is on another device, or
            ``group`` is missing, needless or out of range (where looking costs no wait for the
            device).
        RuntimeError: From the call, if it is made during a backward pass, as activation
            checkpointing does; if the state cannot move in place, as under ``torch.func.grad``;
            or if another rank has died or made no call in time.
        AttributeError: If a setting is changed later.

    Warns:
        UserWarning: From the first call, if the state is memory that nothing has set, or was cast
            by other means than ``.to()``; if losses are below 0 with scale ``"log"``.

    Example:
        >>> import torch
        >>> from alrc.torch import ALRC
        >>> alrc = ALRC(warmup=1)  # of 10 calls by default
        >>> first = alrc(torch.tensor([0.5, 2.0], requires_grad=True))  # mean log 0, spread log 2
        >>> alrc.threshold  # exp(0 + 2 * log(2))
        tensor(4.)
        >>> losses = torch.tensor([0.5, 8.0], requires_grad=True)
        >>> clipped = alrc(losses)
        >>> clipped.tolist()
        [0.5, 4.0]
        >>> clipped.sum().backward()
        >>> losses.grad.tolist()  # the outlier pulls half as hard, not zero
        [1.0, 0.5]
        >>> alrc.num_clipped
        tensor(1)

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """

    mean: Tensor = _waiting("mean")
    variance: Tensor = _waiting("variance")
    num_updates: Tensor = _waiting("num_updates")
    num_losses: Tensor = _waiting("num_losses")
    num_clipped: Tensor = _waiting("num_clipped")
    num_nonfinite: Tensor = _waiting("num_nonfinite")
    _vetted: "weakref.ref[Tensor] | None" = None  # the mean that was seen to be sound
    _has_looked = False  # at the signs of losses, since the state is where it is
    _exchange: ranks.Exchange | None = None  # that is under way

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
        num_groups: int | None = None,
        sync: "bool | torch.distributed.ProcessGroup" = False,
        async_op: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            num_stddev,
            decay,
            mu1_start,
            mu2_start,
            num_stddev_below=num_stddev_below,
            warmup=warmup,
            recency=recency,
            center=center,
            scale=scale,
            num_groups=num_groups,
        )
        ranks.check(sync)
        self.sync, self.async_op = sync, async_op
        self._step_hooks: OrderedDict[int, StepHook] = OrderedDict()
        # A buffer made in inference mode could never be updated outside it.
        with torch.inference_mode(False):
            for name, saved in self._saved_names().items():
                self._buffers[saved] = torch.empty(
                    self.settings.shape, dtype=buffers.dtype(name), device=device
                )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the moments to their start and the counts to 0; after ``to_empty()``, say."""
        self._exchange = None
        buffers.reset(self._state(), self.settings)
        self._seen_to_be_sound()

    def forward(
        self, loss: Tensor, mask: Tensor | None = None, group: Tensor | int | None = None
    ) -> Tensor:
        moments = self._moments()
        inputs.check("ALRC", loss, mask, moments.mean.device)
        groups = inputs.groups("ALRC", loss, group, self.settings)
        if not (self.training and torch.is_grad_enabled()):
            return loss
        check_outside_of_backward()
        if torch.compiler.is_compiling() or not self._is_vetted(moments.mean):
            self._vet()
        if not torch.compiler.is_compiling() and not self._has_looked:
            self._has_looked = True
            if not inputs.is_readable(loss):
                inputs.look_at_signs("ALRC", loss, mask, self.settings)  # this once, as it waits
        self.wait()
        # On the CPU by reading numbers, wherever that can be; else by the same rule on tensors.
        plain = mask is None and groups is None
        try:
            result = host.observe(loss, moments, self.settings) if plain else None
        except host.Unsound:  # somebody has written into the very tensors
            self._vet()
            result = host.observe(loss, moments, self.settings)
        result = result or pure.observe(loss, moments, self.settings, mask, groups)
        limited, step, moments = result
        self._take_over(step, moments)
        if self._step_hooks:
            for hook in self._step_hooks.values():
                hook(self, loss, mask, group, step)
        return limited

    def register_step_hook(self, hook: StepHook) -> RemovableHandle:
        """Calls ``hook(alrc, loss, mask, group, step)`` after each call in training.

        What :class:`alrc.integrations.loggers.Watch` is made of. ``step`` is an
        :class:`alrc.rule.Step`: its ``losses`` hold the limited values, the factors of the
        gradients, and which losses were limited, as tensors of the shape of ``loss``, or as one
        Python number for all of them, on the CPU, where reading it costs nothing.

        Returns:
            A handle, whose ``remove()`` ends it.

        Example:
            >>> import torch
            >>> from alrc.torch import ALRC
            >>> alrc = ALRC(3, 0.999, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
            >>> handle = alrc.register_step_hook(
            ...     lambda alrc, loss, mask, group, step: print(step.losses.factor)
            ... )
            >>> loss = alrc(torch.tensor(8.0))
            0.5
        """
        handle = RemovableHandle(self._step_hooks)
        self._step_hooks[handle.id] = hook
        return handle

    def wait(self) -> None:
        """Waits for the exchange with other ranks that is under way, and moves the moments.

        With ``sync``, before the ranks part: at the end of training, say. The next call and
        whatever reads the state do it by themselves. One that fails is not waited for again: the
        moments stay as they are, and can be saved.
        """
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            self._advance(*exchange.wait())

    def to_dict(self) -> dict[str, Any]:
        """The state as Python numbers by name: for JSON, or to go on in another framework.

        With groups there is a list of numbers for each name, in the order of the groups. Beside
        ``state_dict()``, which is for PyTorch's own checkpoints. Reading the numbers waits for
        the device.

        Example:
            >>> from alrc.torch import ALRC
            >>> ALRC().to_dict()  # doctest: +NORMALIZE_WHITESPACE
            {'geometric_mean': 1.0, 'log_variance': 0.0, 'num_updates': 0,
             'num_losses': 0, 'num_clipped': 0, 'num_nonfinite': 0}
        """
        return {saved: getattr(self, name).tolist() for name, saved in self._saved_names().items()}

    def load_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what ``to_dict()`` returned, in any framework; all of it or nothing.

        Args:
            saved: Numbers by name. Counts of losses that are not among them, because pure
                functions keep none, become 0.

        Raises:
            TypeError: If ``saved`` is not a dict.
            ValueError: If ``saved`` lacks a moment or holds an impossible number.

        Example:
            >>> from alrc.torch import ALRC
            >>> alrc = ALRC()
            >>> alrc.load_dict({"geometric_mean": 1.5, "log_variance": 0.0, "num_updates": 30})
            >>> alrc.mu1
            tensor(1.5000)
        """
        numbers = state.checked("ALRC", saved, self.settings.num_groups, self.settings.scale)
        self._exchange = None  # what comes of it would be overwritten
        for name, number in numbers.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.tensor(number, dtype=buffer.dtype))
        self._seen_to_be_sound()

    def _is_vetted(self, mean: Tensor) -> bool:
        vetted = self._vetted
        return vetted is not None and vetted() is mean and mean.dtype is torch.float32

    def _vet(self) -> None:
        """Looks at the state once for each tensor that it is in."""
        buffers.vet(self._state(), self.settings)
        if not torch.compiler.is_compiling():
            self._seen_to_be_sound()

    def _seen_to_be_sound(self) -> None:
        self._vetted = weakref.ref(self._moments().mean)

    def _take_over(self, step: Step, moments: Moments) -> None:
        """Moves the moments; or, with other ranks, starts the exchange that will."""
        ranks.keep_out_of_broadcast(ALRC)
        if self.sync is False or not ranks.many(self.sync):
            self._advance(step.summary, step.counts, moments)
            return
        overlaps = self.async_op and not torch.compiler.is_compiling()  # a graph keeps no handle
        exchange = ranks.Exchange(step.summary, step.counts, self.sync, overlaps)
        if overlaps:
            self._exchange = exchange
        else:
            self._advance(*exchange.wait())

    def _advance(self, summary: Summary, counts: Counts, moments: Moments | None = None) -> None:
        """Lets the losses of this summary move the moments; the one place where they do.

        Args:
            moments: What they are, as numbers where the summary is made of numbers; None: look.
        """
        before, on_host = self._moments(), ranks.is_of_numbers(summary)
        if moments is None:
            moments = host.read(before) if on_host else before
        after = rule.advance(Floats if on_host else torch, moments, summary, self.settings)
        try:
            for old, new in zip(before, after, strict=True):
                old.fill_(new) if on_host else old.copy_(new)
            for name, count in zip(state.COUNTS, counts, strict=True):
                buffer: Any = self._buffers[name]
                if type(count) is not int:
                    buffer.add_(count)
                elif count:  # on the host most often 0; and faster than to add a number
                    buffer.fill_(buffer.item() + count)
        except RuntimeError as error:
            if not re.search("functorch|vmap|in-?place", str(error), re.IGNORECASE):
                raise
            raise RuntimeError(
                "ALRC: its moments must move in place at each call in training, and cannot here: "
                f"{str(error).splitlines()[0]} Under torch.func.grad, or vmap over losses that "
                "share one ALRC, carry the moments along with the pure functions: "
                "loss, moments = alrc.torch.clip(loss, moments, settings)."
            ) from error

    def _moments(self) -> Moments:
        own: Any = self._buffers  # much faster to read than attributes of a module
        if "mean" in own:
            return Moments(own["mean"], own["variance"], own["num_updates"])
        return Moments(own["geometric_mean"], own["log_variance"], own["num_updates"])

    def _saved_names(self) -> dict[str, str]:
        """What the numbers of state.NAMES are called in checkpoints, and as buffers."""
        return dict(zip(state.NAMES, state.saved_names(self.settings.scale), strict=True))

    def _state(self) -> dict[str, Any]:
        """The buffers by state.NAMES."""
        return {name: self._buffers[saved] for name, saved in self._saved_names().items()}

    def _of_losses(self) -> tuple[Tensor, Tensor]:
        self.wait()
        mean, variance = rule.of_losses(torch, self._moments(), self.settings)
        return mean.clone(), variance

    def _thresholds(self) -> tuple[Tensor, Tensor]:
        self.wait()
        moments = self._moments()
        if moments.mean.device.type == "cpu":  # in float32, to the last bit what limits the losses
            if moments.mean.dim() == 0 and inputs.is_readable(moments.mean):
                with suppress(RuntimeError):  # no number to read, in a call under vmap
                    lower, upper = rule.limits(Floats, host.read(moments), self.settings)
                    return moments.mean.new_tensor(lower), moments.mean.new_tensor(upper)
            moments = Moments(*(moment.double() for moment in moments))
        lower, upper = rule.limits(torch, moments, self.settings)
        return lower.float(), upper.float()

    def extra_repr(self) -> str:
        names = ["num_stddev", "decay"]
        names += ["warmup", "recency"] if self.settings.automatic else ["mu1_start", "mu2_start"]
        for name in ("num_stddev_below", "num_groups"):
            names += [] if getattr(self.settings, name) is None else [name]
        parts = [f"{name}={getattr(self.settings, name):g}" for name in names]
        parts += [f"center={self.settings.center!r}"]
        parts += [f"scale={self.settings.scale!r}"]
        parts += ["sync=True" if self.sync is True else "sync=group"] if self.sync else []
        if self.settings.num_groups is None:
            threshold = "?" if self.mean.is_meta else f"{self.threshold.item():g}"
            parts += [f"threshold={threshold}"]
        return ", ".join(parts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ALRC":
        # .half() and .to(bfloat16) come through here: move the state, never change its dtype.
        self.wait()
        self._has_looked = False
        before = self._state()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, saved in self._saved_names().items():
            new: Any = self._buffers[saved]
            if new.dtype != before[name].dtype:
                self._buffers[saved] = before[name].to(new.device)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.wait()
        super()._save_to_state_dict(*args, **kwargs)

    def __getstate__(self) -> Any:  # for pickles, and shallow copies
        ranks.check_picklable(self.sync)
        self.wait()
        # A weak reference goes into no file; whether there is one does.
        return {**self.__dict__, "_vetted": self._is_vetted(self._moments().mean)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        older: dict[str, Any] = {"_step_hooks": OrderedDict(), "_vetted": False}  # have none
        full = {**older, **state}
        is_vetted, full["_vetted"] = full["_vetted"], None
        super().__setstate__(full)  # type: ignore[no-untyped-call]
        if is_vetted:
            self._seen_to_be_sound()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            raise refusals.fixed_setting("ALRC", name, value)
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ALRC":
        self.wait()
        memo[id(self.sync)] = self.sync  # a process group is shared: its ranks are what they are
        twin: ALRC = self.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy({**self.__dict__, "_vetted": None}, memo))
        if self._is_vetted(self._moments().mean):
            twin._seen_to_be_sound()
        return twin

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Takes the whole state over, or none of it and says why."""
        keys = {prefix + saved: name for name, saved in self._saved_names().items()}
        own = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        if other := state.other_scale(own, self.settings.scale):
            what = f"{prefix}{state.saved_names(other)[0]} and the rest of the state"
            error_msgs.append(str(state.scale_refusal("ALRC", what, self.settings.scale, other)))
            return
        if missing := [key for key in keys if key not in state_dict]:
            missing_keys.extend(missing)
            unexpected_keys.extend(k for k in state_dict if k.startswith(prefix) and k not in keys)
            return
        if problems := buffers.load_problems(state_dict, prefix, self.settings):
            error_msgs.extend(problems)
            return
        for key, name in keys.items():
            # With assign=True this very tensor becomes the buffer.
            state_dict[key] = state_dict[key].detach().to(buffers.dtype(name))
        self._exchange = None  # what comes of it would be overwritten
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._seen_to_be_sound()
