"""Several processes of the Trainer have one limit."""

import pytest
import torch
from hugging_face import (
    CLASSIFYING,
    assert_identical,
    assert_same,
    classification_losses,
    classifier,
    count,
    labelled_sequences,
    language_model,
    oracle,
    sequences,
)
from launching import ACCELERATE, TORCHRUN, launch

SCRIPT = """
import sys, torch
import hugging_face as t
from alrc.integrations.transformers import ALRCTrainerMixin
from alrc.torch import ALRC

class Own(t.Trainer):
    def compute_loss(self, model, inputs, **kwargs):  # which nothing multiplies
        losses = t.language_losses(model(inputs["input_ids"]).logits, inputs["labels"])
        return losses.sum() / t.count(inputs["labels"])

class MixedOwn(ALRCTrainerMixin, Own):
    pass

def main():
    kinds = {
        "mixin": {}, "sequence": {"alrc_per": "sequence"}, "callback": {},
        "head, mixin": {}, "head, sequence": {"alrc_per": "sequence"}, "head, callback": {},
        "own": {},
    }
    result = {}
    for name, options in kinds.items():
        head = name.startswith("head")
        alrc = ALRC(**(t.CLASSIFYING if head else t.SETTINGS))
        trainer = t.build(
            "callback" if name.endswith("callback") else "mixin", sys.argv[1], alrc,
            t.classifier() if head else t.language_model(),
            t.labelled_sequences() if head else t.sequences(),
            gradient_accumulation_steps=2, options=options, average_tokens_across_devices=True,
            base=MixedOwn if name == "own" else t.MixedTrainer,
        )
        assert trainer.args.world_size == 2
        trainer.train()
        assert alrc.sync is True
        result[name] = t.steps(trainer)
    torch.save(result, f"{sys.argv[1]}/rank{trainer.args.process_index}.pt")

main()
"""
NAMES = [
    *("mixin", "sequence", "callback"),
    *("head, mixin", "head, sequence", "head, callback", "own"),
]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(ACCELERATE, marks=pytest.mark.slow, id="accelerate"),
        pytest.param(TORCHRUN, id="torchrun"),
    ],
)
def two_ranks(request, tmp_path_factory):
    """What two processes recorded, started as a user would."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(request.param, SCRIPT, folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_same_moments_at_each_step(two_ranks, name) -> None:
    assert_identical(two_ranks[0][name], two_ranks[1][name])


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one_with_the_same_global_batch(two_ranks, name) -> None:
    options = {"accumulation": 2, "world": 2}
    options["per"] = "sequence" if name.endswith("sequence") else "batch"
    if name.startswith("head"):
        # The Trainer multiplies by 2 what DDP divides by 2, and does not divide the mean of the
        # accumulated batches.
        options |= {"losses": classification_losses, "number": len, "settings": CLASSIFYING}
        options["divisor"] = lambda _, own: len(own)
        expected = oracle(classifier(), labelled_sequences(), **options)
    elif name == "own":  # what nothing multiplies, DDP divides all the same
        expected = oracle(
            language_model(), sequences(), divisor=lambda _, own: 2 * count(own), **options
        )
    else:
        expected = oracle(language_model(), sequences(), **options)
    # The ranks' gradients and moments are summed in another order: float32 rounding.
    assert_same(two_ranks[0][name], expected)
