"""ALRC in a training loop of accelerate: a tiny network learns data of which some are outliers.

Run: python examples/with_accelerate.py
Or on several processes: torchrun --nproc-per-node 2 examples/with_accelerate.py
"""

import tempfile

import torch
from accelerate import Accelerator

from alrc.torch import ALRC

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
alrc = ALRC(sync=True).to(accelerator.device)  # one limit for all processes
accelerator.register_for_checkpointing(alrc)  # saved and loaded with the rest

torch.manual_seed(0)
x = torch.randn(4000, 8)
y = x.sum(1, keepdim=True)
y[::50] *= 20  # outliers
net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
net, optimizer, loader = accelerator.prepare(
    net,
    torch.optim.Adam(net.parameters(), lr=1e-2),
    torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True),
)

with tempfile.TemporaryDirectory() as folder:
    for inputs, targets in loader:
        with accelerator.accumulate(net):
            loss = torch.nn.functional.mse_loss(net(inputs), targets)
            accelerator.backward(alrc(loss))  # the one line; divided for accumulation after it
            optimizer.step()
            optimizer.zero_grad()
    if accelerator.num_processes == 1:  # with more, on storage that all of them share
        accelerator.save_state(folder)
        accelerator.load_state(folder)  # in a new process: training goes on as if uninterrupted

accelerator.print(alrc.num_clipped.item(), "of", alrc.num_losses.item(), "losses were limited")
accelerator.end_training()
