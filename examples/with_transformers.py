"""ALRC in Hugging Face's Trainer: a tiny GPT-2 learns sequences of which one in ten is corrupted.

Run: python examples/with_transformers.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from alrc.integrations.transformers import ALRCTrainerMixin
from alrc.torch import ALRC


class MyTrainer(ALRCTrainerMixin, Trainer):
    pass


def sequences(number: int, length: int = 16, vocabulary: int = 32) -> list[dict[str, torch.Tensor]]:
    """Each token is the one before, plus one; but in one sequence of ten, all are random."""
    data = []
    for i in range(number):
        ids = (torch.arange(length) + int(torch.randint(vocabulary, ()))) % vocabulary
        if i % 10 == 9:
            ids = torch.randint(vocabulary, (length,))
        data.append({"input_ids": ids, "labels": ids})
    return data


torch.manual_seed(0)
config = GPT2Config(
    vocab_size=32, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
)
with tempfile.TemporaryDirectory() as folder:
    trainer = MyTrainer(
        GPT2LMHeadModel(config),
        TrainingArguments(
            folder,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            max_steps=200,
            logging_steps=50,
            report_to=[],  # or the loggers that the metrics alrc/... should go to as well
            use_cpu=True,
        ),
        train_dataset=sequences(1000),
        alrc=ALRC(num_stddev=2.0),
        alrc_per="sequence",  # "batch", the default, limits the mean of each micro-batch
    )
    trainer.train()  # or train(resume_from_checkpoint=True), which restores ALRC too

# For any other Trainer: Trainer(..., callbacks=[ALRCTrainerCallback(alrc=ALRC())])
alrc = trainer.alrc
print(alrc.num_clipped.item(), "of", alrc.num_losses.item(), "losses were limited")
