"""Front ends behind one small interface: NumPy and PyTorch."""

import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import ml_dtypes  # noqa: F401 - comes with JAX, and adds "bfloat16" to NumPy's dtypes
import numpy as np
import torch
from torch._dynamo.utils import counters

from alrc import Settings, rule, state
from alrc.torch import ALRC, Moments, clip, init

Mask = Sequence[float] | None
Result = tuple[list[float], list[float]]  # values, and gradient factors
Structure = list[tuple[str, tuple[int, ...], str]]  # name, shape, dtype


class FrontEnd:
    """One call in training, one in evaluation, and the state, all as Python numbers."""

    who = "init"  # what its errors about a saved state begin with
    shape: tuple[int, ...] = ()  # of everything that is kept
    compiles = False
    # How many examples hypothesis tries at most: few where each compiles anew, or calls are slow.
    examples = 100

    # Set where so many calls follow that compiling them pays, for rows that can do either.
    hurry = False

    # What tests say of a row is about the paper's scale, if they name no other.
    defaults: ClassVar[dict[str, Any]] = {"num_stddev": 3.0, "scale": "linear"}

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**{**self.defaults, **settings})

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        """``dtype`` is that of the losses: float32, bfloat16 or float16."""
        raise NotImplementedError

    def feed(self, losses: Sequence[float]) -> list[float]:
        """The values of single losses, one call after another; quickly, if there is a way."""
        return [self([loss])[0][0] for loss in losses]

    def evaluate(self, losses: Sequence[float]) -> Result:
        """What the row does in evaluation; a pure function is simply not called then."""
        return list(losses), [1.0] * len(losses)

    def save(self) -> dict[str, float]:
        """The state as plain numbers."""
        raise NotImplementedError

    def load(self, saved: dict[str, float]) -> None:
        """Goes on from what any row saved."""
        raise NotImplementedError

    @property
    def structure(self) -> Structure:
        """Name, shape and dtype of everything the front end keeps."""
        raise NotImplementedError

    @property
    def compilations(self) -> int:
        """How many graphs were compiled so far, for whatever instance."""
        return 0

    @property
    def moments(self) -> tuple[float, float, int]:
        return tuple(list(self.save().values())[:3])

    @property
    def counts(self) -> tuple[int, int, int] | None:
        """Losses, clipped losses and non-finite losses so far; None if the row keeps none."""
        saved = self.save()
        return tuple(saved[name] for name in state.COUNTS) if "num_losses" in saved else None


class Numpy(FrontEnd):
    """The rule on NumPy arrays, its state rounded to float32 after each call.

    The rule takes losses of float32 at least, so half precision is widened for it and its results
    are rounded back, as in every front end.
    """

    who = "Numpy"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._take(*self.settings.start, 0)
        self.totals = np.zeros(3, int)

    def _take(self, mean: float, variance: float, num_updates: int) -> None:
        self.state = Moments(np.float32(mean), np.float32(variance), np.int64(num_updates))

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        weights = None if mask is None else np.asarray(mask, float).astype(np.float32)
        with np.errstate(all="ignore"):
            array = np.asarray(losses, np.float32).astype(dtype).astype(np.float32)
            largest = rule.LARGEST_FACTOR_FLOAT16 if dtype == "float16" else rule.LARGEST_FACTOR
            step, moments = rule.step(
                np, array, weights, self.state, self.settings, largest_factor=largest
            )
            value, factor = (
                np.broadcast_to(x, array.shape).astype(dtype).astype(float).tolist()
                for x in (step.losses.value, step.losses.factor)
            )
        self._take(*moments)
        self.totals += list(step.counts)
        return value, factor

    def save(self) -> dict[str, float]:
        counts = zip(state.COUNTS, self.totals.tolist(), strict=True)
        moments = rule.KINDS[self.settings.scale](*self.state)
        return {**moments.to_dict(), **dict(counts)}

    def load(self, saved: dict[str, float]) -> None:
        numbers = list(state.checked(self.who, saved, scale=self.settings.scale).values())
        self._take(*numbers[:3])
        self.totals = np.array(numbers[3:])

    @property
    def structure(self) -> Structure:
        kept = {**self.state._asdict(), "totals": self.totals}
        return [(name, x.shape, str(x.dtype)) for name, x in kept.items()]


class Torch(FrontEnd):
    """What the rows of PyTorch have in common."""

    call: Callable[..., torch.Tensor]  # of losses and a mask
    kept: Callable[[], dict[str, torch.Tensor]]

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        return gradient_factors(lambda x: self.call(x, as_mask(mask)), losses, dtype)

    def feed(self, losses: Sequence[float]) -> list[float]:
        return [self.call(torch.tensor([x]), None).item() for x in losses]  # without gradients

    @property
    def structure(self) -> Structure:
        return [
            (name, tuple(x.shape), str(x.dtype).removeprefix("torch."))
            for name, x in self.kept().items()
        ]


class TorchModule(Torch):
    """ALRC as users call it; on the CPU it computes with Python floats where it can."""

    who = "ALRC"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.module = ALRC(**{**self.defaults, **settings})
        self.call = self.module
        self.kept = self.module.state_dict

    def evaluate(self, losses: Sequence[float]) -> Result:
        self.module.eval()
        result = gradient_factors(lambda x: self.call(x, None), losses)
        self.module.train()
        return result

    def save(self) -> dict[str, float]:
        return self.module.to_dict()

    def load(self, saved: dict[str, float]) -> None:
        self.module.load_dict(saved)


class TorchScalars(TorchModule):
    """ALRC called with losses of shape () where the batch holds one: another way in."""

    def __call__(
        self, losses: Sequence[float], mask: Mask = None, dtype: str = "float32"
    ) -> Result:
        if len(losses) != 1:
            return super().__call__(losses, mask, dtype)
        mask = None if mask is None else mask[0]
        value, factor = gradient_factors(lambda x: self.call(x, as_mask(mask)), losses[0], dtype)
        return [value], [factor]

    def feed(self, losses: Sequence[float]) -> list[float]:
        return [self.call(torch.tensor(x), None).item() for x in losses]


def compiled_with(backend: str) -> Callable[..., torch.Tensor]:
    def call(module: ALRC, loss: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return module(loss, mask)

    return torch.compile(call, fullgraph=True, backend=backend, dynamic=True)


class TorchCompiled(TorchModule):
    """ALRC in one graph, through torch.compile.

    The module is an argument of what is compiled, so that all modules share one graph that differ
    in numbers only.
    """

    compiles = True
    examples = 5
    compiled = staticmethod(compiled_with("aot_eager"))
    # Takes seconds to compile, and then a fifth of the time for a call.
    compiled_to_feed = staticmethod(
        compiled_with("inductor" if shutil.which("g++") else "aot_eager")
    )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.call = lambda loss, mask: self.compiled(self.module, loss, mask)

    def feed(self, losses: Sequence[float]) -> list[float]:
        with warnings.catch_warnings():  # Inductor itself calls what torch has deprecated.
            warnings.filterwarnings("ignore", "`torch.jit.script_method` is deprecated")
            return [
                self.compiled_to_feed(self.module, torch.tensor([x]), None).item() for x in losses
            ]

    @property
    def compilations(self) -> int:
        return counters["stats"]["unique_graphs"]


class TorchGrouped(TorchModule):
    """ALRC with groups: the losses are those of one group, amid other losses of other groups.

    What the other groups get is wild, so that whatever leaks from them shows.
    """

    groups, ours = 4, 1
    shape = (4,)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, num_groups=self.groups)
        self.call = self.amid_others
        self.random = np.random.default_rng(0)

    def amid_others(self, loss: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        others = self.random.choice([-1e4, 0.0, 1e-3, 300.0, math.nan, math.inf], size=3)
        losses = torch.cat([loss, torch.tensor(others, dtype=loss.dtype)])
        index = torch.tensor([self.ours] * len(loss) + [0, 2, 2])
        if mask is not None:
            mask = torch.cat([mask.float(), torch.tensor([0.5, 2.0, 0.0])])
        order = torch.arange(len(losses)).flip(0).roll(2)  # ours lie among the others
        mixed = self.module(losses[order], None if mask is None else mask[order], index[order])
        return mixed[order.argsort()[: len(loss)]]

    def feed(self, losses: Sequence[float]) -> list[float]:
        index = torch.tensor([self.ours])
        return [self.module(torch.tensor([x]), group=index).item() for x in losses]

    def save(self) -> dict[str, float]:
        return {name: numbers[self.ours] for name, numbers in self.module.to_dict().items()}

    def load(self, saved: dict[str, float]) -> None:
        if isinstance(saved, dict):
            saved = {name: [number] * self.groups for name, number in saved.items()}
        self.module.load_dict(saved)


# All the tests together compile more graphs of this one function than a program would.
torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000


class TorchPure(Torch):
    """The pure function on tensors, as under torch.func and on accelerators."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.state = init(self.settings)
        self.kept = lambda: self.state._asdict()

    def call(self, loss: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        value, self.state = clip(loss, self.state, self.settings, mask)
        return value

    def save(self) -> dict[str, float]:
        return self.state.to_dict()

    def load(self, saved: dict[str, float]) -> None:
        self.state = init(self.settings, saved=saved)


def as_mask(mask: Any) -> torch.Tensor | None:
    return None if mask is None else torch.tensor(mask)


def gradient_factors(
    call: Callable[[torch.Tensor], torch.Tensor], losses: Any, dtype: str = "float32"
) -> Any:
    """Values, and d value / d loss times 3, divided by 3: the upstream gradient is not 1."""
    x = torch.tensor(losses, dtype=getattr(torch, dtype), requires_grad=True)
    y = call(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    (gradient,) = torch.autograd.grad(y, x, torch.full_like(y, 3.0))
    return y.tolist(), (gradient.float() / 3.0).tolist()


ROWS: dict[str, type[FrontEnd]] = {
    "numpy": Numpy,
    "torch": TorchModule,
    "torch-scalars": TorchScalars,
    "torch-pure": TorchPure,
    "torch-grouped": TorchGrouped,
    "torch-compiled": TorchCompiled,
}
