"""ALRC in Hugging Face's Trainer: a mixin for a Trainer's class, or a callback for any Trainer.

The Trainer divides the loss of a micro-batch by the number of targets of all batches that are
accumulated, on all processes if need be, and multiplies it by the number of processes. ALRC sees
neither: its losses are means over the targets of one micro-batch, whatever the settings. The loss
that the Trainer reports stays as it is.

accelerate alone needs no integration::

    alrc = ALRC(sync=True).to(accelerator.device)
    accelerator.register_for_checkpointing(alrc)  # saved and loaded with the rest
    with accelerator.accumulate(model):
        accelerator.backward(alrc(loss))  # divides for accumulation after ALRC
"""

try:
    from transformers import Trainer as _Trainer  # noqa: F401
    from transformers.trainer_callback import ExportableState as _ExportableState  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "alrc.integrations.transformers needs transformers and accelerate, which are not both "
        'installed here. Install them with: pip install "alrc[transformers]"',
        name=error.name,
    ) from error

from alrc.integrations.transformers.callback import ALRCTrainerCallback
from alrc.integrations.transformers.mixin import ALRCTrainerMixin

__all__ = ["ALRCTrainerCallback", "ALRCTrainerMixin"]

ALRCTrainerCallback.__module__ = ALRCTrainerMixin.__module__ = __name__  # where users find them
