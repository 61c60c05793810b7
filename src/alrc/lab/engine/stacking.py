"""Networks of several runs as one network with a dimension more."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map, tree_map_only

from alrc.lab.api import Networks, Outcome, Task
from alrc.lab.engine.randomness import build
from alrc.lab.engine.steps import check_depends, outcome_of

__all__ = ["Stack", "refusal"]

Losses = dict[str, Tensor]
SAME = 1e-3  # relative difference up to which two ways to compute a loss give the same


def refusal(task: Task, what: str) -> ValueError:
    return ValueError(
        f"{type(task).__name__}: for its runs to be trained together it must {what}. Set its "
        "stackable = False, and they are trained one by one."
    )


class Stack:
    """The networks of the members of an ensemble; the first axis of everything is the member.

    Each member's networks stay what they are alone, with their parameters and gradients in a row
    of ``values`` and ``gradients``. So whatever changes one changes the other.

    Args:
        task: What is learned.
        seeds: Of the members.
        device: Where to keep them.

    Raises:
        ValueError: If the networks can't be stacked.
    """

    def __init__(self, task: Task, seeds: Sequence[int], device: torch.device) -> None:
        self.task, self.seeds = task, list(dict.fromkeys(seeds))
        self.seed_of = torch.tensor([self.seeds.index(seed) for seed in seeds], device=device)
        built = {
            seed: {name: network.to(device) for name, network in build(task, seed).items()}
            for seed in self.seeds
        }
        self.networks = [copy.deepcopy(built[seed]) for seed in seeds]
        first = self._named(self.networks[0])
        trained = [name for name, x in first.items() if _is_trained(x)]
        self._check_parameters([first[name] for name in trained])
        self.sizes = [first[name].numel() for name in trained]
        self.shapes = [first[name].shape for name in trained]
        like = first[trained[0]].detach()
        self.values = like.new_empty(len(seeds), sum(self.sizes))
        self.gradients = torch.zeros_like(self.values)
        self.fixed: dict[str, dict[str, Tensor]] = {name: {} for name in self.networks[0]}
        everyone = [self._named(networks) for networks in self.networks]
        for network, name in first.keys() - set(trained):  # buffers, and what is not trained
            rows = torch.stack([named[network, name].detach() for named in everyone])
            self.fixed[network][name] = rows
        for i, named in enumerate(everyone):
            views = zip(self.views(self.values[i]), self.views(self.gradients[i]), strict=True)
            for owner, (value, gradient) in zip(trained, views, strict=True):
                value.copy_(named[owner].detach())
                named[owner].data, named[owner].grad = value, gradient
        # What the losses are computed with: in one piece for each layer, which is faster.
        self.leaves = [
            x.clone(memory_format=torch.contiguous_format) for x in self.views(self.values)
        ]
        self.trained: dict[str, dict[str, Tensor]] = {name: {} for name in self.networks[0]}
        for (network, name), leaf in zip(trained, self.leaves, strict=True):
            self.trained[network][name] = leaf.requires_grad_()

    def views(self, rows: Tensor) -> list[Tensor]:
        """The parts of rows ``(..., parameters)`` that belong to each parameter, in its shape."""
        parts = zip(torch.split(rows, self.sizes, dim=-1), self.shapes, strict=True)
        return [part.view(*rows.shape[:-1], *shape) for part, shape in parts]

    def outcome(self, batches: Sequence[Any]) -> Outcome:
        """The losses of all members by name, and what is logged.

        Args:
            batches: One for each distinct seed.
        """
        torch._foreach_copy_([x.detach() for x in self.leaves], self.views(self.values))
        stacked = _stack(self.task, batches, self.seed_of)
        return Outcome(*vmap(self._step)(self.trained, self.fixed, stacked))

    def _step(
        self, trained: dict[str, dict[str, Tensor]], fixed: dict[str, dict[str, Tensor]], batch: Any
    ) -> tuple[Losses, Losses, Losses]:
        networks: Any = {
            name: _Stateless(network, {**trained[name], **fixed[name]})
            for name, network in self.networks[0].items()
        }
        outcome = outcome_of(self.task, "step", networks, batch)
        return dict(outcome.losses), dict(outcome.logged), dict(outcome.unlimited)

    def backward(self, total: Tensor) -> None:
        """Puts the gradients of the sum of all members' losses into ``gradients``."""
        gradients = torch.autograd.grad(total, self.leaves)
        torch._foreach_copy_(self.views(self.gradients), list(gradients))

    def check(self, batches: Sequence[Any]) -> None:
        """Computes the losses of a member of each seed alone and stacked, and compares them.

        Raises:
            ValueError: If the task can't be stacked.
        """
        members = [self.seed_of.tolist().index(i) for i in range(len(batches))]
        alone = [self._alone(self.networks[i], x) for i, x in zip(members, batches, strict=True)]
        try:
            together = _all_losses(self.outcome(batches))
            total = self.combine(together)
            torch.autograd.grad(total.sum(), self.leaves)
        except (RuntimeError, AttributeError, TypeError) as error:
            words = str(error).splitlines()[0].rstrip(".")
            if "not have been used" in words:
                words = "use every parameter in its losses, or freeze it"
            else:
                words = f"have a step that works under torch.func.vmap ({words})"
            raise refusal(self.task, words) from error
        for i, (losses, combined) in zip(members, alone, strict=True):
            pairs = [(name, x, together[name][i]) for name, x in losses.items()]
            for name, x, y in [*pairs, ("sum", combined, total[i])]:
                if x.shape != y.shape or ((x - y).abs() > SAME * x.abs().amax()).any():
                    raise refusal(
                        self.task, f"give the same {name} for networks alone and in a stack"
                    )

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """What each member minimises."""
        combined: Tensor = vmap(lambda own: self.task.combine("step", own))(dict(losses))
        return combined

    def _alone(self, networks: Networks, batch: Any) -> tuple[Losses, Tensor]:
        """The losses of one member and what it minimises, if nothing moves meanwhile."""
        before = [b.clone() for network in networks.values() for b in network.buffers()]
        random = torch.get_rng_state()
        batch = tree_map_only(Tensor, lambda x: x.to(self.values.device), batch)
        losses = _all_losses(outcome_of(self.task, "step", networks, batch))
        combined = self.task.combine("step", losses)
        check_depends(self.task, "step", combined)
        after = [b for network in networks.values() for b in network.buffers()]
        if not all(torch.equal(x, y) for x, y in zip(before, after, strict=True)):
            raise refusal(self.task, "have networks whose buffers stay, so no running statistics")
        if not torch.equal(random, torch.get_rng_state()):
            raise refusal(self.task, "draw no random numbers in its steps, so no dropout")
        return {name: loss.detach() for name, loss in losses.items()}, combined.detach()

    def _check_parameters(self, parameters: Sequence[Tensor]) -> None:
        if not parameters or len({(x.dtype, x.device) for x in parameters}) > 1:
            raise refusal(self.task, "have parameters to train, all of one type")
        owners = [id(p) for network in self.networks[0].values() for p in set(network.parameters())]
        if len(owners) > len(set(owners)):
            raise refusal(self.task, "have networks that share no parameters")

    @staticmethod
    def _named(networks: Networks) -> dict[tuple[str, str], Tensor]:
        return {
            (network, name): x
            for network, module in networks.items()
            for name, x in [*module.named_parameters(), *module.named_buffers()]
        }


class _Stateless:
    """Stands for a network, with parameters and buffers from elsewhere."""

    def __init__(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        self._network, self._state = network, state

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._network, self._state, args, kwargs)


def _all_losses(outcome: Outcome) -> Losses:
    return {**outcome.losses, **outcome.unlimited}


def _is_trained(x: Tensor) -> bool:
    return isinstance(x, nn.Parameter) and x.requires_grad


def _stack(task: Task, batches: Sequence[Any], seed_of: Tensor) -> Any:
    """One batch for each member."""

    def stack(*parts: Any) -> Any:
        if not isinstance(parts[0], Tensor):
            raise refusal(task, f"have batches of tensors alone, not of {type(parts[0]).__name__}")
        if len({x.shape for x in parts}) > 1:
            raise refusal(task, "have batches of one shape, whatever the seed")
        return torch.stack(parts).to(seed_of.device, non_blocking=True)[seed_of]

    return tree_map(stack, *batches)
