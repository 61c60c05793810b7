"""One limit for each sequence, in Hugging Face's Trainer."""

import copy
import math

import pytest
import torch
from hugging_face import (
    CLASSIFYING,
    SETTINGS,
    START,
    assert_same,
    build,
    classification_losses,
    classifier,
    count,
    labelled_sequences,
    language_losses,
    language_model,
    oracle,
    parameters,
    refusal,
    sequences,
    snapshot,
    stack,
    steps,
)
from reference import Reference
from torch.nn import functional

from alrc.integrations.transformers.targets import find_targets
from alrc.torch import ALRC


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
    targets = find_targets(language_model(), {**inputs, "shift_labels": shifted})
    assert targets.labels is shifted
    assert not targets.shifted  # the loss compares them with the logits of their own positions
    assert targets.number() == shifted.ne(-100).sum() < count(inputs["labels"])
    assert find_targets(language_model(), inputs).number() == count(inputs["labels"])


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
        lambda: build(
            "mixin",
            tmp_path,
            ALRC(num_stddev=3, scale="linear"),
            language_model(),
            [],
            options=options,
            **given,
        ),
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
    trainer = build(
        "mixin", tmp_path, ALRC(num_stddev=3, scale="linear"), model, sequences(), options=options
    )
    inputs = {"input_ids": torch.ones(2, 3)} | ({} if labels is None else {"labels": labels})
    message = refusal(ValueError, lambda: trainer.compute_loss(model, inputs))
    assert message == (
        "ALRCTrainerMixin: alrc_per='sequence' needs logits, and the number of a class as the "
        "label of each position, because they make the loss of each sequence; got "
        f"{got}. Pass alrc_per='batch'."
    )


def test_a_loss_that_is_not_the_cross_entropy_of_the_logits_is_refused(tmp_path) -> None:
    def double(weight, ids, labels):
        logits = weight * torch.arange(6.0).view(2, 3)
        return {"loss": 2 * functional.cross_entropy(logits, labels), "logits": logits}

    options = {"alrc_per": "sequence"}
    trainer = build(
        "mixin", tmp_path, ALRC(num_stddev=3, scale="linear"), Returns(double), [], options=options
    )
    inputs = {"input_ids": torch.ones(2, 3), "labels": torch.tensor([0, 2])}
    loss = trainer.model(**inputs)["loss"].item()
    message = refusal(ValueError, lambda: trainer.compute_loss(trainer.model.train(), inputs))
    assert message == (
        "ALRCTrainerMixin: alrc_per='sequence' needs a model whose loss is the cross entropy of "
        f"its logits, because it is computed again for each sequence; got a loss of {loss:.4g}, "
        f"and {loss / 2:.4g} from the logits. Pass alrc_per='batch'."
    )
