"""Several processes of the Trainer have one limit."""

import pytest
import torch
from hugging_face import (
    assert_identical,
    assert_same,
    language_model,
    oracle,
    sequences,
)
from launching import ACCELERATE, TORCHRUN, launch

SCRIPT = """
import os, sys, torch
import hugging_face as t
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


@pytest.fixture(scope="module", params=[ACCELERATE, TORCHRUN], ids=["accelerate", "torchrun"])
def two_ranks(request, tmp_path_factory):
    """What two processes recorded, started as a user would."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(request.param, SCRIPT, folder)
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
