# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation on a task's held-out examples."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deltanet_jax.sharding import BATCH_SPEC, ROWS, SEQUENCE
from deltanet_jax.train.step import Sums
from deltanet_jax.train.task import Batch, ScoresPredictions, Task, eval_batches


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the mesh's devices, rows spread over data and fsdp, columns over sequence.

    Columns that are not tokens (targets at `positions`) are whole everywhere.

    Raises:
        ValueError: the rows' length does not divide by the mesh's sequence axis.
    """
    pieces, length = mesh.shape[SEQUENCE], batch["inputs"].shape[1]
    if length % pieces:
        raise ValueError(f"mesh_sequence: wanted a divisor of seq_len = {length}, got {pieces}")

    def sharding(columns: int) -> NamedSharding:
        return NamedSharding(mesh, BATCH_SPEC if columns == length else PartitionSpec(ROWS))

    # Every process holds the whole batch and hands its devices their part, so what a batch is
    # does not depend on the number of processes.
    return {
        k: jax.make_array_from_callback(v.shape, sharding(v.shape[1]), lambda i, v=v: v[i])
        for k, v in batch.items()
    }


def evaluate(
    eval_step: Callable[[dict, dict], tuple[Sums, jax.Array]],
    weights: dict,
    task: Task,
    batch_size: int,
    mesh: Mesh,
    before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Mean loss (nats a prediction), accuracy and the task's own figures.

    `before_batch` may end the evaluation by raising.
    """

    def step(batch):
        before_batch()
        return eval_step(weights, put_batch(batch, mesh))

    return _figures(task, *_collect(step, task, batch_size))


def evaluate_members(
    eval_step: Callable[[dict, dict], tuple[Sums, jax.Array]],
    weights: dict,
    task: Task,
    batch_size: int,
) -> list[dict[str, float]]:
    """`evaluate` for several models at once: weights, and what is computed, have an axis [M]."""
    totals, batches, predictions = _collect(
        lambda batch: eval_step(weights, batch), task, batch_size
    )
    return [
        _figures(task, totals[:, m], batches, [predicted[m] for predicted in predictions])
        for m in range(totals.shape[1])
    ]


def _collect(
    step: Callable[[Batch], tuple[Sums, jax.Array]], task: Task, batch_size: int
) -> tuple[np.ndarray, list[Batch], list[np.ndarray]]:
    """Total sums of all batches; batches and predictions, if the task scores predictions.

    Sums are added on the host in float64, in order, so the result does not depend on how many
    batches there are.
    """
    totals: np.ndarray | float = 0.0
    batches, predictions = [], []
    for batch in eval_batches(task, batch_size):
        sums, predicted = step(batch)
        totals = totals + np.asarray(jax.device_get(sums), np.float64)
        if isinstance(task, ScoresPredictions):
            batches.append(batch)
            predictions.append(np.asarray(predicted))
    return totals, batches, predictions


def _figures(
    task: Task, totals: np.ndarray, batches: Sequence[Batch], predictions: Sequence[np.ndarray]
) -> dict[str, float]:
    """What is reported of an evaluation.

    Args:
        task: the task evaluated.
        totals: `Sums` over all batches, [3] float64.
        batches, predictions: of every batch, [B, T] or [B, N]; used if the task scores predictions.
    """
    loss, accuracy = float(totals[0] / totals[2]), float(totals[1] / totals[2])
    result = {"loss": loss, "accuracy": accuracy, **task.metrics(loss, accuracy)}
    if isinstance(task, ScoresPredictions):
        count = len(task.eval_dataset())  # rows beyond fill up the last batch
        examples = {k: np.concatenate([b[k] for b in batches])[:count] for k in batches[0]}
        result |= task.score(examples, np.concatenate(predictions)[:count])
    return result
