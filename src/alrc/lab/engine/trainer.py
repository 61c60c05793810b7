"""All that changes while a run is trained, and one step of it."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from alrc.lab.api import Arm, Networks
from alrc.lab.engine.means import Tallies, row_means
from alrc.lab.engine.outcome import evaluate
from alrc.lab.engine.randomness import build, random_state, seed_all, set_random_state
from alrc.lab.engine.series import Series
from alrc.lab.engine.spec import Spec, task_of
from alrc.lab.engine.steps import (
    SKIPPED,
    act_and_step,
    check_depends,
    check_limited,
    optimizer_of,
    outcome_of,
    schedules_of,
)

__all__ = ["Trainer"]


class Trainer:
    """All that changes in a run: networks, optimizers, schedules, the arm, random state, series.

    Args:
        spec: What is trained, and how.
        series: Where to keep what happens.
    """

    def __init__(self, spec: Spec, series: Series) -> None:
        self.task, self.training, self.series = task_of(spec.task), spec.training, series
        self.seed = spec.seed
        self.device = torch.device(self.training.device)
        self.networks = {n: x.to(self.device) for n, x in build(self.task, spec.seed).items()}
        self.forward: Networks = self.networks
        if self.training.compile:
            self.forward = {n: torch.compile(x) for n, x in self.networks.items()}  # type: ignore[misc]
        self.optimizers = self.task.optimizers(self.networks, self.training)
        self.schedules = schedules_of(self.task, self.optimizers, self.training)
        self.parameters = {
            phase: [p for group in optimizer.param_groups for p in group["params"]]
            for phase, optimizer in self.optimizers.items()
        }
        arms: dict[int, Arm] = {}  # one for each optimizer: what one sees is not that of another
        self.arms = {
            phase: arms.setdefault(id(optimizer), spec.make_arm())
            for phase, optimizer in self.optimizers.items()
        }
        self.limits_losses: bool = spec.config["losses_limited"]
        self.step, self.seconds, self.first_loss = 0, 0.0, ""
        self.store, self.tallies = self.training.store, Tallies(1, self.device)
        seed_all(spec.seed)  # for networks with dropout, say
        for arm in arms.values():
            arm.begin(self.device)

    def advance(self, batch: Any) -> None:
        """One training step, written into the series."""
        start = time.perf_counter()
        if self.device.type != "cpu":
            batch = tree_map_only(Tensor, lambda x: x.to(self.device, non_blocking=True), batch)
        for phase in self.task.phases(self.step, self.training):
            self._run_phase(phase, batch)
        check_limited(self.task, self.first_loss)
        self.step += 1
        self.seconds += time.perf_counter() - start

    def _run_phase(self, phase: str, batch: Any) -> None:
        optimizer = optimizer_of(self.task, phase, self.optimizers)
        arm, record = self.arms[phase], self._record
        outcome = outcome_of(self.task, phase, self.forward, batch)
        if outcome.losses:
            self.first_loss = self.first_loss or f"{next(iter(outcome.losses))}.raw"
        limited = {}
        for name, losses in outcome.losses.items():
            record(f"{name}.raw", losses)
            if (limit := arm.threshold(name)) is not None:
                record(f"{name}.limit", limit)
            before = losses.detach().clone() if self.store == "mean" else losses
            limited[name] = arm.limit(name, losses)  # the one line
            if self.store == "mean":
                kept, share = self.tallies.add(name, slice(None), before[None], limited[name][None])
                if self.limits_losses:
                    record(f"{name}.limited", kept[0])
                    record(f"{name}.share", share[0])
            elif self.limits_losses:
                record(f"{name}.limited", limited[name])
        for name, value in {**outcome.unlimited, **outcome.logged}.items():
            record(f"logged.{name}", value)
        optimizer.zero_grad()
        total = self.task.combine(phase, {**limited, **outcome.unlimited})
        check_depends(self.task, phase, total)
        total.backward()  # type: ignore[no-untyped-call]
        loss, parameters = total.detach().reshape(()), self.parameters[phase]
        stepped = act_and_step(arm, phase, loss, parameters, optimizer)
        if phase in self.schedules:
            self.schedules[phase].step()
        for name, number in {**({} if stepped else {SKIPPED: 1}), **arm.logged()}.items():
            record(f"arm.{name}.{phase}", number)

    def _record(self, name: str, row: Tensor | float) -> None:
        if self.store == "mean":
            row = row_means(torch.as_tensor(row)[None])[0]
        self.series.record(self.step, name, row)

    def batches(self) -> Iterator[Any]:
        """Those of the steps to come."""
        return self.task.batches(self.seed, self.training.batch_size, self.step)

    def evaluate(self) -> list[float]:
        """The metrics in their order."""
        return evaluate(self.task, self.networks)

    def latest(self, count: int) -> float:
        """The mean of the first loss over so many steps."""
        return self.series.latest(self.first_loss, count)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "first_loss": self.first_loss,
            "store": self.store,
            "tallies": self.tallies.state_dict(),
            "random": random_state(self.device),
            "frozen": {name: _frozen(network) for name, network in self.networks.items()},
            **{
                kind: {n: x.state_dict() for n, x in parts.items()} for kind, parts in self._parts()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from where ``state`` was taken."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.first_loss = state["first_loss"]
        self.store = state.get("store", "each")  # as it began, whatever is asked for now
        self.tallies.load_state_dict(state.get("tallies", {}))
        set_random_state(state["random"], self.device)
        for kind, parts in self._parts():
            for name, part in parts.items():
                part.load_state_dict(state[kind][name])
        for name, network in self.networks.items():
            _freeze(network, state["frozen"][name])

    def _parts(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            ("networks", self.networks),
            ("optimizers", self.optimizers),
            ("schedules", self.schedules),
            ("arms", self.arms),
        ]


def _frozen(network: nn.Module) -> dict[str, list[str]]:
    """What a task may have set in a step, and what no state_dict holds."""
    return {
        "modules": [name for name, module in network.named_modules() if not module.training],
        "parameters": [name for name, x in network.named_parameters() if not x.requires_grad],
    }


def _freeze(network: nn.Module, frozen: Mapping[str, list[str]]) -> None:
    for name, module in network.named_modules():
        module.training = name not in frozen["modules"]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen["parameters"])
