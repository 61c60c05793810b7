"""Front ends behind one small interface: NumPy and PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from alrc import Settings, rule
from alrc.torch import ALRC, Moments, clip, init

Mask = Sequence[float] | None
Result = tuple[list[float], list[float]]  # values, and gradient factors


class FrontEnd:
    """One call in training, one in evaluation, and the state, all as Python numbers."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        raise NotImplementedError

    def evaluate(self, losses: Sequence[float]) -> Result:
        """What the row does in evaluation; a pure function is simply not called then."""
        return list(losses), [1.0] * len(losses)

    @property
    def moments(self) -> tuple[float, float, int]:
        raise NotImplementedError

    @property
    def counts(self) -> tuple[int, int, int] | None:
        """Losses, clipped losses and non-finite losses so far; None if the row keeps none."""
        return None


class Numpy(FrontEnd):
    """The rule on NumPy arrays, its state rounded to float32 after each call."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        mean, variance = self.settings.start
        self.state = Moments(np.float32(mean), np.float32(variance), 0)
        self.totals = np.zeros(3, int)

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        array = np.asarray(losses, np.float32)
        weights = None if mask is None else np.asarray(mask, np.float32)
        with np.errstate(all="ignore"):
            step = rule.step(np, array, weights, self.state, self.settings)
        mean, variance, num_updates = step.moments
        self.state = Moments(np.float32(mean), np.float32(variance), int(num_updates))
        self.totals += [step.num_losses, step.num_clipped, step.num_nonfinite]
        return step.losses.value.tolist(), step.losses.factor.tolist()

    @property
    def moments(self) -> tuple[float, float, int]:
        return float(self.state.mean), float(self.state.variance), self.state.num_updates

    @property
    def counts(self) -> tuple[int, int, int]:
        return tuple(self.totals.tolist())


class TorchModule(FrontEnd):
    """ALRC as users call it; on the CPU it computes with Python floats where it can."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.module = ALRC(**settings)
        self.call: Callable[..., torch.Tensor] = self.module

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        return gradient_factors(lambda x: self.call(x, as_mask(mask)), losses)

    def evaluate(self, losses: Sequence[float]) -> Result:
        self.module.eval()
        result = gradient_factors(self.call, losses)
        self.module.train()
        return result

    @property
    def moments(self) -> tuple[float, float, int]:
        module = self.module
        return module.mean.item(), module.variance.item(), int(module.num_updates)

    @property
    def counts(self) -> tuple[int, int, int]:
        module = self.module
        return int(module.num_losses), int(module.num_clipped), int(module.num_nonfinite)


class TorchScalars(TorchModule):
    """ALRC called with losses of shape () where the batch holds one: another way in."""

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        if len(losses) != 1:
            return super().__call__(losses, mask)
        mask = None if mask is None else mask[0]
        value, factor = gradient_factors(lambda x: self.call(x, as_mask(mask)), losses[0])
        return [value], [factor]


class TorchCompiled(TorchModule):
    """ALRC in one graph, through torch.compile."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        torch._dynamo.reset()
        self.call = torch.compile(self.module, fullgraph=True, backend="aot_eager", dynamic=True)


class TorchPure(FrontEnd):
    """The pure function on tensors, as under torch.func and on accelerators."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.state = init(self.settings)

    def __call__(self, losses: Sequence[float], mask: Mask = None) -> Result:
        def call(x: torch.Tensor) -> torch.Tensor:
            y, self.state = clip(x, self.state, self.settings, as_mask(mask))
            return y

        return gradient_factors(call, losses)

    @property
    def moments(self) -> tuple[float, float, int]:
        mean, variance, num_updates = (moment.item() for moment in self.state)
        return mean, variance, num_updates


def as_mask(mask: Any) -> torch.Tensor | None:
    return None if mask is None else torch.tensor(mask)


def gradient_factors(call: Callable[[torch.Tensor], torch.Tensor], losses: Any) -> Any:
    """Values, and d value / d loss times 3, divided by 3: the upstream gradient is not 1."""
    x = torch.tensor(losses, dtype=torch.float32, requires_grad=True)
    y = call(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    (gradient,) = torch.autograd.grad(y, x, torch.full_like(y, 3.0))
    return y.tolist(), (gradient / 3.0).tolist()


ROWS: dict[str, type[FrontEnd]] = {
    "numpy": Numpy,
    "torch": TorchModule,
    "torch-scalars": TorchScalars,
    "torch-pure": TorchPure,
    "torch-compiled": TorchCompiled,
}
