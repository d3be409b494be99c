# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: train state and data position in one atomic save, by Orbax.

A step appears under its number only when all of it is on disk; what an interrupted save left
behind is removed at the next start.
"""

import json
from pathlib import Path

import grain
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from deltanet_jax.train.step import TrainState


class Checkpoints:
    """The checkpoints of one run; use as a context manager."""

    def __init__(self, directory: Path, keep: int):
        self._checkpointer = ocp.training.Checkpointer(
            directory.resolve(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._saving = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The newest complete step, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Starts saving; returns once the state is copied and may change. Waits for the last save.

        Raises whatever made the previous save fail.
        """
        self.wait()
        self._saving = self._checkpointer.save_checkpointables_async(
            step, {"state": state._asdict(), "data": _position(data)}, force=True
        )
        if self._saving is None:
            raise RuntimeError(f"checkpoint of step {step}: Orbax skipped a save it was told to do")

    def wait(self) -> None:
        """Blocks until nothing is being saved; raises what made a save fail."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def restore(
        self,
        step: int,
        abstract_state: TrainState,
        data: grain.DatasetIterator | None = None,
    ) -> TrainState:
        """Reads `step` into the shapes, dtypes and shardings of `abstract_state`.

        `data`, if given, is moved to where it stood at the save.
        """
        wanted = {"state": abstract_state._asdict()}
        if data is not None:
            wanted["data"] = None  # as it was saved
        found = self._checkpointer.load_checkpointables(step, wanted)
        if data is not None:
            data.set_state(json.loads(bytes(np.asarray(found["data"]["position"]))))
        return TrainState(**found["state"])


def _position(data: grain.DatasetIterator) -> dict[str, np.ndarray]:
    """Where the data stands, as bytes of JSON: one for all processes, however many they are."""
    return {"position": np.frombuffer(json.dumps(data.get_state()).encode(), np.uint8)}


def with_shardings(abstract_state: TrainState, shardings: TrainState) -> TrainState:
    """Shapes and dtypes annotated with where to put them."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_state, shardings
    )
