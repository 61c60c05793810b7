"""Which column is what: a name is cut into words, and the words decide."""

import functools
import re
from collections.abc import Iterable

from alrc.replay.logs.table import Table

__all__ = [
    "EVALUATION",
    "STEPS",
    "candidates",
    "is_epoch",
    "is_evaluation",
    "is_loss",
    "is_position",
    "is_step",
    "norm_among",
    "rank",
    "rate_among",
    "run_and_key",
    "step_among",
    "words",
]


# Logs repeat few names in many lines.
_remembered = functools.lru_cache(maxsize=4096)


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


EVALUATION = _set(
    "val valid validation validating test testing eval evaluation evaluating dev heldout "
    "holdout tel hella hellaswag"
)
TRAINING = _set("train training trn tr")
LOSSES = _set("loss losses trl nll xent crossentropy logloss objective cost")
# Words that leave the name of the whole loss the name of the whole loss ...
PLAIN = (
    TRAINING
    | _set("loss losses trl")
    | _set("step batch total lm iter iteration running current global all overall")
)
# ... and those of its other spellings.
SPELLINGS = _set("cross entropy ce avg average mean reduced epoch per raw value model")
# What goes with a loss and is none.
COMPANIONS = _set(
    "scale scaler scaling lr rate weight weights coef coefficient time min max std var "
    "grad gradient norm ppl perplexity best count clip threshold limit"
)
# From the one that counts over the whole training to those that count within an epoch.
STEPS = (
    "global step",
    "trainer global step",
    "step",
    "steps",
    "current steps",
    "current step",
    "iteration",
    "iterations",
    "iter",
    "iters",
    "num updates",
    "n updates",
    "updates",
    "update",
    "it",
    "s",
    "batch",
    "batch idx",
    "batches",
    "minibatch",
)
EPOCHS = frozenset(
    ("epoch", "epochs", "ep", "current epoch", "cur epoch", "train epoch", "epoch train")
)
PLACES = frozenset((*STEPS, *EPOCHS))


def run_and_key(name: str) -> tuple[str, str]:
    """The run, if a column is named for one, and the key, as Weights & Biases joins them.

    Example:
        >>> run_and_key("fast-sun-3 - train/loss"), run_and_key("loss")
        (('fast-sun-3', 'train/loss'), ('', 'loss'))
    """
    run, _, key = name.rpartition(" - ")
    return run, key


@_remembered
def words(name: str) -> tuple[str, ...]:
    """The words of a column's name.

    Example:
        >>> words("train/CrossEntropyLoss"), words("  train_loss_step")
        (('train', 'cross', 'entropy', 'loss'), ('train', 'loss', 'step'))
    """
    _, name = run_and_key(name)
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return tuple(re.findall(r"[a-z]+|\d+", apart.lower()))


@_remembered
def is_epoch(name: str) -> bool:
    return " ".join(words(name)) in EPOCHS


@_remembered
def is_step(name: str) -> bool:
    return " ".join(words(name)) in STEPS


@_remembered
def is_position(name: str) -> bool:
    """Whether a column says where in training a row is."""
    return " ".join(words(name)) in PLACES


@_remembered
def is_evaluation(name: str) -> bool:
    return not EVALUATION.isdisjoint(words(name))


@_remembered
def is_loss(name: str) -> bool:
    """Whether a column is called a loss, of whichever data."""
    own = set(words(name))
    return bool(own & LOSSES or own >= {"cross", "entropy"}) and not own & COMPANIONS


def rank(name: str) -> int | None:
    """How surely a column is the training loss, 0 surest; None if it is not.

    Example:
        >>> [rank(name) for name in ("train_loss_step", "loss", "box_loss", "val_loss", "lr")]
        [0, 1, 3, None, None]
    """
    own = words(name)
    if not is_loss(name) or is_evaluation(name):
        return None
    if "epoch" in own:
        return 5  # the mean of what another column may have step by step
    if set(own) <= PLAIN:
        return 0 if "step" in own else 1
    if set(own) <= PLAIN | SPELLINGS | LOSSES:
        return 2
    return 3 if not {"ema", "smooth", "smoothed", "sma", "moving"} & set(own) else 4


def step_among(names: Iterable[str]) -> list[str]:
    """The columns that count steps, those of the whole training first."""
    found = {name: " ".join(words(name)) for name in names}
    return sorted((n for n in found if found[n] in STEPS), key=lambda n: STEPS.index(found[n]))


def norm_among(names: Iterable[str]) -> list[str]:
    """The columns that are the gradient's norm, the whole one first."""

    def certainty(name: str) -> int | None:
        own = words(name)
        if own in (("norm",), ("gnorm",), ("gradnorm",)):
            return 0
        if "norm" not in own or {"grad", "gradient", "gradients"}.isdisjoint(own):
            return None
        extra = set(own) - {"grad", "gradient", "gradients", "norm", "train", "optim", "l2", "2"}
        return 0 if not extra else 1 if extra <= {"total", "global", "step"} else None

    ranks = {name: certainty(name) for name in names}
    return sorted(
        (name for name, place in ranks.items() if place is not None),
        key=lambda name: ranks[name] or 0,
    )


def rate_among(names: Iterable[str]) -> list[str]:
    """The columns that are learning rates, in the order of the log."""
    return [
        name for name in names if "lr" in words(name) or {"learning", "rate"} <= set(words(name))
    ]


def candidates(table: Table) -> list[str]:
    """The columns that could be read as a loss, in the order of the log."""
    return [
        name
        for name, column in table.columns.items()
        if len(column) and not is_position(name) and name not in table.not_losses
    ]
