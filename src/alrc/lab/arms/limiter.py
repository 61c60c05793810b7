"""What arms share whose losses go through a module with a limit."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from alrc.lab.api import Arm

__all__ = ["Limiter", "LimiterArm"]


class Limiter(Protocol):
    """A module that limits losses, such as ``alrc.torch.ALRC``."""

    @property
    def threshold(self) -> Tensor: ...

    def __call__(self, losses: Tensor, /) -> Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


class LimiterArm(Arm):
    """Limits the losses of each name with a module of their own."""

    def make(self, device: torch.device) -> Limiter:
        """A module as it is before its first losses."""
        raise NotImplementedError

    def begin(self, device: torch.device) -> None:
        self.device, self.limiters = device, dict[str, Limiter]()

    def limiter(self, name: str) -> Limiter:
        """The module of a name, made when it is first asked for."""
        if name not in self.limiters:
            self.limiters[name] = self.make(self.device)
        return self.limiters[name]

    def threshold(self, name: str) -> Tensor | None:
        return self.limiter(name).threshold

    def limit(self, name: str, losses: Tensor) -> Tensor:
        return self.limiter(name)(losses)

    def state_dict(self) -> dict[str, Any]:
        return {name: limiter.state_dict() for name, limiter in self.limiters.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        for name, saved in state.items():
            self.limiter(name).load_state_dict(saved)
        return self
