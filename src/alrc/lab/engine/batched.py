"""Runs of one setting, with all their seeds and arms, as one batched network."""

import itertools
import json
import pickle
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alrc.lab.api import Task
from alrc.lab.engine.designs import Design, make_design
from alrc.lab.engine.means import Tallies, row_means
from alrc.lab.engine.outcome import evaluate_all
from alrc.lab.engine.rows import Rows
from alrc.lab.engine.series import ABSENT, Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.stacking import Stack, refusal
from alrc.lab.engine.steps import check_any_depends, check_limited

__all__ = ["Ensemble", "setting_of", "why_alone"]

# Options of training in which members may differ.
OWN = ("optimizer", "learning_rate", "momentum", "weight_decay")
ALL = "all."  # begins the names of series that all members have


def why_alone(spec: Spec) -> str | None:
    """What would have to hold for a run to be trained together with others; None if it holds."""
    task = task_of(spec.task)
    if not task.stackable:
        return "have stackable = True"
    if type(task).optimizers is not Task.optimizers:
        return "leave optimizers() as it is"
    if type(task).phases is not Task.phases:
        return "have a single phase"
    if spec.training.compile:
        return "be trained without compile"
    return None


def setting_of(spec: Spec) -> str:
    """What runs have in common that can be trained together."""
    training = {n: x for n, x in spec.training.options().items() if n not in OWN}
    facts = [spec.config[n] for n in ("task", "task_options", "task_facts")]
    return json.dumps([spec.task.name, facts, training], sort_keys=True)


def _design_of(spec: Spec) -> str:
    return json.dumps({n: x for n, x in spec.config.items() if n != "seed"}, sort_keys=True)


class Ensemble:
    """All that changes while runs are trained together.

    Args:
        specs: Of its members, by name.
        series: Where to keep what happens.

    Raises:
        ValueError: If they can't be trained together.
    """

    def __init__(self, specs: Mapping[str, Spec], series: Series) -> None:
        # Whatever order they are given in, so that a checkpoint is theirs.
        order = sorted(specs, key=lambda name: (_design_of(specs[name]), specs[name].seed, name))
        self.specs, self.series = {name: specs[name] for name in order}, series
        first = specs[order[0]]
        self.task, self.training = task_of(first.task), first.training
        for name, spec in self.specs.items():
            if (words := why_alone(spec)) is not None:
                raise ValueError(
                    f"{type(self.task).__name__}: for its runs to be trained together it must "
                    f"{words}. Train them one by one."
                )
            if setting_of(spec) != setting_of(first):
                raise ValueError(
                    "Runs that are trained together must have the same task and training, up to "
                    f"{', '.join(OWN)}; {name!r} and {order[0]!r} have not. Train them one by one."
                )
        seeds = [spec.seed for spec in self.specs.values()]
        self.stack = Stack(self.task, seeds, torch.device(self.training.device))
        self.designs: list[Design] = []
        for _, group in itertools.groupby(self.specs.values(), _design_of):
            start = self.designs[-1].members.stop if self.designs else 0
            self.designs.append(make_design(self.task, list(group), self.stack, start))
        self.rows = self._shared_rows()
        self.step, self.seconds, self.first_loss, self.is_checked = 0, 0.0, "", False
        self.random = _random()
        self.store = self.training.store
        device = self.stack.values.device
        self.tallies = Tallies(len(order), device)
        limiting = [d.limits_losses for d in self.designs for _ in d.members]
        self.is_limiting = torch.tensor(limiting, device=device)
        self.absent = torch.from_numpy(np.full(len(order), ABSENT).view(np.float32)).to(device)

    def _shared_rows(self) -> list[Rows]:
        sharing = [d for d in self.designs if d.is_stacked]
        found = []
        for training in dict.fromkeys(design.training for design in sharing):
            designs = [design for design in sharing if design.training == training]
            members = [member for design in designs for member in design.members]
            found.append(Rows(self.task, training, self.stack, members))
            for design in designs:
                design.rows = found[-1]
        return found

    def batches(self) -> Iterator[Sequence[Any]]:
        """Those of the steps to come: one for each distinct seed."""
        size, step = self.training.batch_size, self.step
        return zip(*(self.task.batches(s, size, step) for s in self.stack.seeds), strict=False)

    def advance(self, batches: Sequence[Any]) -> None:
        """One training step of all members, written into the series."""
        start = time.perf_counter()
        if not self.is_checked:
            self.stack.check(batches)
            self.is_checked = True
        outcome = self.stack.outcome(batches)
        losses = outcome.losses
        check_limited(self.task, next(iter(losses), ""))
        means = _Means(self, losses) if self.store == "mean" else None
        self.first_loss = self.first_loss or f"{ALL}{next(iter(losses))}.raw"
        for name, x in losses.items():
            self._record(f"{ALL}{name}.raw", x)
        for name, x in {**outcome.unlimited, **outcome.logged}.items():
            self._record(f"{ALL}logged.{name}", x)
        sizes = [len(design.members) for design in self.designs]
        columns = {name: torch.split(x, sizes) for name, x in losses.items()}
        limited = list[tuple[range, Mapping[str, Tensor]]]()
        for i, design in enumerate(self.designs):
            own = {name: parts[i] for name, parts in columns.items()}
            done = design.limit(own, means.recorder(design) if means else self._recorder(i))
            places = (
                [design.members] if len(done) == 1 else [range(m, m + 1) for m in design.members]
            )
            limited += zip(places, done, strict=True)
        if means is not None:
            means.finish(limited)
        minimised = self._minimise(
            [
                {**own, **{n: x[places.start : places.stop] for n, x in outcome.unlimited.items()}}
                for places, own in limited
            ]
        )
        may_step: dict[Rows, list[bool]] = {rows: [] for rows in self.rows}
        for design in self.designs:
            steps_ok = design.after_backward(minimised[design.members.start : design.members.stop])
            if design.rows is not None:
                may_step[design.rows] += steps_ok
        for rows, steps_ok in may_step.items():
            rows.advance(steps_ok)
        for i, design in enumerate(self.designs):
            design.log(self._recorder(i))
        self.step += 1
        self.seconds += time.perf_counter() - start

    def _minimise(self, limited: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Takes the gradients of what each member minimises, and returns that, in their order."""
        alike: dict[Any, list[int]] = {}
        for i, losses in enumerate(limited):
            check_any_depends(self.task, "step", losses.values())  # the others would hide it
            key = tuple((name, x.shape[1:]) for name, x in losses.items())
            alike.setdefault(key, []).append(i)
        totals, minimised = [], dict[int, Tensor]()
        for places in alike.values():
            parts = [limited[i] for i in places]
            joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            combined = self.stack.combine(joined)
            totals.append(combined.sum())
            sizes = [len(next(iter(part.values()))) for part in parts]
            own = torch.split(combined.detach().flatten(), sizes)
            minimised |= zip(places, own, strict=True)
        # The gradients of the sum are those of each.
        self.stack.backward(torch.stack(totals).sum())
        return torch.cat([minimised[i] for i in range(len(limited))])

    def _recorder(self, design: int) -> Callable[[str, Tensor], None]:
        return lambda name, rows: self._record(f"{_prefix(design)}{name}", rows)

    def _record(self, name: str, rows: Tensor) -> None:
        self.series.record(self.step, name, row_means(rows) if self.store == "mean" else rows)

    def evaluate(self) -> list[list[float]]:
        """The metrics of each member."""
        return evaluate_all(self.task, self.stack.networks)

    def latest(self, count: int) -> float:
        """The median over members of the mean of their first loss over so many steps."""
        rows = torch.stack(self.series.recent(self.first_loss, count))
        return float(rows.reshape(*rows.shape[:2], -1).mean((0, 2)).nanmedian())

    def state_dict(self) -> dict[str, Any]:
        """Everything that continued runs need.

        Raises:
            ValueError: If members have drawn from a generator that they share.
        """
        if _random() != self.random:
            raise refusal(
                self.task,
                "draw random numbers from torch alone in its steps and arms, not from NumPy's or "
                "Python's generators, which the runs would share",
            )
        return {
            "step": self.step,
            "seconds": self.seconds,
            "first_loss": self.first_loss,
            "store": self.store,
            "tallies": self.tallies.state_dict(),
            "values": self.stack.values,
            "designs": [design.state_dict() for design in self.designs],
            "rows": [rows.state_dict() for rows in self.rows],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from where ``state`` was taken."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.first_loss = state["first_loss"]
        self.store = state.get("store", "each")  # as it began, whatever is asked for now
        self.tallies.load_state_dict(state.get("tallies", {}))
        self.stack.values.copy_(state["values"])
        for design, saved in zip(self.designs, state["designs"], strict=True):
            design.load_state_dict(saved)
        for rows, saved in zip(self.rows, state["rows"], strict=True):
            rows.load_state_dict(saved)

    def series_of(self, member: int, names: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """Which of the stored series have rows of a member: name there, its own name, and where."""
        for i, design in enumerate(self.designs):
            if member in design.members:
                yield from _under(_prefix(i), names, member - design.members.start)
        yield from _under(ALL, names, member)


class _Means:
    """The means of a step, of all members at once."""

    def __init__(self, ensemble: Ensemble, losses: Mapping[str, Tensor]) -> None:
        self.ensemble, self.limits = ensemble, dict[str, Tensor]()
        self.losses = {name: x.detach().clone() for name, x in losses.items()}

    def recorder(self, design: Design) -> Callable[[str, Tensor], None]:
        """Keeps limits until the end of the step; limited losses are known then."""
        span = slice(design.members.start, design.members.stop)

        def record(name: str, rows: Tensor) -> None:
            if name.endswith(".limit"):
                if name not in self.limits:
                    self.limits[name] = self.ensemble.absent.clone()
                self.limits[name][span] = row_means(rows)

        return record

    def finish(self, limited: Sequence[tuple[range, Mapping[str, Tensor]]]) -> None:
        """Counts and records what became of the losses."""
        ensemble = self.ensemble
        for name, raw in self.losses.items():
            kept, shares = ensemble.absent.clone(), ensemble.absent.clone()
            alike: dict[Any, list[tuple[range, Tensor]]] = {}
            for places, own in limited:
                alike.setdefault(own[name].shape[1:], []).append((places, own[name]))
            for parts in alike.values():
                members = [i for places, _ in parts for i in places]
                rows: Any = slice(None)
                if len(members) < len(raw):
                    rows = torch.tensor(members, device=raw.device)
                joined = torch.cat([x.detach() for _, x in parts])
                kept[rows], shares[rows] = ensemble.tallies.add(name, rows, raw[rows], joined)
            if ensemble.is_limiting.any():
                for kind, means in (("limited", kept), ("share", shares)):
                    column = torch.where(ensemble.is_limiting, means, ensemble.absent)
                    ensemble._record(f"{ALL}{name}.{kind}", column)
        for name, limits in self.limits.items():
            ensemble._record(f"{ALL}{name}", limits)


def _random() -> bytes:
    """Where NumPy's and Python's generators are."""
    return pickle.dumps((np.random.get_state(), random.getstate()))


def _prefix(design: int) -> str:
    return f"{design:04}."


def _under(prefix: str, names: Iterable[str], row: int) -> Iterator[tuple[str, str, int]]:
    return ((n, n.removeprefix(prefix), row) for n in names if n.startswith(prefix))
