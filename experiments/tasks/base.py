# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The base of task configs: `kind` names the task in JSON and in flags, `make` builds it."""

import dataclasses
from collections.abc import Sized
from typing import ClassVar

from deltanet_jax.config import Config
from deltanet_jax.train.task import Task


def endless(dataset: Sized) -> int:
    """Epochs enough for any run. (Grain's own endless repetition overflows in batches of one.)"""
    return 2**50 // max(1, len(dataset))


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """Every task config has a `vocab_size` and a `seq_len`, as fields or properties."""

    family: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.family = False

    def make(self) -> Task:
        """The task. Reads data; raises ValueError if there is not enough of it."""
        raise NotImplementedError
