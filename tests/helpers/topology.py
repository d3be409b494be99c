# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One run handed from mesh to mesh, through checkpoints."""

import functools

import jax
import numpy as np

from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.loop import Trainer
from tests.helpers.compare import equal_bits


@functools.cache
def trainer_on(model, config):
    """Compiled once for each mesh, which takes as many devices as it needs."""
    mesh = config.mesh
    return Trainer(
        model, config, jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor * mesh.sequence]
    )


def hand_on(model, config, task, directory, meshes, steps):
    """Trains `steps` steps on each of `meshes`; every state must come back bit for bit.

    Returns (the loss of every step, the rows of every batch taken). With `steps` 0 nothing is
    trained, but one batch is taken on each mesh.
    """
    losses, rows, state = [], [], None
    for number, mesh in enumerate(meshes, start=1):
        trainer = trainer_on(model, config.replace(mesh=mesh))
        data = iter(task.train_dataset(config.batch_size))
        with Checkpoints(directory, 1) as checkpoints:
            if state is None:
                here = trainer.init()
            else:
                here = checkpoints.restore(checkpoints.newest(), trainer.abstract_state, data)
                assert equal_bits(here, state), mesh
            for _ in range(max(1, steps)):
                batch = next(data)
                rows.append(sorted(row.tobytes() for row in batch["inputs"]))
                if steps:
                    here, metrics = trainer.train_step(here, put_batch(batch, trainer.mesh))
                    losses.append(float(metrics["loss"]))
            state = jax.tree.map(np.asarray, here)
            checkpoints.save(number, here, data)
    return losses, rows
