# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of tasks share."""

import numpy as np

from deltanet_jax.train.task import Batch, Task


def held_out(task: Task) -> Batch:
    """All held-out examples, stacked."""
    examples = list(task.eval_dataset())
    return {k: np.stack([e[k] for e in examples]) for k in examples[0]}
