# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The step that stopped a run, kept so that it can be run again: its batch and the state before it.

WORKDIR/replay holds `batch-STEP.npz` (arrays only, no pickles) and a checkpoint like any other.
"""

import shutil
from pathlib import Path

import grain
import jax
import numpy as np

from deltanet_jax.sharding import path_name
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.guard import SkippedSteps
from deltanet_jax.train.step import TrainState

FOLDER = "replay"


def keep(
    workdir: Path, error: SkippedSteps, state: TrainState, data: grain.DatasetIterator, facts: dict
) -> Path:
    """Writes both, in the place of those of an earlier run. Returns their folder.

    Raises CheckpointError, OSError.
    """
    folder = workdir / FOLDER
    batch = folder / f"batch-{error.step}.npz"
    if jax.process_index() == 0:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        with batch.open("wb") as file:
            np.savez(file, **error.batch)
    with Checkpoints(folder, 1, facts, records=(batch,)) as checkpoints:
        checkpoints.save(error.step, state, data)
    return folder


def load(workdir: Path, abstract_state: TrainState) -> tuple[int, TrainState, dict]:
    """(step, state before it, its batch). Raises ValueError if there is none that is intact."""
    folder = workdir / FOLDER
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.newest()
        if step is None:
            raise ValueError(
                f"workdir: wanted a run that was stopped by skipped steps, but {folder} holds none"
            )
        state = checkpoints.restore(step, abstract_state)
    path = folder / f"batch-{step}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            # Ours are not compressed: so no small file becomes arrays of any size.
            if any(entry.compress_type for entry in arrays.zip.infolist()):
                raise ValueError("it is compressed")
            return step, state, dict(arrays)
    except Exception as error:  # NumPy reads headers with Python's parser, and raises its errors
        raise ValueError(f"workdir: {path}: wanted the arrays of a batch: {error}") from error


def run_again(trainer, state: TrainState, batch: dict) -> dict:
    """The step's metrics, and the weights whose gradient is not finite, by name.

    `trainer`: a `deltanet_jax.train.loop.Trainer`.
    """
    placed = put_batch(batch, trainer.mesh)
    finite = trainer.finite_gradients(state, placed)
    _, metrics = trainer.train_step(state, placed)
    values = {k: float(metrics[k]) for k in ("loss", "accuracy", "grad_norm")}
    not_finite = [
        path_name(path) for path, ok in jax.tree_util.tree_leaves_with_path(finite) if not ok
    ]
    return {**values, "not_finite": not_finite}
