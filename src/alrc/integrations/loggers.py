"""What ALRC does to a run, made visible: scalars for dashboards, and a log of the spikes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.integrations.loggers needs PyTorch, which is not installed here. Install it with: "
        'pip install "alrc[torch]"',
        name=error.name,
    ) from error
from torch import Tensor

from alrc.integrations import recording
from alrc.integrations.outlets import Log, to_csv, to_tensorboard
from alrc.integrations.scalars import Kept, scalars
from alrc.integrations.spikes import Spike, Table, of_rank, read_spikes
from alrc.integrations.visits import VisitLog, visits_beside
from alrc.rule import Step
from alrc.torch import ALRC

__all__ = ["Spike", "Watch", "read_spikes", "to_csv", "to_tensorboard"]

# So many losses are kept on the device at most, or one call's if it has more.
_MOST_LOSSES = 2**22


class Watch:
    """Logs what an ALRC does while a training loop keeps its one line.

    Every ``every`` calls in training, counted over ``step``, each log gets

    - ``alrc/loss``: mean of the losses since the last time, before limiting and without those
      that are masked or not finite; NaN if there were none.
    - ``alrc/limit`` (inf while there is none), ``alrc/limit_below`` if there is a lower limit,
      ``alrc/mean`` and ``alrc/stddev``: what the next call will meet.
    - ``alrc/clipped_fraction``: share of the losses so far that were limited.
    - ``alrc/nonfinite``: number of losses so far that were NaN, infinite, or too large for the
      moments.
    - ``alrc/kept``: what the limits left of the sum of the losses since the last time: limited
      over raw sum, 1 if nothing was limited.

    With groups, there is one of each for each group: ``alrc/limit/0``, ``alrc/limit/1``, ...

    In between, nothing is read from the device: what is to be looked at is kept there. What is
    left at the end is written by :meth:`close`, or by leaving a ``with`` block.

    The spike log is a CSV file with one row for each limited loss, and one for each loss that is
    not finite, since that is how broken data are found; :class:`Spike` says what is in it, and
    :func:`read_spikes` reads it. If :meth:`name_next` names the examples, a second file beside it,
    ``spikes-visits.csv.gz``, says which of them each call had: from both, ``alrc suspects`` ranks
    the examples by how often and how hard they were limited.

    Args:
        alrc: The module to watch.
        log: Where the scalars go: called as ``log(scalars, step=step)``. ``run.log`` of Weights &
            Biases and ``mlflow.log_metrics`` are such functions, :func:`to_tensorboard` and
            :func:`to_csv` make one; several in a list. Scalars are logged on rank 0;
            loss and kept are of its own losses.
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
        >>> alrc = ALRC(3, 0, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
        >>> with Watch(alrc, lambda scalars, step: print(step, scalars), every=1):
        ...     losses = alrc(torch.tensor([1.0, 9.0]))  # the one line
        1 {'alrc/loss': 5.0, 'alrc/limit': 7.0, 'alrc/mean': 2.5, 'alrc/stddev': 1.5, \
'alrc/clipped_fraction': 0.5, 'alrc/nonfinite': 0.0, 'alrc/kept': 0.5}
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
        self._outlets = [log] if callable(log) else list(log)
        if not all(map(callable, self._outlets)):
            raise TypeError(
                "Watch: log must be a function of (scalars, step=...), or several of them in a "
                f"list; got {log!r}. Pass to_csv('scalars.csv'), say."
            )
        self._spike_path = None if spikes is None else Path(spikes)
        self._spike_table: Table | None = None
        self._visit_log: VisitLog | None = None
        self._rank = 0
        self._keys: recording.Keys | None = None  # of the next call
        # Calls that have not been read from the device, and the number of losses in them.
        self._unread: list[recording.Call] = []
        self._num_unread = 0
        # What has been read since the last time of logging; for each group, sums of losses.
        self._num_unlogged = 0
        self._sums: Tensor | float = 0.0
        self._kept = Kept(alrc.settings.shape)
        self._hooks = [alrc.register_step_hook(self._see)]
        if self._spike_path is not None:
            self._hooks.append(alrc.register_forward_pre_hook(self._check_keys, with_kwargs=True))

    def name_next(self, keys: Tensor | Sequence[object]) -> None:
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
            >>> alrc = ALRC(3, 0.999, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with Watch(alrc, spikes=f"{folder}/spikes.csv") as watch:
            ...         watch.name_next(["cat.png", "dog.png"])
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
        self._read()
        if self._num_unlogged:
            self._log()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        # A copied or pickled module brings its hooks along; in the copy they do nothing.
        return _not_watching, ()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _check_keys(self, alrc: ALRC, args: Any, kwargs: Any) -> None:
        """Refuses keys that can't be those of this call, before it moves anything."""
        if not (self._watching and alrc.training and torch.is_grad_enabled()):
            return
        loss = args[0] if args else kwargs.get("loss")
        if self._keys is not None and isinstance(loss, Tensor):
            size, given = loss.shape[0] if loss.dim() else 1, len(self._keys)
            if given != size:
                self._keys = None
                raise ValueError(
                    "Watch: name_next(keys) must name each example of the next call; got "
                    f"{given} keys for losses of shape {tuple(loss.shape)}. Pass {size}, in the "
                    "order of the losses."
                )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _see(
        self,
        alrc: ALRC,
        loss: Tensor,
        mask: Tensor | None,
        group: Tensor | int | None,
        step: Step,
    ) -> None:
        """What ALRC calls after each call in training."""
        if not self._watching:
            return
        self._rank = _rank()  # still known when the process group is gone
        if self._spike_path is not None or (self._outlets and self._rank == 0):
            call = recording.record(self.step, loss, mask, group, step.losses, self._keys)
            self._unread.append(call)
            self._num_unread += loss.numel()
        self._keys = None
        self.step += 1
        self._num_unlogged += 1
        if self.step % self.every == 0 or self._num_unread > _MOST_LOSSES:
            self._read()
        if self.step % self.every == 0:
            self._log()

    def _read(self) -> None:
        """Waits for the device: adds the losses to the sums, and writes the spikes."""
        calls, self._unread, self._num_unread = self._unread, [], 0
        if not calls:
            return
        settings = self._alrc.settings
        losses = recording.read(calls, settings)
        sums = recording.sums(losses, settings.num_groups)
        self._sums = self._sums + sums
        _, raw, limited = sums.reshape(3, *settings.shape)
        self._kept.add(raw, limited)
        if self._spike_path is None:
            return
        if self._spike_table is None:
            self._spike_table = Table("Watch", of_rank(self._spike_path, self._rank))
        names = [recording.names_of(call) for call in calls]
        rows = recording.spikes(calls, losses, names, self._rank, settings.num_groups)
        self._spike_table.append(Spike._fields, calls[0].number, rows)
        if any(names):
            if self._visit_log is None:
                self._visit_log = VisitLog(visits_beside(self._spike_table.path))
            visits = recording.visits(calls, losses, names)
            self._visit_log.append(calls[0].number, visits)

    def _log(self) -> None:
        sums, self._sums, self._num_unlogged = self._sums, 0.0, 0
        if not (self._outlets and isinstance(sums, Tensor) and self._rank == 0):
            return
        settings = self._alrc.settings
        number, total, _ = sums
        columns = {"loss": total / number, **scalars(self._alrc)}
        if settings.num_stddev_below is not None:
            columns["limit_below"] = self._alrc.threshold_below
        columns["kept"] = self._kept.take()
        named = {}
        for name, column in columns.items():
            for group, value in enumerate(column.reshape(-1).tolist()):
                suffix = "" if settings.num_groups is None else f"/{group}"
                named[f"{self.name}/{name}{suffix}"] = float(value)
        for outlet in self._outlets:
            outlet(named, step=self.step)


def _rank() -> int:
    dist = torch.distributed
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _not_watching() -> Watch:
    watch = object.__new__(Watch)
    watch._watching = False
    watch._before = watch._after = _nothing  # type: ignore[attr-defined] # hooks of older pickles
    return watch


def _nothing(*_: Any) -> None:
    pass
