"""What ALRC does to a run, made visible: scalars for dashboards, and a log of the spikes."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.integrations.loggers needs PyTorch, which is not installed here. Install it with: "
        'pip install "alrc[torch]"',
        name=error.name,
    ) from error
from torch import Tensor

from alrc.integrations.scalars import scalars
from alrc.integrations.spikes import Spike, Table, of_rank, read_spikes
from alrc.torch import ALRC, Moments, clip

__all__ = ["Spike", "Watch", "read_spikes", "to_csv", "to_tensorboard"]

# So many numbers are kept on the device at most, or one call's if it has more.
_MOST_KEPT = 2**22


class Log(Protocol):
    """Whatever takes scalars by name and the step they belong to."""

    def __call__(self, scalars: dict[str, float], /, *, step: int) -> object: ...


class _Call(NamedTuple):
    step: int
    loss: Tensor
    output: Tensor
    mask: Tensor | None
    group: Tensor | int | None
    moments: Moments | None  # before the call
    keys: Tensor | Sequence[object] | None


class Watch:
    """Logs what an ALRC does while a training loop keeps its one line.

    Every ``every`` calls in training, counted over ``step``, each log gets

    - ``alrc/loss``: mean of the losses since the last time, before limiting and without those
      that are masked or not finite; NaN if there were none.
    - ``alrc/limit`` (inf while there is none), ``alrc/limit_below`` if there is a lower limit,
      ``alrc/mean`` and ``alrc/stddev``: what the next call will meet.
    - ``alrc/clipped_fraction``: share of the losses so far that were limited.
    - ``alrc/nonfinite``: number of losses so far that were NaN or infinite.

    With groups, there is one of each for each group: ``alrc/limit/0``, ``alrc/limit/1``, ...

    In between, nothing is read from the device: what is to be looked at is kept there. What is
    left at the end is written by :meth:`close`, or by leaving a ``with`` block.

    The spike log is a CSV file with one row for each limited loss, and one for each loss that is
    not finite, since that is how broken data are found; :class:`Spike` says what is in it, and
    :func:`read_spikes` reads it.

    Args:
        alrc: The module to watch.
        log: Where the scalars go: called as ``log(scalars, step=step)``. ``run.log`` of Weights &
            Biases and ``mlflow.log_metrics`` are such functions, :func:`to_tensorboard` and
            :func:`to_csv` make one; several in a list. Scalars are logged on rank 0, and the
            mean is that of its own losses.
        every: Calls between two times. Larger waits less often for the device, and keeps more
            losses there.
        spikes: The file of the spike log, one for each Watch, or None for no such log. Rank 1
            writes ``spikes-rank1.csv`` for ``spikes.csv``, and so on.
        step: The number of the first call; also ``watch.step``, the number of the next one, to be
            saved with a checkpoint and set when training goes on from it. Rows of this step and
            later ones that the file already holds are then replaced: all of them by a run that
            starts at 0.
        name: What the names of the scalars begin with, in place of ``alrc``.

    Raises:
        TypeError: If ``alrc`` is not an :class:`~alrc.torch.ALRC`, or ``log`` no function.
        ValueError: If ``every`` is not a whole number above 0.

    Note:
        Calls in ``eval()`` mode or under ``torch.no_grad()`` are not watched, nor are copies of
        the module. A compiled function leaves its graph to call a watched ALRC: make the Watch
        before the first compiled step, and with ``fullgraph=True`` call ALRC on what the compiled
        function returns. Weights & Biases drops steps lower than its own: give all your calls of
        ``run.log`` the same ``step``.

    Example:
        >>> import torch
        >>> from alrc.integrations.loggers import Watch
        >>> from alrc.torch import ALRC
        >>> alrc = ALRC(decay=0, mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * 1
        >>> with Watch(alrc, lambda scalars, step: print(step, scalars), every=1):
        ...     losses = alrc(torch.tensor([0.5, 8.0]))  # the one line
        1 {'alrc/loss': 4.25, 'alrc/limit': 7.5, 'alrc/mean': 2.25, 'alrc/stddev': 1.75, \
'alrc/clipped_fraction': 0.5, 'alrc/nonfinite': 0.0}
    """

    def __init__(
        self,
        alrc: ALRC,
        log: Log | Sequence[Log] = (),
        *,
        every: int = 100,
        spikes: str | os.PathLike[str] | None = None,
        step: int = 0,
        name: str = "alrc",
    ) -> None:
        if not isinstance(alrc, ALRC):
            raise TypeError(
                "Watch: alrc must be the ALRC whose calls are to be logged; got a "
                f"{type(alrc).__name__}. Pass the ALRC itself, before torch.compile or a wrapper."
            )
        if not isinstance(every, int) or every < 1:
            raise ValueError(
                "Watch: every must be a whole number of calls, 1 or more; got "
                f"{every!r}. Pass every=100."
            )
        self.step, self.every, self.name = step, every, name
        self._alrc, self._watching = alrc, True
        self._logs = [log] if callable(log) else list(log)
        if not all(map(callable, self._logs)):
            raise TypeError(
                "Watch: log must be a function of (scalars, step=...), or several of them in a "
                f"list; got {log!r}. Pass to_csv('scalars.csv'), say."
            )
        self._spikes = None if spikes is None else Path(spikes)
        self._table: Table | None = None
        self._calls: list[_Call] = []
        self._kept = 0  # losses in these calls
        self._rank = 0
        self._unlogged = 0  # calls since the last time
        self._keys: Tensor | Sequence[object] | None = None
        self._moments: Moments | None = None
        # For each group, since the last time: sum of the losses, and number of them.
        shape = (2, alrc.settings.num_groups or 1)
        self._totals = torch.zeros(shape, dtype=torch.float64, device="cpu")
        self._hooks = [alrc.register_forward_hook(self._after, with_kwargs=True)]
        if self._spikes is not None:
            self._hooks.append(alrc.register_forward_pre_hook(self._before, with_kwargs=True))

    def examples(self, keys: Tensor | Sequence[object]) -> None:
        """Names the examples of the next call, for the spike log.

        Args:
            keys: One for each loss; or for each row of losses, if they have several dimensions.
                Whatever tells the examples apart: indices in the data set, names of files.
                Without a spike log they are not looked at.

        Raises:
            ValueError: At the next call, if there are more or fewer keys than losses.

        Example:
            >>> import tempfile, torch
            >>> from alrc.integrations.loggers import Watch, read_spikes
            >>> from alrc.torch import ALRC
            >>> alrc = ALRC(mu1_start=1.0, mu2_start=2.0)  # limit: 1 + 3 * 1
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Watch(alrc, spikes=f"{folder}/spikes.csv") as watch:
            ...         watch.examples(["cat.png", "dog.png"])
            ...         losses = alrc(torch.tensor([0.5, 8.0]))
            ...     print(*read_spikes(f"{folder}/spikes.csv"))
            Spike(step=0, rank=0, index=1, key='dog.png', group=None, loss=8.0, limit=4.0, \
factor=0.5)
        """
        self._keys = keys

    def close(self) -> None:
        """Writes what is left, and stops watching; leaving a ``with`` block does the same."""
        for hook in self._hooks:
            hook.remove()
        self._look()
        if self._unlogged:
            self._log()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        # A copied or pickled module brings its hooks along; in the copy they do nothing.
        return _not_watching, ()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(self, module: ALRC, args: Any, kwargs: Any) -> None:
        if not self._watches(module):
            return
        loss = _arguments(args, kwargs).get("loss")
        if self._keys is not None and isinstance(loss, Tensor):
            size, given = loss.shape[0] if loss.dim() else 1, len(self._keys)
            if given != size:
                self._keys = None
                raise ValueError(
                    "Watch: examples(keys) must name each example of the next call; got "
                    f"{given} keys for losses of shape {tuple(loss.shape)}. Pass {size}, in the "
                    "order of the losses."
                )
        # With other ranks this waits for their moments, as the call itself is about to.
        buffers = (module.mean, module.variance, module.num_updates)
        self._moments = Moments(*(buffer.clone() for buffer in buffers))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(self, module: ALRC, args: Any, kwargs: Any, output: Tensor) -> None:
        if not self._watches(module):
            return
        self._rank = _rank()  # still known when the process group is gone
        if self._spikes is not None or (self._logs and self._rank == 0):
            self._keep(output, **_arguments(args, kwargs))
        self._keys = self._moments = None
        self.step += 1
        self._unlogged += 1
        if self.step % self.every == 0 or self._kept > _MOST_KEPT:
            self._look()
        if self.step % self.every == 0:
            self._log()

    def _watches(self, module: ALRC) -> bool:
        return self._watching and module.training and torch.is_grad_enabled()

    def _keep(
        self,
        output: Tensor,
        loss: Tensor,
        mask: Tensor | None = None,
        group: Tensor | int | None = None,
    ) -> None:
        # Copies, since what follows in the loop may change a tensor in place.
        seen = loss.detach().clone()
        limited = seen if output is loss else output.detach().clone()
        counted = None if mask is None else mask > 0
        group = group.clone() if isinstance(group, Tensor) else group
        call = _Call(self.step, seen, limited, counted, group, self._moments, self._keys)
        self._calls.append(call)
        self._kept += loss.numel()

    def _look(self) -> None:
        """Reads what was kept: adds it to the totals, and writes the spikes."""
        calls, self._calls, self._kept = self._calls, [], 0
        if not calls:
            return
        loss = _column(call.loss for call in calls)
        output = _column(call.output for call in calls)
        group, counted = (
            torch.zeros_like(loss, dtype=torch.int64),
            torch.ones_like(loss, dtype=torch.bool),
        )
        if any(call.group is not None for call in calls):
            group = _column(_groups(call) for call in calls)
        if any(call.mask is not None for call in calls):
            counted = _column(_counted(call) for call in calls)
        finite = counted & loss.isfinite()
        limited, nonfinite = finite & (output != loss), counted & ~finite
        self._totals.index_add_(1, group, torch.stack([loss.where(finite, 0), finite]).double())
        if self._spikes is None:
            return
        if self._table is None:
            self._table = Table("Watch", of_rank(self._spikes, self._rank))
        rows = self._rows(calls, limited | nonfinite, loss.double(), output.double(), group)
        self._table.append(Spike._fields, calls[0].step, rows)

    def _rows(
        self, calls: list[_Call], spiked: Tensor, loss: Tensor, output: Tensor, group: Tensor
    ) -> Iterable[Spike]:
        places = spiked.nonzero().squeeze(1)
        if not len(places):
            return
        loss, output, group = loss[places], output[places], group[places]
        sizes = torch.tensor([call.loss.numel() for call in calls], device="cpu")
        which = torch.arange(len(calls), device="cpu").repeat_interleave(sizes)[places]
        index = places - (sizes.cumsum(0) - sizes)[which]

        # What the gradient was multiplied by: by the rule itself, from the moments of the call.
        settings = replace(self._alrc.settings, num_groups=None)  # one group's moments for each
        kept = zip(*(call.moments for call in calls if call.moments), strict=True)
        moments = (torch.stack(x).cpu().reshape(len(calls), -1)[which, group] for x in kept)
        factor = torch.func.vmap(
            torch.func.grad(lambda loss, *moments: clip(loss, Moments(*moments), settings)[0])
        )(loss, *moments)

        limit = output.where(loss.isfinite(), torch.nan)
        columns = (x.tolist() for x in (which, index, group, loss, limit, factor))
        for which_call, place, number, *numbers in zip(*columns, strict=True):
            call = calls[which_call]
            yield Spike(
                call.step,
                self._rank,
                place,
                _key(call, place),
                None if call.group is None else number,
                *numbers,
            )

    def _log(self) -> None:
        totals, self._totals, self._unlogged = self._totals, self._totals * 0, 0
        if not self._logs or self._rank != 0:
            return
        settings = self._alrc.settings
        columns = {"loss": totals[0] / totals[1], **scalars(self._alrc)}
        if settings.num_stddev_below is not None:
            columns["limit_below"] = self._alrc.threshold_below
        named = {}
        for name, column in columns.items():
            for group, number in enumerate(column.reshape(-1).tolist()):
                suffix = "" if settings.num_groups is None else f"/{group}"
                named[f"{self.name}/{name}{suffix}"] = float(number)
        for log in self._logs:
            log(named, step=self.step)


def to_csv(path: str | os.PathLike[str]) -> Log:
    """Makes a log that appends to a CSV file: a column for the step, and one for each scalar.

    The file is complete up to the last line whenever the program ends. Going on with one that
    exists, a line that was cut short is removed, and so are lines of the same and later steps:
    after a crash, training goes on from a checkpoint and logs these steps once more.

    Args:
        path: The file; its folder is made if need be.

    Raises:
        ValueError: From the log, if the file has other columns.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from alrc.integrations.loggers import to_csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = to_csv(f"{folder}/scalars.csv")
        ...     log({"alrc/loss": 0.5, "alrc/limit": 4.0}, step=100)
        ...     print(Path(folder, "scalars.csv").read_text())
        step,alrc/loss,alrc/limit
        100,0.5,4.0
        <BLANKLINE>
    """
    table = Table("to_csv", Path(path))

    def log(scalars: dict[str, float], /, *, step: int) -> None:
        table.append(("step", *scalars), step, [(step, *scalars.values())])

    return log


def to_tensorboard(writer: Any) -> Log:
    """Makes a log of TensorBoard's ``SummaryWriter``, or of anything that has ``add_scalar``.

    Args:
        writer: Closed by whoever made it.

    Example:
        >>> from alrc.integrations.loggers import to_tensorboard
        >>> class Writer:  # from torch.utils.tensorboard import SummaryWriter
        ...     def add_scalar(self, name, value, step):
        ...         print(name, value, step)
        >>> to_tensorboard(Writer())({"alrc/loss": 0.5}, step=100)
        alrc/loss 0.5 100
    """

    def log(scalars: dict[str, float], /, *, step: int) -> None:
        for name, number in scalars.items():
            writer.add_scalar(name, number, step)

    return log


def _rank() -> int:
    dist = torch.distributed
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    return dict(zip(("loss", "mask", "group"), args, strict=False), **kwargs)


def _column(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu()


def _counted(call: _Call) -> Tensor:
    return torch.ones_like(call.loss, dtype=torch.bool) if call.mask is None else call.mask


def _groups(call: _Call) -> Tensor:
    group = torch.as_tensor(call.group, device=call.loss.device)
    return group.long().expand(call.loss.shape)


def _key(call: _Call, index: int) -> str:
    if call.keys is None:
        return ""
    key = call.keys[index * len(call.keys) // call.loss.numel()]
    key = key.item() if isinstance(key, Tensor) else key
    return " ".join(str(key).splitlines())  # a row stays one line


def _not_watching() -> Watch:
    watch = object.__new__(Watch)
    watch._watching = False
    return watch
