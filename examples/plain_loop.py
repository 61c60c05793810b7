"""A plain PyTorch loop: ALRC in one line, a checkpoint to go on from, scalars and spikes as CSV."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from alrc.integrations.loggers import Watch, read_spikes, to_csv
from alrc.torch import ALRC


def batch(step: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(step)
    x = torch.randn(4, 8, generator=random)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(4, 1, generator=random)
    if step % 17 == 16:  # a wrong label now and then
        y[step % 4] += 10.0
    return [f"{step}-{i}.png" for i in range(4)], x, y


def train(folder: Path, num_steps: int) -> ALRC:
    net, alrc, first = nn.Linear(8, 1), ALRC(), 0
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    parts = {"net": net, "alrc": alrc, "optimizer": optimizer}
    if (folder / "checkpoint.pt").exists():
        checkpoint = torch.load(folder / "checkpoint.pt")
        first = checkpoint["step"]
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])

    log, spikes = to_csv(folder / "scalars.csv"), folder / "spikes.csv"
    with Watch(alrc, log, every=20, spikes=spikes, step=first) as watch:
        for step in range(first, num_steps):
            names, x, y = batch(step)
            watch.name_next(names)
            losses = (net(x) - y).square().mean(1)  # one for each example
            loss = alrc(losses).mean()  # the one line
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"step": num_steps, **states}, folder / "checkpoint.pt")
    return alrc


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        train(Path(name), num_steps=50)
        alrc = train(Path(name), num_steps=100)  # goes on from the checkpoint
        print((Path(name) / "scalars.csv").read_text())
        for spike in read_spikes(Path(name) / "spikes.csv"):
            print(f"{spike.key}: {spike.loss:.2f} limited to {spike.limit:.2f}")
    print(f"{alrc.num_clipped} of {alrc.num_losses} losses were limited")
