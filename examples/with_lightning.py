"""ALRC in Lightning: one callback, and no change to the module."""

import logging

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from alrc.integrations.lightning import ALRCCallback


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
        )

    def training_step(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def data():
    """A sum to learn, with a wrong label in one of a hundred examples."""
    x = torch.randn(2000, 8)
    y = x.sum(1, keepdim=True)
    y[::100] += 50
    return DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    callback = ALRCCallback()
    trainer = Trainer(
        callbacks=[callback],  # the one line
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Regression(), data())
    alrc = callback.alrc
    print(alrc.num_clipped.item(), "of", alrc.num_losses.item(), "losses were limited")
