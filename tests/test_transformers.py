"""ALRC in Hugging Face's Trainer, held to a plain PyTorch loop that shares no code with it."""

import copy
import gc
import importlib.util
import inspect
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers

import pytest
import torch
from launching import launch
from reference import Reference
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import SequentialSampler
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_pt_utils import LabelSmoother

from alrc.integrations.transformers.targets import find_targets as _targets
from alrc.integrations.transformers import (
    ALRCTrainerCallback,
    ALRCTrainerMixin,

)
from alrc.torch import ALRC

# A limit that the losses of these models, about 3, are beyond time and again.
SETTINGS = {"num_stddev": 0.5, "decay": 0.8, "mu1_start": 3.1, "mu2_start": 9.7}
CLASSIFYING = {"num_stddev": 0.5, "decay": 0.8, "mu1_start": 1.3, "mu2_start": 1.75}
BOTH = pytest.mark.parametrize("kind", ["mixin", "callback"])

if not hasattr(TrainingArguments, "train_sampling_strategy"):  # in old versions

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


@pytest.fixture(autouse=True)
def _afresh():
    """In old versions, arguments with bf16 leave it to all that come after them."""
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


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


START = {"mu1_start": 1.0, "mu2_start": 1.25}  # limit 2.5, below most losses of an untrained model


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
                    targets = (labels[:, 1:] != -100).sum(1)
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


# The gradient, and the unit of the loss


@BOTH
def test_gradient_is_that_of_a_loop_by_hand(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data)
    trainer = build(kind, tmp_path, alrc, model, data)
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
@pytest.mark.parametrize("average", [True, False])
def test_accumulation_leaves_the_unit_of_the_loss(kind, average, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, accumulation=4)
    options = {"gradient_accumulation_steps": 4, "average_tokens_across_devices": average}
    trainer = build(kind, tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
def test_accumulation_with_a_model_that_takes_no_num_items_in_batch(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(
        copy.deepcopy(model), data, accumulation=3, divisor=lambda _, own: 3 * count(own)
    )
    trainer = build(kind, tmp_path, alrc, Plain(model), data, gradient_accumulation_steps=3)
    assert not trainer.model_accepts_loss_kwargs
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
def test_mixed_precision_bf16(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, autocast=True)
    trainer = build(kind, tmp_path, alrc, model, data, bf16=True)
    trainer.train()
    # bfloat16 has 8 bits, and the factor is rounded to it on its way or not: 2 ** -8.
    assert_same(steps(trainer), expected, rtol=4e-3, atol=4e-3)
    assert {buffer.dtype for buffer in alrc.buffers()} == {torch.float32, torch.int64}


@BOTH
def test_labels_of_whole_sequences_are_not_shifted(kind, tmp_path) -> None:
    model, alrc = classifier(), ALRC(**CLASSIFYING)
    data = labelled_sequences()
    expected = oracle(
        copy.deepcopy(model),
        data,
        losses=classification_losses,
        number=len,
        divisor=lambda _, own: len(own),
        settings=CLASSIFYING,
    )
    trainer = build(kind, tmp_path, alrc, model, data)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_the_mixin_believes_a_trainer_that_says_its_loss_is_not_scaled(tmp_path) -> None:
    class Told(MixedTrainer):
        loss_is_scaled_for_ga = False  # this model takes num_items_in_batch and leaves it unused

    parts = 3 if hasattr(Trainer, "loss_is_scaled_for_ga") else 1  # old ones divide by nothing
    model, data, alrc = classifier(), labelled_sequences(), ALRC(**CLASSIFYING)
    expected = oracle(
        copy.deepcopy(model),
        data,
        accumulation=3,
        losses=classification_losses,
        number=len,
        divisor=lambda _, own: len(own) * parts,
        settings=CLASSIFYING,
    )
    options = {"gradient_accumulation_steps": 3, "base": Told}
    trainer = build("mixin", tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_the_mixin_limits_smoothed_losses(tmp_path) -> None:
    def losses(logits, labels):
        logs = -functional.log_softmax(logits[:, :-1].float(), -1)
        targets = labels[:, 1:]
        picked = logs.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return (0.7 * picked + 0.3 * logs.mean(-1)) * (targets != -100)

    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    # Old versions divide by the targets of the micro-batch, whatever the accumulation.
    whole = "num_items_in_batch" in inspect.signature(LabelSmoother.__call__).parameters
    expected = oracle(
        copy.deepcopy(model),
        data,
        accumulation=2,
        losses=losses,
        divisor=None if whole else lambda _, own: count(own),
    )
    options = {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.3}
    trainer = build("mixin", tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_the_mixin_limits_the_losses_of_compute_loss_func(tmp_path) -> None:
    def half(outputs, labels, num_items_in_batch=None):
        return language_losses(outputs.logits, labels).sum() / 2 / num_items_in_batch

    settings = SETTINGS | {"mu1_start": 1.55, "mu2_start": 2.45}
    model, data, alrc = language_model(), sequences(), ALRC(**settings)
    expected = oracle(
        copy.deepcopy(model),
        data,
        accumulation=2,
        losses=lambda *x: language_losses(*x) / 2,
        settings=settings,
    )
    options = {"gradient_accumulation_steps": 2, "options": {"compute_loss_func": half}}
    trainer = build("mixin", tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


@BOTH
def test_a_batch_without_targets_moves_nothing(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    data[2]["labels"] = data[3]["labels"] = torch.full((8,), -100)
    trainer = build(kind, tmp_path, alrc, model, data, gradient_accumulation_steps=2)
    trainer.train()
    assert (alrc.num_losses, alrc.num_updates, alrc.num_nonfinite) == (11, 11, 1)
    assert parameters(model).isfinite().all()


@BOTH
def test_the_reported_loss_is_the_one_before_limiting(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    trainer = build(kind, tmp_path, alrc, copy.deepcopy(model), data, learning_rate=0.0)
    trainer.train()
    plain = Trainer(model, trainer.args, train_dataset=data)
    plain.train()
    reported, expected = (
        [log.get("loss") for log in t.state.log_history] for t in (trainer, plain)
    )
    assert reported == expected
    assert alrc.num_clipped > 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [("mixin", {}), ("mixin", {"alrc_per": "sequence"}), ("callback", {})],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_not_limited_is_the_trainers_own_bit_for_bit(kind, options, bf16, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(num_stddev=math.inf)
    given = {"gradient_accumulation_steps": 2, "bf16": bf16, "options": options}
    trainer = build(kind, tmp_path, alrc, copy.deepcopy(model), data, **given)
    trainer.train()
    plain = Trainer(model, trainer.args, train_dataset=data, callbacks=[Recorder(ALRC())])
    plain.train()
    assert alrc.num_updates == 12
    assert len(steps(trainer)) == len(steps(plain)) == 6
    for (ours, _), (theirs, _) in zip(steps(trainer), steps(plain), strict=True):
        assert torch.equal(ours, theirs)
    reported, expected = (
        [log.get("loss") for log in t.state.log_history] for t in (trainer, plain)
    )
    assert reported == expected


# One limit for each sequence


@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_sequence_is_limited_by_itself(accumulation, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    data[6]["labels"] = torch.full((8,), -100)  # a sequence without targets does not count
    expected = oracle(
        copy.deepcopy(model), data, accumulation=accumulation, batch=4, per="sequence"
    )
    trainer = build(
        "mixin",
        tmp_path,
        alrc,
        model,
        data,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
        options={"alrc_per": "sequence"},
    )
    trainer.train()
    assert_same(steps(trainer), expected)


def test_sequences_are_limited_in_a_training_step_that_counts_no_items(tmp_path) -> None:
    model, data = language_model(), sequences()
    alrc, reference = (make(**START) for make in (ALRC, Reference))
    trainer = build("mixin", tmp_path, alrc, model, data, options={"alrc_per": "sequence"})
    inputs = stack(data[:4])
    model.train()
    sums = language_losses(model(inputs["input_ids"]).logits, inputs["labels"]).sum(1)
    counts = inputs["labels"][:, 1:].ne(-100).sum(1)
    factors = torch.tensor([result.factor for result in reference((sums / counts).tolist())])
    ((sums * factors).sum() / counts.sum()).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    trainer.compute_loss(model, inputs).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected, rtol=1e-4, atol=1e-6)
    assert alrc.num_clipped == reference.num_clipped > 1


def test_shifted_labels_are_the_targets_where_a_batch_has_them() -> None:
    inputs = stack(sequences()[:2])
    shifted = functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
    shifted[:, ::2] = -100  # fewer targets than the labels have
    targets = _targets(language_model(), {**inputs, "shift_labels": shifted})
    assert targets.labels is shifted
    assert not targets.shifted  # the loss compares them with the logits of their own positions
    assert targets.number() == shifted.ne(-100).sum() < count(inputs["labels"])
    assert _targets(language_model(), inputs).number() == count(inputs["labels"])


def test_each_labelled_example_is_limited_by_itself(tmp_path) -> None:
    model, data = classifier(), labelled_sequences()
    reference, alrc = Reference(**CLASSIFYING), ALRC(**CLASSIFYING)
    inputs = stack(data[:4])
    losses = classification_losses(model(inputs["input_ids"]).logits, inputs["labels"])
    factors = torch.tensor([result.factor for result in reference(losses.tolist())])
    (losses * factors).mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    expected = parameters(model) - 0.1 * gradients
    model.zero_grad()
    options = {"per_device_train_batch_size": 4, "max_steps": 1}
    build("mixin", tmp_path, alrc, model, data, options={"alrc_per": "sequence"}, **options).train()
    torch.testing.assert_close(parameters(model), expected, rtol=2e-5, atol=2e-6)
    assert alrc.to_dict() == pytest.approx(snapshot(reference), rel=2e-5)
    assert 0 < alrc.num_clipped < 4


def test_sequences_with_an_infinite_loss_leave_the_reported_loss_infinite(tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    trainer = build("mixin", tmp_path, alrc, model, data, options={"alrc_per": "sequence"})
    inputs = stack(data[:4])
    model.lm_head.register_forward_hook(lambda *_: infinite(inputs["input_ids"]))
    loss = trainer.compute_loss(model.train(), dict(inputs), num_items_in_batch=torch.tensor(9))
    assert loss == math.inf
    assert (alrc.num_losses, alrc.num_nonfinite) == (3, 1)


def infinite(ids):
    """Logits by which the target of the first position of the first sequence is impossible."""
    logits = torch.zeros(*ids.shape, 16, requires_grad=True) * 1.0
    spread = torch.zeros_like(logits)
    spread[0, 0, ids[0, 1]] = -math.inf
    return logits + spread


# Evaluation


@BOTH
def test_evaluation_and_prediction_leave_the_moments_alone(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data)
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    trainer = build(
        kind, tmp_path, alrc, model, data, options={"eval_dataset": data[:5]}, **evaluation
    )
    trainer.train()
    assert_same(steps(trainer), expected)
    before = alrc.to_dict()
    trainer.evaluate()
    trainer.predict(data[:5])
    assert alrc.to_dict() == before


# Resume


def resumed(kind, folder, tmp_path, resume=None, **given):
    alrc, data = ALRC(**SETTINGS), sequences()
    trainer = build(
        kind,
        folder,
        alrc,
        language_model(dropout=0.3),
        data,
        optim="adamw_torch",
        save_strategy="steps",
        save_steps=3,
        gradient_accumulation_steps=2,
        train_sampling_strategy="random",
        **given,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, alrc


@BOTH
@pytest.mark.parametrize("by_path", [True, False])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(kind, by_path, tmp_path) -> None:
    whole, _ = resumed(kind, tmp_path / "whole", tmp_path)
    resumed(kind, tmp_path / "cut", tmp_path, max_steps=3)
    resume = str(tmp_path / "cut/checkpoint-3") if by_path else True
    rest, alrc = resumed(kind, tmp_path / "cut", tmp_path, resume)
    assert_identical(steps(rest), steps(whole)[3:])
    assert alrc.num_losses == 12


def test_the_callback_is_restored_by_the_trainer_too(tmp_path) -> None:
    _, whole = resumed("callback", tmp_path / "whole", tmp_path)
    resumed("callback", tmp_path / "cut", tmp_path, max_steps=3)
    rest, _ = resumed(
        "callback",
        tmp_path / "cut",
        tmp_path,
        True,
        restore_callback_states_from_checkpoint=True,
    )
    callback = rest.pop_callback(ALRCTrainerCallback)
    assert callback.alrc.to_dict() == whole.to_dict()
    assert callback.alrc.settings == whole.settings


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mixin", "ALRCTrainerMixin: {folder} has no alrc.pt, so "),
        ("callback", "ALRCTrainerCallback: the checkpoint has none of its moments, so "),
    ],
)
def test_a_checkpoint_without_moments_is_warned_about(kind, message, tmp_path) -> None:
    arguments = {"max_steps": 2, "save_steps": 2, "save_strategy": "steps"}
    trainer = build(kind, tmp_path, ALRC(), language_model(), sequences(), **arguments)
    Trainer(trainer.model, trainer.args, train_dataset=sequences()).train()
    trainer.args.max_steps = 4
    folder = str(tmp_path / "checkpoint-2")
    with pytest.warns(UserWarning, match="ALRC starts afresh") as warned:
        trainer.train(resume_from_checkpoint=folder)
    ours = [str(w.message) for w in warned if str(w.message).startswith("ALRC")]
    assert ours == [
        message.format(folder=folder)
        + "ALRC starts afresh: training goes on from the checkpoint, but not as if it had not "
        "been interrupted."
    ]
    assert (tmp_path / "checkpoint-4").exists()


def test_the_moments_are_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    alrc = ALRC(**SETTINGS)
    trainer = build("mixin", tmp_path, alrc, language_model(), sequences())
    trainer.save_model(str(tmp_path / "saved"))
    before = (tmp_path / "saved/alrc.pt").read_bytes()
    alrc(torch.tensor(2.0, requires_grad=True))

    def fail(state, path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved/alrc.pt").read_bytes() == before


def test_only_the_process_that_saves_writes_the_moments(tmp_path, monkeypatch) -> None:
    trainer = build("mixin", tmp_path, ALRC(), language_model(), sequences())
    monkeypatch.setattr(TrainingArguments, "should_save", property(lambda _: False))
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved/alrc.pt").exists()


# Logging

METRICS = ["limit", "mean", "stddev", "clipped_fraction", "nonfinite"]


@BOTH
def test_metrics_arrive_in_the_log_at_logging_steps(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    rows = oracle(copy.deepcopy(model), data)
    trainer = build(
        kind,
        tmp_path,
        alrc,
        model,
        data,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        options={"eval_dataset": data[:4]},
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "alrc/mean" in log]
    assert [log["step"] for log in logs] == [2, 4, 6]
    assert all("loss" in log for log in logs)
    for log, (_, row) in zip(logs, rows[1::2], strict=True):
        stddev = math.sqrt(row["variance"])
        assert {name: log[f"alrc/{name}"] for name in METRICS} == pytest.approx(
            {
                "limit": row["mean"] + 0.5 * stddev,
                "mean": row["mean"],
                "stddev": stddev,
                "clipped_fraction": row["num_clipped"] / row["num_losses"],
                "nonfinite": 0,
            },
            rel=1e-4,
        )
    json.dumps(trainer.state.log_history, allow_nan=False)


@BOTH
def test_the_logged_loss_is_the_last_mean_over_targets(kind, tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC()
    inputs = stack(data[6:8])  # the last of four micro-batches of one step
    logits = model(inputs["input_ids"]).logits
    mean = language_losses(logits, inputs["labels"]).sum().item() / count(inputs["labels"])
    options = {"gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = build(kind, tmp_path, alrc, model, data, **options)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["alrc/loss"] == pytest.approx(mean, rel=1e-6)
    assert "alrc/limit" not in log  # none yet, and JSON has no infinity


@BOTH
def test_metrics_arrive_in_tensorboard(kind, tmp_path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda _, *scalar: written.append(scalar))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    alrc, given = ALRC(**SETTINGS), {"report_to": ["tensorboard"]}
    trainer = build(kind, tmp_path, alrc, language_model(), sequences(), **given)
    if kind == "callback":  # as its docstring says
        trainer.add_callback(trainer.pop_callback(TensorBoardCallback))
    trainer.train()
    tags = {f"train/alrc/{name}" for name in ["loss", *METRICS]}
    assert {tag for tag, *_ in written if "alrc" in tag} == tags
    means = [(value, step) for tag, value, step in written if tag == "train/alrc/mean"]
    assert means == [(moments["mean"], i + 1) for i, (_, moments) in enumerate(steps(trainer))]


class Waits(TorchDispatchMode):
    """Counts how often a number is read from a tensor, which on a GPU waits for it."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "options", "once"),
    [("mixin", {}, 0), ("mixin", {"alrc_per": "sequence"}, 2), ("callback", {}, 0)],
)
def test_nothing_waits_for_the_device_between_logs(
    kind, options, once, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("alrc.torch_inputs.is_readable", lambda _: False)  # as for losses on a GPU
    data, alrc = sequences(), ALRC(**SETTINGS)
    trainer = build(kind, tmp_path, alrc, language_model(), data, options=options, logging_steps=9)
    trainer.pop_callback(Recorder)
    plain = Trainer(language_model(), trainer.args, train_dataset=data)
    with Waits() as theirs:
        plain.train()
    with Waits() as ours:
        trainer.train()
    assert alrc.num_updates == 6
    assert ours.number == theirs.number + once  # in sequence mode, the check of the first loss
    assert theirs.number > 0


# What is refused, and the hook


@pytest.mark.parametrize("per", ["token", None])
def test_an_unknown_mode_is_refused(per, tmp_path) -> None:
    message = refusal(
        ValueError,
        lambda: build(
            "mixin", tmp_path, ALRC(), language_model(), sequences(), options={"alrc_per": per}
        ),
    )
    assert message == (
        "ALRCTrainerMixin: alrc_per must be 'batch' or 'sequence', what one loss is the mean of; "
        f"got {per!r}. Leave it out for 'batch'."
    )


@pytest.mark.parametrize(
    ("got", "given", "options"),
    [
        ("label smoothing", {"label_smoothing_factor": 0.1}, {}),
        ("compute_loss_func", {}, {"compute_loss_func": print}),
    ],
)
def test_a_sequence_of_which_the_loss_is_unknown_is_refused(got, given, options, tmp_path) -> None:
    options = {"alrc_per": "sequence", **options}
    message = refusal(
        ValueError,
        lambda: build("mixin", tmp_path, ALRC(), language_model(), [], options=options, **given),
    )
    assert message == (
        "ALRCTrainerMixin: alrc_per='sequence' needs the model's own loss, because it is computed "
        f"again for each sequence; got {got}. Pass alrc_per='batch'."
    )


class Returns(torch.nn.Module):
    """A model that returns what a function makes of its inputs."""

    def __init__(self, function) -> None:
        super().__init__()
        self.weight, self.function = torch.nn.Parameter(torch.ones(())), function

    def forward(self, input_ids, labels=None):
        return self.function(self.weight, input_ids, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "got"),
    [
        (None, torch.ones(2), "nothing as logits and a torch.float32 of shape (2,) as labels"),
        (
            torch.ones(2, 1),
            torch.ones(2),
            "a torch.float32 of shape (2, 1) as logits and a torch.float32 of shape (2,) as labels",
        ),
        (
            torch.ones(2, 5),
            torch.ones(2, 3, dtype=torch.int64),
            "a torch.float32 of shape (2, 5) as logits and a torch.int64 of shape (2, 3) as labels",
        ),
        (torch.ones(2, 5), None, "a torch.float32 of shape (2, 5) as logits and nothing as labels"),
    ],
)
def test_sequences_without_logits_or_labels_of_classes_are_refused(
    logits, labels, got, tmp_path
) -> None:
    model = Returns(lambda weight, *_: {"loss": weight * 2, "logits": logits})
    options = {"alrc_per": "sequence"}
    trainer = build("mixin", tmp_path, ALRC(), model, sequences(), options=options)
    inputs = {"input_ids": torch.ones(2, 3)} | ({} if labels is None else {"labels": labels})
    message = refusal(ValueError, lambda: trainer.compute_loss(model, inputs))
    assert message == (
        "ALRCTrainerMixin: alrc_per='sequence' needs logits, and the number of a class as the "
        "label of each position, because they make the loss of each sequence; got "
        f"{got}. Pass alrc_per='batch'."
    )


def test_a_loss_that_is_not_the_cross_entropy_of_the_logits_is_refused(tmp_path) -> None:
    model = classifier()
    options = {"alrc_per": "sequence"}
    trainer = build("mixin", tmp_path, ALRC(), model, [], options=options)
    inputs = stack(labelled_sequences()[:2])
    loss = model(**inputs).loss.item()
    message = refusal(
        ValueError,
        lambda: trainer.compute_loss(model.train(), inputs, num_items_in_batch=torch.tensor(8)),
    )
    assert message == (
        "ALRCTrainerMixin: alrc_per='sequence' needs a model whose loss is the cross entropy of "
        f"its logits, because it is computed again for each sequence; got a loss of {loss:.4g}, "
        f"and {loss / 4:.4g} from the logits. Pass alrc_per='batch'; or, if the model leaves "
        "num_items_in_batch unused, set loss_is_scaled_for_ga = False in the Trainer's class."
    )


@BOTH
def test_several_devices_in_one_process_are_refused(kind, tmp_path, monkeypatch) -> None:
    arguments = build("callback", tmp_path, ALRC(), language_model(), sequences()).args
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))

    def start() -> None:
        if kind == "mixin":
            MixedTrainer(language_model(), arguments)
        callback = ALRCTrainerCallback()
        callback.on_train_begin(arguments, TrainerState(), TrainerControl(), language_model())

    who = {"mixin": "ALRCTrainerMixin", "callback": "ALRCTrainerCallback"}[kind]
    message = refusal(ValueError, start)
    assert message == (
        f"{who}: each process must have one device, because copies of the model would each limit "
        "their own losses; got n_gpu=2. Start one process for each device, with torchrun or "
        "accelerate launch."
    )


def test_the_callback_refuses_label_smoothing(tmp_path) -> None:
    arguments = {"label_smoothing_factor": 0.1}
    trainer = build("callback", tmp_path, ALRC(), language_model(), sequences(), **arguments)
    message = refusal(ValueError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: label_smoothing_factor must be 0, because the Trainer then trains "
        "on a loss that no callback can see; got 0.1. Use ALRCTrainerMixin."
    )


def test_the_callback_refuses_a_model_without_a_loss(tmp_path) -> None:
    def custom(outputs, labels, num_items_in_batch=None):
        return language_losses(outputs.logits, labels).mean()

    model, options = language_model(), {"compute_loss_func": custom}
    trainer = build("callback", tmp_path, ALRC(), model, sequences(), options=options)
    message = refusal(ValueError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: the model must return its loss, because that is what is limited; "
        "got outputs without one, as with compute_loss_func or inputs without labels. Use "
        "ALRCTrainerMixin."
    )
    assert not model._forward_hooks


def test_the_callback_refuses_a_loss_that_is_not_trained_on(tmp_path) -> None:
    class Custom(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            return language_losses(model(**inputs).logits, inputs["labels"]).mean()

    model, callback = language_model(), ALRCTrainerCallback()
    arguments = build("callback", tmp_path, ALRC(), model, sequences()).args
    trainer = Custom(model, arguments, train_dataset=sequences(), callbacks=[callback])
    message = refusal(RuntimeError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: each loss that the model returns must be trained on, because its "
        "gradient is what is limited; got 1 losses and 0 gradients before a step of the optimizer. "
        "If your Trainer computes another loss, use ALRCTrainerMixin."
    )
    assert not model._forward_hooks


def test_two_callbacks_are_refused(tmp_path) -> None:
    more = [ALRCTrainerCallback()]
    trainer = build("callback", tmp_path, ALRC(), language_model(), sequences(), more=more)
    message = refusal(ValueError, lambda: trainer.train())
    assert message == (
        "ALRCTrainerCallback: there must be one of them, because each would scale the gradient; "
        "got 2. Take the others out of callbacks."
    )


def test_the_hook_goes_at_the_end_of_training(tmp_path) -> None:
    model, alrc = language_model(), ALRC(**SETTINGS)
    build("callback", tmp_path, alrc, model, sequences()).train()
    assert not model._forward_hooks
    before = alrc.to_dict()
    model.train()(**stack(sequences()[:2])).loss.backward()
    assert alrc.to_dict() == before


def test_the_hook_of_a_training_that_failed_goes_with_its_callback(tmp_path) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            raise KeyboardInterrupt

    model, alrc = language_model(), ALRC(**SETTINGS)
    trainer = build("callback", tmp_path, alrc, model, sequences(), more=[Failing()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(model._forward_hooks) == 1
    trainer.pop_callback(Failing)
    trainer.train()  # takes the old hook off, or every loss would count twice
    assert alrc.num_losses == 1 + 6
    with pytest.raises(KeyboardInterrupt):
        trainer.add_callback(Failing) or trainer.train()
    del trainer
    gc.collect()
    assert not model._forward_hooks


def test_the_callback_takes_a_model_that_returns_a_tuple(tmp_path) -> None:
    model, data, alrc = language_model(), sequences(), ALRC(**SETTINGS)
    expected = oracle(copy.deepcopy(model), data, divisor=lambda _, own: count(own))
    trainer = build("callback", tmp_path, alrc, PlainTuple(model), data)
    trainer.train()
    assert_same(steps(trainer), expected)


def test_defaults_and_arguments_by_name(tmp_path) -> None:
    assert ALRCTrainerCallback().alrc.settings == ALRC().settings
    assert ALRCTrainerCallback({"num_stddev": 2.0}).alrc.settings == ALRC(2.0).settings
    trainer = build("mixin", tmp_path, None, language_model(), [])
    assert trainer.alrc.settings == ALRC().settings
    trainer = build("mixin", tmp_path, {"num_stddev": 2.0}, language_model(), [])
    assert trainer.alrc.settings == ALRC(2.0).settings


def test_without_transformers_the_module_says_what_to_install(monkeypatch) -> None:
    import alrc.integrations.transformers as module

    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("alone", module.__file__)
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.integrations.transformers needs transformers and accelerate, which are not both "
        'installed here. Install them with: pip install "alrc[transformers]"'
    )


# Several processes

SCRIPT = """
import os, sys, torch
import test_transformers as t
from alrc.torch import ALRC

def main():
    kinds = {"mixin": {}, "sequence": {"alrc_per": "sequence"}, "callback": {}}
    result = {}
    for name, options in kinds.items():
        alrc = ALRC(**t.SETTINGS)
        trainer = t.build(
            "callback" if name == "callback" else "mixin", sys.argv[1], alrc,
            t.language_model(), t.sequences(), gradient_accumulation_steps=2, options=options,
            average_tokens_across_devices=True,
        )
        assert trainer.args.world_size == 2
        trainer.train()
        assert alrc.sync is True
        result[name] = t.steps(trainer)
    torch.save(result, f"{sys.argv[1]}/rank{trainer.args.process_index}.pt")

main()
"""


# With --cpu, accelerate launch starts one process, however many are asked for; --multi_gpu starts
# them all, and the Trainer of the script is told to use the CPU.
LAUNCHERS = {
    "accelerate": (
        "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port {port}"
    ),
    "torchrun": "torch.distributed.run --standalone --nproc-per-node 2",
}


@pytest.fixture(scope="module", params=LAUNCHERS)
def two_ranks(request, tmp_path_factory):
    """What two processes recorded, started as a user would."""
    folder = tmp_path_factory.mktemp(request.param)
    launch(LAUNCHERS[request.param], SCRIPT, folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["mixin", "sequence", "callback"])
def test_two_processes_have_the_same_moments_at_each_step(two_ranks, name) -> None:
    assert_identical(two_ranks[0][name], two_ranks[1][name])


@pytest.mark.parametrize("name", ["mixin", "sequence", "callback"])
def test_two_processes_are_one_with_the_same_global_batch(two_ranks, name) -> None:
    per = "sequence" if name == "sequence" else "batch"
    expected = oracle(language_model(), sequences(), accumulation=2, world=2, per=per)
    # The ranks' gradients and moments are summed in another order: float32 rounding.
    assert_same(two_ranks[0][name], expected)
