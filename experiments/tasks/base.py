# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The base of task configs: `kind` names the task in JSON and in flags, `make` builds it."""

import dataclasses
from typing import ClassVar

import grain

from deltanet_jax.config import Config
from deltanet_jax.train.task import Task


def shuffled_epochs(source, seed: int, batch_size: int, *, threads: int = 1) -> grain.IterDataset:
    """Endless batches of `source`, every epoch in another order; checkpointable."""
    # Grain's own endless repetition overflows in batches of one.
    epochs = 2**50 // max(1, len(source))
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs).batch(batch_size)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return dataset.to_iter_dataset(options)


def evenly_spaced(source, limit: int) -> grain.MapDataset:
    """At most `limit` examples of `source`, evenly spaced; 0 is all."""
    dataset = grain.MapDataset.source(source)
    stride = max(1, len(source) // limit) if limit else 1
    return dataset[::stride][:limit] if limit else dataset


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """Every task config has a `vocab_size` and a `seq_len`, as fields or properties."""

    family: ClassVar[bool] = True
    # The figure reported of a run and the one by which runs are compared; larger is better.
    score_name: ClassVar[str] = "accuracy"
    selection_name: ClassVar[str] = "accuracy"
    # Whether a run counts as it was at its best evaluation (by the figure compared), not its last.
    early_stopping: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.family = False
        if "selection_name" not in vars(cls):
            cls.selection_name = cls.score_name

    def make(self) -> Task:
        """The task. Reads data; raises ValueError if there is not enough of it."""
        raise NotImplementedError
