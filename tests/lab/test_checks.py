"""What sees whether a task of one's own keeps what the engine relies on."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import tiny
import torch
from torch import Tensor

from alrc.lab.api import Networks
from alrc.lab.engine.checks import check_task

CALLS = itertools.count()  # differs in each call, as what no seed fixes


class OtherWeights(tiny.Line):
    def build(self, seed: int) -> Networks:
        return super().build(next(CALLS))


class OtherBatches(tiny.Line):
    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return super().batches(next(CALLS), batch_size, start)


class FromTheBeginning(tiny.Line):
    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return super().batches(seed, batch_size, 0)


class OneSeed(tiny.Line):
    def build(self, seed: int) -> Networks:
        return super().build(0)

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return super().batches(0, batch_size, start)


class Moving(tiny.Line):
    def evaluate(self, networks: Networks) -> dict[str, float]:
        networks["line"][0].bias += 1
        return dict(super().evaluate(networks))


class Sure(tiny.Line):
    def evaluate(self, networks: Networks) -> dict[str, float]:
        return {**super().evaluate(networks), "sureness": torch.inf}


class Endless(tiny.Line):
    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": super().step(networks, batch).losses["loss"] * torch.inf}


class Counting(tiny.Line):
    """Has a state beside its networks."""

    def step(self, networks: Networks, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": super().step(networks, batch).losses["loss"] * (1 + next(CALLS))}


@dataclass(frozen=True)
class Freezing(tiny.Line):
    """From its sixth step on it has no dropout, and its height stays."""

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = enumerate(super().batches(seed, batch_size, start), start)
        return ((x, y, torch.tensor(step)) for step, (x, y) in batches)  # type: ignore[misc]

    def step(self, networks: Networks, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        x, y, step = batch
        if step == 5:
            networks["line"][1].eval()
            networks["line"][0].bias.requires_grad_(False)
        return {"loss": super().step(networks, (x, y)).losses["loss"]}


@dataclass(frozen=True)
class Drawing(tiny.Line):
    """Draws in its steps and in its evaluation, which is allowed."""

    def evaluate(self, networks: Networks) -> dict[str, float]:
        return dict.fromkeys(("slope error", "sureness"), torch.rand(()).item())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OtherWeights", "build must give the same weights for the same seed"),
        ("OtherBatches", "batches must be the same for the same seed"),
        ("FromTheBeginning", "the batch of a step must be the same whatever the start was"),
        ("OneSeed", "another seed must give other batches or weights"),
        ("Moving", "evaluate must leave the networks as they are"),
        ("Sure", "metrics must be finite; sureness is not"),
        ("Endless", "losses must be finite; loss is not"),
        ("Counting", "a run that was stopped must go on to the same losses"),
    ],
)
def test_what_a_task_does_not_keep_is_seen(name: str, words: str) -> None:
    with pytest.raises(AssertionError, match=f"^{words}"):
        check_task(f"{__file__}:{name}")


@pytest.mark.parametrize("name", ["Drawing", "Freezing"])
def test_a_task_that_keeps_it_passes(name: str) -> None:
    check_task(f"{__file__}:{name}")
