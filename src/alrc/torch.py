"""Adaptive learning rate clipping for PyTorch: a module, and the pure functions beneath it."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.torch needs PyTorch, which is not installed here. Install it with: "
        'pip install "alrc[torch]"',
        name=error.name,
    ) from error
from torch import Tensor, nn

from alrc import ranks, rule, state
from alrc import torch_inputs as inputs
from alrc.rule import Counts, Floats, Groups, Moments, Observed, Summary
from alrc.settings import Settings
from alrc.snapshot import opaque

__all__ = ["ALRC", "Moments", "clip", "init"]


def init(
    settings: Settings,
    device: torch.device | str | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Moments:
    """The moments before the first call of :func:`clip`.

    Args:
        settings: The hyperparameters.
        device: Where to keep the moments; None for torch's default device.
        saved: Where to go on from: what ``to_dict()`` returned, in any framework. The counts
            that :class:`ALRC` saves beside the moments are left out. None: a fresh start.

    Returns:
        Mean and variance, float32, and the number of updates, int64; each of shape ``()``, or
        ``(num_groups,)`` if the settings have groups.

    Raises:
        TypeError: If ``saved`` is not a dict.
        ValueError: If ``saved`` lacks a moment or holds an impossible one.

    Example:
        >>> from alrc import Settings
        >>> from alrc.torch import init
        >>> init(Settings(mu1_start=2.0, mu2_start=5.0))
        Moments(mean=tensor(2.), variance=tensor(1.), num_updates=tensor(0))
        >>> init(Settings(), saved={"mean": 1.5, "variance": 0.25, "num_updates": 3})
        Moments(mean=tensor(1.5000), variance=tensor(0.2500), num_updates=tensor(3))
    """
    mean, variance, num_updates = state.start(settings, saved)
    return Moments(
        torch.tensor(mean, dtype=torch.float32, device=device),
        torch.tensor(variance, dtype=torch.float32, device=device),
        torch.tensor(num_updates, dtype=torch.int64, device=device),
    )


def clip(
    loss: Tensor,
    moments: Moments,
    settings: Settings,
    mask: Tensor | None = None,
    group: Tensor | int | None = None,
) -> tuple[Tensor, Moments]:
    """Limits losses and returns them with the next moments; changes nothing in place.

    For ``torch.func``: ``vmap`` over models or examples, ``grad`` with ``has_aux=True``. In an
    ordinary training loop :class:`ALRC` keeps the moments for you.

    Args:
        loss: Losses of any shape, floating.
        moments: What :func:`init` or the call before returned.
        settings: The hyperparameters.
        mask: Which losses count: shape of ``loss``, True or a positive weight; None: all count.
        group: Which group the losses are in, from 0 to ``num_groups - 1``: whole numbers in the
            shape of ``loss``, or one for all; given if and only if the settings have groups.

    Returns:
        The losses, same shape and dtype, limited; and the next moments, same shapes and dtypes.
        Save the moments as ``moments.to_dict()``, plain numbers that any format takes, and go on
        from them with ``init(settings, saved=...)``.

    Raises:
        TypeError: If ``loss`` is not a floating tensor, ``mask`` not a tensor, or ``group`` not
            whole numbers.
        ValueError: If ``mask`` or ``group`` has another shape, or anything is on another device.

    Example:
        >>> import torch
        >>> from alrc import Settings
        >>> from alrc.torch import clip, init
        >>> settings = Settings(mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * 1
        >>> losses = torch.tensor([0.5, 8.0], requires_grad=True)
        >>> clipped, moments = clip(losses, init(settings), settings)
        >>> clipped.tolist()
        [0.5, 4.0]
        >>> clipped.sum().backward()
        >>> losses.grad.tolist()
        [1.0, 0.5]

    References:
        J. M. Ede and R. Beanland, "Adaptive learning rate clipping stabilizes learning",
        Mach. Learn.: Sci. Technol. 1 (2020) 015011, https://doi.org/10.1088/2632-2153/ab81e2
    """
    inputs.check("clip", loss, mask, moments.mean.device)
    groups = inputs.groups("clip", loss, group, settings)
    limited, observed = _observe(loss, moments, settings, mask, groups)
    total, shift, spread = observed.summary
    advanced = rule.advance(torch, moments, shift, spread, total, settings)
    pairs = zip(advanced, moments, strict=True)
    return limited, Moments(*(new.to(old.dtype) for new, old in pairs))


class ALRC(state.Readings, nn.Module):
    r"""Keeps outlier losses from wrecking training, without silencing them.

    A loss more than ``num_stddev`` running standard deviations above the running mean is lowered
    to that limit, and its gradient is scaled by limit / loss. The outlier still pulls the
    parameters along its own gradient, only less hard; a plain ``minimum`` would give it no
    gradient at all. Every other loss comes back as it is, bit for bit.

    .. math::
        s &= \max(\sqrt{v},\ 10^{-4} |m|), \qquad T = m + n s \\
        x' &= \min(x, T), \qquad \partial x' / \partial x = \min(1,\ T / x) \\
        d &= \mathrm{mean}(x' - m), \qquad r = \mathrm{mean}((x' - m)^2) \\
        m &\leftarrow m + (1 - b)\,d, \qquad
        v \leftarrow b\,v + (1 - b)\,r - (1 - b)^2 d^2

    which is the paper's recursion on the moments :math:`\mu_1 = m` and
    :math:`\mu_2 = v + m^2`. The limit of a call comes from the calls before it, so no loss helps
    to set the limit it is judged by.

    Args:
        num_stddev: Number :math:`n` of standard deviations above the mean loss at which losses
            are limited, > 0. Larger limits fewer losses; ``math.inf`` only tracks the moments.
        decay: Share :math:`b` of the old moments kept at each call, in ``[0, 1)``. Larger
            remembers longer: 0.999 is about the last 1,000 calls.
        mu1_start: First estimate of the mean loss. Guess high rather than low: too high only
            delays the first limited loss. Leave out together with ``mu2_start`` to start
            automatically, from the plain average of the losses seen so far.
        mu2_start: First estimate of the mean squared loss, at least ``mu1_start**2``.
        num_stddev_below: Number of standard deviations below the mean at which low losses are
            raised, > 0, or None for no lower limit. Larger raises fewer losses.
        warmup: Calls to watch before the first loss is limited, >= 1; automatic start only.
        center: Point towards which gradients are scaled. ``"zero"`` (the paper): by limit / loss,
            for losses >= 0. ``"mean"``: by (limit - mean) / (loss - mean), for losses of either
            sign.
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

    Note:
        In ``eval()`` mode, and where gradients are off (``torch.no_grad()``), losses pass
        through and nothing moves. A NaN or infinite loss comes back as it came, is counted, and
        never enters the moments. On the CPU, losses of which none is limited are returned as the
        same tensor. Call it outside a region of activation checkpointing: inside, the losses
        would meet it twice, the second time with other moments, which it refuses.

    Raises:
        TypeError: From the constructor, if a setting is of the wrong type; from the call, if
            ``loss`` is not a floating tensor.
        ValueError: From the constructor, if a setting is out of range; from the call, if
            ``mask`` has another shape than ``loss``, anything is on another device, or
            ``group`` is missing, needless or out of range (where looking costs no wait for the
            device).
        RuntimeError: From the call, if it is made during a backward pass, as activation
            checkpointing does; or if another rank has died or made no call in time.

    Example:
        >>> import torch
        >>> from alrc.torch import ALRC
        >>> alrc = ALRC(mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * sqrt(2 - 1**2) = 4
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

    mean: Tensor
    variance: Tensor
    num_updates: Tensor
    num_losses: Tensor
    num_clipped: Tensor
    num_nonfinite: Tensor

    def __init__(
        self,
        num_stddev: float = 3.0,
        decay: float = 0.999,
        mu1_start: float | None = None,
        mu2_start: float | None = None,
        *,
        num_stddev_below: float | None = None,
        warmup: int = 10,
        center: Literal["zero", "mean"] = "zero",
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
            center=center,
            num_groups=num_groups,
        )
        ranks.check(sync)
        self.sync, self.async_op = sync, async_op
        self._exchange: Callable[[], tuple[Summary, Counts]] | None = None  # what is under way
        # A buffer made in inference mode could never be updated outside it.
        with torch.inference_mode(False):
            for name in state.NAMES:
                dtype = torch.int64 if name in state.WHOLE else torch.float32
                empty = torch.empty(self.settings.shape, dtype=dtype, device=device)
                self.register_buffer(name, empty)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the moments to their start and the counts to 0; after ``to_empty()``, say."""
        self._exchange = None
        self.mean.fill_(self.settings.start[0])
        self.variance.fill_(self.settings.start[1])
        for name in state.WHOLE:
            getattr(self, name).zero_()

    def to_dict(self) -> dict[str, Any]:
        """The state as Python numbers by name: for JSON, or to go on in another framework.

        With groups there is a list of numbers for each name, in the order of the groups. Beside
        ``state_dict()``, which is for PyTorch's own checkpoints. Reading the numbers waits for
        the device.

        Example:
            >>> from alrc.torch import ALRC
            >>> ALRC(mu1_start=2.0, mu2_start=5.0).to_dict()  # doctest: +NORMALIZE_WHITESPACE
            {'mean': 2.0, 'variance': 1.0, 'num_updates': 0,
             'num_losses': 0, 'num_clipped': 0, 'num_nonfinite': 0}
        """
        return {name: getattr(self, name).tolist() for name in state.NAMES}

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
            >>> alrc.load_dict({"mean": 1.5, "variance": 0.25, "num_updates": 30})
            >>> alrc.threshold  # 1.5 + 3 * sqrt(0.25)
            tensor(3.)
        """
        numbers = state.checked("ALRC", saved, self.settings.num_groups)
        self._exchange = None  # what comes of it would be overwritten
        for name, number in numbers.items():
            buffer = getattr(self, name)
            buffer.copy_(torch.tensor(number, dtype=buffer.dtype))

    def forward(
        self, loss: Tensor, mask: Tensor | None = None, group: Tensor | int | None = None
    ) -> Tensor:
        inputs.check("ALRC", loss, mask, self._moments().mean.device)
        groups = inputs.groups("ALRC", loss, group, self.settings)
        if not (self.training and torch.is_grad_enabled()):
            return loss
        inputs.check_outside_of_backward()
        if self._exchange is not None:
            self._settle()
        if mask is None and groups is None and inputs.is_readable(loss):
            try:
                low, high = _extremes(loss)
                moments = Moments(*(moment.item() for moment in self._moments()))
            except RuntimeError:
                pass  # no number to read: an empty loss, or a call under vmap
            else:
                if -math.inf < low and high < math.inf:
                    return self._forward_on_host(loss, low, high, moments)
        limited, observed = _observe(loss, self._moments(), self.settings, mask, groups)
        self._take_over(observed.summary, observed.counts)
        return limited

    def _forward_on_host(self, loss: Tensor, low: float, high: float, moments: Moments) -> Tensor:
        """The same rule for finite losses on the CPU, where reading a number costs no sync.

        What is one number is a Python float here, ten times faster than a tensor of shape (); and
        where no loss is beyond its limit, the loss itself is returned.
        """
        settings, buffers = self.settings, self._moments()
        bounds = rule.limits(Floats, moments, settings)
        scalar = loss.dim() == 0
        losses: Any = low if scalar else _detached(loss)
        num_clipped: Tensor | int = 0
        if not (bounds[0] <= low and high <= bounds[1]):
            if scalar:
                result = rule.limit(Floats, losses, None, bounds, moments.mean, settings)
                num_clipped = int(result.limited)
            else:
                options = {"dtype": losses.dtype, "device": losses.device}
                lower, upper = (torch.scalar_tensor(x, **options) for x in bounds)
                result = rule.limit(torch, losses, None, (lower, upper), buffers.mean, settings)
                num_clipped = result.limited.count_nonzero()
            loss = (loss * result.factor).to(loss.dtype)
            # The product is off by a rounding error: put the limit itself in, beneath autograd.
            (loss.detach().fill_ if scalar else loss.detach().copy_)(result.value)
            losses = result.value
        if scalar:
            shift, spread = losses - moments.mean, 0.0
        else:
            variance, mean = torch.var_mean(losses - buffers.mean, correction=0)
            shift, spread = mean.item(), variance.item()
        size = loss.numel()
        counts = Counts(size, num_clipped, 0)
        if self.sync is not False and ranks.many(self.sync):
            self._take_over(Summary(size, shift, spread), counts)
            return loss
        moments = rule.advance(Floats, moments, shift, spread, size, settings)
        for buffer, moment in zip(buffers, moments, strict=True):
            buffer.fill_(moment)
        self._count(counts)
        return loss

    def _take_over(self, summary: Summary, counts: Counts) -> None:
        """Moves the moments; or, with other ranks, starts the exchange that will."""
        if not ranks.many(self.sync):
            self._advance(summary, counts)
            return
        wait = ranks.exchange(summary, counts, self.sync, self._overlaps())
        if self._overlaps():
            self._exchange = wait
        else:
            self._advance(*wait())

    def _overlaps(self) -> bool:
        return self.async_op and not torch.compiler.is_compiling()  # a graph keeps no handle

    def _settle(self) -> None:
        """Waits for the exchange that is under way, if there is one, and moves the moments.

        One that fails is not waited for again: the moments stay as they are, and can be saved.
        """
        wait = self._exchange
        if wait is not None:
            self._exchange = None
            self._advance(*wait())

    def _advance(self, summary: Summary, counts: Counts) -> None:
        total, shift, spread = summary
        buffers = moments = self._moments()
        on_host = isinstance(total, float)
        if on_host:
            moments = Moments(*(moment.item() for moment in buffers))
        xp = Floats if on_host else torch
        moments = rule.advance(xp, moments, shift, spread, total, self.settings)
        for old, new in zip(buffers, moments, strict=True):
            old.fill_(new) if on_host else old.copy_(new)
        self._count(counts)

    def _count(self, counts: Counts) -> None:
        for name, count in zip(state.COUNTS, counts, strict=True):
            if type(count) is not int or count:  # on the host, most often nothing happened
                self._buffers[name].add_(count)  # type: ignore[union-attr]

    def _moments(self) -> Moments:
        buffers = self._buffers  # much faster to read than attributes of a module
        return Moments(buffers["mean"], buffers["variance"], buffers["num_updates"])

    def __getattr__(self, name: str) -> Any:  # of buffers too, but not of ordinary attributes
        if name in state.NAMES:
            self._settle()
        return super().__getattr__(name)

    @property
    def mu1(self) -> Tensor:
        """Running mean of the limited losses, the paper's first moment; of the state's shape."""
        return self.mean.clone()

    def _thresholds(self) -> tuple[Tensor, Tensor]:
        self._settle()
        moments = self._moments()
        if self.mean.device.type == "cpu":  # in float32, to the last bit what limits the losses
            moments = Moments(*(moment.double() for moment in moments))
        lower, upper = rule.limits(torch, moments, self.settings)
        return lower.float(), upper.float()

    def extra_repr(self) -> str:
        names = ["num_stddev", "decay"]
        names += ["warmup"] if self.settings.automatic else ["mu1_start", "mu2_start"]
        for name in ("num_stddev_below", "num_groups"):
            names += [] if getattr(self.settings, name) is None else [name]
        parts = [f"{name}={getattr(self.settings, name):g}" for name in names]
        parts += [f"center={self.settings.center!r}"]
        parts += ["sync=True" if self.sync is True else "sync=group"] if self.sync else []
        if self.settings.num_groups is None:
            threshold = "?" if self.mean.is_meta else f"{self.threshold.item():g}"
            parts += [f"threshold={threshold}"]
        return ", ".join(parts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ALRC":
        # .half() and .to(bfloat16) come through here: move the state, never change its dtype.
        before = {name: getattr(self, name) for name in state.NAMES}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = getattr(self, name)
            if new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._settle()
        super()._save_to_state_dict(*args, **kwargs)

    def __getstate__(self) -> Any:  # for pickles, and shallow copies
        ranks.check_picklable(self.sync)
        self._settle()
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> "ALRC":
        self._settle()
        memo[id(self.sync)] = self.sync  # a process group is shared: its ranks are what they are
        twin: ALRC = self.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
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
        keys = [prefix + name for name in state.NAMES]
        if missing := [key for key in keys if key not in state_dict]:
            missing_keys.extend(missing)
            unexpected_keys.extend(k for k in state_dict if k.startswith(prefix) and k not in keys)
            return
        problems = []
        buffers = dict(self.named_buffers(recurse=False))  # which waits for no exchange
        for name in state.NAMES:
            key, value = prefix + name, state_dict[prefix + name]
            if problem := inputs.problem(name, value, self.settings.shape):
                problems.append(
                    f"ALRC: {key} must be {problem}. The checkpoint is damaged or not one of "
                    "ALRC's: load another, or remove ALRC's keys from it and load it with "
                    "strict=False to start afresh."
                )
            else:
                # With assign=True this very tensor becomes the buffer.
                state_dict[key] = value.detach().to(buffers[name].dtype)
        if problems and (other := inputs.other_groups(map(state_dict.get, keys), self.settings)):
            problems = [f"ALRC: {prefix}mean and the rest of the state {other}"]
        if problems:
            error_msgs.extend(problems)
            return
        self._exchange = None  # what comes of it would be overwritten
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _observe(
    loss: Tensor,
    moments: Moments,
    settings: Settings,
    mask: Tensor | None,
    groups: Groups | None,
) -> tuple[Tensor, Observed]:
    """The rule on tensors alone, without reading any of them, up to where the moments move."""
    losses = _detached(loss)
    weights = None if mask is None else mask.detach().to(losses.dtype)
    observed = rule.observe(torch, losses, weights, opaque(moments), settings, groups)
    limited = torch.where(observed.finite, rule.attach(loss, losses, observed.losses), loss)
    return limited.to(loss.dtype), observed


def _detached(loss: Tensor) -> Tensor:
    wide = loss.dtype in (torch.float32, torch.float64)
    return loss.detach() if wide else loss.detach().float()


def _extremes(loss: Tensor) -> tuple[float, float]:
    if loss.dim() == 0:
        value = loss.item()
        return value, value
    low, high = _detached(loss).aminmax()
    return low.item(), high.item()
