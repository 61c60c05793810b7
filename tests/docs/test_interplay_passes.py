"""docs/interplay.md: passes that come twice, work in place, compiled regions of checkpointing."""

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.tuner import Tuner
from reference import Reference
from torch.utils.checkpoint import checkpoint

from alrc.integrations.lightning import ALRCCallback
from alrc.torch import ALRC

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4


def test_both_passes_of_sam_have_the_gradients_of_the_rule() -> None:
    random = torch.Generator().manual_seed(0)
    settings = {"num_stddev": 1.5, "decay": 0.9, "warmup": 3, "scale": "linear"}
    alrc, oracle = ALRC(**settings), Reference(**settings)
    weight, clipped = torch.tensor(1.0, requires_grad=True), 0
    for step in range(60):
        target = torch.randn((), generator=random) * (10 if step % 10 == 9 else 1)
        at = weight.detach().clone()
        for is_second in (False, True):
            error = weight - target
            weight.grad = None
            alrc(error.square()).backward()
            (expected,) = oracle([error.square().item()])
            assert weight.grad.item() == pytest.approx(2 * error.item() * expected.factor, rel=1e-4)
            assert alrc.mean.item() == pytest.approx(oracle.mean, rel=1e-5)
            clipped += expected.limited
            with torch.no_grad():
                if is_second:
                    weight.copy_(at - 0.05 * weight.grad)
                else:
                    weight += 0.05 * weight.grad.sign()
    assert alrc.num_updates == 120
    assert alrc.num_clipped == clipped > 6


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.lr = torch.nn.Linear(1, 1), 1e-3

    def training_step(self, batch):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(160, 1), batch_size=4)


@pytest.mark.filterwarnings("ignore")  # Lightning's own, about workers and logs
def test_after_lr_find_the_moments_are_as_before(tmp_path) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    callback, module = ALRCCallback(num_stddev=3, scale="linear"), Regression()
    trainer = Trainer(
        callbacks=[callback],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    Tuner(trainer).lr_find(module, num_training=30)
    assert callback.alrc.to_dict() == ALRC(num_stddev=3, scale="linear").to_dict()
    trainer.fit(module)
    assert callback.alrc.num_losses == 40


def test_working_in_place_on_the_result_reaches_the_loss_in_calm_steps_only() -> None:
    alrc = ALRC(**START)
    for value, seen in ((2.0, 1.0), (8.0, 8.0)):
        loss = torch.tensor(1.0, requires_grad=True) * value
        limited = alrc(loss)
        limited /= 2
        assert loss.item() == seen


def test_the_result_of_an_operator_leaves_the_loss_as_it_was() -> None:
    alrc = ALRC(**START)
    for value in (2.0, 8.0):
        loss = torch.tensor(1.0, requires_grad=True) * value
        limited = alrc(loss)
        limited = limited / 2
        assert loss.item() == value
        assert limited.item() == pytest.approx(min(value, 4.0) / 2, rel=1e-3)


@pytest.mark.parametrize("compiled", ["inside", "the region"])
def test_compiled_inside_a_checkpointed_region_alrc_is_refused_in_words(compiled) -> None:
    alrc = ALRC(**START)

    def region(x):
        return alrc(x**3).square()

    torch._dynamo.reset()
    compile_ = partial(torch.compile, backend="aot_eager", fullgraph=True)
    checkpointed = partial(checkpoint, use_reentrant=False)
    if compiled == "inside":
        call = partial(checkpointed, compile_(region))
    else:
        call = compile_(partial(checkpointed, region))
    loss = call(torch.tensor(3.0, requires_grad=True))
    with pytest.raises(RuntimeError, match="ALRC: a loss must meet ALRC once, in the forward"):
        loss.backward()
