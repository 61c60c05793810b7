"""Losses whose own hook runs the real backward pass, as those with cached gradients do."""

import copy

import pytest
import torch
from hugging_face import Trainer, assert_same, build, parameters, refusal, snapshot, steps
from reference import Reference
from torch import nn

from alrc.integrations.transformers import ALRCTrainerMixin
from alrc.torch import ALRC

LIMITING = {
    "scale": "linear",
    "num_stddev": 0.5,
    "decay": 0.8,
    "mu1_start": 9.0,
    "mu2_start": 100.0,
}


def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 4, generator=generator)
    return [{"x": x[i], "labels": x[i].sum() * (9 if i % 5 == 0 else 2)} for i in range(48)]


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def cached(net, x, y):
    """The loss of GradCache: a leaf, whose hook computes everything once more with a graph."""
    with torch.no_grad():
        outputs = net(x).squeeze(1)
    with torch.enable_grad():
        outputs.requires_grad_()
        loss = (outputs - y).square().mean()
        (gradient,) = torch.autograd.grad(loss, outputs)
    loss = loss.detach().requires_grad_()

    def backward(weight) -> None:
        with torch.enable_grad():
            ((net(x).squeeze(1) * gradient).sum() * weight).backward()

    loss.register_hook(backward)
    return loss


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x, labels=None):
        return {"loss": cached(self.net, x, labels), "logits": self.net(x).detach()}


class CachedTrainer(Trainer):
    def compute_loss(self, model, inputs, **kwargs):  # returns no outputs
        return cached(model.net, inputs["x"], inputs["labels"])


class MixedCachedTrainer(ALRCTrainerMixin, CachedTrainer):
    pass


def by_hand(accumulation):
    net, reference, record = network(), Reference(**LIMITING), []
    for step in range(6):
        net.zero_grad()
        for i in range(accumulation):
            start = 2 * (step * accumulation + i) % 48
            batch = examples()[start : start + 2]
            x, y = (torch.stack([b[name] for b in batch]) for name in ("x", "labels"))
            loss = (net(x).squeeze(1) - y).square().mean()
            (result,) = reference([loss.item()])
            (loss * result.factor / accumulation).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.01 * parameter.grad
        record.append((parameters(net), snapshot(reference)))
    return record


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("kind", ["mixin", "callback"])
def test_a_loss_with_cached_gradients_is_limited(kind, accumulation, tmp_path) -> None:
    alrc = ALRC(**LIMITING)
    given = {"gradient_accumulation_steps": accumulation, "learning_rate": 0.01}
    trainer = build(kind, tmp_path, alrc, Cached(), examples(), base=MixedCachedTrainer, **given)
    trainer.train()
    assert_same(steps(trainer), by_hand(accumulation))


def test_a_sequence_of_a_loss_with_cached_gradients_is_refused(tmp_path) -> None:
    class Model(nn.Module):
        """The cross entropy of its logits, which its gradient does not go through."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, x, labels=None):
            logits = self.net(x)
            loss = nn.functional.cross_entropy(logits, labels)
            return {"loss": loss.detach().requires_grad_(), "logits": logits}

    data = [{"x": torch.ones(4), "labels": torch.tensor(1)}] * 4
    alrc = ALRC(num_stddev=3, scale="linear")
    options = {"alrc_per": "sequence"}
    trainer = build("mixin", tmp_path, alrc, Model(), data, options=options)
    before = copy.deepcopy(alrc.to_dict())
    assert refusal(ValueError, trainer.train) == (
        "ALRCTrainerMixin: alrc_per='sequence' needs a loss whose gradient goes through the "
        "logits, because that is where the gradient of each sequence is limited; got one that is "
        "cut off from them, as losses with cached gradients are. Pass alrc_per='batch'."
    )
    assert alrc.to_dict() == before
