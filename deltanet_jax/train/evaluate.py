# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation on a task's held-out examples."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from deltanet_jax.sharding import BATCH_SPEC, SEQUENCE
from deltanet_jax.train.step import Sums
from deltanet_jax.train.task import Batch, Task, eval_batches


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the mesh's devices, rows spread over data and fsdp, columns over sequence.

    Raises:
        ValueError: the rows' length does not divide by the mesh's sequence axis.
    """
    pieces, length = mesh.shape[SEQUENCE], batch["inputs"].shape[1]
    if length % pieces:
        raise ValueError(f"mesh_sequence: wanted a divisor of seq_len = {length}, got {pieces}")
    sharding = NamedSharding(mesh, BATCH_SPEC)
    # Every process holds the whole batch and hands its devices their part, so what a batch is
    # does not depend on the number of processes.
    return {
        k: jax.make_array_from_callback(v.shape, sharding, lambda index, v=v: v[index])
        for k, v in batch.items()
    }


def evaluate(
    eval_step: Callable[[dict, dict], Sums],
    weights: dict,
    task: Task,
    batch_size: int,
    mesh: Mesh,
    before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Mean loss (nats a prediction), accuracy and the task's own figures.

    Sums of batches are added on the host in float64, in order, so the result does not depend on
    how many batches there are. `before_batch` may end the evaluation by raising.
    """
    totals = np.zeros(3, np.float64)
    for batch in eval_batches(task, batch_size):
        before_batch()
        sums = eval_step(weights, put_batch(batch, mesh))
        totals += np.asarray(jax.device_get(sums), np.float64)
    loss, accuracy = float(totals[0] / totals[2]), float(totals[1] / totals[2])
    return {"loss": loss, "accuracy": accuracy, **task.metrics(loss, accuracy)}
