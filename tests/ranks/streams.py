"""What every rank is given: the losses of each case, a small model with its batches, a state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alrc.torch import ALRC

STEPS = 24
NAN, INF = float("nan"), float("inf")


# Losses: what each rank's call gets, at every step of every case.


class Case(NamedTuple):
    """Settings of ALRC, and what is special about the losses."""

    settings: dict[str, Any]
    special: str = ""
    dtype: torch.dtype = torch.float32


GIVEN = {"scale": "linear", "num_stddev": 2.0, "decay": 0.9, "mu1_start": 1.0, "mu2_start": 1.5}
AUTOMATIC = {"scale": "linear", "num_stddev": 2.0, "decay": 0.9, "warmup": 5}
SIGNED = {"center": "mean", "num_stddev_below": 2.0, "mu1_start": 0.5, "mu2_start": 1.25}
CASES = {
    "given start": Case(GIVEN),
    "automatic start": Case(AUTOMATIC),
    "center mean": Case({**GIVEN, **SIGNED}, "signed"),
    "NaN and inf on one rank": Case(GIVEN, "nan"),
    "masks": Case(GIVEN, "nan mask"),
    "weights": Case(AUTOMATIC, "nan weights"),
    "empty batches": Case(GIVEN, "empty"),
    "groups that one rank sees": Case({**GIVEN, "num_groups": 3}, "groups"),
    "groups, all at once": Case(
        {**AUTOMATIC, "recency": 1.5, "num_groups": 3}, "groups nan weights empty"
    ),
    "bfloat16": Case(GIVEN, dtype=torch.bfloat16),
    "float64": Case(GIVEN, "nan", dtype=torch.float64),
    "one loss per rank": Case(GIVEN, "scalar nan"),
    "one loss per rank, groups": Case({**GIVEN, "num_groups": 3}, "scalar groups"),
    "far from zero": Case(AUTOMATIC, "far"),
    "recency": Case({**AUTOMATIC, "recency": 2.0}, "nan"),
    "log": Case({**AUTOMATIC, "scale": "log"}, "nan weights empty"),
    "log, groups": Case({**GIVEN, "scale": "log", "num_groups": 3}, "groups nan"),
    "log, one loss per rank": Case({**GIVEN, "scale": "log"}, "scalar nan"),
}


class Call(NamedTuple):
    loss: Tensor
    mask: Tensor | None = None
    group: Tensor | int | None = None


def call(case: Case, step: int, rank: int, world: int) -> Call:
    """What ALRC is called with; losses as a leaf that requires a gradient."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    special = case.special.split()
    size = int(torch.randint(1, 6, (), generator=generator))
    if "empty" in special and (step % 8 == 5 or (step % 4 == 1 and rank == 0)):
        size = 0  # on all ranks, or on the first alone
    loss = torch.randn(size, generator=generator, dtype=torch.float64)
    loss = loss if "signed" in special else (0.4 * loss).exp()
    # Ranks have losses of different size and spread, and each of them outliers of its own.
    loss = (
        loss * (1 + rank / 2) * torch.where(torch.rand(size, generator=generator) < 0.15, 30.0, 1.0)
    )
    if "far" in special:
        loss = loss + 1000.0
    if "nan" in special and rank == 1 and step % 3 == 1:
        loss[:1] = NAN if step % 2 else INF
    mask = group = None
    if "mask" in special or "weights" in special:
        mask = torch.randint(0, 4, (size,), generator=generator) / 2
        if step % 8 == 6 or (step % 4 == 2 and rank == 1):
            mask = torch.zeros(size)  # on all ranks, or on the second alone
        mask = mask if "weights" in special else mask > 0
    if "groups" in special:
        # The last rank alone sees group 2 and never group 0.
        group = torch.randint(0, 2, (size,), generator=generator) + (rank == world - 1)
    loss = loss.to(case.dtype)
    if "scalar" in special:
        loss, group = loss[0], None if group is None else int(group[0])
    return Call(loss.requires_grad_(), mask, group)


def whole(case: Case, step: int, world: int) -> Call:
    """The calls of all ranks, as the one call of one process."""
    calls = [call(case, step, rank, world) for rank in range(world)]

    def joined(parts: list[Any]) -> Tensor | None:
        if parts[0] is None:
            return None
        return torch.cat([torch.as_tensor(part).detach().reshape(-1) for part in parts])

    loss, mask, group = (joined(list(parts)) for parts in zip(*calls, strict=True))
    assert loss is not None
    return Call(loss.requires_grad_(), mask, group)


def met(alrc: ALRC, given: Call) -> tuple[Tensor, Tensor]:
    """What ALRC returns, and the gradient that each loss gets."""
    limited = alrc(*given)
    limited.sum().backward()
    return limited.detach().clone(), given.loss.grad


COUNTS = ("num_updates", "num_losses", "num_clipped", "num_nonfinite")


# A model: its batches, with outliers on the second rank, and its training.


class Net(nn.Module):
    """Returns its mean loss, limited by an ALRC inside or outside of it; keeps the losses seen."""

    def __init__(self, alrc: ALRC, inside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.alrc = alrc if inside else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = (self.layers(x) - y).square().sum(1)
        self.seen = loss.detach().clone()
        return self.alrc(loss)


def limiter(**settings: Any) -> ALRC:
    return ALRC(1.0, 0.9, 1.0, 1.25, scale="linear", **settings)


def examples(step: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    x, y = torch.randn(6, 4, generator=generator), torch.randn(6, 1, generator=generator)
    return x, y * (5 if rank == 1 and step % 3 == 0 else 1)


def learn(
    net: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    after: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> None:
    """One step of the optimizer on the gradients of these batches, the last of which syncs."""
    optimizer.zero_grad()
    for i, (x, y) in enumerate(batches):
        if i < len(batches) - 1 and isinstance(net, DistributedDataParallel):
            with net.no_sync():
                after(net(x, y)).mean().backward()
        else:
            after(net(x, y)).mean().backward()
    optimizer.step()


def parameters(net: nn.Module) -> list[Tensor]:
    full = [getattr(p, "full_tensor", p.detach)() for p in net.parameters()]
    return [p.detach().clone() for p in full]


# The state, by many ways; and errors in words.


def numbers_of(module: nn.Module) -> dict[str, float]:
    """The state_dict as numbers; its tensors are the buffers themselves, which go on changing."""
    return {name: value.item() for name, value in module.state_dict().items()}


SAVED = {
    "mean": 7.0,
    "variance": 4.0,
    "num_updates": 5,
    "num_losses": 50,
    "num_clipped": 3,
    "num_nonfinite": 2,
}
WRITERS: dict[str, Callable[[ALRC], Any]] = {
    "load_dict": lambda alrc: alrc.load_dict(SAVED),
    "load_state_dict": lambda alrc: alrc.load_state_dict(
        {name: torch.tensor(number) for name, number in SAVED.items()}
    ),
    "load_state_dict, assign": lambda alrc: alrc.load_state_dict(
        {name: torch.tensor(number) for name, number in SAVED.items()}, assign=True
    ),
    "reset_parameters": lambda alrc: alrc.reset_parameters(),
}


def error_of(function: Callable[[], Any]) -> tuple[str, str]:
    try:
        value = function()
    except Exception as error:
        return type(error).__name__, str(error)
    return "none", repr(value)
