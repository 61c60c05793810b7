"""The state of an ALRC, copied to be compared or gone back to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from alrc.torch import ALRC


def copy_state(alrc: ALRC) -> dict[str, Tensor]:
    """A copy, since the state itself moves on."""
    return {name: x.clone() for name, x in alrc.state_dict().items()}


def are_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(x, b[name].to(x.device)) for name, x in a.items())
