"""The replicas of ``tf.distribute``, which share one limit; Keras on TensorFlow only."""

from typing import Any

import keras
from keras import ops

from alrc import rule
from alrc.rule import Counts, Summary


def context() -> Any:
    """TensorFlow's replica context where there are several replicas, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf  # type: ignore[import-untyped, unused-ignore]

    found = tf.distribute.get_replica_context()
    return found if found and found.num_replicas_in_sync > 1 else None


def share() -> float:
    """What Keras multiplies the mean loss of a replica by: its share in the batch."""
    replicas = context()
    return 1 / replicas.num_replicas_in_sync if replicas else 1


def pool(summary: Summary) -> Summary:
    """The summary of the losses of all replicas, by one collective."""
    rows = context().all_gather(ops.stack(summary)[None], axis=0)
    return rule.combine(ops, Summary(rows[:, 0], rows[:, 1], rows[:, 2]))


def add(counts: Counts) -> Counts:
    """The counts of all replicas."""
    replicas = context()
    if replicas is None:
        return counts
    return Counts(*ops.unstack(replicas.all_reduce("SUM", ops.stack(counts)), len(counts)))
