# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the loop asks of a task. Tasks themselves live with the experiments."""

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypedDict, runtime_checkable

import grain
import numpy as np


class Batch(TypedDict, total=False):
    """Arrays of one step.

    Attributes:
        inputs: token ids, [B, T] int32.
        targets: ids to predict at the same position, [B, T] int32.
        weights: weight of each prediction, [B, T] float32; 0 leaves it out of loss and accuracy.
        segment_ids: optional, [B, T] int32; a change of id is a boundary between documents.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    segment_ids: np.ndarray


class Task(Protocol):
    """A source of batches and what to report of them."""

    vocab_size: int

    def train_dataset(self, batch_size: int) -> grain.IterDataset:
        """An endless, checkpointable stream of `Batch`es; the same at every call."""
        ...

    def eval_dataset(self) -> grain.MapDataset:
        """The held-out examples, unbatched."""
        ...

    def metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """The task's own figures from the mean loss (nats a prediction) and accuracy."""
        ...


@runtime_checkable
class CountsPredictions(Protocol):
    """A task that knows how many predictions of a row count, of any row, to train or held out.

    Where those are few, as in recall, most of a small model's step would go into other logits.
    """

    predictions_per_row: int


def predictions_per_row(task: Task) -> int | None:
    """The most weights > 0 of a row, None if the task does not know."""
    return task.predictions_per_row if isinstance(task, CountsPredictions) else None


@runtime_checkable
class ScoresPredictions(Protocol):
    """A task whose figures need the predictions themselves, not only how many are right."""

    def score(self, examples: Batch, predictions: np.ndarray) -> dict[str, float]:
        """The task's own figures.

        Args:
            examples: all held-out examples, stacked; [N, T] each.
            predictions: the most probable id at every position, [N, T] int32.
        """
        ...


def eval_batches(task: Task, batch_size: int) -> Iterable[Batch]:
    """The held-out examples in equal batches, the last filled up with weight 0."""
    for batch in task.eval_dataset().batch(batch_size, drop_remainder=False):
        missing = batch_size - len(batch["inputs"])
        yield {k: np.pad(v, ((0, missing), (0, 0))) for k, v in batch.items()}


def fingerprint(task: Task, batch_size: int) -> str:
    """SHA-256 that another seed, size, split or content of the data makes another one.

    Of the first training batch, the number of held-out examples, and the first and last of them.
    """
    held_out = task.eval_dataset()
    samples = next(iter(task.train_dataset(batch_size))), held_out[0], held_out[len(held_out) - 1]
    digest = hashlib.sha256(str(len(held_out)).encode())
    for sample in samples:
        for name, array in sorted(sample.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
