"""First weights that several networks have."""

import torch
from torch import nn

__all__ = ["xavier"]


def xavier(network: nn.Module, seed: int) -> None:
    """Weights by Glorot and Bengio's uniform distribution, and biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.dim() == 1:
            nn.init.zeros_(parameter)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)
