"""DistributedDataParallel with one limit for all ranks, and a checkpoint to go on from.

Run: torchrun --standalone --nproc-per-node 2 examples/ddp.py
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alrc.torch import ALRC


def build() -> tuple[nn.Module, ALRC, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = DistributedDataParallel(nn.Linear(4, 1))
    return net, ALRC(sync=True), torch.optim.Adam(net.parameters(), lr=0.05)


def train(net: nn.Module, alrc: ALRC, optimizer: torch.optim.Optimizer, data: torch.Generator):
    for _ in range(25):
        x = torch.randn(4, 4, generator=data)
        y = x.sum(1, keepdim=True) + 0.1 * torch.randn(4, 1, generator=data)
        y[torch.rand(4, generator=data) < 0.03] += 100  # a wrong label now and then
        losses = (net(x) - y).square().mean(1)  # one loss per example
        optimizer.zero_grad()
        alrc(losses).mean().backward()
        optimizer.step()


dist.init_process_group("gloo")
data = torch.Generator().manual_seed(dist.get_rank())  # each rank has data of its own
with tempfile.TemporaryDirectory() as folder:
    paths = [Path(folder, "checkpoint.pt")]
    dist.broadcast_object_list(paths)  # all use that of rank 0
    net, alrc, optimizer = build()
    train(net, alrc, optimizer, data)
    saved = [part.state_dict() for part in (net, alrc, optimizer)]  # the same on every rank
    if dist.get_rank() == 0:
        torch.save(saved, paths[0])
    dist.barrier()  # until it is written

    net, alrc, optimizer = build()
    for part, state in zip((net, alrc, optimizer), torch.load(paths[0]), strict=True):
        part.load_state_dict(state)
    train(net, alrc, optimizer, data)
    dist.barrier()  # until no rank needs the folder
if dist.get_rank() == 0:
    print(f"{alrc.num_clipped} of {alrc.num_losses} losses were limited")
dist.destroy_process_group()
