# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A run that goes on with other numbers of devices: the same state, each sample exactly once."""

import itertools

import numpy as np
import pytest

from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from tests.helpers.models import MIXERS, small_config, small_task
from tests.helpers.topology import hand_on

# 8 -> 4 -> 2 -> 1 -> 8 devices, every axis among them.
MESHES = (
    MeshConfig(data=2, fsdp=4),
    MeshConfig(data=1, fsdp=2, tensor=2),
    MeshConfig(data=1, tensor=2),
    MeshConfig(data=1),
    MeshConfig(data=1, fsdp=2, tensor=2, sequence=2),
)
EXAMPLES, BATCH = 80, 8
CONFIG = TrainConfig(
    num_steps=20,
    batch_size=BATCH,
    optimizer=OptimizerConfig(learning_rate=1e-2, schedule="constant"),
)
MODEL = small_config(MIXERS["delta_net"], embed_dropout=0.1, init_std=0.05, num_layers=1)
TASK = small_task(num_train_examples=EXAMPLES)


@pytest.mark.parametrize(
    ("meshes", "steps"), [(MESHES[::2], 0), pytest.param(MESHES, 4, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_with_any_number_of_devices(tmp_path, meshes, steps):
    """Twenty steps over the five meshes are two epochs; their losses are those of one device."""
    task = TASK.make()
    losses, rows = hand_on(MODEL, CONFIG, task, tmp_path / "many", meshes, steps)
    one = [MeshConfig(data=1)]
    batches = max(1, steps) * len(meshes)
    data = iter(task.train_dataset(BATCH))
    assert rows == [sorted(r.tobytes() for r in next(data)["inputs"]) for _ in range(batches)]
    epoch = EXAMPLES // BATCH
    for first in range(0, len(rows) - epoch + 1, epoch):
        seen = list(itertools.chain(*rows[first : first + epoch]))
        assert len(set(seen)) == len(seen) == EXAMPLES
    if steps:
        wanted, _ = hand_on(MODEL, CONFIG, task, tmp_path / "one", one, batches)
        np.testing.assert_allclose(losses, wanted, rtol=1e-6)


def test_a_vocabulary_that_does_not_divide_is_refused_by_name():
    """33 words over two: said before anything is compiled."""
    model = MODEL.replace(vocab_size=33)
    with pytest.raises(ValueError, match="mesh_tensor: wanted a divisor of vocab"):
        hand_on(model, CONFIG, TASK.make(), None, [MeshConfig(data=1, tensor=2)], 0)
