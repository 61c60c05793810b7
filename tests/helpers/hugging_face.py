"""Hugging Face's Trainer with tiny models, and a plain PyTorch loop that shares no code with it."""

import os
from dataclasses import dataclass

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers

import pytest
import torch
from reference import Reference
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from alrc.integrations.transformers import ALRCTrainerCallback, ALRCTrainerMixin

# A limit that the losses of these models, about 3, are beyond time and again.
SETTINGS = {"scale": "linear", "num_stddev": 0.5, "decay": 0.8, "mu1_start": 3.1, "mu2_start": 9.7}
CLASSIFYING = {
    "scale": "linear",
    "num_stddev": 0.5,
    "decay": 0.8,
    "mu1_start": 1.3,
    "mu2_start": 1.75,
}
BOTH = pytest.mark.parametrize("kind", ["mixin", "callback"])

OLD = not hasattr(TrainingArguments, "train_sampling_strategy")

if OLD:

    @dataclass
    class TrainingArguments(TrainingArguments):
        train_sampling_strategy: str = "random"

    class Trainer(Trainer):
        def _get_train_sampler(self, *args):
            if self.args.train_sampling_strategy == "sequential":
                return SequentialSampler(self.train_dataset)
            return super()._get_train_sampler(*args)

    class GPT2ForSequenceClassification(GPT2ForSequenceClassification):
        """Takes num_items_in_batch and leaves it unused, like that of newer versions."""

        def forward(self, input_ids, labels=None, num_items_in_batch=None, **kwargs):
            return super().forward(input_ids, labels=labels, **kwargs)


class MixedTrainer(ALRCTrainerMixin, Trainer):
    pass


class Plain(torch.nn.Module):
    """A causal model that takes no num_items_in_batch: its loss is the mean of the micro-batch."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids, labels):
        logits = self.net(input_ids).logits
        return {"loss": language_losses(logits, labels).sum() / count(labels), "logits": logits}


class PlainTuple(Plain):
    def forward(self, input_ids, labels):
        return tuple(super().forward(input_ids, labels).values())


class Recorder(TrainerCallback):
    """Notes parameters and moments after each step."""

    def __init__(self, alrc) -> None:
        self.alrc, self.steps = alrc, []

    def on_step_end(self, args, state, control, model, **kwargs) -> None:
        self.steps.append((parameters(model), self.alrc.to_dict()))


def parameters(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


START = {
    "num_stddev": 3,
    "scale": "linear",
    "mu1_start": 1.0,
    "mu2_start": 1.25,
}  # limit 2.5, below most losses of an untrained model


def language_model(seed: int = 0, dropout: float = 0.0, model=GPT2LMHeadModel, **options):
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=1,
        n_head=1,
        n_embd=8,
        n_positions=16,
        vocab_size=16,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.5,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **options,
    )
    return model(config)


def sequences(number: int = 48, length: int = 8):
    """Random tokens, of which a varying number at the end is no target."""
    generator = torch.Generator().manual_seed(1)
    data = []
    for i in range(number):
        ids = torch.randint(16, (length,), generator=generator)
        labels = ids.clone()
        labels[length - (5 * i) % 6 :] = -100
        data.append({"input_ids": ids, "labels": labels})
    return data


def build(kind, folder, alrc, model, data, *, base=MixedTrainer, more=(), options=None, **given):
    defaults = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    arguments = TrainingArguments(str(folder), **(defaults | given))
    options = options or {}
    if kind == "mixin":
        trainer = base(
            model, arguments, train_dataset=data, callbacks=list(more), alrc=alrc, **options
        )
    else:
        callbacks = [ALRCTrainerCallback(alrc), *more]
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=callbacks, **options)
    trainer.add_callback(Recorder(alrc))
    return trainer


def steps(trainer):
    (recorder,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, Recorder)]
    return recorder.steps


# The oracle


def language_losses(logits, labels):
    flat = logits[:, :-1].float().flatten(0, 1)
    losses = functional.cross_entropy(flat, labels[:, 1:].flatten(), reduction="none")
    return losses.view(len(labels), -1)


def count(labels):
    return int((labels[:, 1:] != -100).sum())


def stack(examples):
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def oracle(
    model,
    data,
    num_steps=6,
    *,
    accumulation=1,
    batch=2,
    world=1,
    per="batch",
    losses=language_losses,
    number=count,
    divisor=None,
    autocast=False,
    settings=SETTINGS,
):
    """Gradient descent by hand, with each loss's gradient scaled as the reference says.

    ``divisor`` makes the number by which the sum of a micro-batch's losses is divided, of the
    labels of all batches of the step and of the micro-batch's own; None: as the Trainer counts
    for GPT2LMHeadModel, with the first label, which is no target.
    """
    reference, record, size = Reference(**settings), [], batch * world * accumulation
    for step in range(num_steps):
        chosen = [data[i % len(data)] for i in range(step * size, (step + 1) * size)]
        micro = [stack(chosen[i : i + batch]) for i in range(0, size, batch)]
        model.zero_grad()
        for i in range(0, len(micro), world):  # the ranks' batches are one call of the rule
            seen, mask, each = [], [], []
            for inputs in micro[i : i + world]:
                labels = inputs["labels"]
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    logits = model(input_ids=inputs["input_ids"]).logits
                if divisor is None:
                    total = sum(int((m["labels"] != -100).sum()) for m in micro)
                else:
                    total = divisor([m["labels"] for m in micro], labels)
                each.append(losses(logits, labels).view(len(labels), -1).sum(1) / total)
                sums = each[-1].detach() * total
                if per == "batch":
                    seen.append(sums.sum().item() / number(labels))
                    mask.append(True)
                else:
                    targets = (labels[:, 1:] != -100).sum(1) if labels.dim() > 1 else labels != -100
                    seen += (sums / targets.clamp_min(1)).tolist()
                    mask += (targets > 0).tolist()
            factors = [result.factor for result in reference(seen, mask)]
            if per == "batch":
                factors = [factor for factor in factors for _ in range(batch)]
            (torch.cat(each) * torch.tensor(factors)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        record.append((parameters(model), snapshot(reference)))
    return record


def refusal(kind, function):
    with pytest.raises(kind) as error:
        function()
    return str(error.value)


def snapshot(reference):
    names = ("mean", "variance", "num_updates", "num_losses", "num_clipped", "num_nonfinite")
    return {name: getattr(reference, name) for name in names}


def assert_same(ours, theirs, rtol=2e-5, atol=2e-6) -> None:
    """Parameters and moments at every step; float32 rounding is all that may differ."""
    assert len(ours) == len(theirs) > 3
    for (parameters, moments), (expected, reference) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameters, expected, rtol=rtol, atol=atol)
        assert moments == pytest.approx(reference, rel=max(rtol, 2e-5), abs=1e-6)
    assert 0 < moments["num_clipped"] < moments["num_losses"]


def assert_identical(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for (parameters, moments), (expected, others) in zip(ours, theirs, strict=True):
        assert torch.equal(parameters, expected)
        assert moments == others
    assert 0 < moments["num_clipped"] < moments["num_losses"]


def classifier():
    return language_model(model=GPT2ForSequenceClassification, num_labels=3)


def labelled_sequences():
    inputs = [example["input_ids"] for example in sequences()]
    return [{"input_ids": ids, "labels": torch.tensor(i % 3)} for i, ids in enumerate(inputs)]


def classification_losses(logits, labels):
    return functional.cross_entropy(logits, labels, reduction="none")
