"""FSDP2 with one limit for all ranks, and a distributed checkpoint to go on from.

Run: torchrun --standalone --nproc-per-node 2 examples/fsdp2.py
"""

import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from alrc.torch import ALRC


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.alrc = nn.Linear(4, 2), ALRC(sync=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.alrc((self.net(x) - y).square().mean(1))  # one loss per example


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = fully_shard(Model(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.Adam(model.parameters(), lr=0.05)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: torch.Generator) -> None:
    for _ in range(25):
        x = torch.randn(4, 4, generator=data)
        y = x[:, :2] + 100 * (torch.rand(4, 1, generator=data) < 0.03)  # wrong now and then
        optimizer.zero_grad()
        model(x, y).mean().backward()
        optimizer.step()


dist.init_process_group("gloo")
data = torch.Generator().manual_seed(dist.get_rank())  # each rank has data of its own
with tempfile.TemporaryDirectory() as folder:
    folders = [folder]
    dist.broadcast_object_list(folders)  # all use that of rank 0
    model, optimizer = build()
    train(model, optimizer, data)
    dcp.save(dict(enumerate(get_state_dict(model, optimizer))), checkpoint_id=folders[0])
    model, optimizer = build()
    saved = dict(enumerate(get_state_dict(model, optimizer)))
    dcp.load(saved, checkpoint_id=folders[0])
    set_state_dict(model, optimizer, model_state_dict=saved[0], optim_state_dict=saved[1])
    train(model, optimizer, data)
    dist.barrier()  # until no rank needs the folder
if dist.get_rank() == 0:
    print(f"{model.alrc.num_clipped} of {model.alrc.num_losses} losses were limited")
dist.destroy_process_group()
