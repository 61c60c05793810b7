"""What a loss was divided by is seen, not guessed: by heads, Trainers and functions."""

import copy

import pytest
import torch
from hugging_face import (
    BOTH,
    CLASSIFYING,
    MixedTrainer,
    Trainer,
    assert_same,
    build,
    classification_losses,
    classifier,
    count,
    labelled_sequences,
    language_losses,
    language_model,
    parameters,
    sequences,
    snapshot,
    stack,
    steps,
)
from reference import Reference
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from alrc.integrations.transformers import ALRCTrainerMixin
from alrc.torch import ALRC

BERT = {
    **{"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1},
    **{"num_attention_heads": 1, "max_position_embeddings": 16, "pad_token_id": 0},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
LLAMA = {
    **{"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1},
    **{"num_attention_heads": 1, "max_position_embeddings": 16, "pad_token_id": 0},
}
T5 = {
    **{"vocab_size": 16, "d_model": 8, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1},
    **{"decoder_start_token_id": 0, "dropout_rate": 0.0},
}


def whole(*labels):
    """Inputs with one label each."""
    inputs = [example["input_ids"] for example in sequences(7)]
    return [{"input_ids": ids, "labels": labels[i % len(labels)]} for i, ids in enumerate(inputs)]


CLASSES = [torch.tensor(0), torch.tensor(1), torch.tensor(1)]
NUMBERS = [torch.tensor(0.5), torch.tensor(-2.0), torch.tensor(3.0)]
SEVERAL = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])]
MODELS = {
    "causal, GPT-2": (lambda: language_model(), sequences(7)),
    "causal, Llama": (lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)), sequences(7)),
    "masked": (lambda: BertForMaskedLM(BertConfig(**BERT)), sequences(7)),
    "seq2seq": (lambda: T5ForConditionalGeneration(T5Config(**T5)), sequences(7)),
    "tokens": (
        lambda: BertForTokenClassification(BertConfig(**BERT, num_labels=16)),
        sequences(7),
    ),
    "sequence, GPT-2": (classifier, whole(*CLASSES)),
    "sequence, BERT": (lambda: BertForSequenceClassification(BertConfig(**BERT)), whole(*CLASSES)),
    "sequence, Llama": (
        lambda: LlamaForSequenceClassification(LlamaConfig(**LLAMA)),
        whole(*CLASSES),
    ),
    "numbers": (
        lambda: BertForSequenceClassification(BertConfig(**BERT, num_labels=1)),
        whole(*NUMBERS),
    ),
    "several classes": (
        lambda: BertForSequenceClassification(BertConfig(**BERT)),
        whole(*SEVERAL),
    ),
}


def notes_of(alrc):
    """The losses that it will see in training."""
    seen = []
    alrc.register_forward_pre_hook(lambda _, args: seen.append(args[0].item()))
    return seen


@BOTH
@pytest.mark.parametrize("name", MODELS)
def test_what_is_seen_is_what_the_model_returns_for_a_micro_batch_alone(
    kind, name, tmp_path
) -> None:
    make, data = MODELS[name]
    torch.manual_seed(0)
    model, alrc = make(), ALRC(num_stddev=3, scale="linear")
    seen = notes_of(alrc)
    options = {"gradient_accumulation_steps": 3, "max_steps": 2}
    build(kind, tmp_path, alrc, model, data, learning_rate=0.0, **options).train()
    batches = [stack(data[i : i + 2]) for i in range(0, 7, 2)]  # the last one is shorter, and alone
    assert seen == pytest.approx([model(**batch).loss.item() for batch in batches], rel=1e-5)


@BOTH
@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_a_mean_is_limited_as_it_is_in_accumulation_and_in_a_short_last_batch(
    kind, per, tmp_path
) -> None:
    if kind == "callback" and per == "sequence":
        return  # which the callback does not offer
    model, data, alrc = classifier(), labelled_sequences()[:11], ALRC(**CLASSIFYING)
    twin, reference, expected = copy.deepcopy(model), Reference(**CLASSIFYING), []
    for _ in range(3):  # epochs of two steps: batches of 2, 2, 2, and 2, 2, 1
        for start in (0, 6):
            twin.zero_grad()
            for i in range(start, min(start + 6, 11), 2):
                inputs = stack(data[i : min(i + 2, 11)])
                losses = classification_losses(twin(inputs["input_ids"]).logits, inputs["labels"])
                if per == "batch":
                    (result,) = reference([losses.mean().item()])
                    (losses.mean() * result.factor).backward()
                else:
                    factors = [result.factor for result in reference(losses.tolist())]
                    (losses * torch.tensor(factors)).mean().backward()
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter -= 0.1 * parameter.grad
            expected.append((parameters(twin), snapshot(reference)))
    options = {"gradient_accumulation_steps": 3, "max_steps": -1, "num_train_epochs": 3}
    options["options"] = {"alrc_per": per} if kind == "mixin" else {}
    trainer = build(kind, tmp_path, alrc, model, data, **options)
    trainer.train()
    assert_same(steps(trainer), expected)


def mean_of_the_batch(outputs, labels, num_items_in_batch=None):
    return language_losses(outputs.logits, labels).sum() / count(labels)


def test_the_mixin_sees_the_mean_of_a_function_that_leaves_the_number_unused(tmp_path) -> None:
    model, data, alrc = (
        language_model(),
        sequences(),
        ALRC(mu1_start=3.1, mu2_start=9.7, num_stddev=3, scale="linear"),
    )
    expected = [mean_of_the_batch(model(d["input_ids"]), d["labels"]).item() for d in twos(data)]
    seen = notes_of(alrc)
    options = {"compute_loss_func": mean_of_the_batch}
    given = {"gradient_accumulation_steps": 2, "learning_rate": 0.0, "max_steps": 2}
    build("mixin", tmp_path, alrc, model, data, options=options, **given).train()
    assert seen == pytest.approx(expected, rel=1e-5)


def twos(data):
    return [stack(data[i : i + 2]) for i in range(0, 8, 2)]


class Counting(Trainer):
    """Keeps an account of the number, and returns the mean."""

    total = torch.zeros(())

    def compute_loss(self, model, inputs, num_items_in_batch=None, **kwargs):
        self.total = self.total + num_items_in_batch
        return mean_of_the_batch(model(inputs["input_ids"]), inputs["labels"])


def test_a_number_that_is_used_elsewhere_has_not_divided_the_loss(tmp_path) -> None:
    class Mixed(ALRCTrainerMixin, Counting):
        pass

    model, data, alrc = language_model(), sequences(), ALRC(num_stddev=3, scale="linear")
    expected = [mean_of_the_batch(model(d["input_ids"]), d["labels"]).item() for d in twos(data)]
    seen = notes_of(alrc)
    given = {"gradient_accumulation_steps": 2, "learning_rate": 0.0, "max_steps": 2}
    build("mixin", tmp_path, alrc, model, data, base=Mixed, **given).train()
    assert seen == pytest.approx(expected, rel=1e-5)


def read_as_a_number(outputs, labels, num_items_in_batch=None):
    return language_losses(outputs.logits, labels).sum() / int(num_items_in_batch)


def test_a_number_that_is_read_is_taken_for_the_divisor_and_warned_about(tmp_path) -> None:
    model, data, alrc = (
        language_model(),
        sequences(),
        ALRC(mu1_start=3.1, mu2_start=9.7, num_stddev=3, scale="linear"),
    )
    expected = [mean_of_the_batch(model(d["input_ids"]), d["labels"]).item() for d in twos(data)]
    seen = notes_of(alrc)
    options = {"compute_loss_func": read_as_a_number}
    given = {"gradient_accumulation_steps": 2, "learning_rate": 0.0, "max_steps": 2}
    trainer = build("mixin", tmp_path, alrc, model, data, options=options, **given)
    with pytest.warns(UserWarning, match="^ALRCTrainerMixin") as warned:
        trainer.train()
    assert [str(w.message) for w in warned] == [
        "ALRCTrainerMixin: whether the loss is divided by num_items_in_batch can't be told, "
        "because that was read as a plain number (.item(), say); taken for divided. If it is, "
        "compute with the tensor itself. If the loss is the mean of its batch, set "
        "loss_is_scaled_for_ga = False in the class of a Trainer with ALRCTrainerMixin."
    ]
    assert seen == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stated", [True, False])
def test_what_a_trainer_states_of_its_loss_is_believed(stated, tmp_path) -> None:
    class Stating(MixedTrainer):
        loss_is_scaled_for_ga = stated

    alrc = ALRC(num_stddev=3, scale="linear")
    seen = notes_of(alrc)
    trainer = build("mixin", tmp_path, alrc, language_model(), sequences(), base=Stating)
    inputs = stack(sequences()[:2])
    loss = trainer.compute_loss(trainer.model.train(), inputs, num_items_in_batch=torch.tensor(40))
    assert seen == pytest.approx([loss.item() * (40 / count(inputs["labels"]) if stated else 1)])


class Scored(nn.Module):
    """Divides by the number, or leaves it unused."""

    def __init__(self, divides: bool) -> None:
        super().__init__()
        self.net, self.divides, self.num_eager = nn.Linear(1, 1), divides, 0

    def forward(self, x, labels, num_items_in_batch=None, **kwargs):
        if not torch.compiler.is_compiling():
            self.num_eager += 1
        losses = (self.net(x).squeeze(1) - labels).square()
        if self.divides:
            return {"loss": losses.sum() / num_items_in_batch}
        return {"loss": losses.mean()}


# PyTorch 2.13's own, where it goes on after a graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@BOTH
@pytest.mark.parametrize("divides", [True, False])
def test_a_compiled_model_is_seen_as_the_same_one_that_is_not_compiled(
    kind, divides, tmp_path
) -> None:
    x = torch.linspace(-1, 1, 12)
    data = [{"x": x[i : i + 1], "labels": 3 * x[i]} for i in range(12)]
    records = []
    for compiled in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        torch.manual_seed(0)
        alrc = ALRC(num_stddev=0.5, decay=0.5, mu1_start=2.0, mu2_start=4.25, scale="linear")
        given = {"gradient_accumulation_steps": 3, "max_steps": 4, **compiled}
        trainer = build(kind, tmp_path, alrc, Scored(divides), data, **given)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        trainer.train()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert (graphs > 0) == bool(compiled)
        assert trainer.model.num_eager == (1 if compiled else 12)
        records.append(steps(trainer))
    assert_same(records[1], records[0])


def test_the_compiler_is_at_work_again_after_a_training_that_failed(tmp_path) -> None:
    class Broken(Scored):
        def forward(self, x, labels, **kwargs):
            raise KeyboardInterrupt

    data = [{"x": torch.ones(1), "labels": torch.ones(())}]
    for kind in ("mixin", "callback"):
        trainer = build(kind, tmp_path, ALRC(num_stddev=3, scale="linear"), Broken(True), data)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        del trainer
    calls = []

    @torch.compile(backend=lambda module, _: calls.append("compiled") or module.forward)
    def double(x):
        return x * 2

    double(torch.ones(2))
    assert calls == ["compiled"]
